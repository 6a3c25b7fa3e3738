"""The perceptual loss, value and gradient: the lpips package against ours. (lpips.py would hide the package.)

python benchmarks/lpips_loss.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from race import device, difference, machine, race, synchronise

from raysr.losses import load_perceptual
from raysr.memory import keep_freed_memory
from raysr.perceptual import PerceptualLoss
from raysr.precision import Precision, autocast, memory_format


@dataclass(frozen=True)
class Config:
    batch_size: int = 2
    px: int = 192
    rounds: int = 11


def way(config: Config, lean: bool, precision: Precision) -> Callable[[], np.ndarray]:
    perceptual, layout = load_perceptual("vgg"), memory_format(precision)
    if lean:
        keep_freed_memory()
    loss = PerceptualLoss(perceptual, precision) if lean else perceptual.to(memory_format=layout)
    loss = loss.to(device())
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(config.batch_size, 1, config.px // 8, config.px // 8, generator=generator)
    hr = torch.nn.functional.interpolate(hr, scale_factor=8, mode="bicubic").clamp(0, 1)
    sr = (hr + 0.05 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    sr, hr = (one.to(device(), memory_format=layout) for one in (sr, hr))
    sr.requires_grad_()

    def run() -> np.ndarray:
        with autocast(precision, device()):
            value = loss(sr, hr).mean()
        (gradient,) = torch.autograd.grad(value, sr)
        synchronise()
        return torch.cat([value.detach().flatten(), gradient.flatten()]).double().cpu().numpy()

    return run


def main() -> None:
    config = tyro.cli(Config)
    ways = {
        f"{'ours' if lean else 'lpips package'}, {precision}": (way, (config, lean, precision))
        for precision in ("float32", "bfloat16")
        for lean in (False, True)
    }
    laps = race(ways, rounds=config.rounds)
    truth = laps["lpips package, float32"].answer
    print(f"batch {config.batch_size}, {config.px} pixels, {machine()}\n")
    print("| way | ms | package float32 / it | package bfloat16 / it | value off by | gradient off by | peak MB |")
    print("|---|---|---|---|---|---|---|")
    first, second = (laps[f"lpips package, {precision}"].seconds for precision in ("float32", "bfloat16"))
    for name, lap in laps.items():
        value, gradient = abs(lap.answer[0] / truth[0] - 1), difference(lap.answer[1:], truth[1:])
        cells = [name, f"{1000 * lap.seconds:.0f}", f"{first / lap.seconds:.2f}", f"{second / lap.seconds:.2f}"]
        print("|", " | ".join([*cells, f"{value:.1e}", f"{gradient:.1e}", f"{lap.peak_mb:,.0f}"]), "|")
        assert value < (1e-5 if name.endswith("float32") else 0.02), (name, value)
    assert difference(laps["ours, float32"].answer, truth) < 0.01
    theirs, mine = (difference(laps[f"{one}, bfloat16"].answer, truth) for one in ("lpips package", "ours"))
    assert mine < 1.5 * theirs, (mine, theirs)


if __name__ == "__main__":
    main()
