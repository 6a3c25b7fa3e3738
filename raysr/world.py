"""The processes that train one network together, as seen from one of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

MOST_STEPS = 2**32
"""No trial has more: the random numbers of one seed's steps are never another's."""


@dataclass(frozen=True)
class World:
    """Rank and number of processes, and the few things they must agree on; one process needs no torch.distributed."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def current(device: torch.device) -> "World":
        """The world of the torch.distributed group that is initialised, if any."""
        if not dist.is_initialized():
            return World(device=device)
        return World(dist.get_rank(), dist.get_world_size(), device)

    def slowest(self, seconds: float) -> float:
        """The largest value of all ranks."""
        if self.size == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value.item()

    def agree(self, value: int) -> int:
        """Rank 0's value."""
        return round(self.same(float(value)))

    def same(self, value: float) -> float:
        """Rank 0's value."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return shared.item()

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Make these rank 0's on all ranks, in place."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, src=0)

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all ranks, rank 0's first."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def seed_step(self, seed: int, step: int) -> None:
        """Let what layers draw in this step (dropout, stochastic depth) be its own and this rank's, also after a
        resume."""
        torch.manual_seed((seed * MOST_STEPS + step) * self.size + self.rank)

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
