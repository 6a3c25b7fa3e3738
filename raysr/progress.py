"""What a run shows while it works: a line per trial, live in a terminal, plain otherwise."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raysr.cost import format_usd

POLL_S = 0.5


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


class Board:
    """Collects the latest progress of every trial; a Ray actor in a comparison, so that all workers reach it."""

    def __init__(self) -> None:
        self.latest: dict[tuple[str, int], dict[str, Any]] = {}

    def update(self, progress: dict[str, Any]) -> None:
        """Take over where one trial stands."""
        self.latest[progress["arch"], progress["seed"]] = progress

    def snapshot(self) -> list[dict[str, Any]]:
        """Where every trial stands, in the order in which they began."""
        return list(self.latest.values())


class ProgressDisplay(AbstractContextManager["ProgressDisplay"]):
    """Shows the board until it is left. Without a terminal: one plain line per trial and validation."""

    def __init__(
        self, snapshot: Callable[[], list[dict[str, Any]]], console: Console, trials: int, perceptual_name: str
    ) -> None:
        """Show what `snapshot` of a board gives; it is called from another thread."""
        self.snapshot, self.console, self.trials, self.perceptual_name = snapshot, console, trials, perceptual_name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._printed: dict[tuple[str, int], tuple[int, str]] = {}

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
            self._poll(self._print_news)
            return
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:
            self._poll(lambda trials: live.update(self._table(trials)))

    def _poll(self, show: Callable[[list[dict[str, Any]]], None]) -> None:
        while True:
            last = self._stop.wait(POLL_S)
            show(self.snapshot())
            if last:
                return

    def _table(self, trials: list[dict[str, Any]]) -> Table:
        columns = ("trial", "state", "dollars", "of budget", "epoch", "loss", self.perceptual_name, "time left")
        table = Table(*columns, title=f"{len(trials)} of {self.trials} trials begun", box=None, title_justify="left")
        for trial in trials:
            table.add_row(*_cells(trial))
        return table

    def _print_news(self, trials: list[dict[str, Any]]) -> None:
        for trial in trials:
            key = (trial["arch"], trial["seed"])
            news = (trial["validations"], "ended" if trial["phase"] == "ended" else "")
            if trial["validations"] == 0 or trial["phase"] == "validating" or self._printed.get(key) == news:
                continue
            self._printed[key] = news
            names = ("", "", "spent", "of budget", "epoch", "loss", self.perceptual_name, "left")
            words = [f"{name} {cell}".strip() for name, cell in zip(names, _cells(trial), strict=True) if cell != "-"]
            self.console.print("  ".join(words), soft_wrap=True, highlight=False)


def _cells(trial: dict[str, Any]) -> list[str]:
    left = trial["seconds_left"]
    return [
        f"{trial['arch']} seed {trial['seed']}",
        trial["status"] or trial["phase"],
        format_usd(trial["charged_usd"]),
        f"{trial['fraction']:.0%}" if trial["budget_usd"] != 0 else "-",
        f"{trial['epochs']:.1f}",
        "-" if trial["loss"] is None else f"{trial['loss']:.4f}",
        "-" if trial["perceptual"] is None else f"{trial['perceptual']:.4f}",
        "-" if left is None else f"{left // 60:.0f}:{left % 60:02.0f}",
    ]
