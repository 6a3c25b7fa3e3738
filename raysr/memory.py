"""Memory of a training step: keeping what was freed, and how many pairs fit into what there is."""

import copy
import ctypes
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from raysr.precision import Precision, autocast, memory_format

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""

_NEVER = 2**31 - 1

FREE_SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the free memory that a step may take by estimate: allocators leave holes, and libraries need some too. On a
CPU steps took up to 1.7 times the estimate (benchmarks/memory.py); a GPU that runs out takes fewer pairs."""

ENOUGH_BYTES = {"cpu": 200e6, "cuda": math.inf}
"""When the pairs taken together keep this much, more of them take memory and save no time (benchmarks/memory.py)."""

ESTIMATED_PX = 16
"""Side of the smaller of the two inputs that memory is estimated from, or what the loss needs; the other's is twice."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of giving it back to the system; whether it could.

    glibc takes every block of over 32 MB from the system anew and gives it back when it is freed; the system clears its
    pages each time, which on a CPU takes longer than most operations on it. Afterwards the process holds what it once
    needed until it ends. In other threads than the first it helps only where MALLOC_ARENA_MAX was 1 when the process
    began, as in `raysr.cluster`. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # musl has no such function
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_TOP_PAD, 64 << 20)])


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated on `device`: on a CPU by this machine and by this container. None where that is not
    known."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    known = [free for free in (_of_machine(), _of_container()) if free is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _of_container(proc: Path = Path("/proc/self"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control groups of this process may still take, of which a container is one; None without a limit.

    Version 2 has one tree of groups, version 1 one for memory alone. A limit of a group above counts as well.
    """
    try:
        lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError:
        return None  # no Linux, or a container that hides it
    free: list[int] = []
    for _, controllers, path in lines:
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root, names = (mount, _V2) if not controllers else (mount / "memory", _V1)
        group = root / path.lstrip("/")
        # Inside a container the path may be the host's, and the container's own group is the root.
        for folder in [group, *group.parents] if group.is_dir() else [root]:
            found = _left_in(folder, names)
            free += [] if found is None else [found]
            if folder == root:
                break
    return min(free, default=None)


class _Names(NamedTuple):
    """Files of a control group of memory."""

    limit: str
    usage: str
    cached: str
    """The line of memory.stat with what is given up when memory is short."""


_V2 = _Names("memory.max", "memory.current", "inactive_file")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")

_NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


def _left_in(group: Path, names: _Names) -> int | None:
    try:
        limit = (group / names.limit).read_text().strip()
        usage = int((group / names.usage).read_text())
        counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # no such group, or one that hides its figures
    if limit == "max" or int(limit) >= _NO_LIMIT:
        return None
    return max(0, int(limit) - usage + int(counted.get(names.cached, 0)))


@dataclass(frozen=True)
class StepBytes:
    """Estimated memory of one training step, beside weights and optimiser."""

    fixed: float
    pair: float
    """For each pair in it."""

    def pairs(self, free: float | None, most: int, kind: str) -> int:
        """How many of `most` pairs to take through the network at a time on a device of this `kind` (cpu, cuda) with
        `free` bytes: no more than fit, and no more than make the step faster; at least 1."""
        fit = most if free is None else int((FREE_SHARE[kind] * free - self.fixed) / self.pair)
        faster = min(most, ENOUGH_BYTES[kind] / self.pair)
        return max(1, min(most, fit, math.ceil(faster)))


def estimate_step(
    model: nn.Module, loss: nn.Module, hr_px: int, scale: int, precision: Precision, *, least_px: int = 1
) -> StepBytes:
    """What a step on squares of `hr_px` target pixels keeps for its backward pass, and twice the largest part of that.

    Counted for two small squares on a copy on the CPU, and continued in a straight line over their area: convolutions
    keep so much for each pixel, and so much for their weights. Cautious where the largest part goes in strips
    (raysr.models.strips): its gradient is never there whole, and is counted whole.
    """
    cpu = torch.device("cpu")
    network, judge = (copy.deepcopy(module).to(cpu) for module in (model, loss))
    layout: Any = memory_format(precision)
    first = max(ESTIMATED_PX, -(-least_px // scale))
    (small, few), (large, many) = (
        ((px * scale) ** 2, _kept_bytes(network, judge, px, scale, precision, layout)) for px in (first, 2 * first)
    )
    each = (many - few) / (large - small)
    return StepBytes(fixed=max(0.0, few - each * small), pair=each * hr_px**2)


def _kept_bytes(
    network: nn.Module, judge: nn.Module, px: int, scale: int, precision: Precision, layout: torch.memory_format
) -> int:
    lr, hr = (torch.rand(1, 1, side, side).contiguous(memory_format=layout) for side in (px, px * scale))
    ours = {tensor.untyped_storage().data_ptr() for module in (network, judge) for tensor in _tensors(module)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast(precision, torch.device("cpu")):
            sr = network(lr)
        value = judge(sr, hr)  # holds the graph, and so every tensor in it, until they are counted
    total = sum(kept.values()) + 2 * max(kept.values(), default=0)
    del value
    return total


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
