"""How sure a comparison can be: intervals and differences over seeds and photographs, both of them random."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import optimize, special

from raysr.metrics import PSNR_CEILING_DB

LEVEL = 0.95
"""Coverage of the intervals; 1 - LEVEL is the error that Holm's correction keeps over all pairs."""

MIN_SEEDS = 3
"""Fewer say too little about the luck of the initialisation: the interval is then over photographs alone."""

_SMALLEST_P = 1e-12

Basis = Literal["seeds and photographs", "photographs", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean score, and how far it may lie from the one that new seeds and new photographs would give."""

    mean: float
    basis: Basis
    """What was taken for random."""
    seeds: int
    photographs: int
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval; None where there is one photograph, as are the next two."""
    standard_error: float | None = None
    p_value: float | None = None
    """Of a mean of 0, two-sided; what a difference is judged by."""


def estimate(scores: Float[np.ndarray, "seeds photographs"]) -> Estimate:
    """The mean of `scores` with its interval; every seed was scored on every photograph.

    Seeds and photographs are crossed random factors (two-way random effects, no replication): the variance of the mean
    is (MS_seeds + MS_photographs - MS_rest) / n, and a factor whose mean square is not above the rest's adds none that
    can be seen. Each mean square enters with the t quantile of its own degrees of freedom (as in Howe 1974), because
    Satterthwaite's joint ones are too many when two factors weigh the same: see docs/log.md. With fewer than MIN_SEEDS
    seeds their mean is taken and the interval is over photographs alone; with one photograph there is none. Raises
    ValueError for a table that is empty or holds anything but finite numbers.
    """
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"expected finite scores of at least one seed and one photograph, got {scores.shape}")
    seeds, photographs = scores.shape
    mean = float(scores.mean())
    if photographs == 1:
        return Estimate(mean=mean, basis="nothing", seeds=seeds, photographs=photographs)
    if seeds < MIN_SEEDS:
        terms: list[tuple[float, int]] = [(float(scores.mean(0).var(ddof=1)) / photographs, photographs - 1)]
        basis: Basis = "photographs"
    else:
        terms, basis = _crossed(scores), "seeds and photographs"
    half = _half_width(terms, 1 - LEVEL)
    return Estimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        standard_error=math.sqrt(sum(variance for variance, _ in terms)),
        p_value=_p_value(terms, abs(mean)),
        basis=basis,
        seeds=seeds,
        photographs=photographs,
    )


def _crossed(scores: Float[np.ndarray, "seeds photographs"]) -> list[tuple[float, int]]:
    """The parts of the mean's variance, each with its degrees of freedom; that of the rest may be taken away."""
    seeds, photographs = scores.shape
    by_seed, by_photograph = scores.mean(1), scores.mean(0)
    rest = scores - by_seed[:, None] - by_photograph[None] + scores.mean()
    freedom = (seeds - 1) * (photographs - 1)
    ms_rest = float((rest**2).sum()) / freedom
    ms_seeds = photographs * float(by_seed.var(ddof=1))
    ms_photographs = seeds * float(by_photograph.var(ddof=1))
    seen = [(ms, df) for ms, df in ((ms_seeds, seeds - 1), (ms_photographs, photographs - 1)) if ms > ms_rest]
    if len(seen) == 2:
        seen.append((-ms_rest, freedom))
    return [(ms / scores.size, df) for ms, df in seen or [(ms_rest, freedom)]]


def _half_width(terms: list[tuple[float, int]], error: float) -> float:
    """Half of the interval that misses with chance `error`."""
    squares = [variance * float(special.stdtrit(freedom, error / 2)) ** 2 for variance, freedom in terms]
    return math.sqrt(math.fsum(squares))


def _p_value(terms: list[tuple[float, int]], distance: float) -> float:
    """The chance of error at which the interval just reaches `distance`."""
    if distance == 0:
        return 1.0
    if _half_width(terms, _SMALLEST_P) <= distance:
        return _SMALLEST_P
    return float(optimize.brentq(lambda error: _half_width(terms, error) - distance, _SMALLEST_P, 1.0))  # pyright: ignore[reportArgumentType]


