"""A training step in a process's first thread, in another one, and there with one heap for all threads.

    python benchmarks/heap.py

Ray Train runs its function in a thread that is not the first one. glibc gives such a thread a heap made of parts of
64 MB, and takes whatever is larger from the system at each allocation, which clears its pages anew. Each way is a
process of its own, because MALLOC_ARENA_MAX counts from a process's beginning; they take turns.
"""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import perf_counter
from typing import Literal

import tyro
from race import machine
from train_step import Config as StepConfig
from train_step import ours

from raysr.cluster import WORKERS
from raysr.precision import Precision

WAYS = {
    "first thread": ("first", {}),
    "another thread": ("other", {}),
    "another thread, one heap": ("other", {"MALLOC_ARENA_MAX": WORKERS["MALLOC_ARENA_MAX"]}),
}
SETTLING_STEPS = 2


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("espcn", "inverted_unet3")
    batch_size: int = 4
    lr_px: int = 32
    precision: Precision = "float32"
    rounds: int = 3
    seconds: float = 8.0
    """How long a turn is, about."""
    way: Literal["first", "other"] | None = None
    """In a process that this script starts for one way: which thread."""


def turn(config: Config) -> None:
    """Print the seconds and the page faults of a step."""
    step = ours(StepConfig(batch_size=config.batch_size, lr_px=config.lr_px), config.archs[0], config.precision)
    for _ in range(SETTLING_STEPS):
        step()
    faults, begun, steps = getrusage(RUSAGE_SELF).ru_minflt, perf_counter(), 0
    while perf_counter() - begun < config.seconds:
        step()
        steps += 1
    print((perf_counter() - begun) / steps, (getrusage(RUSAGE_SELF).ru_minflt - faults) / steps)


def run(config: Config, arch: str, way: str) -> tuple[float, float]:
    thread, environment = WAYS[way]
    command = [sys.executable, str(Path(__file__)), "--archs", arch, "--way", thread, "--precision", config.precision]
    command += ["--batch-size", str(config.batch_size), "--lr-px", str(config.lr_px), "--seconds", str(config.seconds)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    seconds, faults = map(float, done.stdout.split())
    return seconds, faults


def main() -> None:
    config = tyro.cli(Config)
    if config.way == "first":
        turn(config)
    elif config.way == "other":
        thread = threading.Thread(target=turn, args=(config,))
        thread.start()
        thread.join()
    else:
        print(f"batch {config.batch_size}, {config.lr_px} -> {2 * config.lr_px}, {config.precision}, {machine()}\n")
        print("| network | way | s / step | of the first thread | page faults a step |\n|---|---|---|---|---|")
        for arch in config.archs:
            turns = [{way: run(config, arch, way) for way in WAYS} for _ in range(config.rounds)]
            first = median(one["first thread"][0] for one in turns)
            for way in WAYS:
                seconds, faults = (median(one[way][part] for one in turns) for part in (0, 1))
                print(f"| {arch} | {way} | {seconds:.3f} | {seconds / first:.2f} | {faults:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
