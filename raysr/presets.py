"""What a comparison is made of, and the three that have a name."""

import math
import tomllib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from raysr import storage
from raysr.budget import Schedule
from raysr.cost import CHARGED, PAPER_BUDGET, Budget, Segment
from raysr.errors import text_of
from raysr.images import Geometry
from raysr.models import CHECKPOINT, MODELS, file_name, find_architecture, parse_arch, write_arch
from raysr.models.pretrained import file_hash, is_network_file
from raysr.naming import check_titles
from raysr.prices import DEFAULT_PRICE_NAME
from raysr.spec import TrainConfig

_PAPER_ARCHS = ("bicubic", "srcnn", "espcn", "inverted_unet3")

PAPER_FIELD = (*_PAPER_ARCHS, "inverted_unet4")
"""What the paper compares, and its future work."""

DEMO_FIELD = (*_PAPER_ARCHS, "inverted_unet3(blocks=4, skip=True)", "edsr_baseline(blocks=4, skip=True)")
"""What the paper compares, its network with both of our options, and the same blocks and skip with a pixel shuffle in
place of the overshoot."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The same money for every architecture to search its settings with, before the runs that are compared."""

    usd: float | None = None
    """Dollars for each architecture; none: no search, every architecture takes the same settings."""
    learning_rates: tuple[float, float] = (3e-5, 3e-3)
    """Lowest and highest, drawn by their logarithm."""
    batch_sizes: tuple[int, ...] = (4, 8, 16)
    """In calibrated mode with --batch-size alone, the search too is charged the frozen cost of its steps."""
    schedules: tuple[Schedule, ...] = ("constant", "cosine")

    def __post_init__(self) -> None:
        if self.usd is not None and not 0 < self.usd < math.inf:
            raise ValueError(f"--search.usd takes dollars above 0, got {self.usd}")
        low, high = self.learning_rates
        if not 0 < low <= high < math.inf:
            raise ValueError(f"--search.learning-rates takes a lower and a higher one above 0, got {low} {high}")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or not self.schedules:
            raise ValueError("--search.batch-sizes takes sizes of at least 1, and --search.schedules one at least")
        object.__setattr__(self, "batch_sizes", tuple(sorted(set(self.batch_sizes))))
        object.__setattr__(self, "schedules", tuple(dict.fromkeys(self.schedules)))


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Train every architecture for the same money, and say which gives the best picture."""

    preset: Annotated[str, tyro.conf.Suppress]
    archs: tuple[str, ...] = PAPER_FIELD
    """Names of architectures, with options as in "inverted_unet3(width=32)"; package.module:Class for a network of your
    own; a .toml file of several; the .pth or .safetensors of a network that others have trained, to stand beside them.
    `bicubic` is the yardstick and costs nothing."""
    seeds: int = 1
    """How often each is trained, from seed 0 on."""
    data: str | None = None
    """Folder of a set made by jobs/prepare.py; the demo makes its own."""
    out: str = "runs"
    """Parent folder of the run's new folder. On a cluster: absolute, on storage that all nodes share."""
    budget: Budget = field(default_factory=Budget)
    """What each trial may spend; one of these replaces the preset's."""
    mode: Literal["metered", "calibrated"] = "metered"
    """metered: the clock says when a budget of money is spent. calibrated: each architecture's steps are timed once,
    and every seed takes the number of steps that the budget pays for at that cost."""
    calibration: str | None = None
    """A calibration.json of an earlier run, instead of timing anew; implies calibrated."""
    timing_rounds: int = 1
    """How often each architecture's steps are timed, the others in between; the median counts. More than one where the
    machine's speed changes from minute to minute."""
    charged: tuple[Segment, ...] = CHARGED
    """What a trial pays for of its workers' time; all of it is measured, and stands in billed_usd. Add lost to charge
    what a crash undid."""
    tolerance: float = 0.02
    """Share of the budget by which a trial's charge may miss it; a trial beyond it is marked invalid."""
    price: str = DEFAULT_PRICE_NAME
    """Dollars for an hour of one accelerator, or a name from the table in raysr/prices.py. The default is $0.27, the
    catalogue price of a rented RTX A5000."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where the cluster has them."""
    accelerator: str | None = None
    """Model of GPU to use, as Ray names it (H100, A10G); needed where the cluster has several."""
    wait_for_gpus: int | None = None
    """Begin when the cluster has so many: its nodes may still be starting, and are counted once."""
    workers_per_trial: int = 1
    """Accelerators that train one network together; all of them are paid."""
    max_concurrent: int | None = None
    """Trials at a time; None: one per GPU, or one on CPUs, where trials side by side would slow each other down."""
    checkpoint_every_s: float = 300.0
    """Seconds from one checkpoint to the next at most: what a crash can undo. Off the clock."""
    resume: str | None = None
    """Folder of a run to go on with: trials that ended are kept, the others go on from their last checkpoint. The run's
    own settings rule; --data says where its set lies now, if elsewhere."""
    extend_seeds: int | None = None
    """With --resume: train each so often in all, more often than the run was begun with."""
    search: SearchConfig = field(default_factory=SearchConfig)
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "archs", tuple(name for word in self.archs for name in expand_archs(word)))
        for arch in self.archs:
            find_architecture(arch)
        for name in ("data", "calibration", "resume"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, storage.absolute(getattr(self, name)))
        # Charged twice, learnt twice as likely: what is named twice counts once.
        object.__setattr__(self, "charged", tuple(dict.fromkeys(self.charged)))
        if not self.archs:
            raise ValueError("--archs takes at least one architecture, got none")
        named: dict[str, str] = {}
        for arch in self.archs:
            other = named.setdefault(file_name(arch), arch)
            if other != arch or self.archs.count(arch) > 1:
                raise ValueError(
                    f"--archs takes each architecture once, and the files of {other} and {arch} would have one name, "
                    f"{file_name(arch)}; two files of one name need titles, as in checkpoint(file='...', title='...')"
                )
        if self.resume is None:  # a run that goes on has the titles that it has
            check_titles(self.archs)
        if self.calibration is not None and self.search.usd is not None and not self.search_at_frozen_cost:
            raise ValueError(
                "--calibration is of one batch size, and --search.usd may choose another: leave one out, or search the "
                f"other settings alone with --search.batch-sizes {self.train.batch_size}"
            )
        if not 0 < self.checkpoint_every_s < math.inf:
            raise ValueError(f"--checkpoint-every-s takes seconds above 0, got {self.checkpoint_every_s}")
        if "train" not in self.charged:
            raise ValueError(f"--charged must name train: a budget that no step spends never ends; got {self.charged}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"--tolerance takes a share of the budget between 0 and 1, got {self.tolerance}")
        if self.extend_seeds is not None and self.resume is None:
            raise ValueError("--extend-seeds adds seeds to a run: say which with --resume, or give a new one --seeds")
        if self.wait_for_gpus is not None and self.wait_for_gpus < 0:
            raise ValueError(f"--wait-for-gpus takes a number of at least 0, got {self.wait_for_gpus}")
        at_once = 1 if self.max_concurrent is None else self.max_concurrent
        if min(self.seeds, self.timing_rounds, self.workers_per_trial, at_once) < 1:
            raise ValueError("--seeds, --timing-rounds, --workers-per-trial and --max-concurrent must be at least 1")

    @property
    def calibrated(self) -> bool:
        """Whether the cost of a step is frozen."""
        return self.mode == "calibrated" or self.calibration is not None

    @property
    def search_at_frozen_cost(self) -> bool:
        """Whether a search is charged the frozen cost of its steps too: with one batch size, and one worker a trial."""
        same = set(self.search.batch_sizes) == {self.train.batch_size} and self.workers_per_trial == 1
        return self.search.usd is not None and self.calibrated and same


def expand_archs(word: str) -> list[str]:
    """One word of --archs: itself in the one way in which it is written, or what the .toml file of that name lists.

    Such a file has a table `[[arch]]` for each: its `name`, and its options. A network's file is pinned by its hash.
    Raises ValueError for a file that is missing or is not like that.
    """
    if is_network_file(word):
        return [_pinned(CHECKPOINT, {"file": word})]
    if storage.plain(word).suffix != ".toml":
        return [_pinned(*parse_arch(word))]
    try:
        tables = tomllib.loads(storage.read_bytes(storage.absolute(word)).decode())["arch"]
        found = [(table["name"], {key: value for key, value in table.items() if key != "name"}) for table in tables]
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{word}: expected a TOML file of tables [[arch]], each with a name: {text_of(error)}"
        ) from error
    return [_pinned(name, options) for name, options in found]


