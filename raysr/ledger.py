"""What every attempt at a trial has cost: an append-only journal that outlives its workers."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from raysr import storage
from raysr.errors import text_of

HEARTBEAT_S = 10.0
"""Seconds between two heartbeats at most: so much of a crashed attempt's time can go unseen."""

Event = Literal["start", "heartbeat", "validation", "checkpoint", "end"]
"""validation and checkpoint: about to be made, and kept."""


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
    unaccounted_share: float
    """Of this attempt's wall time so far: what lies in no segment."""
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
        """Every line, oldest first, in an object store by attempts. Raises ValueError for one that is none of ours."""
        return [self._entry(line) for line in storage.read_lines(self.location)]

    def last(self) -> Entry | None:
        """The newest line of the latest attempt; None before the first.

        A worker that was given up for dead may write after the attempt that took its place.
        """
        if "://" in self.location:  # objects, in the order of their attempts
            line = storage.last_line(self.location)
            return None if line is None else self._entry(line)
        return max(reversed(self.read()), key=lambda entry: entry.attempt, default=None)

    def _entry(self, line: str) -> Entry:
        try:
            return Entry(**json.loads(line))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.location} is damaged: {text_of(error)}") from error

    def begin(self, kept: Mapping[Any, float]) -> float:
        """Begin a new attempt from a checkpoint whose segments are `kept` (all 0 without one).

        Returns the seconds that the attempt before it had spent when it last wrote, and that the checkpoint lacks.
        """
        last = self.last()
        self.attempt = 1 if last is None else last.attempt + 1
        return 0.0 if last is None else max(0.0, sum(last.seconds.values()) - sum(kept.values()))

    def check(self) -> None:
        """Raise RuntimeError when a later attempt has begun: a worker that was given up for dead must not go on."""
        last = self.last()
        if last is not None and last.attempt > self.attempt:
            raise RuntimeError(f"attempt {self.attempt} is over: attempt {last.attempt} has begun on {last.host}")

    def write(
        self,
        event: Event,
        *,
        step: int,
        seconds: Mapping[Any, float],
        charged_usd: float,
        billed_usd: float,
        unaccounted_share: float,
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
            unaccounted_share=unaccounted_share,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        storage.append_line(self.location, json.dumps(asdict(entry)), rank=self.attempt)
