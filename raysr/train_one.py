"""One network trained on this machine, without Ray."""

import json
import math
import traceback
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from raysr import storage
from raysr.claim import claimed
from raysr.cost import PAPER_BUDGET, Budget, Price
from raysr.device import this_device
from raysr.judge import TARGETS, drop_targets
from raysr.losses import perceptual_infos
from raysr.models import file_name, find_architecture
from raysr.own_code import check_code, code_digest
from raysr.pairs import PairSet
from raysr.plain import say
from raysr.prices import DEFAULT_PRICE_NAME, find_price
from raysr.progress import Board, ProgressDisplay
from raysr.provenance import RunInfo, now
from raysr.resume import check_precision, find_data, find_weights, flat, pinned, taken_up
from raysr.runs import Outcome, Run, amend, discarded_unless_begun, gather, new_run_folder, unfinished_row
from raysr.spec import TrainConfig, TrialSpec
from raysr.train import Reporter, check_trials, go_on, run_trial
from raysr.trial import Trial
from raysr.trial_files import TrialFiles
from raysr.world import World

PRESET = "train"
"""What `run.json` calls such a run."""


@dataclass(frozen=True, kw_only=True)
class TrainOneConfig:
    """Train one network until its money is spent, on this machine and without Ray."""

    arch: tyro.conf.Positional[str | None] = None
    """Name of the architecture."""
    data: str | None = None
    """Folder of a set made by jobs/prepare.py."""
    out: str = "runs"
    """Parent folder of the run's new folder."""
    seed: int = 0
    """Number that the first weights and the order of the training pairs are drawn from; at least 0."""
    budget: Budget = field(default_factory=Budget)
    """What it may spend; $5.20, as in the paper, when none is given."""
    price: str = DEFAULT_PRICE_NAME
    """Dollars for an hour of the accelerator, or a name from the table in raysr/prices.py."""
    tolerance: float = 0.02
    """Share of the budget by which the charge may miss it; beyond it, and beyond one step, the row says invalid."""
    checkpoint_every_s: float = 300.0
    """Seconds from one checkpoint to the next at most: what a crash can undo. Off the clock."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    resume: str | None = None
    """Folder of a run of this program to go on with, from its last checkpoint. The run's own settings rule; --data says
    where its set lies now, if elsewhere."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.resume is None and (self.arch is None or self.data is None):
            raise ValueError("name an architecture and --data DIR, or a run to go on with: --resume RUN")
        if self.arch is not None:
            find_architecture(self.arch)
        if self.seed < 0:
            raise ValueError(f"--seed takes a whole number of at least 0, got {self.seed}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"--tolerance takes a share of the budget between 0 and 1, got {self.tolerance}")
        if not 0 < self.checkpoint_every_s < math.inf:
            raise ValueError(f"--checkpoint-every-s takes seconds above 0, got {self.checkpoint_every_s}")
        for name in ("data", "resume"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, storage.absolute(getattr(self, name)))


def train_one(config: TrainOneConfig, console: Console) -> Outcome:
    """Train one network in this process; leaves the same files as a comparison of one.

    Raises ValueError and its like for a configuration that cannot run; Ctrl-C keeps what was reached.
    """
    return _begin(config, console) if config.resume is None else _resume(config, console)


def _begin(config: TrainOneConfig, console: Console) -> Outcome:
    assert config.arch is not None and config.data is not None  # noqa: PT018, S101
    budget = config.budget.checked() if config.budget != Budget() else PAPER_BUDGET
    price = find_price(config.price, now().date().isoformat())
    kind = _kind(config.device)
    train = config.train
    perceptual, alex = perceptual_infos(train.perceptual, train.vgg_weights, train.alex_weights)
    scale = PairSet(config.data, "train", verify=False).geometry.scale
    run = new_run_folder(config.out, file_name(config.arch), now().strftime("%Y%m%d-%H%M%S"))
    spec = TrialSpec(
        arch=config.arch,
        seed=config.seed,
        data=config.data,
        run=run,
        budget=budget,
        price=price,
        train=train,
        tolerance=config.tolerance,
        checkpoint_every_s=config.checkpoint_every_s,
        scale=scale,
        targets=storage.join(run, TARGETS),
        code=code_digest(config.arch),
    )
    with discarded_unless_begun(run):
        RunInfo(
            preset=PRESET,
            device=this_device(kind),
            notional=kind == "cpu",
            perceptual=perceptual,
            alex=alex,
            specs=[spec],
            config=config,
            resources={"use_gpu": kind == "cuda"},
            figure_image_id=check_trials([spec]),
        ).write()
    say(console, f"run folder: {run}")
    with claimed(run):
        return _run(spec, kind, console, perceptual.name)


def _resume(config: TrainOneConfig, console: Console) -> Outcome:
    run = str(config.resume)
    location = storage.join(run, "run.json")
    if not storage.exists(location):
        raise FileNotFoundError(f"{run} cannot be resumed: it holds no run.json, so nothing had begun")
    info: dict[str, Any] = json.loads(storage.read_bytes(location))
    if info["preset"] != PRESET:
        raise ValueError(f"{run} is a comparison: go on with it by jobs/compare.py {info['preset']} --resume {run}")
    stored = _stored(info["config"])
    _refuse_contradictions(config, stored, run)
    assert stored.arch is not None  # noqa: S101
    check_code(stored.arch, info.get("code", {}).get(stored.arch))
    spec = TrialSpec(
        arch=stored.arch,
        seed=stored.seed,
        data=find_data(config.data, info, run),
        run=run,
        budget=Budget(**info["budget"]),
        price=Price(**info["price"]),
        train=stored.train,
        tolerance=stored.tolerance,
        checkpoint_every_s=stored.checkpoint_every_s,
        scale=info["data"]["geometry"]["scale"],
        targets=storage.join(run, TARGETS),
        code=info.get("code", {}).get(stored.arch),
        second_opinion=info["alex"] is not None,
    )
    kind = "cuda" if info["resources"]["use_gpu"] else "cpu"
    device = this_device(kind)
    if device.name != info["device"] and spec.budget.limit_usd(spec.price) is not None:
        raise ValueError(f"{run} was begun on {info['device']}, and this is {device.name}: seconds do not compare")
    check_precision(stored.train, info.get("best_precision"), device, run)
    weights = find_weights(stored.train, info, run)
    with claimed(run):
        part = taken_up(now().isoformat(timespec="seconds"), device, info["resources"])
        code = info.get("code", pinned([spec.arch]))
        amend(run, resumed=[*info.get("resumed", []), part], data=info["data"] | {"location": spec.data}, code=code)
        say(console, f"run folder: {run}")
        return _run(spec, kind, console, weights.name)


def _kind(device: Literal["auto", "cpu", "cuda"]) -> str:
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _stored(config: dict[str, Any]) -> TrainOneConfig:
    values: dict[str, Any] = {one.name: config[one.name] for one in fields(TrainOneConfig) if one.name in config}
    values["train"] = TrainConfig(**config["train"] | {"evaluate_at": tuple(config["train"]["evaluate_at"])})
    values["budget"] = Budget(**config["budget"])
    return TrainOneConfig(**values)


def _refuse_contradictions(config: TrainOneConfig, stored: TrainOneConfig, run: str) -> None:
    """Raise ValueError for a setting that was given and is not the run's own."""
    default = flat(asdict(TrainOneConfig(resume=run)))
    given, then = flat(asdict(config)), flat(asdict(stored))
    for name, value in given.items():
        if name in ("resume", "data", "out") or value in (default[name], then[name]):
            continue
        flag = "the architecture" if name == "arch" else f"--{name.removeprefix('train.').replace('_', '-')}"
        raise ValueError(f"{flag} {value} contradicts {run}, which was begun with {then[name]}: leave it out")


def _run(spec: TrialSpec, kind: str, console: Console, perceptual_name: str) -> Outcome:
    """Train, unless the trial has ended, and gather everything."""
    board, interrupted, error = Board(), False, None
    files = TrialFiles(spec.run, spec.arch, spec.seed)
    row = files.read_row()
    try:
        if row is None:
            with ProgressDisplay(board.snapshot, console, 1, perceptual_name):
                trial = Trial(spec, World(device=torch.device(kind)))
                go_on(trial)
                row = run_trial(trial, Reporter(board.update))
    except KeyboardInterrupt:
        row, interrupted = unfinished_row(spec, "interrupted", "stopped by the user", perceptual_name), True
    except Exception as failed:  # noqa: BLE001  told in the row, as a comparison tells it
        error = "".join(traceback.format_exception(failed)).strip()
        cause = "machine" if isinstance(failed, OSError) else "network"
        row = unfinished_row(spec, "failed", error, perceptual_name, cause)
    finally:
        drop_targets(spec.targets)
    gather(spec.run, [row])
    return Outcome(Run.read(spec.run), error, interrupted)
