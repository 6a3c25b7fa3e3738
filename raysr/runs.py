"""The folder of a run: what each trial leaves in it, and how it is gathered for the tables."""

import io
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.torch import save
from torch import nn

from raysr import storage
from raysr.cost import Price
from raysr.evaluate import MEAN_NAMES, ImageScore
from raysr.ledger import Ledger
from raysr.models import build_model, count_parameters
from raysr.spec import TrialSpec, trial_name

Status = Literal["finished", "invalid", "dead", "diverged", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Validation after so much money."""

    arch: str
    seed: int
    step: int
    epochs: float
    fraction: float
    """Share of the budget that is spent, 0 before the first step."""
    charged_usd: float
    loss: float | None
    """Mean training loss since the last point."""
    perceptual: float | None
    ms_ssim: float | None
    ssim: float | None
    psnr: float | None
    lpips_alex: float | None
    perceptual_content: float | None
    ms_ssim_content: float | None
    ssim_content: float | None
    psnr_content: float | None
    lpips_alex_content: float | None


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """How one trial ended; a line of `trials.jsonl`."""

    arch: str
    seed: int
    status: Status
    params: int
    steps: int = 0
    epochs: float = 0.0
    budget_usd: float | None = None
    """None for a budget in epochs."""
    charged_usd: float = 0.0
    """What counts against the budget: by the clock, or in calibrated mode the frozen cost of the steps."""
    metered_usd: float | None = None
    """The clock's own figure: the same in metered mode."""
    billed_usd: float = 0.0
    """Every measured second: charged ones, set-up, validation, checkpoints, waiting for Ray, and what crashes undid."""
    attempts: int = 1
    """How often a worker began on it: more than 1 after a crash."""
    seconds: dict[str, float] | None = None
    """Of one accelerator, by segment of the meter, over all attempts."""
    unaccounted_share: float | None = None
    """Share of the last attempt's wall time that lies in no segment."""
    equalisation_error_pct: float | None = None
    """How far `charged_usd` lies from the budget, in per cent of it; None for epochs, and for what is not trained."""
    usd_per_epoch: float | None = None
    samples_per_s: float | None = None
    """Training squares (or crops) for each charged second of one accelerator."""
    stall_share: float | None = None
    """Share of the charged seconds spent waiting for data."""
    perceptual: float | None = None
    perceptual_name: str
    perceptual_start: float | None = None
    """`perceptual` before the first step."""
    ms_ssim: float | None = None
    ssim: float | None = None
    psnr: float | None = None
    lpips_alex: float | None = None
    perceptual_content: float | None = None
    ms_ssim_content: float | None = None
    ssim_content: float | None = None
    psnr_content: float | None = None
    lpips_alex_content: float | None = None
    inference_ms: float | None = None
    """Milliseconds of one validation picture on the device that trained, without loading and scoring."""
    step_flops: float | None = None
    """Floating-point operations of a training step over all workers, loss included, as torch counts them."""
    network_flops: float | None = None
    """The network's own share of them."""
    uncounted_operations: str | None = None
    """Operations of a step that torch's counter takes for free."""
    precision: str | None = None
    micro_batch: int | None = None
    """Pairs that each worker took through the network at a time."""
    threads: int | None = None
    """CPU threads that each worker computed with."""
    device: str | None = None
    checkpoint: str | None = None
    """Weights below the run's folder."""
    error: str | None = None


class TrialFiles:
    """What one trial writes: only its rank 0 does, and always whole files, so that any moment can be looked at."""

    def __init__(self, run: str, arch: str, seed: int) -> None:
        self.run, self.arch, self.seed = run, arch, seed
        self.name = trial_name(arch, seed)
        self.folder = storage.join(run, "trials", self.name)

    @property
    def checkpoint(self) -> str:
        """The weights' path below the run's folder."""
        return f"checkpoints/{self.name}.safetensors"

    def write_model(self, model: nn.Module, metadata: dict[str, str]) -> None:
        """The weights as safetensors, with `metadata` in its header."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        storage.write_bytes(storage.join(self.run, self.checkpoint), save(tensors, metadata))

    def write_curve(self, points: Sequence[CurvePoint]) -> None:
        """Every validation so far."""
        storage.write_text(storage.join(self.folder, "curve.json"), json.dumps([asdict(point) for point in points]))

    def write_images(self, step: int, scores: Sequence[ImageScore]) -> None:
        """The scores of each validation picture after `step` steps."""
        storage.write_text(self._images(step), json.dumps([asdict(score) for score in scores]))

    def _images(self, step: int) -> str:
        return storage.join(self.folder, "images", f"{step}.json")

    def add_timing(self, timing: dict[str, Any]) -> None:
        """What the network's steps took in one more round, before the trial is run."""
        storage.write_text(storage.join(self.folder, "timings.json"), json.dumps([*self.read_timings(), timing]))

    def read_timings(self) -> list[dict[str, Any]]:
        """What `add_timing` wrote, a timing for each round."""
        return self._read("timings.json") or []

    def write_picture(self, pixels: np.ndarray) -> None:
        """The first validation picture through this network."""
        write_png(storage.join(self.folder, "picture.png"), pixels)

    def write_state(self, state: bytes) -> None:
        """The checkpoint that a later attempt goes on from."""
        storage.write_bytes(storage.join(self.folder, "state.pt"), state)

    def read_state(self) -> bytes | None:
        """The last checkpoint; None before the first."""
        return storage.read_bytes(storage.join(self.folder, "state.pt")) if self.has_state() else None

    def has_state(self) -> bool:
        """Whether there is a checkpoint."""
        return storage.exists(storage.join(self.folder, "state.pt"))

    def write_row(self, row: TrialRow) -> None:
        """The trial's end."""
        storage.write_text(storage.join(self.folder, "row.json"), json.dumps(asdict(row)))

    def read_row(self) -> TrialRow | None:
        """The trial's end, or None when it has not come to one."""
        raw = self._read("row.json")
        return None if raw is None else TrialRow(**raw)

    def read_curve(self) -> list[CurvePoint]:
        """Every validation so far."""
        return [CurvePoint(**point) for point in self._read("curve.json") or []]

    def read_images(self) -> list[dict[str, Any]]:
        """The scores of each picture at every validation of the curve, with the trial's name, oldest first."""
        mine = {"arch": self.arch, "seed": self.seed}
        return [
            mine | {"step": point.step} | score
            for point in self.read_curve()
            for score in json.loads(storage.read_bytes(self._images(point.step)))
        ]

    def _read(self, name: str) -> Any:
        location = storage.join(self.folder, name)
        return json.loads(storage.read_bytes(location)) if storage.exists(location) else None


def write_png(location: str, pixels: np.ndarray) -> None:
    """An 8-bit greyscale picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    storage.write_bytes(location, buffer.getvalue())


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


def repriced(run: Run, price: Price) -> Run:
    """What the run would have cost at another price: the same seconds, other dollars. Its files stay as they are."""
    factor = price.usd_per_hour / run.info["price"]["usd_per_hour"]

    def times(usd: float | None) -> float | None:
        return None if usd is None else usd * factor

    trials = [
        replace(
            trial,
            budget_usd=times(trial.budget_usd),
            charged_usd=trial.charged_usd * factor,
            billed_usd=trial.billed_usd * factor,
            metered_usd=times(trial.metered_usd),
            usd_per_epoch=times(trial.usd_per_epoch),
        )
        for trial in run.trials
    ]
    curves = run.curves.assign(charged_usd=run.curves["charged_usd"] * factor)
    new = {"price": asdict(price), "charged_price": run.info["price"], "budget_usd": times(run.info["budget_usd"])}
    if run.info.get("search"):
        config = run.info["config"]
        new["config"] = config | {"search": config["search"] | {"usd": times(config["search"]["usd"])}}
        new["search"] = {
            arch: one | {name: times(one[name]) for name in ("charged_usd", "billed_usd")}
            for arch, one in run.info["search"].items()
        }
    return replace(run, info=run.info | new, trials=trials, curves=curves)


def unfinished_row(spec: TrialSpec, status: Status, error: str, perceptual_name: str) -> TrialRow:
    """The line of a trial that left none itself, with what its last validation found."""
    files = TrialFiles(spec.run, spec.arch, spec.seed)
    curve = files.read_curve()
    reached: dict[str, Any] = {}
    if curve:
        last = asdict(curve[-1])
        reached = {name: last[name] for name in MEAN_NAMES}
        reached |= {"steps": last["step"], "epochs": last["epochs"], "charged_usd": last["charged_usd"]}
        reached |= {"perceptual_start": curve[0].perceptual, "checkpoint": files.checkpoint}
    spent = Ledger(spec.run, files.name).last()
    if spent is not None:
        reached |= {"billed_usd": spent.billed_usd, "attempts": spent.attempt, "seconds": spent.seconds}
    return TrialRow(
        arch=spec.arch,
        seed=spec.seed,
        status=status,
        params=0 if spec.untrained else count_parameters(build_model(spec.arch, spec.scale)),
        budget_usd=spec.budget.limit_usd(spec.price),
        perceptual_name=perceptual_name,
        error=error,
        **reached,
    )


def amend(run: str, **changes: Any) -> None:
    """Write `changes` into the `run.json` of the run."""
    location = storage.join(run, "run.json")
    info = json.loads(storage.read_bytes(location)) | changes
    storage.write_text(location, json.dumps(info, indent=2) + "\n")


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
