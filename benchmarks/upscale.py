"""Enlarging a picture without training: the plain network in float32 and bfloat16 against ours.

python benchmarks/upscale.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from race import device, difference, machine, race, synchronise
from train_step import network

from raysr.memory import keep_freed_memory
from raysr.precision import Precision, autocast, memory_format


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("inverted_unet3", "srcnn", "espcn")
    lr_px: int = 256
    rounds: int = 5


def way(config: Config, arch: str, fused: bool, precision: Precision) -> Callable[[], np.ndarray]:
    if fused:
        keep_freed_memory()
    layout = memory_format(precision)
    model = network(arch, fused=fused).to(memory_format=layout).eval()
    lr = torch.rand(1, 1, config.lr_px, config.lr_px, generator=torch.Generator().manual_seed(0))
    lr = lr.to(device(), memory_format=layout)

    def run() -> np.ndarray:
        with torch.no_grad(), autocast(precision, device()):
            sr = model(lr).float()
        synchronise()
        return sr.cpu().numpy()

    return run


def main() -> None:
    config = tyro.cli(Config)
    print(f"one picture, {config.lr_px} -> {2 * config.lr_px}, {machine()}\n")
    print("| network | way | ms | plain float32 / it | plain bfloat16 / it | picture off by | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for arch in config.archs:
        ways = {
            f"{'ours' if fused else 'plain'}, {precision}": (way, (config, arch, fused, precision))
            for precision in ("float32", "bfloat16")
            for fused in (False, True)
        }
        laps = race(ways, rounds=config.rounds)
        first, second = (laps[f"plain, {precision}"].seconds for precision in ("float32", "bfloat16"))
        for name, lap in laps.items():
            off = difference(lap.answer, laps["plain, float32"].answer)
            assert off < (1e-5 if name.endswith("float32") else 0.02), (arch, name, off)
            cells = [arch, name, f"{1000 * lap.seconds:.0f}", f"{first / lap.seconds:.2f}"]
            cells += [f"{second / lap.seconds:.2f}", f"{off:.1e}", f"{lap.peak_mb:,.0f}"]
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
