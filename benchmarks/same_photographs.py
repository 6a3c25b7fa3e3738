"""Mean scores of several runs on the validation photographs that all of them have.

    python benchmarks/same_photographs.py --runs docs/results/bsds320 docs/results/bsds320-float32

For runs whose validation sets overlap, as where one takes half of the other's photographs. A network is averaged over
the seeds that finished in its run, and how many those are stands beside it.
"""

from dataclasses import dataclass

import pandas as pd
import tyro

from raysr.runs import Run
from raysr.standings import finished


@dataclass(frozen=True)
class Config:
    runs: tuple[str, ...]
    """Folders that jobs/compare.py left."""
    scores: tuple[str, ...] = ("perceptual", "perceptual_content")
    """Columns of `images.parquet`."""
    seeds: tuple[int, ...] = ()
    """These alone; all of them when none is named."""


def main() -> None:
    config = tyro.cli(Config)
    runs = {folder: Run.read(folder) for folder in config.runs}
    tables = {folder: finished(run, run.images) for folder, run in runs.items()}
    shared = set.intersection(*(set(table["image_id"]) for table in tables.values()))
    print(f"{len(shared)} photographs in all of {len(tables)} runs\n")
    print("| run | network | seeds |", " | ".join(config.scores), "|")
    print("|---|---|---|", "---|" * len(config.scores), sep="")
    for folder, table in tables.items():
        here: pd.DataFrame = table[table["image_id"].isin(shared)]
        here = here[here["seed"].isin(config.seeds)] if config.seeds else here
        for arch, rows in here.groupby("arch"):
            means = " | ".join(f"{mean:.4f}" for mean in rows[list(config.scores)].mean())
            print(f"| {folder} | {arch} | {rows['seed'].nunique()} | {means} |")


if __name__ == "__main__":
    main()