_PINNED_DIGITS = 12
"""Of a file's SHA-256, in the name of what is compared."""


def _pinned(name: str, options: dict[str, Any]) -> str:
    """An architecture in words; of a network's file its whole path and its hash, which stay the same in a resumed run.

    Raises CheckpointError, a ValueError, for a file that is not there.
    """
    if name == CHECKPOINT and "file" in options:
        file = storage.absolute(options["file"])
        options |= {"file": file, "sha256": options.get("sha256") or file_hash(file)[:_PINNED_DIGITS]}
    return write_arch(name, options)


DEMO_GEOMETRY = Geometry(hr_px=192, scale=2, fit="tiles")

PRESETS: dict[str, tuple[str, CompareConfig]] = {
    "demo": (
        "Five networks on bundled photographs, 22 accelerator-seconds each; no network, under 5 minutes on 2 cores",
        CompareConfig(
            preset="demo",
            archs=DEMO_FIELD,
            train=TrainConfig(
                learning_rate=1e-3,
                # At a constant 1e-3 the small networks are restless to the end: see docs/log.md.
                schedule="cosine",
                warmup=0.02,
                batch_size=4,
                # Small: a processor without bfloat16 instructions takes 80 steps of the dearest network.
                patch_px=32,
                precision="auto",
                eval_precision="auto",
                evaluate_at=(0.3,),
            ),
        ),
    ),
    "paper": (
        "The paper's networks and its four-upsample one on DF2K in --data, equal dollars ($5.20 each, five seeds)",
        CompareConfig(preset="paper", archs=PAPER_FIELD, seeds=5),
    ),
    "paper-epochs": (
        "The paper's own numbers of epochs (Table 1) on DF2K in --data, whatever they cost, five seeds",
        CompareConfig(preset="paper-epochs", archs=_PAPER_ARCHS, seeds=5),
    ),
}

BUDGETS: dict[str, Budget] = {
    "demo": Budget(gpu_seconds=22),
    "paper": PAPER_BUDGET,
    "paper-epochs": Budget(epochs={name: row.paper_epochs for name, row in MODELS.items() if row.paper_epochs}),
}
"""Each preset's budget, unless one is given."""


def chosen_budget(config: CompareConfig) -> Budget:
    """The budget that was given, else the preset's.

    Raises ValueError for two at once, for one that is not above 0, and for a calibrated one that is not money.
    """
    budget = config.budget.checked() if config.budget != Budget() else BUDGETS[config.preset]
    if config.calibrated and budget.usd is None and budget.gpu_seconds is None:
        raise ValueError(
            "--mode calibrated turns money into steps; this budget is in steps already, which every seed takes alike: "
            "leave the mode out, or give --budget.usd or --budget.gpu-seconds"
        )
    return budget
