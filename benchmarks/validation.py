"""What it takes to judge a network's picture at a validation: the plain way, with `lpips` on both pictures, and ours.

    python benchmarks/validation.py

The network's own forward pass is left out. Plain: the lpips package takes the network's picture and its target, then
PSNR, SSIM and MS-SSIM. Ours computes the target's features once for all networks and validations, and leaves what a
validation between the first step and the last does not need for the last one. LPIPS must be the package's to 1e-6.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import tyro
from race import device, machine, race, synchronise

from raysr.evaluate import evaluate
from raysr.images import Geometry
from raysr.judge import Judge, Targets
from raysr.losses import Perceptual, load_alex, load_perceptual
from raysr.models import build_model
from raysr.pairs import PairSet, to_tensor
from raysr.prepare import PrepareConfig, prepare


@dataclass(frozen=True)
class Config:
    sides: tuple[int, ...] = (192, 320)
    """Sides of the padded squares, in pixels."""
    pictures: int = 6
    rounds: int = 9
    targets_gb: float = field(default=4.0)


def judged(data: str, pictures: int, way: str, targets_gb: float, folder: str) -> Callable[[], np.ndarray]:
    rows = [row for row in PairSet(data, "train").rows() if row.content_box.right - row.content_box.left > 161][
        :pictures
    ]
    perceptual, alex, nothing = load_perceptual("vgg").to(device()), load_alex(), build_model("bicubic", 2)
    assert alex is not None
    second = alex.to(device())
    judge = Judge(perceptual, Targets(device(), targets_gb, folder))
    pairs = [(nothing(to_tensor([row.lr], row.y_range)), to_tensor([row.hr], row.y_range)) for row in rows]

    def lpips_on_both() -> np.ndarray:
        with torch.no_grad():
            values = [perceptual(sr.to(device()).clamp(0, 1), hr.to(device())) for sr, hr in pairs]
        synchronise()
        return torch.cat(values).cpu().numpy()

    def scored(by: Judge | Perceptual, other: Perceptual | None, whole: bool) -> np.ndarray:
        found = evaluate(nothing, rows, by, device=device(), precision="float32", alex=other, whole=whole)
        return np.array([one.perceptual for one in found])

    return {
        "lpips on both pictures": lpips_on_both,
        "plain, every score": lambda: scored(perceptual, second, False),
        "ours, between": lambda: scored(judge, None, True),
        "ours, last": lambda: scored(judge, second, False),
    }[way]


def main() -> None:
    config = tyro.cli(Config)
    print(f"{config.pictures} pictures, bicubic's forward pass within, {machine()}\n")
    print("| square | way | s a picture | of lpips on both | largest difference |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for side in config.sides:
            data = f"{folder}/{side}"
            prepare(PrepareConfig(source="bundled", out=data, geometry=Geometry(hr_px=side)))
            ways = ("lpips on both pictures", "plain, every score", "ours, between", "ours, last")
            kept = f"{folder}/targets{side}"
            laps = race(
                {way: (judged, (data, config.pictures, way, config.targets_gb, kept)) for way in ways},
                rounds=config.rounds,
            )
            plain = laps[ways[0]]
            for way, lap in laps.items():
                each, share = lap.seconds / config.pictures, lap.seconds / plain.seconds
                apart = np.abs(lap.answer - plain.answer).max()
                assert apart < 1e-6, way
                print(f"| {side} | {way} | {each:.3f} | {share:.2f} | {apart:.1e} |")


if __name__ == "__main__":
    main()
