"""What a comparison is made of, and the three that have a name."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from raysr.cost import CHARGED, PAPER_BUDGET, Budget, Segment
from raysr.images import Geometry
from raysr.models import MODELS, find_architecture
from raysr.prices import DEFAULT_PRICE_NAME
from raysr.spec import TrainConfig


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Train every architecture for the same money, and say which gives the best picture."""

    preset: Annotated[str, tyro.conf.Suppress]
    archs: tuple[str, ...] = tuple(MODELS)
    """Names of architectures; `bicubic` is the yardstick and costs nothing."""
    seeds: int = 1
    """How often each is trained, from seed 0 on."""
    data: str | None = None
    """Folder of a set made by jobs/prepare.py; the demo makes its own."""
    out: str = "runs"
    """Parent folder of the run's new folder. On a cluster: absolute, on storage that all nodes share."""
    budget: Budget = field(default_factory=Budget)
    """What each trial may spend; one of these replaces the preset's."""
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
    workers_per_trial: int = 1
    """Accelerators that train one network together; all of them are paid."""
    max_concurrent: int | None = None
    """Trials at a time; None: one per GPU, or one on CPUs, where trials side by side would slow each other down."""
    resume: str | None = None
    """Folder of a run to go on with: trials that ended are kept, the others go on from their last checkpoint. The run's
    own settings rule."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for arch in self.archs:
            find_architecture(arch)
        if not self.archs or len(set(self.archs)) != len(self.archs):
            raise ValueError(f"--archs takes each architecture once, got {' '.join(self.archs) or 'none'}")
        if "train" not in self.charged:
            raise ValueError(f"--charged must name train: a budget that no step spends never ends; got {self.charged}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"--tolerance takes a share of the budget between 0 and 1, got {self.tolerance}")
        if min(self.seeds, self.workers_per_trial, self.max_concurrent or 1) < 1:
            raise ValueError("--seeds, --workers-per-trial and --max-concurrent must be at least 1")


DEMO_GEOMETRY = Geometry(hr_px=192, scale=2, fit="tiles")

_PAPER_ARCHS = ("bicubic", "srcnn", "espcn", "inverted_unet3")

PRESETS: dict[str, tuple[str, CompareConfig]] = {
    "demo": (
        "Five networks on bundled photographs, 25 accelerator-seconds each; no network, about 4 minutes on 2 cores",
        CompareConfig(
            preset="demo",
            train=TrainConfig(
                # One step of the dearest network must stay within 1 % of the budget: 0.22 s on 2 cores in bfloat16.
                learning_rate=1e-3,
                # At a constant 1e-3 the small networks are restless to the end: see docs/log.md.
                schedule="cosine",
                warmup=0.02,
                batch_size=4,
                patch_px=32,
                perceptual="vgg-random",
                precision="auto",
                eval_precision="auto",
                evaluate_at=(0.1, 0.5),
            ),
        ),
    ),
    "paper": (
        "The paper's networks and its four-upsample one on DF2K in --data, equal dollars ($5.20 each, five seeds)",
        CompareConfig(preset="paper", archs=(*_PAPER_ARCHS, "inverted_unet4"), seeds=5),
    ),
    "paper-epochs": (
        "The paper's own numbers of epochs (Table 1) on DF2K in --data, whatever they cost, five seeds",
        CompareConfig(preset="paper-epochs", archs=_PAPER_ARCHS, seeds=5),
    ),
}

BUDGETS: dict[str, Budget] = {
    "demo": Budget(gpu_seconds=25),
    "paper": PAPER_BUDGET,
    "paper-epochs": Budget(epochs={name: row.paper_epochs for name, row in MODELS.items() if row.paper_epochs}),
}
"""Each preset's budget, unless one is given."""


def chosen_budget(config: CompareConfig) -> Budget:
    """The budget that was given, else the preset's. Raises ValueError for two at once, or one that is not above 0."""
    return config.budget.checked() if config.budget != Budget() else BUDGETS[config.preset]
