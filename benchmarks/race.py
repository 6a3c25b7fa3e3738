"""Ways of doing the same thing, timed in turns: what disturbs the machine disturbs all of them.

Each way runs in a process of its own, because some settings (what malloc does with freed memory) are the process's, and
because its peak memory can be told. A way is a function that sets up and returns another one, which does the thing once
and returns its answer as an array.
"""

import ctypes
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

Way = tuple[Callable[..., Callable[[], np.ndarray]], tuple[Any, ...]]
"""A function that can be pickled, and its arguments."""

MATMUL_PX = 2048


@dataclass(frozen=True)
class Lap:
    seconds: float
    """Median of the rounds."""
    rounds: list[float]
    """Seconds of each."""
    peak_mb: float
    """Memory at its peak, beyond what the process had when it was set up."""
    answer: np.ndarray


def race(ways: Mapping[str, Way], *, rounds: int = 7, warm_up: int = 2) -> dict[str, Lap]:
    """Time every way `rounds` times, each after the other."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    runners: list[Any] = []
    for name, way in ways.items():
        lines[name], theirs = context.Pipe()
        runners.append(context.Process(target=_runner, args=(theirs, way, warm_up), daemon=True))
        runners[-1].start()
        lines[name].recv()  # one after the other: setting up is not to be disturbed either
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, line in lines.items():
            line.send("go")
            seconds[name].append(line.recv())
    laps: dict[str, Lap] = {}
    for name, line in lines.items():
        line.send("end")
        peak, answer = line.recv()
        laps[name] = Lap(median(seconds[name]), seconds[name], peak, answer)
    for runner in runners:
        runner.join()
    return laps


def _runner(line: Connection, way: Way, warm_up: int) -> None:
    build, args = way
    run = build(*args)
    before = _begin_peak()
    for _ in range(warm_up):
        answer = run()
    line.send("ready")
    while line.recv() == "go":
        start = perf_counter()
        answer = run()
        line.send(perf_counter() - start)
    line.send((_peak_mb() - before, answer))


def _begin_peak() -> float:
    """MB in use now; the peak is counted from here."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    ctypes.CDLL(None).malloc_trim(0)  # what setting up has freed is nobody's
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """What stands above each table."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"torch {torch.__version__}, {name}"


def matmul_way(dtype: str) -> Callable[[], np.ndarray]:
    """Square matrix products: what the device can do at best."""
    a = torch.randn(MATMUL_PX, MATMUL_PX, dtype=getattr(torch, dtype), device=device())

    def run() -> np.ndarray:
        for _ in range(4):
            product = a @ a
        synchronise()
        return product[:1, :1].float().cpu().numpy()

    return run


def matmul_flops(lap: Lap) -> float:
    """Operations a second of `matmul_way`."""
    return 4 * 2 * MATMUL_PX**3 / lap.seconds


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Length of the difference, as a share of the length of `other`."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
