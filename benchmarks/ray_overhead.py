"""What Ray adds to a trial: its step inside Tune and Train against the bare loop, and where the start's seconds go.

python benchmarks/ray_overhead.py
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import ray
import tyro
from race import machine
from rich.console import Console

from raysr.cluster import ALONE, QUIET, WORKERS, start_ray
from raysr.compare import compare
from raysr.cost import Budget
from raysr.ledger import Ledger
from raysr.prepare import PrepareConfig, prepare
from raysr.presets import DEMO_GEOMETRY, CompareConfig
from raysr.runs import Outcome
from raysr.spec import TrainConfig, trial_name
from raysr.train_one import TrainOneConfig, train_one


@dataclass(frozen=True)
class Config:
    arch: str = "inverted_unet3"
    seconds: float = 20
    """Budget of each trial."""
    rounds: int = 3
    later: int = 4
    """Trials after the first of a run."""
    patch_px: int = 64
    batch_size: int = 4
    niceness: int | None = None
    """Of Ray's workers: 15 is Ray's own setting. None: as raysr starts Ray."""


Run = tuple[float, dict[str, float]]
"""Pairs a second, and the seconds to the first step by what they went into."""


def looked_at(outcome: Outcome, arch: str, begun: float) -> Run:
    (row,) = outcome.run.trials
    assert row.status == "finished", row.error
    events = Ledger(outcome.run.folder, trial_name(arch, 0)).read()
    start, first = (next(e for e in events if e.event == event) for event in ("start", "checkpoint"))
    in_loop, ready = (datetime.fromisoformat(entry.at).timestamp() for entry in (start, first))
    checked = next(Path(outcome.run.folder, "pictures").glob("lr.png")).stat().st_mtime  # the last of the checks
    setup = start.seconds["setup"]
    return row.samples_per_s or 0.0, {
        "checks before the run": checked - begun,
        "until the worker begins": in_loop - setup - checked,
        "network, loss and data": setup,
        "validation before the first step": ready - in_loop,
        "in all": ready - begun,
    }


def between_trials(outcome: Outcome) -> list[float]:
    """Seconds from the end of each trial to the first work of the next, its set-up included."""
    times: list[tuple[float, float]] = []
    for row in outcome.run.trials:
        assert row.status == "finished", row.error
        events = Ledger(outcome.run.folder, trial_name(row.arch, row.seed)).read()
        times.append(tuple(datetime.fromisoformat(events[end].at).timestamp() for end in (0, -1)))
    times.sort()
    return [start - end for (_, end), (start, _) in pairwise(times)]


def main() -> None:
    config = tyro.cli(Config)
    train = TrainConfig(patch_px=config.patch_px, batch_size=config.batch_size, evaluate_at=())
    quiet, budget = Console(quiet=True), Budget(gpu_seconds=config.seconds)
    code = "import time; a = time.time(); import raysr.compare; print(time.time() - a)"
    imports = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    bare: list[Run] = []
    inside: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        data, out = f"{folder}/set", f"{folder}/runs"
        begun = time.time()
        if config.niceness is not None:
            os.environ.update(QUIET | WORKERS | ALONE)
            ray.init(include_dashboard=False, _system_config={"worker_niceness": config.niceness})
        start_ray()
        ray_start = time.time() - begun
        prepare(PrepareConfig(source="bundled", out=data, geometry=DEMO_GEOMETRY))
        for _ in range(config.rounds):
            begun = time.time()
            one = train_one(TrainOneConfig(arch=config.arch, data=data, out=out, budget=budget, train=train), quiet)
            bare.append(looked_at(one, config.arch, begun))
            begun = time.time()
            settings = {"archs": (config.arch,), "data": data, "out": out, "budget": budget, "train": train}
            many = compare(CompareConfig(preset="paper", seeds=1, **settings), quiet)
            inside.append(looked_at(many, config.arch, begun))
        settings |= {"budget": Budget(gpu_seconds=3), "train": replace(train, evaluate_at=())}
        gaps = between_trials(compare(CompareConfig(preset="paper", seeds=1 + config.later, **settings), quiet))
        ray.shutdown()
    print(f"{config.arch}, patch {config.patch_px}, batch {config.batch_size}, {machine()}\n")
    print(f"| median of {config.rounds} | bare loop | in Tune and Train |\n|---|---|---|")
    rates = [median(rate for rate, _ in runs) for runs in (bare, inside)]
    print(f"| pairs a second | {rates[0]:.2f} | {rates[1]:.2f} ({rates[0] / rates[1] - 1:+.1%} time a step) |")
    print(f"| s: imports of Python | {imports:.1f} | {imports:.1f} |\n| s: starting Ray | | {ray_start:.1f} |")
    for part in bare[0][1]:
        times = [median(seconds[part] for _, seconds in runs) for runs in (bare, inside)]
        print(f"| s: {part} | {times[0]:.1f} | {times[1]:.1f} |")
    span = f"{median(gaps):.1f} ({min(gaps):.1f} to {max(gaps):.1f})"
    print(f"| s: from a trial's end to the first work of the next | | {span} |")


if __name__ == "__main__":
    main()
