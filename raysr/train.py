"""Training one network until its money is spent: a loop that needs no Ray, and the thin Ray Train worker around it."""

import io
import time
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import Tensor

from raysr import storage
from raysr.batches import TrainingBatches
from raysr.budget import CHECK_EVERY_STEPS
from raysr.calibration import Timing
from raysr.evaluate import fast_layout, inference_ms, to_uint8, upscale
from raysr.losses import load_perceptual
from raysr.models import build_model, find_architecture
from raysr.objective import smallest_side
from raysr.pairs import PairSet, to_tensor
from raysr.progress import Progress, remote_update
from raysr.rows import Status, TrialRow
from raysr.spec import TrialSpec, count_flops, step_limit
from raysr.telling import progress_of, row_of
from raysr.trial import Trial
from raysr.trial_files import TrialFiles, write_png
from raysr.world import World

MIN_SIDE_PX = 16
"""The smallest square that VGG16's four poolings leave a pixel of."""


class Reporter:
    """Who is told what a trial does: its progress goes to `update`, and its own files are all that is kept."""

    def __init__(self, update: Callable[[dict[str, Any]], object]) -> None:
        self.update = update

    def progress(self, progress: Progress) -> None:
        """Called on rank 0, a few times a second at most."""
        self.update(asdict(progress))

    def validated(self, trial: Trial) -> None:
        """Called on every rank after each validation, when the checkpoint is kept."""


def run_trial(trial: Trial, reporter: Reporter) -> TrialRow:
    """Train until the budget is spent; validate before the first step, at the shares asked for, and always at the end.

    A search compares networks that have learned: there the validation before the first step is left out. Rank 0 leaves
    the curve, the weights and the final row in the run's folder.
    """
    status: Status = "finished"
    trial.begin()
    if trial.trainable and not trial.curve and not trial.spec.held_out:
        _validate(trial, reporter)
    shown = 0.0
    while steps := trial.steps_to_go():
        trial.take_steps(steps)
        fault = trial.fault()
        if fault is not None:
            status = fault
            break
        trial.enter("heartbeat")
        if trial.validation_due():
            _validate(trial, reporter)
        elif trial.checkpoint_due():
            _keep(trial, validated=False)
        if trial.world.rank == 0 and time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            reporter.progress(progress_of(trial, "training"))
    _validate(trial, reporter, last=True)
    if status == "finished" and not trial.scored:
        status = "diverged"
    trial.model.eval()
    with trial.meter.segment("eval"):
        took = inference_ms(
            trial.model,
            trial.first,
            device=trial.device,
            precision=trial.eval_precision,
            synchronise=trial.world.synchronise,
        )
    trial.enter("end")
    row = row_of(trial, status, took)
    if trial.world.rank == 0:
        trial.ledger.check()
        trial.files.write_picture(to_uint8(upscale(trial.model, trial.first, trial.device, trial.eval_precision)))
        trial.files.write_row(row)
        reporter.progress(progress_of(trial, "ended", row.status))
    return row


def _validate(trial: Trial, reporter: Reporter, *, last: bool = False) -> None:
    if trial.world.rank == 0:
        reporter.progress(progress_of(trial, "validating"))
    trial.enter("validation")
    trial.validate(last=last)
    _keep(trial, validated=True)
    with trial.meter.segment("checkpoint"):
        reporter.validated(trial)
    if trial.world.rank == 0:
        reporter.progress(progress_of(trial, "training"))


def _keep(trial: Trial, *, validated: bool) -> None:
    """Keep a checkpoint, and what a validation found before it: what the checkpoint counts must be there."""
    with trial.meter.segment("checkpoint"):
        if trial.world.rank == 0:
            trial.ledger.check()
            if validated:
                spec, scale = trial.spec, str(trial.batches.pairs.geometry.scale)
                trial.files.write_images(trial.step, trial.scores)
                trial.files.write_curve(trial.curve)
                if not find_architecture(spec.arch).pretrained:  # whose weights are in a file of their own
                    names = {"arch": spec.arch, "scale": scale, "seed": str(spec.seed), "step": str(trial.step)}
                    trial.files.write_model(trial.model, names)
            trial.keep()
    trial.enter("checkpoint")


WARMUP_STEPS = 3
"""First steps of a timing, with whatever compiles and fills caches; what they take longer is charged once."""

SETTLE_S = 10.0
"""Seconds of steps that are not timed: Ray starts processes for a while after a worker has started."""

TIMED_BLOCKS = 9
"""Blocks of steps (of CHECK_EVERY_STEPS) to time at least, and TIMED_S seconds."""

TIMED_S = 10.0


def time_steps(trial: Trial) -> Timing:
    """Time a fresh network's training steps; the median block is what a step costs. The same on all ranks."""
    meter, world = trial.meter, trial.world
    each = CHECK_EVERY_STEPS.get(world.device.type, 1)

    def within(seconds: float, since: float) -> bool:
        return bool(world.agree(int(meter.charged_seconds - since < seconds * world.size)))

    trial.take_steps(WARMUP_STEPS)
    first = meter.charged_seconds
    while within(SETTLE_S, first):
        trial.take_steps(each)
    settled = meter.charged_seconds
    blocks: list[float] = []
    while len(blocks) < TIMED_BLOCKS or within(TIMED_S, settled):
        before = meter.charged_seconds
        trial.take_steps(each)
        blocks.append((meter.charged_seconds - before) / each)
    step_seconds = median(blocks)
    return Timing(
        arch=trial.spec.arch,
        start_seconds=max(0.0, first - WARMUP_STEPS * step_seconds),
        step_seconds=step_seconds,
        timed_steps=len(blocks) * each,
        spent_seconds=world.size * sum(meter.seconds.values()),
    )


