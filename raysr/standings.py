"""Where each architecture of a run stands, at the end and after every share of the budget."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from raysr.naming import shown
from raysr.rows import TrialRow
from raysr.runs import Run
from raysr.statistics import Difference, Estimate, differences, estimate, pareto_front, score_table

METRICS = {"perceptual": False, "lpips_alex": False, "ms_ssim": True, "ssim": True, "psnr": True}
"""Metrics of the verdict, and whether more of it is better. `perceptual` decides; the others agree or do not."""

CONTENT = "_content"
"""Ends the name of a metric's twin inside the content, without the bars of a padded square."""

SCORED = tuple(name + end for end in ("", CONTENT) for name in METRICS)
"""Every score of a picture."""

SHARE_SLACK = 0.1
"""So much of a share of the budget a validation may lie over it and still stand for it."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One architecture of a run: means over its seeds that finished, or over what is there when none did."""

    arch: str
    title: str
    statuses: str
    """How its trials ended: `finished`, or several words."""
    seeds: int
    """Trials that the scores are the mean of."""
    lost: int
    """Seeds that its network lost by itself: dead, diverged, invalid, or failed by its own error."""
    ended: int
    """Seeds that came to an end of their own: those that finished, and the lost ones."""
    finished: bool
    """Whether it takes part in the verdict."""
    trained: bool
    """Whether the run trained it: neither interpolation nor a network from elsewhere."""
    params: int
    epochs: float
    steps: float
    charged_usd: float | None
    """Of one trial; None where nobody knows what the network cost."""
    of_budget: float | None
    """Share of the budget; None where the budget is in epochs, and for what is not trained."""
    usd_per_epoch: float | None
    inference_ms: float | None
    """For one validation picture, on the device that trained."""
    perceptual: float | None
    estimate: Estimate | None
    """`perceptual` with its interval; None when no trial finished."""
    perceptual_start: float | None
    """Before the first step."""
    of_bicubic: float | None
    """`perceptual` divided by bicubic's: below 1 is better than bicubic."""
    ms_ssim: float | None
    ssim: float | None
    psnr: float | None
    lpips_alex: float | None
    perceptual_content: float | None
    ms_ssim_content: float | None
    ssim_content: float | None
    psnr_content: float | None
    lpips_alex_content: float | None


@dataclass(frozen=True, kw_only=True)
class QualityAt:
    """Quality after a share of the budget: the last validation that this share had paid for, not the best one."""

    share: float
    arch: str
    rank: int
    """1 is the best picture for this money."""
    charged_usd: float
    perceptual: float
    estimate: Estimate | None
    """`perceptual` with its interval."""
    ms_ssim: float | None
    on_front: bool
    """Whether no other architecture and share is cheaper and better: the front over dollars, `perceptual`, MS-SSIM."""


def standings(run: Run) -> list[Standing]:
    """Every architecture of the run, the best picture first; those without a score at the end."""
    by_arch: dict[str, list[TrialRow]] = {}
    for trial in run.trials:
        by_arch.setdefault(trial.arch, []).append(trial)
    bicubic = mean([trial.perceptual for trial in by_arch.get(run.yardstick or "", [])])
    found = [_standing(run, arch, trials, bicubic) for arch, trials in by_arch.items()]
    return sorted(found, key=lambda s: (s.perceptual is None, s.perceptual or 0.0, s.params))


