"""What a step of each architecture costs, timed once and frozen: the file `calibration.json` of a calibrated run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from raysr import storage
from raysr.cost import StepCost
from raysr.manifest import Manifest
from raysr.spec import TrialSpec


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the steps of one architecture took."""

    arch: str
    start_seconds: float
    step_seconds: float
    """As in StepCost: over all accelerators of a trial."""
    timed_steps: int
    """Steps that `step_seconds` was measured on, after the first ones."""
    spent_seconds: float
    """What the timing took over all accelerators, with its set-up; no trial pays it."""
    rounds: int = 1
    """How often it was timed, other architectures in between; the times are medians over these."""
    spread: float = 0.0
    """How far apart the slowest and the fastest round's step lie, as a share of the median."""

    @property
    def cost(self) -> StepCost:
        """What a trial is charged."""
        return StepCost(start_seconds=self.start_seconds, step_seconds=self.step_seconds)

    @staticmethod
    def over_rounds(rounds: "Sequence[Timing]") -> "Timing":
        """The timing that several of one architecture, at least one, come to."""
        steps = [one.step_seconds for one in rounds]
        return Timing(
            arch=rounds[0].arch,
            start_seconds=median(one.start_seconds for one in rounds),
            step_seconds=median(steps),
            timed_steps=sum(one.timed_steps for one in rounds),
            spent_seconds=sum(one.spent_seconds for one in rounds),
            rounds=len(rounds),
            spread=(max(steps) - min(steps)) / median(steps),
        )


def conditions(spec: TrialSpec, device: str, resources: Mapping[str, Any]) -> dict[str, Any]:
    """What the time of a step of `spec` hangs on, to be held against a file from another run."""
    train, geometry = spec.train, Manifest.read(spec.data).geometry
    shared = {name: resources[name] for name in ("workers_per_trial", "cpus_per_worker", "max_concurrent")}
    return {
        "device": device,
        **shared,
        "hr_px": geometry.hr_px,
        "scale": geometry.scale,
        "patch_px": train.patch_px,
        "batch_size": train.batch_size,
        "precision": train.precision,
        "loss": train.loss,
        "perceptual": train.perceptual,
        "micro_batch": train.micro_batch,
        "compile": train.compile,
        "hold_data": train.hold_data,
        "code": spec.code,
        "charged": list(spec.charged),
    }


_BEFORE = {"hold_data": "auto", "code": None}
"""What files say nothing of that were written before it was a condition."""


@dataclass(frozen=True)
class Calibration:
    """The timings of a run's architectures, each with the conditions that it was made under."""

    timings: dict[str, Timing]
    conditions: dict[str, dict[str, Any]]
    """By architecture."""

    @staticmethod
    def read(location: str) -> "Calibration":
        """Read a `calibration.json`. Raises FileNotFoundError, and ValueError for a file that is none."""
        if not storage.exists(location):
            raise FileNotFoundError(f"there is no calibration at {location}: give the calibration.json of a run")
        try:
            rows = json.loads(storage.read_bytes(location))["archs"]
            return Calibration(
                {arch: Timing(**row["timing"]) for arch, row in rows.items()},
                {arch: row["conditions"] for arch, row in rows.items()},
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{location} is no calibration.json of a run: {error!r}") from error

    def with_timing(self, timing: Timing, conditions: dict[str, Any]) -> "Calibration":
        """This and one architecture more."""
        return Calibration(self.timings | {timing.arch: timing}, self.conditions | {timing.arch: conditions})

    def write(self, location: str, specs: Sequence[TrialSpec]) -> None:
        """Write it with the steps that the budget of `specs` pays for, for people to read."""
        frozen = {spec.arch: spec for spec in self.freeze(specs) if spec.frozen is not None}
        rows = {
            arch: {
                "steps": frozen[arch].frozen_steps if arch in frozen else None,
                "timing": asdict(timing),
                "conditions": self.conditions[arch],
            }
            for arch, timing in self.timings.items()
        }
        budget = specs[0].budget.limit_usd(specs[0].price)
        storage.write_text(location, json.dumps({"schema_version": 1, "budget_usd": budget, "archs": rows}, indent=2))

    def check(self, specs: Sequence[TrialSpec], device: str, resources: Mapping[str, Any], location: str) -> None:
        """Raise ValueError unless this, read from `location`, times every trained network of `specs` as it is now."""
        for spec in specs:
            if spec.untrained:
                continue
            if spec.arch not in self.timings:
                raise ValueError(
                    f"{location} has no timing of {spec.arch}; it has {', '.join(self.timings)}: calibrate anew with "
                    "--mode calibrated"
                )
            now, then = conditions(spec, device, resources), _BEFORE | self.conditions[spec.arch]
            other = [f"{name} is {now[name]}, then {then.get(name)}" for name in now if now[name] != then.get(name)]
            if other:
                raise ValueError(
                    f"{location} timed {spec.arch} under other conditions ({'; '.join(other)}): calibrate anew with "
                    "--mode calibrated"
                )

    def freeze(self, specs: Sequence[TrialSpec]) -> list[TrialSpec]:
        """`specs` with the frozen cost of those that were timed."""
        return [
            replace(spec, frozen=self.timings[spec.arch].cost) if spec.arch in self.timings else spec for spec in specs
        ]