def score_table(images: pd.DataFrame, arch: str, metric: str) -> pd.DataFrame:
    """Scores by seed (rows) and photograph (columns): the mean over a photograph's tiles, which are one cluster.

    `images` has a row per arch, seed and validation picture. A photograph for which some seed has no such score (too
    thin for MS-SSIM, or no number) is left out, so that every seed is judged on the same ones. Pictures that do not
    count in a mean (evaluate.counts) are left out too: for PSNR all that any network in `images` restored exactly.
    """
    rows: Any = images
    mine = rows[(rows["arch"] == arch) & rows[metric].notna() & ~_uncounted(rows, metric)]
    table = mine.pivot_table(index="seed", columns="photograph", values=metric, aggfunc="mean").astype(float)
    return table.dropna(axis="columns")


def _uncounted(images: Any, metric: str) -> Any:
    """Rows of the pictures that no network is judged by; runs made before do not know which targets are flat."""
    left_out = images["flat"].eq(True) if "flat" in images else pd.Series(data=False, index=images.index)
    if metric.startswith("psnr"):
        left_out |= images[metric].astype(float) >= PSNR_CEILING_DB
    return images["image_id"].isin(images["image_id"][left_out])


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two architectures on the same photographs."""

    a: str
    b: str
    estimate: Estimate
    """Of `a`'s score minus `b`'s."""
    p_holm: float | None
    """The p-value after Holm's (1979) correction for all pairs that were compared."""
    a_beats_b: float
    """Chance that `a` scores better than `b` for a new seed of each on a new photograph; a tie counts half. It is the
    share of such cases among all seeds of `a` x all seeds of `b` x photographs (probability of improvement, Agarwal
    et al. 2021)."""

    @property
    def separable(self) -> bool:
        """Whether it is more than luck, over all pairs at once; never so with fewer than MIN_SEEDS seeds."""
        enough = self.estimate.basis == "seeds and photographs"
        return enough and self.p_holm is not None and self.p_holm < 1 - LEVEL


def differences(
    tables: dict[str, pd.DataFrame], *, lower_is_better: bool, seedless: frozenset[str] = frozenset()
) -> list[Difference]:
    """Every pair of architectures, with Holm's correction over all of them.

    `tables` are score_tables; those of `seedless` architectures have one row that stands for every seed. Two networks
    are compared on the seeds that both have, so that a seed's order of samples cancels.
    """
    found: list[tuple[str, str, Estimate, float]] = []
    for a, b in combinations(tables, 2):
        left, right = tables[a].align(tables[b], join="inner", axis="columns")
        if left.empty or right.empty or left.shape[1] == 0:
            continue
        beats = _share_better(left.to_numpy(), right.to_numpy(), lower_is_better)
        if a in seedless:
            paired = left.to_numpy()[:1] - right.to_numpy()
        elif b in seedless:
            paired = left.to_numpy() - right.to_numpy()[:1]
        else:
            common = left.index.intersection(right.index)
            if common.empty:
                continue
            paired = left.loc[common].to_numpy() - right.loc[common].to_numpy()
        found.append((a, b, estimate(paired), beats))
    corrected = holm([one.p_value for _, _, one, _ in found])
    return [
        Difference(a=a, b=b, estimate=one, p_holm=p, a_beats_b=beats)
        for (a, b, one, beats), p in zip(found, corrected, strict=True)
    ]


def _share_better(a: np.ndarray, b: np.ndarray, lower_is_better: bool) -> float:
    gain = b[None, :, :] - a[:, None, :]
    gain = gain if lower_is_better else -gain
    return float((gain > 0).mean() + (gain == 0).mean() / 2)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979); None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def pareto_front(points: list[tuple[float, ...]]) -> list[int]:
    """Which points no other one is at least as good as in everything and better in something; less is better."""

    def dominated(mine: tuple[float, ...]) -> bool:
        return any(other != mine and all(o <= m for o, m in zip(other, mine, strict=True)) for other in points)

    return [i for i, point in enumerate(points) if not dominated(point)]
