"""How sure a comparison can be: intervals and differences over seeds and photographs, both of them random."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
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
class Wins:
    """How often `a` scored better than `b`, over all seeds of `a` x all seeds of `b` x photographs.

    A tie counts half. A lost seed counts as worse than every seed of the other that finished, and as level with its
    lost ones.
    """

    cases: int
    won: float
    chance: tuple[float, float] | None
    """The 95 % interval of P(A beats B), the chance that `a` scores better for a new seed of each on a new photograph
    (probability of improvement, Agarwal et al. 2021). None with fewer than MIN_SEEDS seeds or with one photograph:
    these say what was seen, and nothing of new ones."""
    chance_here: tuple[float, float] | None
    """The 95 % interval of the chance for new seeds on these photographs; None with fewer than MIN_SEEDS seeds."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two architectures on the same photographs."""

    a: str
    b: str
    estimate: Estimate
    """Mean of `a`'s score minus `b`'s, over the seeds that finished."""
    with_lost: Estimate | None
    """This mean with the lost seeds of both counted as the worst; None where neither has lost a seed."""
    p_holm: float | None
    """The p-value after Holm's (1979) correction for all pairs that were compared. Where the network that is ahead has
    lost seeds, it is the larger of the two that are found without them and with them."""
    wins: Wins
    holds: bool
    """Whether the lead outlives the lost seeds of the network that is ahead; True where it has lost none."""

    @property
    def a_beats_b(self) -> float:
        """Share of the cases that were seen in which `a` scored better, from 0 to 1."""
        return self.wins.won / self.wins.cases

    @property
    def separable(self) -> bool:
        """Whether it is more than luck, over all pairs at once; never so with fewer than MIN_SEEDS seeds, nor where
        the lead does not hold with the lost seeds of the network that is ahead counted as the worst."""
        enough = self.estimate.basis == "seeds and photographs"
        return enough and self.holds and self.p_holm is not None and self.p_holm < 1 - LEVEL


def differences(
    tables: dict[str, pd.DataFrame],
    *,
    lower_is_better: bool,
    seedless: frozenset[str] = frozenset(),
    lost: Mapping[str, Collection[int]] | None = None,
    lost_scores: Sequence[pd.DataFrame] = (),
) -> list[Difference]:
    """Every pair of architectures, with Holm's correction over all of them.

    `tables` are score_tables of what finished; those of `seedless` architectures have one row that stands for every
    seed. Two networks are compared on the seeds that both have, so that a seed's order of samples cancels.

    `lost` are the seeds that died, diverged or failed by an architecture's own doing. They are outcomes of it, not
    missing data: those that finished are a choice of the lucky ones. A lead of a network that has lost seeds must
    therefore hold twice more. First, the difference must stay separable when each lost seed has, on each photograph,
    the worst finite score that any seed of any architecture got there: those of `tables`, and of `lost_scores`, which
    are tables of what lost seeds came to. That bounds the mean only as far as bad scores were seen. So, second and by
    ranks alone, the share of the cases that the network wins must lie above one half with its whole interval over new
    seeds (`Wins.chance_here`), where a lost seed loses to every seed that finished. Lost seeds of the network that is
    behind are left out of its estimate: they can only help its rival, and counting them would widen the interval
    against the rival.
    """
    lost = {arch: sorted(set(seeds)) for arch, seeds in (lost or {}).items() if arch not in seedless}
    every = [*tables.values(), *lost_scores] if any(lost.values()) else []
    worst = _worst(every, lower_is_better=lower_is_better)
    found: list[tuple[float | None, Difference]] = []
    for a, b in combinations(tables, 2):
        left, right = tables[a].align(tables[b], join="inner", axis="columns")
        if left.empty or right.empty or left.shape[1] == 0:
            continue
        paired = _paired(left, right, a in seedless, b in seedless)
        if not paired.size:
            continue
        all_left, all_right = _with_lost(left, lost.get(a, [])), _with_lost(right, lost.get(b, []))
        wins = _wins(all_left, all_right, (a in seedless, b in seedless), lower_is_better=lower_is_better)
        one, with_lost = estimate(paired), None
        if lost.get(a) or lost.get(b):
            both = _paired(all_left.fillna(worst), all_right.fillna(worst), a in seedless, b in seedless)
            with_lost = estimate(both)
        p, holds = one.p_value, True
        a_leads = (one.mean < 0) == lower_is_better
        if with_lost is not None and lost.get(a if a_leads else b) and p is not None:
            p = max(p, with_lost.p_value if with_lost.p_value is not None else 1.0)
            holds = one.mean * with_lost.mean > 0 and _above_half(wins, a_leads=a_leads)
        made = Difference(a=a, b=b, estimate=one, with_lost=with_lost, p_holm=p, wins=wins, holds=holds)
        found.append((p, made))
    corrected = holm([p for p, _ in found])
    return [replace(one, p_holm=p) for (_, one), p in zip(found, corrected, strict=True)]


