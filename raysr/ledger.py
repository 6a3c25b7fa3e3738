"""What every attempt at a trial has cost: an append-only journal that outlives its workers."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from raysr import storage

HEARTBEAT_S = 10.0
"""Seconds between two heartbeats at most: so much of a crashed attempt's time can go unseen."""

Event = Literal["start", "heartbeat", "checkpoint", "end"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the ledger; its figures are totals of the trial so far, over all attempts."""

    attempt: int
    """Counted from 1."""
    event: Event
    at: str
    """Time of writing, ISO 8601, UTC."""
    step: int
    seconds: dict[str, float]
    """By segment, of one accelerator."""
    charged_usd: float
    billed_usd: float
    host: str
    pid: int
    """Of the worker that wrote it."""


class Ledger:
    """The journal `RUN/ledger/ARCH-SEED.jsonl`; only rank 0 of a trial writes it."""

    def __init__(self, run: str, name: str) -> None:
        self.location = storage.join(run, "ledger", f"{name}.jsonl")
        self.attempt = 0
        """The attempt that is being written; 0 before `begin`."""

    def read(self) -> list[Entry]:
        """Every line, oldest first. Raises ValueError for one that is none of ours."""
        try:
            return [Entry(**json.loads(line)) for line in storage.read_lines(self.location)]
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.location} is damaged: {error}") from error

    def begin(self, kept: Mapping[Any, float]) -> float:
        """Begin a new attempt from a checkpoint whose segments are `kept` (all 0 without one).

        Returns the seconds that the attempt before it had spent when it last wrote, and that the checkpoint lacks.
        """
        entries = self.read()
        self.attempt = 1 + max((entry.attempt for entry in entries), default=0)
        return max(0.0, sum(entries[-1].seconds.values()) - sum(kept.values())) if entries else 0.0

    def write(
        self, event: Event, *, step: int, seconds: Mapping[Any, float], charged_usd: float, billed_usd: float
    ) -> None:
        """Add a line for the attempt that was begun."""
        entry = Entry(
            attempt=self.attempt,
            event=event,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            step=step,
            seconds=dict(seconds),
            charged_usd=charged_usd,
            billed_usd=billed_usd,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        storage.append_line(self.location, json.dumps(asdict(entry)))
