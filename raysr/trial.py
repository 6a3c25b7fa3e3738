"""One network in training: its steps, its money, its validations, and the state that a checkpoint keeps."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from raysr.batches import ReadAhead
from raysr.budget import Spending, rate_factor
from raysr.cost import CostMeter
from raysr.evaluate import evaluate, summary
from raysr.judge import Judge, Targets
from raysr.ledger import HEARTBEAT_S, Event, Ledger
from raysr.losses import load_alex, load_perceptual
from raysr.memory import keep_freed_memory
from raysr.models import build_model, count_parameters
from raysr.objective import Objective
from raysr.own_code import check_code
from raysr.precision import Precision, exact_float32, memory_format, resolve_precision
from raysr.rows import CurvePoint, Status
from raysr.spec import TrialSpec, count_flops, open_batches, open_sets, open_stepper, step_limit
from raysr.step import Stepper
from raysr.trial_files import TrialFiles
from raysr.world import World

DEAD_AFTER_CHECKS = 10
"""Checks in a row with a constant picture for a target that is not, after which a network is given up as dead."""


class Trial:
    """A network in training: the step, the meter, the validation, and the state that a checkpoint keeps."""

    def __init__(
        self,
        spec: TrialSpec,
        world: World,
        *,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Build the network with the trial's seed and open its data. `wrap` makes it distributed."""
        self.spec, self.world, self.device = spec, world, world.device
        self.meter = CostMeter(
            spec.price,
            accelerators=world.size,
            clock=clock,
            synchronise=world.synchronise,
            slowest=world.slowest,
            charged=spec.charged,
        )
        self.files = TrialFiles(spec.run, spec.arch, spec.seed)
        self.ledger = Ledger(spec.run, self.files.name)
        self._clock, self._kept_at = clock, clock()
        self._kept = dict.fromkeys(self.meter.seconds, 0.0)
        self._last_entry = 0.0
        with self.meter.segment("setup"):
            exact_float32()
            if self.device.type == "cpu":
                keep_freed_memory()
            config = spec.train
            self.precision: Precision = resolve_precision(config.precision, self.device)
            self.eval_precision: Precision = resolve_precision(config.eval_precision, self.device)
            pairs, val = open_sets(spec)
            self.batches = open_batches(spec, pairs, world)
            self.reader = self.batches if self.batches.held else ReadAhead(self.batches, pin=self.device.type == "cuda")
            self.first = val.read_group(0)[0]
            self.val_rows = val.rows(world.rank, world.size)
            check_code(spec.arch, spec.code)
            torch.manual_seed(spec.seed)
            self.model = build_model(spec.arch, pairs.geometry.scale)
            self.model.to(self.device, memory_format=memory_format(self.precision))  # pyright: ignore[reportCallIssue]
            self.trainable = count_parameters(self.model) > 0
            self.perceptual = load_perceptual(config.perceptual, config.vgg_weights)
            self.flops = count_flops(spec, self.batches, self.perceptual) if self.trainable else None
            self.judge = Judge(self.perceptual, Targets(self.device, config.targets_gb, spec.targets))
            self.alex = load_alex(config.alex_weights) if spec.second_opinion else None
            self.alex = self.alex.to(self.device) if self.alex is not None else None
            self.stepper: Stepper | None = None
            if self.trainable:
                loss = Objective(config.loss, self.perceptual, self.precision).to(self.device)
                self.stepper = open_stepper(spec, self.model, loss, self.batches, world, wrap)
            self._compiled = spec.train.compile == "off"
        self.step = 0
        self.curve: list[CurvePoint] = []
        self._loss_sum = torch.zeros((), device=self.device)
        self._loss_steps = 0
        self._constant = torch.zeros((), dtype=torch.bool, device=self.device)
        self._dead_checks = 0
        self.spending = Spending(
            spec.budget,
            self.meter,
            world,
            limit_steps=step_limit(spec, self.batches, self.flops) if self.trainable else None,
            shares=spec.train.evaluate_at,
            frozen=spec.frozen if self.trainable else None,
        )

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser; None where there is nothing to train."""
        return None if self.stepper is None else self.stepper.optimizer

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent."""
        return self.spending.fraction(self.step)

    @property
    def charged_usd(self) -> float:
        """What the trial has been charged: by the clock, or at the frozen cost of its steps."""
        return self.spending.charged_usd(self.step)

    @property
    def epochs(self) -> float:
        """Passes over the training set so far."""
        return self.step / self.batches.steps_per_epoch

    @property
    def equalisation_error_pct(self) -> float | None:
        """How far the charge lies from the budget, in per cent; None for a budget in steps, and without training."""
        return self.spending.equalisation_error_pct(self.step) if self.trainable else None

    @property
    def samples(self) -> int:
        """Pairs trained on so far."""
        return self.step * self.spec.train.batch_size

    def steps_to_go(self) -> int:
        """How many steps to take before the next look at the clock; 0 when the next one would pass the budget."""
        return self.spending.steps_to_go(self.step) if self.trainable else 0

    def take_steps(self, steps: int) -> None:
        """Train on the next `steps` batches, at least one."""
        assert self.stepper is not None  # noqa: S101
        self._compile()
        config, begun = self.spec.train, self.step
        layout, y_range = memory_format(self.precision), self.batches.pairs.geometry.y_range
        with self.meter.training(steps):
            for ahead in range(steps):
                expected = self.spending.midway(begun, ahead)
                for group in self.stepper.optimizer.param_groups:
                    group["lr"] = config.learning_rate * rate_factor(config.schedule, config.warmup, expected)
                with self.meter.waiting_for_data():
                    batch = self.reader.batch(self.step)
                self.world.seed_step(self.spec.seed, self.step)
                seen = self.stepper.step(*batch.on(self.device, layout, y_range))
                self._loss_sum += seen.loss
                self._loss_steps += 1
                self._constant = seen.constant
                self.step += 1
            constant = bool(self._constant)
        self._dead_checks = self._dead_checks + 1 if constant else 0

    def _compile(self) -> None:
        """Before the first step of an attempt; what a later attempt takes to do it again is not charged again."""
        if self.stepper is None or self._compiled:
            return
        self._compiled = True
        with self.meter.segment("setup" if self.step else "compile"):
            layout, y_range = memory_format(self.precision), self.batches.pairs.geometry.y_range
            self.stepper.warm_up(*self.reader.batch(self.step).on(self.device, layout, y_range))

    def fault(self) -> Status | None:
        """`diverged` after a loss that is no number, `dead` after a row of constant pictures; the same on all ranks."""
        status: tuple[Status | None, ...] = (None, "dead", "diverged")
        code = 2 if not bool(torch.isfinite(self._loss_sum)) else int(self._dead_checks >= DEAD_AFTER_CHECKS)
        return status[round(self.world.slowest(float(code)))]

    def validation_due(self) -> bool:
        """Whether the next step would pass a share of the budget at which to validate."""
        return self.spending.validation_due(self.step)

    def validate(self, *, last: bool = False) -> None:
        """Score the network on the whole validation set and add a point to the curve; off the clock.

        Before the `last` validation some scores are left out, as `TrainConfig.judge_between` says.
        """
        every = (last and not self.spec.held_out) or self.spec.train.judge_between == "all"
        with self.meter.segment("eval"):
            self.world.share(self.model.buffers())  # statistics of batch normalisation: rank 0's are kept
            alex, device, precision = self.alex if every else None, self.device, self.eval_precision
            mine = evaluate(
                self.model, self.val_rows, self.judge, device=device, precision=precision, alex=alex, whole=not every
            )
            self.scores = sorted(self.world.gather(mine), key=lambda score: score.image_id)
        loss = self.loss
        if self.curve and self.curve[-1].step == self.step:
            again = self.curve.pop()  # the same weights again, after a resume
            loss = again.loss if loss is None else loss
        self.curve.append(
            CurvePoint(
                arch=self.spec.arch,
                seed=self.spec.seed,
                step=self.step,
                epochs=self.epochs,
                fraction=self.fraction if self.trainable else 0.0,
                charged_usd=self.charged_usd,
                loss=loss,
                **summary(self.scores),
            )
        )
        self.spending.validated(self.step)
        self._loss_sum.zero_()
        self._loss_steps = 0

    @property
    def scored(self) -> bool:
        """Whether the latest validation gave numbers for every picture; the same on all ranks."""
        return all(score.perceptual is not None and math.isfinite(score.perceptual) for score in self.scores)

    @property
    def loss(self) -> float | None:
        """Mean training loss since the last validation; waits for the device."""
        return self._loss_sum.item() / self._loss_steps if self._loss_steps else None

    def state(self) -> dict[str, Any]:
        """What a later attempt needs to go on exactly here."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "step": self.step,
            "meter": self.meter.state(),
            "curve": [asdict(point) for point in self.curve],
            "shares_done": self.spending.shares_done,
            "loss_sum": self._loss_sum,
            "loss_steps": self._loss_steps,
            "dead_checks": self._dead_checks,
            "micro_batch": self.stepper.micro_batch if self.stepper else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of an earlier attempt."""
        self.model.load_state_dict(state["model"])
        if self.stepper is not None:
            self.stepper.optimizer.load_state_dict(state["optimizer"])
            self.stepper.micro_batch = state.get("micro_batch", self.stepper.micro_batch)
        self.step = state["step"]
        self._kept = state["meter"]["seconds"]
        self.meter.load_state(state["meter"])
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.spending.shares_done = state["shares_done"]
        self._loss_sum.copy_(state["loss_sum"])
        self._loss_steps = state["loss_steps"]
        self._dead_checks = state["dead_checks"]

    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is `checkpoint_every_s` old by rank 0's clock; the same on all ranks."""
        return bool(self.world.agree(int(self._clock() - self._kept_at >= self.spec.checkpoint_every_s)))

    def keep(self) -> None:
        """Write the checkpoint; on rank 0."""
        buffer = io.BytesIO()
        torch.save(self.state(), buffer)
        self.files.write_state(buffer.getvalue(), self.ledger.attempt)
        self._kept_at = self._clock()

    def begin(self) -> None:
        """Begin an attempt in the ledger; what an earlier one spent after its last checkpoint becomes `lost`."""
        lost = self.ledger.begin(self._kept) if self.world.rank == 0 else 0.0
        self.meter.lose(self.world.slowest(lost))
        self.enter("start")

    def enter(self, event: Event) -> None:
        """Write what has been spent into the ledger; a heartbeat only when the last entry is HEARTBEAT_S old."""
        if self.world.rank != 0 or (event == "heartbeat" and time.monotonic() - self._last_entry < HEARTBEAT_S):
            return
        self._last_entry = time.monotonic()
        self.ledger.write(
            event,
            step=self.step,
            seconds=self.meter.seconds,
            charged_usd=self.charged_usd,
            billed_usd=self.meter.billed_usd,
            unaccounted_share=self.meter.unaccounted_share,
        )
