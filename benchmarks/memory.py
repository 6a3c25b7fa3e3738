r"""Memory of a training step: the plain way, ours, and ours one pair at a time, against what was estimated before.

python benchmarks/memory.py
python benchmarks/memory.py --archs inverted_unet3 inverted_unet4 --batch-size 1 --lr-px 256 --micro 1 --no-plain \
    --whole --rounds 2
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro
from race import Way, difference, machine, race
from train_step import Config as StepConfig
from train_step import ours, plain

from raysr.losses import load_perceptual
from raysr.memory import estimate_step
from raysr.models import build_model, strips
from raysr.perceptual import PerceptualLoss
from raysr.precision import Precision


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("inverted_unet3", "espcn")
    batch_size: int = 4
    lr_px: int = 96
    micro: tuple[int, ...] = (4, 1)
    """Pairs at a time."""
    precision: Precision = "bfloat16"
    plain: bool = True
    """Race the plain way too, which needs far more."""
    whole: bool = False
    """Race ours also without strips, with the gradient of the widest tensor all there at once."""
    rounds: int = 3


def whole(step: StepConfig, arch: str, precision: Precision, micro_batch: int) -> Callable[[], np.ndarray]:
    strips.WHOLE_STRIPS = 1 << 40
    return ours(step, arch, precision, micro_batch)


def main() -> None:
    config = tyro.cli(Config)
    step = StepConfig(batch_size=config.batch_size, lr_px=config.lr_px)
    print(f"batch {config.batch_size}, {config.lr_px} -> {2 * config.lr_px}, {config.precision}, {machine()}\n")
    print("| network | way | peak MB | estimated MB | s / step |\n|---|---|---|---|---|")
    for arch in config.archs:
        ways: dict[str, Way] = {"plain": (plain, (step, arch, config.precision))} if config.plain else {}
        for micro in config.micro:
            ways[f"ours, {micro} at a time"] = (ours, (step, arch, config.precision, micro))
            if config.whole:
                ways[f"whole, {micro} at a time"] = (whole, (step, arch, config.precision, micro))
        laps = race(ways, rounds=config.rounds, warm_up=1)
        loss = PerceptualLoss(load_perceptual("vgg"), config.precision)
        need = estimate_step(build_model(arch, 2), loss, 2 * config.lr_px, 2, config.precision)
        (first, *_) = laps.values()
        for name, lap in laps.items():
            off = difference(lap.answer, first.answer)
            assert off < 0.15, (arch, name, off)  # bfloat16 gradients of the same step, summed otherwise
            estimate = "" if name == "plain" else f"{(need.fixed + int(name.split()[1]) * need.pair) / 1e6:,.0f}"
            print(f"| {arch} | {name} | {lap.peak_mb:,.0f} | {estimate} | {lap.seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
