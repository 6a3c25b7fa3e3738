"""What stands in a run's folder at any moment: also while the run is under way, and after its driver was killed."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any, NamedTuple

import pandas as pd

from raysr import storage
from raysr.errors import text_of
from raysr.evaluate import SUMMARY_NAMES, ImageScore
from raysr.ledger import Entry, Ledger
from raysr.models import parse_arch, trainable_parameters
from raysr.naming import shown
from raysr.rows import CurvePoint, TrialRow, decode
from raysr.trial_files import TrialFiles

ROWS = "trials.jsonl"
"""In the run's folder: a line for each trial, written when the run ends."""

_NEEDED = {"preset", "started", "config", "budget_usd", "price", "notional", "charged_segments", "device", "perceptual"}
"""What a report takes from `run.json`, besides `data`."""

_INSIDE = {
    "data": {"geometry", "pairs", "photographs", "source", "content_sha256"},
    "perceptual": {"name", "weights_sha256"},
    "price": {"usd_per_hour", "source", "date"},
}
"""The fields of these that it takes."""

_OPTIONAL = {"command": [], "commit": None, "alex": None, "figure_image_id": "", "versions": {}}
"""Values of fields that a run need not have."""


class Frames(NamedTuple):
    """The validations of a run as tables."""

    curves: pd.DataFrame
    images: pd.DataFrame
    """Scores of each validation picture at each trial's last validation."""
    history: pd.DataFrame
    """The same at every validation."""

    @staticmethod
    def of(trials: Iterable[tuple[list[CurvePoint], list[dict[str, Any]]]]) -> "Frames":
        """From the curve and the pictures' scores of each trial."""
        both = list(trials)
        curves = [asdict(point) for curve, _ in both for point in curve]
        history = [score for _, scores in both for score in scores]
        last = {(point["arch"], point["seed"]): point["step"] for point in curves}
        images = [score for score in history if score["step"] == last[score["arch"], score["seed"]]]
        columns = pd.Index(["arch", "seed", "step", *(one.name for one in fields(ImageScore))])
        return Frames(
            pd.DataFrame(curves, columns=pd.Index([one.name for one in fields(CurvePoint)])),
            pd.DataFrame(images, columns=columns),
            pd.DataFrame(history, columns=columns),
        )

    def write(self, run: str) -> None:
        """Write them into the run's folder as Parquet."""
        for name, frame in self._asdict().items():
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            storage.write_bytes(storage.join(run, f"{name}.parquet"), buffer.getvalue())

    @staticmethod
    def read(run: str, problems: list[str]) -> "Frames | None":
        """What `write` left in the run's folder; None where one is missing, or is damaged, which joins `problems`."""
        places = [storage.join(run, f"{name}.parquet") for name in Frames._fields]
        if not all(map(storage.exists, places)):
            return None
        frames: list[pd.DataFrame] = []
        for place in places:
            try:
                frames.append(pd.read_parquet(io.BytesIO(storage.read_bytes(place))))
            except (OSError, ValueError) as error:  # pyarrow's own errors are of these
                problems.append(f"{place} is damaged: {text_of(error)}")
                return None
        return Frames(*frames)


@dataclass
class Found:
    """What stands in the run's folder."""

    trials: list[TrialRow]
    frames: Frames
    problems: list[str]
    """What could not be read, each with the reason."""


def read_info(folder: str) -> dict[str, Any]:
    """The run's `run.json`; raises FileNotFoundError where there is none, and ValueError for one that is damaged."""
    location = storage.join(folder, "run.json")
    if not storage.exists(location):
        raise FileNotFoundError(f"{folder} is no run: it holds no run.json")
    try:
        info = json.loads(storage.read_bytes(location))
    except ValueError as error:
        raise ValueError(f"{location} is damaged: {text_of(error)}") from error
    missing = sorted({*_NEEDED, "data"} - set(info))
    missing += [f"{name}.{one}" for name in _INSIDE if name in info for one in sorted(_INSIDE[name] - set(info[name]))]
    if missing:
        raise ValueError(
            f"{location} lacks {', '.join(missing)}: it is damaged, or of another version of raysr, which can read it"
        )
    return _OPTIONAL | info


def read_trials(folder: str, info: dict[str, Any]) -> Found:
    """Every trial that the run in `folder` has or is to have, and its validations.

    The lines of `trials.jsonl` count, and the trials' own files where those are newer or where there is no line.
    """
    lines, problems = _lines(folder)
    rows = {(row.arch, row.seed): row for row in lines}
    known = {row.arch: row.params for row in lines if row.status == "finished"}
    planned = _planned(folder, info, problems, told=bool(lines))
    as_gathered = bool(lines)
    for key in [*planned, *(key for key in rows if key not in planned)]:
        if key[1] > 0 and key not in rows and _is_untrained(key[0], info, known, problems):
            continue  # what is not trained has no second seed
        newer = _newer(folder, info, key, rows.get(key), known, problems)
        if newer is not None:
            rows[key], as_gathered = newer, False
            if newer.params >= 0:
                known.setdefault(key[0], newer.params)
    frames = Frames.read(folder, problems) if as_gathered else None
    if frames is None:
        frames = Frames.of(_validations(folder, rows.values(), problems))
    scored = set(zip(frames.images["arch"], frames.images["seed"], strict=True))
    problems += [
        f"the scores of single pictures of {row.arch} seed {row.seed}, which are not in {folder}"
        for row in rows.values()
        if row.status == "finished" and row.perceptual is not None and (row.arch, row.seed) not in scored
    ]
    return Found(list(rows.values()), frames, list(dict.fromkeys(problems)))


