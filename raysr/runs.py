"""The folder of a run: what each trial leaves in it, and how it is gathered for the tables."""

import json
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from raysr import storage
from raysr.models import parse_arch, trainable_parameters
from raysr.naming import builds_bicubic, titles
from raysr.reading import ROWS, Frames, reached_so_far, read_info, read_trials
from raysr.rows import Cause, Status, TrialRow
from raysr.spec import TrialSpec
from raysr.trial_files import TrialFiles


def gather(run: str, trials: Sequence[TrialRow]) -> None:
    """Write `trials.jsonl`, `curves.parquet`, `images.parquet` and `history.parquet` from the trials' own files."""
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in trials)
    storage.write_text(storage.join(run, ROWS), lines)
    files = [TrialFiles(run, row.arch, row.seed) for row in trials]
    Frames.of((file.read_curve(), file.read_images()) for file in files).write(run)


@dataclass(frozen=True)
class Run:
    """A run as it stands in its folder."""

    folder: str
    info: dict[str, Any]
    trials: list[TrialRow]
    curves: pd.DataFrame
    images: pd.DataFrame
    """Scores of each validation picture at each trial's last validation."""
    history: pd.DataFrame
    """The same at every validation."""

    problems: Sequence[str] = ()
    """What of the folder could not be read."""

    @cached_property
    def titles(self) -> dict[str, str]:
        """What each architecture of the run is called in its tables; no two alike."""
        return titles(trial.arch for trial in self.trials)

    @cached_property
    def yardstick(self) -> str | None:
        """The architecture of the run that is bicubic interpolation; None where there is none."""
        if "yardstick" in self.info:
            return self.info["yardstick"]
        scale = self.info["data"]["geometry"].get("scale", 2)
        # In a run of an older version. Code of the user's own is not run for a table.
        asked = dict.fromkeys(row.arch for row in self.trials if ":" not in parse_arch(row.arch)[0])
        return next((arch for arch in asked if builds_bicubic(arch, scale)), None)

    @staticmethod
    def read(folder: str) -> "Run":
        """Read the run in `folder` as it stands, also one that still runs or was killed.

        Raises FileNotFoundError when it is none, and ValueError when its `run.json` cannot be read.
        """
        folder = storage.absolute(folder)
        info = read_info(folder)
        found = read_trials(folder, info)
        return Run(folder, info, found.trials, *found.frames, problems=found.problems)


def unfinished_row(
    spec: TrialSpec,
    status: Status,
    error: str,
    perceptual_name: str,
    cause: Cause | None = None,
) -> TrialRow:
    """The line of a trial that left none itself, with what its last validation found."""
    return TrialRow(
        arch=spec.arch,
        seed=spec.seed,
        status=status,
        params=0 if spec.untrained else trainable_parameters(spec.arch, spec.scale),
        budget_usd=spec.budget.limit_usd(spec.price),
        perceptual_name=perceptual_name,
        error=error,
        cause=cause,
        **reached_so_far(spec.run, spec.arch, spec.seed),
    )


def amend(run: str, **changes: Any) -> None:
    """Write `changes` into the `run.json` of the run."""
    location = storage.join(run, "run.json")
    info = json.loads(storage.read_bytes(location)) | changes
    storage.write_text(location, json.dumps(info, indent=2) + "\n")


@contextmanager
def discarded_unless_begun(run: str) -> Generator[None]:
    """Take the new folder of a run away again where an error comes before its `run.json` is written."""
    try:
        yield
    except BaseException:
        if not storage.exists(storage.join(run, "run.json")):
            storage.remove(run)
        raise


@dataclass(frozen=True)
class Outcome:
    """A run that has ended, well or not."""

    run: Run
    error: str | None
    """The first failed trial's error."""
    interrupted: bool


def new_run_folder(parent: str, name: str, stamp: str) -> str:
    """A new folder `parent`/`name`-`stamp`, numbered when it is taken: no run ever overwrites another.

    On an object store, where no two can agree on who was first, the name has a random end.
    """
    base = storage.join(storage.absolute(parent), f"{name}-{stamp}")
    for attempt in range(1, 1000):
        folder = base if attempt == 1 else f"{base}-{attempt}"
        if "://" in folder:
            return f"{folder}-{secrets.token_hex(4)}"
        try:
            Path(folder).mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{base} and 998 numbered folders beside it exist already")