def _standing(run: Run, arch: str, all_trials: list[TrialRow], bicubic: float | None) -> Standing:
    ended = [trial for trial in all_trials if trial.status == "finished" and trial.perceptual is not None]
    if arch in mixed(run):
        ended = ended[:1]
    trials = ended or [trial for trial in all_trials if trial.perceptual is not None] or all_trials
    common = _common(run, arch) if ended else {}
    perceptual = common.get("perceptual", mean([trial.perceptual for trial in trials]))
    table = score_table(_ended(run, run.images, pretrained=True), arch, "perceptual")
    known, params = shown(arch), max(trial.params for trial in all_trials)
    trained = is_trained(run, arch)
    lost = sum(trial.lost for trial in all_trials) if trained else 0
    return Standing(
        arch=arch,
        title=run.titles[arch],
        statuses=", ".join(sorted({trial.status for trial in all_trials})),
        seeds=sum(trial.perceptual is not None for trial in trials),
        lost=lost,
        ended=lost + sum(trial.status == "finished" for trial in all_trials),
        finished=bool(ended) and not known.pretrained and arch not in mixed(run),
        trained=trained,
        params=params,
        epochs=mean([trial.epochs for trial in trials]) or 0.0,
        steps=mean([trial.steps for trial in trials]) or 0.0,
        charged_usd=None if known.pretrained else mean([trial.charged_usd for trial in trials]) or 0.0,
        of_budget=mean([t.charged_usd / t.budget_usd for t in trials if t.budget_usd and t.steps]),
        usd_per_epoch=mean([trial.usd_per_epoch for trial in trials]),
        inference_ms=mean([trial.inference_ms for trial in trials]),
        perceptual=perceptual,
        estimate=estimate(table.to_numpy()) if ended and not table.empty and arch not in mixed(run) else None,
        perceptual_start=mean([trial.perceptual_start for trial in trials]) if trained else None,
        of_bicubic=perceptual / bicubic if perceptual is not None and bicubic else None,
        ms_ssim=common.get("ms_ssim", mean([trial.ms_ssim for trial in trials])),
        ssim=common.get("ssim", mean([trial.ssim for trial in trials])),
        psnr=common.get("psnr", mean([trial.psnr for trial in trials])),
        lpips_alex=common.get("lpips_alex", mean([trial.lpips_alex for trial in trials])),
        perceptual_content=common.get("perceptual_content", mean([trial.perceptual_content for trial in trials])),
        ms_ssim_content=common.get("ms_ssim_content", mean([trial.ms_ssim_content for trial in trials])),
        ssim_content=common.get("ssim_content", mean([trial.ssim_content for trial in trials])),
        psnr_content=common.get("psnr_content", mean([trial.psnr_content for trial in trials])),
        lpips_alex_content=common.get("lpips_alex_content", mean([trial.lpips_alex_content for trial in trials])),
    )


def _common(run: Run, arch: str) -> dict[str, float]:
    """Means over the pictures that every network is judged on, of scores whose rows were made over others.

    A row's PSNR leaves out what its own network restored exactly. Rows of older versions count targets of one value.
    """
    names = [name for name in SCORED if name in run.images]
    versions = {trial.flat_targets is None for trial in run.trials if trial.status == "finished"}
    if len(versions) == 1:
        names = [name for name in names if name.startswith("psnr")]
    tables = {name: score_table(_ended(run, run.images, pretrained=True), arch, name) for name in names}
    return {name: float(table.to_numpy().mean()) for name, table in tables.items() if table.size}


def of_survivors(row: Standing) -> str:
    """What is said beside a number that is of the seeds that finished alone; nothing where none was lost."""
    return f" ({row.lost} of {row.ended} seeds lost)" if row.lost and row.finished else ""


def is_trained(run: Run, arch: str) -> bool:
    """Whether the run trained it: neither interpolation nor a network from elsewhere."""
    parameters = any(trial.params for trial in run.trials if trial.arch == arch)  # below 0 where nobody knows how many
    return parameters and arch != run.yardstick and not shown(arch).pretrained


def mixed(run: Run) -> dict[str, list[int]]:
    """Architectures whose finished seeds have unlike numbers of parameters, each with these numbers.

    These are several networks under one name: their seeds have no mean.
    """
    found: dict[str, dict[int, None]] = {}
    for trial in run.trials:
        if trial.status == "finished":
            found.setdefault(trial.arch, {})[trial.params] = None
    return {arch: list(params) for arch, params in found.items() if len(params) > 1}


def lost_seeds(run: Run) -> dict[str, frozenset[int]]:
    """The seeds that each trained network lost by itself: they are outcomes of it, and no missing data."""
    trained = {arch for arch in run.titles if is_trained(run, arch)}
    return {
        arch: frozenset(trial.seed for trial in run.trials if trial.arch == arch and trial.lost) for arch in trained
    }


def mean(values: Sequence[Any]) -> float | None:
    """Mean of the values that are known and numbers; None when none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def finished(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `run.images` or `run.curves` that take part in the verdict."""
    rows: Any = _ended(run, frame, pretrained=False)
    return rows[~rows["arch"].isin(list(mixed(run)))]


def _ended(run: Run, frame: pd.DataFrame, *, pretrained: bool) -> pd.DataFrame:
    """The rows of the trials that finished; those of networks from elsewhere among them, if `pretrained`."""
    ended = {
        (trial.arch, trial.seed)
        for trial in run.trials
        if trial.status == "finished" and (pretrained or not shown(trial.arch).pretrained)
    }
    rows: Any = frame
    keys = zip(rows["arch"], rows["seed"], strict=True)
    return rows[pd.Series([key in ended for key in keys], index=rows.index, dtype=bool)]