def _lines(folder: str) -> tuple[list[TrialRow], list[str]]:
    """The rows in `trials.jsonl`, and what is wrong with the other lines."""
    location, rows, problems = storage.join(folder, ROWS), list[TrialRow](), list[str]()
    if not storage.exists(location):
        return rows, problems
    for number, line in enumerate(storage.read_bytes(location).decode(errors="replace").splitlines(), 1):
        where = f"{location}, line {number},"
        try:
            rows.append(decode(TrialRow, json.loads(line), where))
        except json.JSONDecodeError as error:
            problems.append(f"{where} is damaged: {text_of(error)}")
        except ValueError as error:
            problems.append(text_of(error))
    return rows, problems


Key = tuple[str, int]
"""Architecture and seed of a trial."""


def _planned(folder: str, info: dict[str, Any], problems: list[str], *, told: bool) -> list[Key]:
    """The trials that the run is made of; where neither `run.json` nor lines have `told`, those that left files."""
    config: dict[str, Any] = info["config"]
    if "arch" in config and "seed" in config:
        return [(config["arch"], config["seed"])]
    if "archs" not in config or "seeds" not in config:
        return [] if told else _begun(folder, problems)
    return [(str(arch), seed) for seed, arch in product(range(int(config["seeds"])), config["archs"])]


def _begun(folder: str, problems: list[str]) -> list[Key]:
    """The trials whose files say which they are."""
    found: list[Key] = []
    for name in storage.children(storage.join(folder, "trials")):
        for file in ("row.json", "curve.json"):
            location = storage.join(folder, "trials", name, file)
            if not storage.exists(location):
                continue
            try:
                raw = json.loads(storage.read_bytes(location))
                one = raw if file == "row.json" else raw[0]
                found.append((str(one["arch"]), int(one["seed"])))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problems.append(f"{location} does not say of which trial it is: {text_of(error)}")
            else:
                break
    return found


def _newer(
    folder: str, info: dict[str, Any], key: Key, line: TrialRow | None, known: dict[str, int], problems: list[str]
) -> TrialRow | None:
    """What a trial's own files say, if there is no `line` of it or if it went on after that was written."""
    if line is not None and line.status not in ("failed", "interrupted", "unfinished"):
        return None
    files = TrialFiles(folder, *key)
    try:
        row, spent = files.read_row(), Ledger(folder, files.name).last()
        if row is not None or (line is not None and (spent is None or spent.attempt <= line.attempts)):
            return row
        reached, problem = reached_so_far(folder, *key), None
    except (ValueError, FileNotFoundError) as error:
        reached, spent, problem = dict[str, Any](), None, text_of(error)
        problems.append(problem)
    return TrialRow(
        arch=key[0],
        seed=key[1],
        status="unfinished",
        params=_parameters(key[0], info, known, problems),
        perceptual_name=info["perceptual"]["name"],
        budget_usd=info["budget_usd"],
        error=problem or _where_it_is(spent),
        **reached,
    )


def _where_it_is(spent: Entry | None) -> str:
    if spent is None:
        return "it has not begun"
    return f"it has no end: it still runs, or was stopped. Its worker last wrote at {spent.at}, after step {spent.step}"


def reached_so_far(run: str, arch: str, seed: int) -> dict[str, Any]:
    """Fields of the row of a trial without an end: what its last validation found, and what it has cost."""
    files = TrialFiles(run, arch, seed)
    curve = files.read_curve()
    reached: dict[str, Any] = {}
    if curve:
        last = asdict(curve[-1])
        reached = {name: last[name] for name in SUMMARY_NAMES}
        reached |= {"steps": last["step"], "epochs": last["epochs"], "charged_usd": last["charged_usd"]}
        reached |= {"perceptual_start": curve[0].perceptual, "checkpoint": files.checkpoint}
    spent = Ledger(run, files.name).last()
    if spent is not None:
        reached |= {"billed_usd": spent.billed_usd, "attempts": spent.attempt, "seconds": spent.seconds}
    return reached


def _is_untrained(arch: str, info: dict[str, Any], known: dict[str, int], problems: list[str]) -> bool:
    return shown(arch).pretrained or _parameters(arch, info, known, problems) == 0


def _parameters(arch: str, info: dict[str, Any], known: dict[str, int], problems: list[str]) -> int:
    """How many a network has, below 0 where nobody knows: code of the user's own is never run to look at a run."""
    if arch not in known and arch in info.get("parameters", {}):
        known[arch] = info["parameters"][arch]
    if arch not in known and ":" not in parse_arch(arch)[0]:
        try:
            known[arch] = trainable_parameters(arch, info["data"]["geometry"]["scale"])
        except (ValueError, OSError) as error:
            problems.append(f"the parameters of {arch} cannot be counted here: {text_of(error)}")
    return known.get(arch, -1)


def _validations(
    folder: str, rows: Iterable[TrialRow], problems: list[str]
) -> Iterator[tuple[list[CurvePoint], list[dict[str, Any]]]]:
    for row in rows:
        files = TrialFiles(folder, row.arch, row.seed)
        try:
            found = files.read_curve(), files.read_images()
        except (ValueError, FileNotFoundError) as error:
            problems.append(text_of(error))
            continue
        yield found
