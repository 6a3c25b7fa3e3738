"""A training step (network, LPIPS, Adam): the plain way against ours.

    python benchmarks/train_step.py

Plain: nn.Upsample and Conv2d, the lpips package, in float32, and under bfloat16 autocast with channels-last. Prints the
table that stands in benchmarks/README.md, and fails unless all ways give the same loss and gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from race import Lap, device, difference, machine, matmul_flops, matmul_way, race, synchronise
from torch import nn

from raysr.flops import count_arch
from raysr.losses import load_perceptual
from raysr.memory import keep_freed_memory
from raysr.models import build_model
from raysr.perceptual import PerceptualLoss
from raysr.precision import Precision, autocast, memory_format
from raysr.step import Stepper


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("inverted_unet3", "inverted_unet4", "srcnn", "espcn")
    batch_size: int = 2
    lr_px: int = 96
    rounds: int = 7


def network(arch: str, *, fused: bool) -> nn.Module:
    torch.manual_seed(0)
    return build_model(f"{arch}(fused=False)" if arch.startswith("inverted") and not fused else arch, 2).to(device())


def pairs(config: Config, layout: torch.memory_format) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(config.batch_size, 1, config.lr_px, config.lr_px, generator=generator)
    hr = nn.functional.interpolate(lr, scale_factor=2, mode="bicubic").clamp(0, 1)
    return lr.to(device(), memory_format=layout), hr.to(device(), memory_format=layout)


def answer(loss: torch.Tensor, model: nn.Module) -> np.ndarray:
    """The loss, then the gradients."""
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([loss.detach().flatten(), *gradients]).double().cpu().numpy()


def plain(config: Config, arch: str, precision: Precision) -> Callable[[], np.ndarray]:
    layout = memory_format(precision)
    model, (lr, hr) = network(arch, fused=False).to(memory_format=layout), pairs(config, layout)
    loss = load_perceptual("vgg").to(device(), memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), 0.0)  # all steps alike, and Adam's work all the same

    def run() -> np.ndarray:
        with autocast(precision, device()):
            value = loss(model(lr), hr).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        synchronise()
        return answer(value, model)

    return run


def ours(config: Config, arch: str, precision: Precision, micro_batch: int | None = None) -> Callable[[], np.ndarray]:
    keep_freed_memory()
    layout = memory_format(precision)
    model, (lr, hr) = network(arch, fused=True).to(memory_format=layout), pairs(config, layout)
    loss = PerceptualLoss(load_perceptual("vgg"), precision).to(device())
    optimizer = torch.optim.Adam(model.parameters(), 0.0, fused=True)
    at_a_time = micro_batch or config.batch_size
    stepper = Stepper(model, loss, optimizer, device=device(), precision=precision, micro_batch=at_a_time)

    def run() -> np.ndarray:
        seen = stepper.step(lr, hr)
        synchronise()
        return answer(seen.loss, model)

    return run


def race_arch(config: Config, arch: str) -> tuple[dict[str, Lap], float]:
    """The laps, and the bfloat16 matrix products a second of the same minutes."""
    ways = {
        "plain, float32": (plain, (config, arch, "float32")),
        "plain, bfloat16": (plain, (config, arch, "bfloat16")),
        "ours, float32": (ours, (config, arch, "float32")),
        "ours, bfloat16": (ours, (config, arch, "bfloat16")),
        "matmul": (matmul_way, ("bfloat16",)),
    }
    laps = race(ways, rounds=config.rounds)
    truth = laps["plain, float32"].answer
    for name, lap in laps.items():
        if name != "matmul":
            exact = name.endswith("float32")
            assert abs(lap.answer[0] / truth[0] - 1) < (1e-4 if exact else 0.02), (arch, name, lap.answer[0], truth[0])
    exact = difference(laps["ours, float32"].answer, truth)
    assert exact < 0.01, (arch, exact)  # a maximum or a ReLU may tip over in the last digit
    theirs, mine = (difference(laps[f"{way}, bfloat16"].answer, truth) for way in ("plain", "ours"))
    assert mine < max(0.03, 1.5 * theirs), (arch, mine, theirs)
    return laps, matmul_flops(laps.pop("matmul"))


def main() -> None:
    config = tyro.cli(Config)
    n, px = config.batch_size, config.lr_px
    print(f"batch {n}, {px} -> {2 * px}, {machine()}\n")
    print("| network | way | s / step | images/s | plain float32 / it | plain bfloat16 / it | peak MB | of matmul |")
    print("|---|---|---|---|---|---|---|---|")
    for arch in config.archs:
        laps, rate = race_arch(config, arch)
        needed = n * count_arch(build_model(arch, 2), PerceptualLoss(load_perceptual("vgg")), 2 * px, 2).total
        first, second = laps["plain, float32"].seconds, laps["plain, bfloat16"].seconds
        for name, lap in laps.items():
            cells = [arch, name, f"{lap.seconds:.3f}", f"{n / lap.seconds:.2f}", f"{first / lap.seconds:.2f}"]
            cells += [f"{second / lap.seconds:.2f}", f"{lap.peak_mb:,.0f}", f"{needed / lap.seconds / rate:.0%}"]
            print("|", " | ".join(cells), "|", flush=True)
        print(f"| {arch} | bfloat16 matrix products: {rate / 1e9:.0f} GFLOP/s | | | | | | 100% |")


if __name__ == "__main__":
    main()