def metric_titles(run: Run) -> dict[str, str]:
    """The metrics by which the run's networks are compared, as they are printed: those of METRICS, and their twins
    inside the content where squares are padded."""
    known = {"perceptual": run.info["perceptual"]["name"], "ms_ssim": "MS-SSIM"}
    known |= {"lpips_alex": run.info["alex"]["name"] if run.info["alex"] else "LPIPS (Alex)"}
    titles = known | {"ssim": "SSIM", "psnr": "PSNR"}
    if run.info["data"]["geometry"]["fit"] != "pad":
        return titles
    return titles | {name + CONTENT: f"{title}, content" for name, title in titles.items()}


def paired(run: Run, rows: Sequence[Standing], metric: str) -> list[Difference]:
    """Every pair of architectures that finished, by one metric."""
    images, lost = finished(run, run.images), lost_seeds(run)
    tables = {row.arch: score_table(images, row.arch, metric) for row in rows if row.finished}
    return differences(
        {arch: table for arch, table in tables.items() if not table.empty},
        lower_is_better=not METRICS[metric.removesuffix(CONTENT)],
        seedless=frozenset(row.arch for row in rows if not row.trained),
        lost=lost,
        lost_scores=[score_table(of_lost(run.images, arch, seeds), arch, metric) for arch, seeds in lost.items()],
    )


def of_lost(images: Any, arch: str, seeds: frozenset[int]) -> pd.DataFrame:
    """The scores of the pictures that the lost seeds of `arch` came to, as far as there are any."""
    return images[(images["arch"] == arch) & images["seed"].isin(seeds)]


def quality(run: Run) -> list[QualityAt]:
    """Quality at every share of the budget that was validated; nothing for a single architecture."""
    every: Any = finished(run, run.curves)
    curves = every[every["perceptual"].notna()]
    shares = [*sorted(run.info["config"].get("train", {}).get("evaluate_at", ())), 1.0]
    if curves["arch"].nunique() < 2:
        return []
    points: list[tuple[float, str, dict[str, float], Estimate | None]] = []
    for share, after in pairwise([*shares, 1.0]):
        # A boundary step slower than expected may pass its share a little, and is still not of the next one; the end of
        # a valid trial is its end.
        most = min(share * (1 + SHARE_SLACK), (share + after) / 2)
        paid = curves if share == 1 else curves[curves["fraction"] <= most]
        last = paid.sort_values("step").groupby(["arch", "seed"], sort=False).tail(1)
        means = last.groupby("arch", sort=False)[["charged_usd", "perceptual", "ms_ssim"]].mean()
        images = run.history.merge(last[["arch", "seed", "step"]])
        for arch, values in means.to_dict("index").items():
            table = score_table(images, str(arch), "perceptual")
            points.append((share, str(arch), values, None if table.empty else estimate(table.to_numpy())))
    front = pareto_front([(v["charged_usd"], v["perceptual"], -_known(v["ms_ssim"])) for _, _, v, _ in points])
    return [
        QualityAt(
            share=share,
            arch=arch,
            rank=1 + sum(s == share and v["perceptual"] < values["perceptual"] for s, _, v, _ in points),
            charged_usd=values["charged_usd"],
            perceptual=values["perceptual"],
            estimate=found,
            ms_ssim=None if pd.isna(values["ms_ssim"]) else values["ms_ssim"],
            on_front=index in front,
        )
        for index, (share, arch, values, found) in enumerate(points)
    ]


def _known(value: float) -> float:
    return 0.0 if pd.isna(value) else value


def fast_front(rows: Sequence[Standing]) -> frozenset[str]:
    """Architectures that no other one beats in both inference time and `perceptual`."""
    timed = [row for row in rows if row.finished and row.inference_ms is not None and row.perceptual is not None]
    front = pareto_front([(row.inference_ms or 0.0, row.perceptual or 0.0) for row in timed])
    return frozenset(timed[index].arch for index in front)


def winner(rows: Sequence[Standing]) -> str | None:
    """The architecture that `Findings.winner` describes."""
    scored = [row for row in rows if row.finished and row.perceptual is not None]
    best = min(scored, key=lambda row: (row.perceptual or 0.0, row.params), default=None)
    return None if best is None else best.arch
