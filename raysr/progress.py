"""What a run shows while it works: a line per trial, live in a terminal, plain otherwise."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import ray
from rich.console import Console
from rich.live import Live
from rich.table import Table

POLL_S = 0.5


class Board:
    """Collects the latest progress of every trial; runs as a Ray actor that all workers can reach."""

    def __init__(self) -> None:
        self.latest: dict[tuple[str, int], dict[str, Any]] = {}

    def update(self, progress: dict[str, Any]) -> None:
        """Take over where one trial stands."""
        self.latest[progress["arch"], progress["seed"]] = progress

    def snapshot(self) -> list[dict[str, Any]]:
        """Where every trial stands, in the order in which they began."""
        return list(self.latest.values())


def start_board(name: str) -> Any:
    """The board as an actor under `name`, for the life of this job; it takes no CPU from the trials."""
    actor: Any = ray.remote(Board)
    return actor.options(name=name, num_cpus=0).remote()


class ProgressDisplay(AbstractContextManager["ProgressDisplay"]):
    """Shows the board until it is left. Without a terminal: one plain line per trial and validation."""

    def __init__(self, board: Any, console: Console, trials: int, perceptual_name: str) -> None:
        self.board, self.console, self.trials, self.perceptual_name = board, console, trials, perceptual_name
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
            try:
                trials: list[dict[str, Any]] = ray.get(self.board.snapshot.remote(), timeout=5)
            except (ray.exceptions.RayError, TimeoutError):
                trials = []  # the board went down with the cluster: the trials' own errors tell why
            show(trials)
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
        f"${trial['charged_usd']:.6f}",
        f"{trial['fraction']:.0%}" if trial["budget_usd"] != 0 else "-",
        f"{trial['epochs']:.1f}",
        "-" if trial["loss"] is None else f"{trial['loss']:.4f}",
        "-" if trial["perceptual"] is None else f"{trial['perceptual']:.4f}",
        "-" if left is None else f"{left // 60:.0f}:{left % 60:02.0f}",
    ]
