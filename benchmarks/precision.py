"""Whether bfloat16 costs quality: final scores of float32 and bfloat16 trainings, seed by seed, beside what seeds do.

    python benchmarks/precision.py

The same photographs, steps, order and starts; only the arithmetic differs.
"""

import tempfile
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import ray
import torch
import tyro

from raysr.cluster import start_ray
from raysr.cost import Budget, Price
from raysr.prepare import PrepareConfig, prepare
from raysr.presets import DEMO_GEOMETRY, PRESETS
from raysr.spec import TrialSpec
from raysr.train import Reporter, run_trial
from raysr.trial import Trial
from raysr.world import World


@dataclass(frozen=True)
class Config:
    archs: tuple[str, ...] = ("espcn", "inverted_unet3")
    seeds: int = 4
    steps: int = 300


def score(config: Config, root: Path, arch: str, seed: int, precision: str) -> float:
    """Of the last validation, in float32 whatever the training was in."""
    demo = PRESETS["demo"][1].train
    train = replace(demo, precision=precision, eval_precision="float32", evaluate_at=())
    spec = TrialSpec(
        arch=arch,
        seed=seed,
        data=str(root / "set"),
        run=str(root / precision),
        budget=Budget(samples=4 * config.steps),
        price=Price(usd_per_hour=1, source="any", date="2026-11-25"),
        train=train,
    )
    row = run_trial(Trial(spec, World(device=torch.device("cpu"))), Reporter(lambda progress: None))
    assert row.status == "finished"
    assert row.perceptual is not None
    return row.perceptual


def main() -> None:
    config = tyro.cli(Config)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start_ray()
        prepare(PrepareConfig(source="bundled", out=str(root / "set"), geometry=DEMO_GEOMETRY))
        ray.shutdown()
        print(f"{config.steps} steps, {config.seeds} seeds, LPIPS (VGG), torch {torch.__version__}\n")
        print("| network | float32 | bfloat16 | mean difference | its standard error | standard deviation of seeds |")
        print("|---|---|---|---|---|---|")
        for arch in config.archs:
            scores: dict[str, list[float]] = {"float32": [], "bfloat16": []}
            for seed, precision in product(range(config.seeds), scores):
                scores[precision].append(score(config, root, arch, seed, precision))
            exact, fast = scores["float32"], scores["bfloat16"]
            differences = [b - a for a, b in zip(exact, fast, strict=True)]
            error = stdev(differences) / config.seeds**0.5
            cells = [f"{mean(exact):.5f}", f"{mean(fast):.5f}", f"{mean(differences):+.5f}", f"{error:.5f}"]
            print("|", " | ".join([arch, *cells, f"{stdev(exact):.5f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
