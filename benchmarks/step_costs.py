"""What a step of each architecture costs, in a `calibration.json` for `jobs/compare.py --calibration FILE`.

    python benchmarks/step_costs.py --data DIR --out calibration.json --archs srcnn espcn inverted_unet3 ...

The comparison times its architectures one after the other, each in the worker that Ray gives it. Here they take turns
of some seconds, outside of Ray: a machine that changes its speed from minute to minute, as shared ones do, slows all of
them down alike. For one worker on this machine's device; the settings of training are to be those of the comparison.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter

import numpy as np
import torch
import tyro
from race import device, race

from raysr import storage
from raysr.calibration import Calibration, Timing, conditions
from raysr.cost import DEFAULT_PRICE, Budget
from raysr.device import device_name
from raysr.presets import expand_archs
from raysr.spec import TrainConfig, TrialSpec
from raysr.train import WARMUP_STEPS
from raysr.trial import Trial
from raysr.world import World


@dataclass(frozen=True)
class Config:
    data: str
    """Folder of a set made by jobs/prepare.py."""
    out: str
    """The file to write."""
    archs: tuple[str, ...]
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    rounds: int = 15
    turn_s: float = 3.0
    """How long a turn is, about."""
    cpus: int = torch.get_num_threads()
    """CPU cores of a worker."""


def turns_of(config: Config, arch: str, run: str) -> Callable[[], np.ndarray]:
    torch.set_num_threads(config.cpus)
    trial = Trial(spec_of(config, arch, run), World(device=device()))
    start = perf_counter()
    trial.take_steps(WARMUP_STEPS)
    first = perf_counter() - start
    start = perf_counter()
    trial.take_steps(WARMUP_STEPS)
    step_seconds = (perf_counter() - start) / WARMUP_STEPS
    each = max(1, round(config.turn_s / step_seconds))

    def turn() -> np.ndarray:
        trial.take_steps(each)
        return np.array([each, first])

    return turn


def spec_of(config: Config, arch: str, run: str) -> TrialSpec:
    return TrialSpec(
        arch=arch,
        seed=0,
        data=storage.absolute(config.data),
        run=run,
        budget=Budget(usd=1),
        price=DEFAULT_PRICE,
        train=config.train,
    )


def main() -> None:
    config = tyro.cli(Config)
    # As a comparison writes them: `edsr_baseline(blocks=4,skip=True)` gets its space.
    config = replace(config, archs=tuple(name for word in config.archs for name in expand_archs(word)))
    resources = {"workers_per_trial": 1, "cpus_per_worker": config.cpus, "max_concurrent": 1}
    known = Calibration({}, {})
    with tempfile.TemporaryDirectory() as run:
        laps = race({arch: (turns_of, (config, arch, run)) for arch in config.archs}, rounds=config.rounds, warm_up=1)
        specs = [spec_of(config, arch, run) for arch in config.archs]
    for spec in specs:
        lap = laps[spec.arch]
        each, first = int(lap.answer[0]), float(lap.answer[1])
        turns = [seconds / each for seconds in lap.rounds]
        start_seconds = max(0.0, first - WARMUP_STEPS * median(turns))
        timing = Timing.over_rounds(
            [
                Timing(
                    arch=spec.arch,
                    start_seconds=start_seconds,
                    step_seconds=step_seconds,
                    timed_steps=each,
                    spent_seconds=each * step_seconds + first / config.rounds,
                )
                for step_seconds in turns
            ]
        )
        known = known.with_timing(timing, conditions(spec, device_name(device().type), resources))
        print(
            f"{spec.arch}: {timing.step_seconds:.4f} s a step, from {min(turns):.4f} to {max(turns):.4f}, {each} a turn"
        )
    known.write(storage.absolute(config.out), specs)


if __name__ == "__main__":
    main()
