"""What a network was trained on: runs that differ in nothing but their data, judged on the same pictures.

    python benchmarks/trained_on.py --runs pad=RUN tiles=RUN --network inverted_unet3 --sets data/pad data/tiles Set14 \
        --padding out

Every seed of every run is scored as jobs/evaluate.py does it. Intervals take seeds and photographs both for random, and
a difference is over the same seeds and photographs, as in a comparison's report.
"""

from dataclasses import asdict, dataclass, replace

import pandas as pd
import tyro

from raysr import storage
from raysr.benchmark import EvaluateConfig, SetResult, evaluate_sets
from raysr.findings import shown_p, with_interval
from raysr.runs import Run
from raysr.standings import METRICS
from raysr.statistics import differences, estimate, score_table

YARDSTICK = "bicubic"


@dataclass(frozen=True)
class Config:
    runs: tuple[str, ...]
    """NAME=RUN, a folder that jobs/compare.py or jobs/train.py left."""
    network: str
    """The architecture of which every finished seed is judged."""
    judged: tyro.conf.OmitArgPrefixes[EvaluateConfig]
    scores: str | None = None
    """A .csv file for the scores of each seed on each picture, from which the intervals are."""


def main() -> None:
    config = tyro.cli(Config)
    scored = {(YARDSTICK, 0): config.judged}
    for name, folder in (word.split("=", 1) for word in config.runs):
        run = Run.read(folder)
        data = run.info["data"]
        print(f"{name}: {data['geometry']['fit']}, {data['pairs']['train']} training pairs of {data['source']}")
        for trial in run.trials:
            if trial.arch == config.network and trial.status == "finished":
                assert trial.checkpoint is not None
                print(f"{name}: seed {trial.seed}, {trial.steps} steps, ${trial.charged_usd:.4f}")
                weights = storage.join(run.folder, trial.checkpoint)
                scored[name, trial.seed] = replace(config.judged, model=weights)
    results = {key: evaluate_sets(one).sets for key, one in scored.items()}
    tables: list[pd.DataFrame] = []
    for index, result in enumerate(results[YARDSTICK, 0]):
        tables.append(print_set({key: sets[index] for key, sets in results.items()}, result))
    if config.scores is not None:
        pd.concat(tables).dropna(axis="columns", how="all").to_csv(config.scores, index=False)


def print_set(results: dict[tuple[str, int], SetResult], shown: SetResult) -> pd.DataFrame:
    """A table of one set; returns the scores behind it, a row for each network, seed and picture."""
    rows = [
        {"set": shown.name, "arch": name, "seed": seed} | asdict(picture)
        for (name, seed), result in results.items()
        for picture in result.scored
    ]
    images, names = pd.DataFrame(rows), list(dict.fromkeys(name for name, _ in results))
    print(f"\n## {shown.name}, {len(shown.scored)} pictures\n\n{asdict(shown.protocol)}\n")
    print(f"| metric | {' | '.join(names)} | difference | p (Holm) |")
    print("|---" * (len(names) + 3) + "|")
    for metric, higher_is_better in METRICS.items():
        if images[metric].isna().all():
            continue
        tables = {name: score_table(images, name, metric) for name in names}
        means = [with_interval(estimate(table.to_numpy())) for table in tables.values()]
        found = differences(tables, lower_is_better=not higher_is_better, seedless=frozenset({YARDSTICK}))
        for one in found:
            what = f"{one.a} - {one.b}: {with_interval(one.estimate)}, {one.a_beats_b:.0%}"
            print(f"| {metric} | {' | '.join(means)} | {what} | {shown_p(one.p_holm)} |")
            metric, means = "", [""] * len(means)
    return images


if __name__ == "__main__":
    main()