class RayReporter(Reporter):
    """Tells Ray Train as well. Checkpoints stay ours: whole files that appear at once, on a disk or an object store."""

    def validated(self, trial: Trial) -> None:
        """Report the validation; returns when Ray Train has taken it over."""
        import ray.train  # here: the loop above runs where Ray is not installed

        point = trial.curve[-1]
        with trial.meter.segment("idle"):
            ray.train.report(
                {
                    "charged_usd": point.charged_usd,
                    "perceptual": point.perceptual,
                    "step": point.step,
                    "validations": len(trial.curve),
                }
            )


def _open_trial(spec: TrialSpec) -> Trial:
    """The trial in this Ray Train worker, distributed where it has several."""
    import ray.train.torch
    import ray.util

    from raysr.cluster import use_assigned_cpus

    use_assigned_cpus()
    world = World.current(ray.train.torch.get_device())
    place = ray.util.get_current_placement_group()
    if world.rank == 0 and place is not None:
        TrialFiles(spec.run, spec.arch, spec.seed).write_place(place.id.hex())
    return Trial(spec, world, wrap=ray.train.torch.prepare_model if world.size > 1 else lambda model: model)


def go_on(trial: Trial) -> None:
    """Take the trial to its last checkpoint, if it has one."""
    state = trial.files.read_state()
    if state is not None:
        with trial.meter.segment("setup"):
            trial.load_state(torch.load(io.BytesIO(state), map_location=trial.device))


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: `config` holds a `spec` and the actor handle of the progress `board`."""
    trial = _open_trial(config["spec"])
    go_on(trial)
    run_trial(trial, RayReporter(remote_update(config["board"])))


def calibration_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs to time the steps of `config`'s `spec`; rank 0 leaves the timing in the run."""
    import ray.train

    trial = _open_trial(config["spec"])
    timing = time_steps(trial)
    if trial.world.rank == 0:
        trial.files.add_timing(asdict(timing))
    ray.train.report({"step_seconds": timing.step_seconds})  # Tune tells at length of trials that report nothing


def check_trials(specs: list[TrialSpec], workers: int = 1) -> str:
    """Find out before any money is spent what would fail every trial: a damaged set, a batch that does not fit.

    Leaves the report's validation picture in the run's folder and returns its `image_id`. Raises ManifestError or
    ValueError.
    """
    first = specs[0]
    pairs, val = PairSet(first.data, "train"), PairSet(first.data, "val")
    side, least = first.train.patch_px or pairs.geometry.hr_px, smallest_side(first.train.loss)
    if side < least:
        raise ValueError(
            f"{'--patch-px' if first.train.patch_px else 'hr_px'} {side} is too small for --loss {first.train.loss}, "
            f"which needs squares of {least} pixels"
        )
    config = first.train
    batches = TrainingBatches(pairs, batch_size=config.batch_size, seed=0, world_size=workers, patch_px=config.patch_px)
    perceptual = load_perceptual(config.perceptual, config.vgg_weights) if first.budget.flops is not None else None
    for spec in specs:
        if TrialFiles(spec.run, spec.arch, spec.seed).read_row() is not None:
            continue  # of a run that goes on: what has ended needs nothing any more
        px = MIN_SIDE_PX if spec.untrained else min(MIN_SIDE_PX, side // pairs.geometry.scale)
        _check_network(spec.arch, pairs.geometry.scale, px)
        if not spec.untrained:
            step_limit(spec, batches, count_flops(spec, batches, perceptual) if perceptual else None)
    if all(row.flat for group in range(len(val.groups)) for row in val.read_group(group)):
        raise ValueError(
            f"every validation target of {first.data} is one value everywhere, which any network restores: prepare a "
            "set that validates on photographs"
        )
    picture = val.read_group(0)[0]
    for name, pixels in (("hr", picture.hr), ("lr", picture.lr)):
        shown = to_uint8(to_tensor([pixels], picture.y_range))  # black is 0 whatever the set's range
        write_png(storage.join(first.run, "pictures", f"{name}.png"), shown)
    return picture.image_id


def _check_network(arch: str, scale: int, px: int) -> None:
    """Raise ValueError unless the network takes a square of `px` pixels and gives one of `scale` times the side."""
    lr = torch.zeros(1, 1, px, px)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build_model(arch, scale).eval()
        with fast_layout(model, lr.device):  # as it will be validated
            sr = model(lr)
    wanted = (1, 1, px * scale, px * scale)
    if not isinstance(sr, Tensor) or tuple(sr.shape) != wanted or not sr.is_floating_point():
        gave = f"{sr.dtype} {list(sr.shape)}" if isinstance(sr, Tensor) else type(sr).__name__
        raise ValueError(f"{arch} must turn {list(lr.shape)} into floats {list(wanted)} at scale {scale}, gave {gave}")
