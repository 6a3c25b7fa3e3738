"""The folder of a run: what each trial leaves in it, and how it is gathered for the tables."""

import io
import json
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from raysr import storage
from raysr.evaluate import SUMMARY_NAMES, ImageScore
from raysr.ledger import Ledger
from raysr.models import trainable_parameters
from raysr.rows import CurvePoint, Status, TrialRow
from raysr.spec import TrialSpec
from raysr.trial_files import TrialFiles


def gather(run: str, trials: Sequence[TrialRow]) -> None:
    """Write `trials.jsonl`, `curves.parquet`, `images.parquet` and `history.parquet` from the trials' own files."""
    files = [TrialFiles(run, row.arch, row.seed) for row in trials]
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in trials)
    storage.write_text(storage.join(run, "trials.jsonl"), lines)
    curves = [asdict(point) for file in files for point in file.read_curve()]
    _write_parquet(storage.join(run, "curves.parquet"), curves, [f.name for f in fields(CurvePoint)])
    history = [score for file in files for score in file.read_images()]
    last = {(point["arch"], point["seed"]): point["step"] for point in curves}
    images = [score for score in history if score["step"] == last[score["arch"], score["seed"]]]
    columns = ["arch", "seed", "step", *(f.name for f in fields(ImageScore))]
    _write_parquet(storage.join(run, "history.parquet"), history, columns)
    _write_parquet(storage.join(run, "images.parquet"), images, columns)


def _write_parquet(location: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=pd.Index(columns)).to_parquet(buffer, index=False)
    storage.write_bytes(location, buffer.getvalue())


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

    @staticmethod
    def read(folder: str) -> "Run":
        """Read the run in `folder`; raises FileNotFoundError when it is none."""
        folder = storage.absolute(folder)
        if not storage.exists(storage.join(folder, "run.json")):
            raise FileNotFoundError(f"{folder} is no run: it holds no run.json")
        lines = storage.read_bytes(storage.join(folder, "trials.jsonl")).decode().splitlines()
        return Run(
            folder=folder,
            info=json.loads(storage.read_bytes(storage.join(folder, "run.json"))),
            trials=[TrialRow(**json.loads(line)) for line in lines],
            curves=pd.read_parquet(io.BytesIO(storage.read_bytes(storage.join(folder, "curves.parquet")))),
            images=pd.read_parquet(io.BytesIO(storage.read_bytes(storage.join(folder, "images.parquet")))),
            history=pd.read_parquet(io.BytesIO(storage.read_bytes(storage.join(folder, "history.parquet")))),
        )


def unfinished_row(
    spec: TrialSpec,
    status: Status,
    error: str,
    perceptual_name: str,
    cause: Literal["network", "machine"] | None = None,
) -> TrialRow:
    """The line of a trial that left none itself, with what its last validation found."""
    files = TrialFiles(spec.run, spec.arch, spec.seed)
    curve = files.read_curve()
    reached: dict[str, Any] = {}
    if curve:
        last = asdict(curve[-1])
        reached = {name: last[name] for name in SUMMARY_NAMES}
        reached |= {"steps": last["step"], "epochs": last["epochs"], "charged_usd": last["charged_usd"]}
        reached |= {"perceptual_start": curve[0].perceptual, "checkpoint": files.checkpoint}
    spent = Ledger(spec.run, files.name).last()
    if spent is not None:
        reached |= {"billed_usd": spent.billed_usd, "attempts": spent.attempt, "seconds": spent.seconds}
    return TrialRow(
        arch=spec.arch,
        seed=spec.seed,
        status=status,
        params=0 if spec.untrained else trainable_parameters(spec.arch, spec.scale),
        budget_usd=spec.budget.limit_usd(spec.price),
        perceptual_name=perceptual_name,
        error=error,
        cause=cause,
        **reached,
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