def _worst(tables: Sequence[pd.DataFrame], *, lower_is_better: bool) -> dict[Any, float]:
    """The worst finite score on each photograph."""
    known = [table for table in tables if table.size]
    if not known:
        return {}
    every = pd.concat(known).replace([math.inf, -math.inf], math.nan)
    return {
        photograph: float(scores.max() if lower_is_better else scores.min()) for photograph, scores in every.items()
    }


def _with_lost(table: pd.DataFrame, lost: Sequence[int]) -> pd.DataFrame:
    """`table` with a row of no scores for each lost seed."""
    if not lost:
        return table
    seeds = table.index.union(pd.Index([seed for seed in lost if seed not in table.index], dtype=table.index.dtype))
    return table.reindex(seeds)


def _paired(left: pd.DataFrame, right: pd.DataFrame, left_seedless: bool, right_seedless: bool) -> np.ndarray:
    """`left` minus `right` on the seeds that both have."""
    if left_seedless:
        return left.to_numpy()[:1] - right.to_numpy()
    if right_seedless:
        return left.to_numpy() - right.to_numpy()[:1]
    common = left.index.intersection(right.index)
    return left.loc[common].to_numpy() - right.loc[common].to_numpy()


def _above_half(wins: Wins, *, a_leads: bool) -> bool:
    """Whether the leader's share of the cases lies above one half, interval and all."""
    if wins.chance_here is None:
        return False
    low, high = wins.chance_here
    return low > 0.5 if a_leads else high < 0.5


def _wins(a: pd.DataFrame, b: pd.DataFrame, seedless: tuple[bool, bool], *, lower_is_better: bool) -> Wins:
    """`a` and `b` have rows of no scores for lost seeds."""
    sign = 1 if lower_is_better else -1
    left, right = (np.where(table.isna(), math.inf, sign * table.to_numpy()) for table in (a, b))
    won = (left[:, None] < right[None]) + (left[:, None] == right[None]) / 2
    # One row stands for every seed of what takes none: its luck is none.
    seeds = min((size for size, fixed in zip(won.shape, seedless, strict=False) if not fixed), default=0)
    photographs = won.shape[2]
    return Wins(
        cases=won.size,
        won=float(won.sum()),
        chance=_interval(won, min(seeds, photographs)) if seeds >= MIN_SEEDS and photographs > 1 else None,
        chance_here=_interval(won.mean(2, keepdims=True), seeds) if seeds >= MIN_SEEDS else None,
    )


def _interval(won: Float[np.ndarray, "a b photographs"], fewest: int) -> tuple[float, float]:
    """The 95 % interval of the mean of `won`, whose seeds of both and photographs are all random.

    The variance is that of a bootstrap that draws seeds of `a`, seeds of `b` and photographs anew, each by itself. A
    share cannot leave [0, 1], and where every case was won the bootstrap sees no variance at all: so the interval is
    Wilson's (1927) of a share in n independent cases, where n is the effective sample size, share x (1 - share) /
    variance, as in surveys of clusters (Korn & Graubard 1998). n is at most `fewest`, the number of seeds or of
    photographs, whichever is less: each has one draw of the luck that it shares with all its cases.
    """
    share, variance = float(won.mean()), _bootstrap_variance(won)
    n = min(fewest, share * (1 - share) / variance) if variance > 1e-12 else fewest
    z = float(special.ndtri((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _bootstrap_variance(won: Float[np.ndarray, "a b photographs"]) -> float:
    """Variance of the mean of `won` in an endless bootstrap that draws each axis anew by itself, in closed form.

    An entry that is drawn n times with chance 1 / n each comes c times, and the mean of c_i * c_j is 1 - 1 / n, and one
    more where i = j. The mean square of the drawn mean is the sum of all products of these terms, by the axes whose
    entries are the same in both factors.
    """
    mean_square = 0.0
    for same in product((False, True), repeat=won.ndim):
        others = tuple(axis for axis, is_same in enumerate(same) if not is_same)
        weight = math.prod(1 - 1 / won.shape[axis] for axis in others)
        mean_square += weight * float((won.sum(axis=others) ** 2).sum()) / won.size**2
    return max(0.0, mean_square - float(won.mean()) ** 2)


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
