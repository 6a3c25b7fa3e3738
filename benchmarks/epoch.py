"""A paper-sized epoch for each network: 3,450 pairs of 256 -> 512 pixels in batches of 8, in seconds and dollars.

    python benchmarks/epoch.py --price 2.69
    python benchmarks/epoch.py --pairs 16 --lr-px 48        # where there is no GPU: that it runs

The paper paid 14 cents an epoch for ESPCN and 52 for the Inverted U-Net, on an RTX A5000. Pairs are random bytes
that lie on the device, as a prepared set does that fits; what is timed is the step that raysr.trial takes.
"""

import time
from dataclasses import dataclass

import torch
import tyro
from race import device, machine, synchronise
from torch import nn

from raysr.losses import load_perceptual
from raysr.memory import keep_freed_memory
from raysr.models import build_model
from raysr.pairs import to_unit
from raysr.perceptual import PerceptualLoss
from raysr.precision import best_precision, memory_format
from raysr.step import CompileMode, Stepper, choose_micro_batch, compiled


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("espcn", "srcnn", "inverted_unet3", "inverted_unet4")
    pairs: int = 3450
    lr_px: int = 256
    batch_size: int = 8
    micro_batch: int | None = None
    compile: CompileMode = "off"
    price: float = 0.27
    """Dollars an hour."""


def main() -> None:
    config = tyro.cli(Config)
    keep_freed_memory()
    precision = best_precision(device())
    layout = memory_format(precision)
    few = min(config.pairs, 256)
    lr = torch.randint(0, 256, (few, 1, config.lr_px, config.lr_px), dtype=torch.uint8, device=device())
    hr = nn.functional.interpolate(lr, scale_factor=2, mode="nearest")
    print(
        f"{config.pairs} pairs, {config.lr_px} -> {2 * config.lr_px}, batch {config.batch_size}, {precision}, ", end=""
    )
    print(f"compile {config.compile}, {machine()}, ${config.price} an hour\n")
    print("| network | at a time | s before the first step | s / epoch | $ / epoch | GB at peak |")
    print("|---|---|---|---|---|---|")
    for arch in config.archs:
        start = time.perf_counter()
        torch.manual_seed(0)
        model = build_model(arch, 2).to(device(), memory_format=layout)
        loss = PerceptualLoss(load_perceptual("vgg"), precision).to(device())
        px = 2 * config.lr_px
        sizes = {"px": px, "scale": 2, "precision": precision, "device": device()}
        micro = choose_micro_batch(config.micro_batch, config.batch_size, model, loss, **sizes)
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
        network = compiled(model, config.compile)
        stepper = Stepper(
            network, loss, optimizer, device=device(), precision=precision, micro_batch=micro, may_shrink=True
        )

        def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = torch.arange(step * config.batch_size, (step + 1) * config.batch_size, device=device()) % few
            one, other = (to_unit(x[chosen].to(memory_format=layout), "full") for x in (lr, hr))
            return one, other

        stepper.warm_up(*batch(0))
        synchronise()
        begun = time.perf_counter()
        for step in range(config.pairs // config.batch_size):
            stepper.step(*batch(step))
        synchronise()
        seconds = time.perf_counter() - begun
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if torch.cuda.is_available() else "-"
        cells = [arch, str(stepper.micro_batch), f"{begun - start:.1f}", f"{seconds:.1f}"]
        print("|", " | ".join([*cells, f"{seconds * config.price / 3600:.4f}", peak]), "|", flush=True)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
