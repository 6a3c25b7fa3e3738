"""What is told of a trial: where it stands, and how it ended."""

from dataclasses import asdict
from typing import Literal

import torch

from raysr.device import device_name
from raysr.evaluate import SUMMARY_NAMES
from raysr.models import count_parameters, find_architecture
from raysr.progress import Progress
from raysr.rows import Status, TrialRow
from raysr.trial import Trial


def progress_of(trial: Trial, phase: Literal["training", "validating", "ended"], status: str | None = None) -> Progress:
    """Where the trial stands."""
    left: float | None = None
    if trial.fraction > 0:
        seconds = trial.meter.charged_seconds / trial.world.size
        left = max(0.0, seconds / trial.fraction - seconds)
    return Progress(
        arch=trial.spec.arch,
        seed=trial.spec.seed,
        phase=phase,
        fraction=trial.fraction,
        charged_usd=trial.charged_usd,
        budget_usd=trial.spending.limit_usd,
        epochs=trial.epochs,
        loss=trial.loss,
        perceptual=trial.curve[-1].perceptual if trial.curve else None,
        seconds_left=left,
        validations=len(trial.curve),
        status=status,
        equalisation_error_pct=trial.equalisation_error_pct if status else None,
    )


def row_of(trial: Trial, status: Status, inference_ms: float | None = None) -> TrialRow:
    """The trial's line in the table."""
    charged = trial.meter.charged_seconds
    trained = trial.trainable and status == "finished"
    violation = trial.spending.violation(trial.step, trial.spec.tolerance) if trained else None
    last = asdict(trial.curve[-1])
    return TrialRow(
        arch=trial.spec.arch,
        seed=trial.spec.seed,
        status="invalid" if violation else status,
        error=violation,
        params=count_parameters(trial.model, trainable_only=trial.trainable),
        steps=trial.step,
        epochs=trial.epochs,
        budget_usd=trial.spending.limit_usd,
        charged_usd=trial.charged_usd,
        metered_usd=trial.meter.charged_usd,
        billed_usd=trial.meter.billed_usd,
        attempts=max(1, trial.ledger.attempt),
        seconds={str(name): value for name, value in trial.meter.seconds.items()},
        unaccounted_share=trial.meter.unaccounted_share,
        equalisation_error_pct=trial.equalisation_error_pct,
        usd_per_epoch=trial.charged_usd / trial.epochs if trial.step else None,
        samples_per_s=trial.samples / charged if trial.step else None,
        stall_share=trial.world.size * trial.meter.seconds["stall"] / charged if trial.step else None,
        perceptual_name=trial.perceptual.info.name,
        perceptual_start=None if trial.curve[0].step else trial.curve[0].perceptual,
        **{name: last[name] for name in SUMMARY_NAMES},
        inference_ms=inference_ms,
        step_flops=trial.flops.total * trial.spec.train.batch_size if trial.flops else None,
        network_flops=trial.flops.network * trial.spec.train.batch_size if trial.flops else None,
        uncounted_operations=", ".join(trial.flops.uncounted) if trial.flops else None,
        precision=trial.precision,
        micro_batch=trial.stepper.micro_batch if trial.stepper else None,
        threads=torch.get_num_threads(),
        device=device_name(trial.device.type),
        checkpoint=None if find_architecture(trial.spec.arch).pretrained else trial.files.checkpoint,
    )
