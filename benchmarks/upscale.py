"""Enlarging a picture without training: the plain network in float32 and bfloat16 against ours.

    python benchmarks/upscale.py

On a CPU ours in float32 lays its kernels channels-last for it, which it does not where it trains. bfloat16 takes part
where the device has instructions for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from race import Way, device, difference, machine, race, synchronise
from train_step import network

from raysr.memory import keep_freed_memory
from raysr.precision import Precision, autocast, best_precision, memory_format


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("inverted_unet3", "srcnn", "espcn")
    lr_px: int = 256
    rounds: int = 5


def way(
    config: Config, arch: str, precision: Precision, layout: torch.memory_format, fused: bool
) -> Callable[[], np.ndarray]:
    if fused:
        keep_freed_memory()
    model = network(arch, fused=fused).to(memory_format=layout).eval()
    lr = torch.rand(1, 1, config.lr_px, config.lr_px, generator=torch.Generator().manual_seed(0))
    lr = lr.to(device(), memory_format=layout)

    def run() -> np.ndarray:
        with torch.no_grad(), autocast(precision, device()):
            sr = model(lr).float()
        synchronise()
        return sr.cpu().numpy()

    return run


def ways_of(config: Config, arch: str) -> dict[str, Way]:
    """Plain and ours in every precision that is fast here, and in float32 ours also laid out as it trains."""
    fast: tuple[Precision, ...] = ("float32",)
    if best_precision(device()) == "bfloat16":
        fast = ("float32", "bfloat16")
    ways: dict[str, Way] = {}
    for precision in fast:
        ways[f"plain, {precision}"] = (way, (config, arch, precision, memory_format(precision), False))
        layout = memory_format(precision)
        if device().type == "cpu" and precision == "float32":
            ways["ours as it trains, float32"] = (way, (config, arch, precision, layout, True))
            layout = torch.channels_last  # as in raysr.evaluate.fast_layout
        ways[f"ours, {precision}"] = (way, (config, arch, precision, layout, True))
    return ways


def main() -> None:
    config = tyro.cli(Config)
    print(f"one picture, {config.lr_px} -> {2 * config.lr_px}, {machine()}\n")
    print("| network | way | ms | plain float32 / it | plain bfloat16 / it | picture off by | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for arch in config.archs:
        laps = race(ways_of(config, arch), rounds=config.rounds)
        truth, coarse = laps["plain, float32"], laps.get("plain, bfloat16")
        for name, lap in laps.items():
            off = difference(lap.answer, truth.answer)
            assert off < (1e-5 if name.endswith("float32") else 0.02), (arch, name, off)
            cells = [arch, name, f"{1000 * lap.seconds:.0f}", f"{truth.seconds / lap.seconds:.2f}"]
            cells += [f"{coarse.seconds / lap.seconds:.2f}" if coarse else "-", f"{off:.1e}", f"{lap.peak_mb:,.0f}"]
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
