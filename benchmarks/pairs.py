"""Reading prepared pairs against decoding and resizing the photographs in every epoch.

    python benchmarks/pairs.py --photographs FOLDER

Without --photographs the bundled ones are taken. Both ways must give the same pixels.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
import torch
import tyro
from prepare import Config as Copies
from prepare import bare, copy_photographs

from raysr.batches import TrainingBatches
from raysr.cluster import start_ray
from raysr.cost import Budget, Price
from raysr.images import Geometry
from raysr.pairs import PairSet
from raysr.prepare import PrepareConfig, prepare
from raysr.spec import TrainConfig, TrialSpec
from raysr.trial import Trial
from raysr.world import World


@dataclass(frozen=True)
class Config:
    photographs: str = "bundled"
    """Folder of photographs."""
    hr_px: int = 512


def read_per_second(location: str) -> float:
    """Pairs a second in the shuffled order of training, in batches of 8, for at least 5 seconds."""
    batches = TrainingBatches(PairSet(location, "train"), batch_size=8, seed=0)
    step, start = 0, time.perf_counter()
    while time.perf_counter() - start < 5:
        batches.batch(step)
        step += 1
    return 8 * step / (time.perf_counter() - start)


def stall_share(location: str, run: str, train: TrainConfig, steps: int) -> float:
    """Of what ESPCN's steps are charged, what is waiting for data."""
    price = Price(usd_per_hour=1, source="any", date="2026-11-24")
    budget = Budget(gpu_seconds=1e6)
    spec = TrialSpec(arch="espcn", seed=0, data=location, run=run, budget=budget, price=price, train=train)
    trial = Trial(spec, World(device=torch.device("cpu")))
    trial.take_steps(3)
    waited, charged = trial.meter.seconds["stall"], trial.meter.charged_seconds
    trial.take_steps(steps)
    return (trial.meter.seconds["stall"] - waited) / (trial.meter.charged_seconds - charged)


def main() -> None:
    config = tyro.cli(Config)
    geometry = Geometry(hr_px=config.hr_px, fit="pad")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = copy_photographs(Copies(photographs=config.photographs, copies=1), root / "source")
        bare(paths[0], config.hr_px)
        start = time.perf_counter()
        for path in paths:
            bare(path, config.hr_px)
        loop = len(paths) / (time.perf_counter() - start)
        start_ray()
        for fit in ("pad", "tiles"):
            made = replace(geometry, fit=fit)
            prepare(PrepareConfig(source=str(root / "source"), out=str(root / fit), geometry=made))
        ray.shutdown()
        by_id = {row.image_id: row for row in PairSet(str(root / "pad"), "train").rows()}
        assert all(np.array_equal(bare(path, config.hr_px), by_id[f"train/{path.name}"].hr) for path in paths)
        print(f"{len(paths)} photographs, {config.hr_px} pixels, one process\n")
        print("| way | pairs/s | of decoding |\n|---|---|---|")
        print(f"| decoding and resizing in every epoch | {loop:.1f} | 1 |")
        for fit in ("pad", "tiles"):
            pairs = read_per_second(str(root / fit))
            print(f"| reading the set, {fit}, shuffled | {pairs:,.0f} | {pairs / loop:,.0f} |")
        print()
        for patch_px, batch_size, steps in ((32, 4, 200), (None, 2, 5)):
            train = TrainConfig(patch_px=patch_px, batch_size=batch_size)
            share = stall_share(str(root / "tiles"), str(root / "run"), train, steps)
            print(f"ESPCN, patch {patch_px}, batch {batch_size}: waits {share:.2%} of its paid time")


if __name__ == "__main__":
    main()
