"""Nearest x2, 3x3 convolution, ReLU, and the strided convolution after it: layer by layer against the fused forms.

python benchmarks/upsample_conv.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from race import device, difference, machine, race, synchronise
from torch import Tensor, nn

from raysr.memory import keep_freed_memory
from raysr.models.upconv import overshoot, upsample_conv_relu
from raysr.precision import Precision, autocast, memory_format


@dataclass(frozen=True)
class Config:
    batch_size: int = 2
    px: tuple[int, ...] = (96, 192, 384)
    channels: int = 64
    rounds: int = 5


def way(config: Config, px: int, form: str, precision: Precision) -> Callable[[], np.ndarray]:
    if form != "layers":
        keep_freed_memory()
    layout, c = memory_format(precision), config.channels
    torch.manual_seed(0)
    up, down = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c // 2, 3, stride=2, padding=1)
    plain = nn.Sequential(nn.Upsample(scale_factor=2), up, nn.ReLU(), down, nn.ReLU())
    plain.to(device(), memory_format=layout)
    x = torch.randn(config.batch_size, c, px, px).to(device(), memory_format=layout).requires_grad_()

    def forward() -> Tensor:
        if form == "layers":
            return plain(x)
        return overshoot(x, up, down) if form == "both" else nn.functional.relu(down(upsample_conv_relu(x, up)))

    def run() -> np.ndarray:
        with autocast(precision, device()):
            y = forward()
        gradients = torch.autograd.grad(y.float().square().mean(), [x, *plain.parameters()])
        synchronise()
        return torch.cat([y.detach().flatten()[:1000].float(), *(g.flatten().float() for g in gradients)]).cpu().numpy()

    return run


def main() -> None:
    config = tyro.cli(Config)
    print(f"batch {config.batch_size}, {config.channels} channels, forward and backward, {machine()}\n")
    print("| input px | precision | layers ms | up fused ms | up and down fused ms | layers / it | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for px in config.px:
        for precision in ("float32", "bfloat16"):
            forms = ("layers", "up", "both")
            laps = race({form: (way, (config, px, form, precision)) for form in forms}, rounds=config.rounds)
            for form in forms:
                off = difference(laps[form].answer, laps["layers"].answer)
                assert off < (1e-4 if precision == "float32" else 0.02), (px, precision, form, off)
            times = [f"{1000 * laps[form].seconds:.0f}" for form in forms]
            peaks = " / ".join(f"{laps[form].peak_mb:,.0f}" for form in forms)
            ratio = laps["layers"].seconds / laps["both"].seconds
            print("|", " | ".join([str(px), precision, *times, f"{ratio:.2f}", peaks]), "|", flush=True)


if __name__ == "__main__":
    main()
