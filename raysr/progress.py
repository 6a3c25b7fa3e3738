"""What a run shows while it works: a line per trial, live in a terminal, plain otherwise."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raysr.cost import format_usd
from raysr.models import label
from raysr.plain import add_row, plain, say

POLL_S = 0.5

BOARD_S = 30.0
"""How long a board that is an actor is waited for: on a busy machine its process takes seconds to start."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a trial stands."""

    arch: str
    seed: int
    phase: Literal["training", "validating", "ended"]
    fraction: float
    charged_usd: float
    budget_usd: float | None
    epochs: float
    loss: float | None
    perceptual: float | None
    """Of the latest validation."""
    seconds_left: float | None
    validations: int
    status: str | None = None
    equalisation_error_pct: float | None = None
    """At its end, how far the charge lies from the budget."""


class Snapshot(NamedTuple):
    """What a board shows."""

    trials: list[dict[str, Any]]
    """Where every trial stands, in the order in which they began."""
    news: list[dict[str, Any]]
    """Where each stood after each validation and at its end."""


class Board:
    """Collects the latest progress of every trial; a Ray actor in a comparison, so that all workers reach it."""

    def __init__(self) -> None:
        self.latest: dict[tuple[str, int], dict[str, Any]] = {}
        self.news: list[dict[str, Any]] = []

    def update(self, progress: dict[str, Any]) -> None:
        """Take over where one trial stands; what follows a validation, and an end, is news."""
        key = (progress["arch"], progress["seed"])
        seen = max((old["validations"] for old in self.news if (old["arch"], old["seed"]) == key), default=0)
        if progress["phase"] == "ended" or progress["validations"] > seen:
            self.news.append(progress)
        self.latest[key] = progress

    def snapshot(self) -> Snapshot:
        """Where every trial stands, and all news."""
        return Snapshot(list(self.latest.values()), list(self.news))


def remote_update(board: Any) -> Callable[[dict[str, Any]], None]:
    """`Board.update` of the Ray actor that the handle `board` is of.

    At a trial's end it waits until the board knows: the comparison, which may end with the trial, would look too early.
    A board that has died is nobody to wait for.
    """

    def update(progress: dict[str, Any]) -> None:
        import ray  # here: a network is trained where Ray is not installed too

        told = board.update.remote(progress)
        if progress["phase"] == "ended":
            ray.wait([told], timeout=BOARD_S)

    return update


class ProgressDisplay(AbstractContextManager["ProgressDisplay"]):
    """Shows the board until it is left. Without a terminal: one plain line per trial and validation."""

    def __init__(self, snapshot: Callable[[], Snapshot], console: Console, trials: int, perceptual_name: str) -> None:
        """Show what `snapshot` of a board gives; it is called from another thread."""
        self.snapshot, self.console, self.trials, self.perceptual_name = snapshot, console, trials, perceptual_name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._printed = 0

    def __enter__(self) -> "ProgressDisplay":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if not self.console.is_terminal:
            self._poll(lambda snapshot: self._print_news(snapshot.news))
            return
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:
            self._poll(lambda snapshot: live.update(self._table(snapshot.trials)))

    def _poll(self, show: Callable[[Snapshot], None]) -> None:
        while True:
            last = self._stop.wait(POLL_S)
            show(self.snapshot())
            if last:
                return

    def _table(self, trials: list[dict[str, Any]]) -> Table:
        columns = ("trial", "state", "dollars", "of budget", "epoch", "loss", self.perceptual_name, "time left")
        table = Table(title=f"{len(trials)} of {self.trials} trials begun", box=None, title_justify="left")
        for column in columns:
            table.add_column(plain(column))
        for trial in trials:
            add_row(table, _cells(trial))
        return table

    def _print_news(self, news: list[dict[str, Any]]) -> None:
        names = ("", "", "spent", "of budget", "epoch", "loss", self.perceptual_name, "left")
        if len(news) < self._printed:  # of a board that was killed and began again
            self._printed = 0
        for progress in news[self._printed :]:
            cells = zip(names, _cells(progress), strict=True)
            words = [f"{name} {cell}".strip() for name, cell in cells if cell != "-"]
            if progress["equalisation_error_pct"] is not None:
                words.append(f"off budget {progress['equalisation_error_pct']:+.2f}%")
            say(self.console, "  ".join(words))
        self._printed = len(news)


def _cells(trial: dict[str, Any]) -> list[str]:
    left = trial["seconds_left"]
    return [
        f"{label(trial['arch'])} seed {trial['seed']}",
        trial["status"] or trial["phase"],
        format_usd(trial["charged_usd"]),
        f"{trial['fraction']:.0%}" if trial["budget_usd"] != 0 else "-",
        f"{trial['epochs']:.1f}",
        "-" if trial["loss"] is None else f"{trial['loss']:.4f}",
        "-" if trial["perceptual"] is None else f"{trial['perceptual']:.4f}",
        "-" if left is None else f"{int(left) // 60}:{int(left) % 60:02}",
    ]
