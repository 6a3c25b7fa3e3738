"""What a run found, in numbers and in words: the verdict, how sure it is, and what the metrics disagree on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysr.caveats import calibrated_notes, caveats, listed
from raysr.cost import format_usd
from raysr.losses import PUBLISHED_NAME
from raysr.models import label
from raysr.rows import TrialRow
from raysr.runs import Run
from raysr.standings import (
    CONTENT,
    METRICS,
    QualityAt,
    Standing,
    fast_front,
    metric_titles,
    mixed,
    of_survivors,
    paired,
    quality,
    standings,
    winner,
)
from raysr.statistics import LEVEL, Difference, Estimate

FEW_STEPS = 100
"""A budget of fewer steps cannot be met to within 1 %."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a run's tables and its report say."""

    run: Run
    standings: Sequence[Standing]
    """The best picture first; those without a score at the end."""
    differences: dict[str, list[Difference]]
    """Every pair that finished, by metric, in the order of `metric_titles`."""
    quality: Sequence[QualityAt]
    """Quality at every share of the budget that was validated."""
    fast_front: frozenset[str]
    """Architectures that no other one beats in both inference time and `perceptual`."""
    verdict: Sequence[str]
    """Who gives the best picture, how sure that is, and how far bicubic is: four sentences or so."""
    warnings: Sequence[str]
    """What weakens the verdict in this run, and trials that did not finish."""
    notes: Sequence[str]
    """What holds for most runs: prices, schedules, searches."""

    @property
    def sentences(self) -> list[str]:
        """All that the run says, the verdict first."""
        return [*self.verdict, *self.warnings, *self.notes]

    @property
    def winner(self) -> str | None:
        """The architecture with the best mean `perceptual` over its seeds, separable or not, among those that finished
        within the tolerance; bicubic can be it. The cheaper to run (parameters) wins a tie."""
        return winner(self.standings)


def find(run: Run) -> Findings:
    """Work out what the run found."""
    rows = standings(run)
    pairs = {metric: paired(run, rows, metric) for metric in metric_titles(run)}
    return Findings(
        run=run,
        standings=rows,
        differences={metric: found for metric, found in pairs.items() if found},
        quality=quality(run),
        fast_front=fast_front(rows),
        verdict=_verdict(run, rows, pairs),
        warnings=_warnings(run, rows),
        notes=_without_bars(run, rows, pairs) + _notes(run),
    )


def _warnings(run: Run, rows: list[Standing]) -> list[str]:
    name = run.info["perceptual"]["name"]
    said = [f"{label(trial.arch)} seed {trial.seed} {trial.status}: {_first_line(trial)}" for trial in _unfinished(run)]
    said += _missing(run, rows)
    said += [f"Left out of this report: {problem}." for problem in run.problems]
    said += [
        f"{run.titles[arch]} is several networks, of {listed([f'{count:,}' for count in params])} parameters: its code "
        "was changed between seeds. The tables show its first seed alone, and it takes no part in the verdict."
        for arch, params in mixed(run).items()
    ]
    said += [
        f"{row.title} was trained elsewhere, on what and for how much is unknown: it stands in the tables with "
        f"{name} {row.perceptual:.4f}, and takes no part in the verdict."
        for row in rows
        if row.charged_usd is None and row.perceptual is not None
    ]
    if name != PUBLISHED_NAME:
        said.append(
            f"{name} is not LPIPS on the published weights: it ranks the networks of this run, and cannot be compared "
            "with published values."
        )
    ended = [trial for trial in run.trials if trial.status in ("finished", "invalid")]
    coarse = sorted({trial.arch for trial in ended if trial.budget_usd and 0 < trial.steps < FEW_STEPS})
    if coarse:
        names = listed([run.titles[arch] for arch in coarse])
        said.append(f"The budget paid fewer than {FEW_STEPS} steps of {names}: it is equal to a step, not to 1 %.")
    said += caveats(run)
    price = run.info["price"]
    priced = price.get("accelerator")
    if priced and not run.info["notional"] and not _is_card(priced, run.info["device"]):
        said.append(f"That price is of another card ({priced}): give yours with --price, here or to jobs/report.py.")
    return said


def _notes(run: Run) -> list[str]:
    info, said = run.info, calibrated_notes(run)
    searched: dict[str, Any] = info.get("search", {})
    schedules = [one["settings"]["schedule"] for one in searched.values()]
    if "cosine" in [info["config"]["train"].get("schedule"), *schedules]:
        said.append(
            "The learning rate falls to 0 at the end of the budget: the curve before 100 % is not what a smaller "
            "budget would have given."
        )
    said += [
        f"{run.titles.get(arch, arch)}, before these runs and apart from their budget, had "
        f"{format_usd(info['config']['search']['usd'])} to search its settings with: {one['settings']}, the best of "
        f"{len(one['tried'])} configurations on {one['judged_on']} training photographs set apart "
        f"({format_usd(one['charged_usd'])} charged, {format_usd(one['billed_usd'])} with everything)."
        for arch, one in searched.items()
    ]
    if "charged_price" in info:
        said.append(
            f"Counterfactual: the run was charged at ${info['charged_price']['usd_per_hour']} an hour; these are the "
            "same seconds at another price, not a run that had this money."
        )
    price = info["price"]
    said.append(
        f"{'Dollars are notional (no rented accelerator did the work): ' if info['notional'] else 'Price: '}"
        f"${price['usd_per_hour']} an hour of {info['device']}; {price['source']}, {price['date']}."
    )
    return said


def _is_card(priced: str, device: str) -> bool:
    """Whether `device` is a card of the model that has the price, with as much memory where both say how much."""
    model = priced.removeprefix("RTX ").split()[0].lower()
    sizes = [set(re.findall(r"(\d+) ?gb", text.lower())) for text in (priced, device)]
    return model in re.split(r"[^a-z0-9]+", device.lower()) and (sizes[0] == sizes[1] or not all(sizes))


def _verdict(run: Run, rows: list[Standing], pairs: dict[str, list[Difference]]) -> list[str]:
    """Who won, whether that is more than luck, how far bicubic is, and what the metrics disagree on."""
    leader = next((row for row in rows if row.arch == winner(rows)), None)
    if leader is None:
        return ["No verdict: no trial finished."]
    name, money = run.info["perceptual"]["name"], _budget_in_words(run)
    score = f"{name} {with_interval(leader.estimate)}, lower is better"
    rivals = {row.arch: row.title for row in rows if row.finished and row.arch != leader.arch}
    beaten = {arch: title for arch, title in rivals.items() if _beats(pairs, "perceptual", leader.arch, arch)}
    open_rivals = [title for arch, title in rivals.items() if arch not in beaten]
    if not rivals:
        said = [f"{leader.title} alone finished {money}: {score}."]
    elif open_rivals:
        said = [
            f"Not decided: {leader.title} is ahead {money} ({score}), but not for sure. With other seeds or "
            f"photographs {listed(open_rivals, 'or')} could be ahead."
        ]
    else:
        said = [
            f"{leader.title} gives the best picture {money} ({score}). Chance does not explain its lead over any other."
        ]
    said += _lost(run, rows, leader, pairs["perceptual"])
    said += _how_sure(rows) if rivals else []
    trained = [row for row in rows if row.finished and row.trained and row.perceptual is not None]
    bicubic = next((row for row in rows if row.arch == run.yardstick and row.perceptual is not None), None)
    if trained and bicubic is not None:
        said += _against_bicubic(name, trained, bicubic)
    return said + _disagreements(run, rows, leader, pairs)


def _lost(run: Run, rows: list[Standing], leader: Standing, pairs: list[Difference]) -> list[str]:
    """Networks that lost seeds by their own doing, and what that means for the lead."""
    said: list[str] = []
    for row in rows:
        if not row.lost:
            continue
        left = row.ended - row.lost
        scores = f"its scores are of the {left} that finished" if left else "it has no valid score"
        said.append(f"{row.title} lost {row.lost} of {row.ended} seeds (dead, diverged, invalid or failed): {scores}.")
        leads = [one for one in pairs if leader.arch in (one.a, one.b)]
        shaken = [run.titles[one.b if one.a == leader.arch else one.a] for one in leads if not one.separable]
        if row.arch == leader.arch and shaken:
            said.append(
                f"A lost seed counts as the worst: with those, the lead of {row.title} over {listed(shaken)} is not "
                "sure."
            )
        elif row.arch == leader.arch and leads:
            said.append(f"Every lead of {row.title} holds with the lost seeds counted as the worst.")
    return said


def _missing(run: Run, rows: list[Standing]) -> list[str]:
    """Networks with seeds that say nothing of them."""
    said: list[str] = []
    for row in rows:
        trials = [trial for trial in run.trials if trial.arch == row.arch]
        missing = [str(trial.seed) for trial in trials if trial.missing]
        if missing:
            seeds = f"{'seed' if len(missing) == 1 else 'seeds'} {listed(missing)} (of {len(trials)})"
            said.append(
                f"{row.title} has no result of {seeds}: no end yet, stopped, or no machine. A missing seed counts "
                "neither for the network nor against it. Once no program works on the run, --resume "
                f"{run.folder} runs the rest."
            )
    return said


def _budget_in_words(run: Run) -> str:
    if run.info["budget_usd"]:
        return f"at a budget of {format_usd(run.info['budget_usd'])} each"
    given = {name: value for name, value in run.info.get("budget", {}).items() if value is not None}
    for name, words in (("samples", "samples"), ("flops", "floating-point operations")):
        if name in given:
            return f"at a budget of {given[name]:g} {words} each"
    return "after its epochs"


def _how_sure(rows: list[Standing]) -> list[str]:
    trained = [row for row in rows if row.finished and row.trained]
    if not trained:
        return []
    seeds = sorted({row.seeds for row in trained})
    fewest, unlike = seeds[0], len(seeds) > 1
    estimates = [row.estimate for row in trained if row.estimate is not None]
    if not estimates:
        return [
            "The scores of single photographs are not in this folder: no interval can be given, so nothing is decided."
        ]
    if any(one.basis == "nothing" for one in estimates):
        return ["There is one validation photograph: no interval can be given, so nothing is decided."]
    if any(one.basis == "photographs" for one in estimates):
        times = {1: "once", 2: "twice"}.get(fewest, f"{fewest} times")
        who = listed([row.title for row in trained if row.seeds == fewest]) if unlike else "Each network"
        return [
            f"{who} was trained {times}: the {LEVEL:.0%} intervals leave out the luck of a random start. Give "
            "--seeds 3 or more to decide."
        ]
    return [
        f"The {LEVEL:.0%} intervals say how far new seeds and new photographs may move a score: they are over "
        f"{'at least ' if unlike else ''}{fewest} seeds and {estimates[0].photographs} photographs."
    ]


def _disagreements(run: Run, rows: list[Standing], leader: Standing, pairs: dict[str, list[Difference]]) -> list[str]:
    """Metrics that put another network first than the verdict."""
    said: dict[str, list[str]] = {}
    for metric in METRICS:
        best = _first(rows, metric)
        if best is not None and best.arch != leader.arch:
            sure = "" if _beats(pairs, metric, best.arch, leader.arch) else " (not certain)"
            said.setdefault(f"{best.title} first{sure}", []).append(metric_titles(run)[metric])
    parts = [f"{listed(metrics)} {'puts' if len(metrics) == 1 else 'put'} {whom}" for whom, metrics in said.items()]
    return [f"The metrics disagree: {'; '.join(parts)}."] if parts else []


def _without_bars(run: Run, rows: list[Standing], pairs: dict[str, list[Difference]]) -> list[str]:
    """Metrics that put another network first inside the pictures than on whole squares."""
    titles = metric_titles(run)
    said: list[str] = []
    for metric in METRICS:
        inside = metric + CONTENT
        whole, best = _first(rows, metric), _first(rows, inside)
        if inside in titles and whole is not None and best is not None and best.arch != whole.arch:
            sure = "" if _beats(pairs, inside, best.arch, whole.arch) else " (not certain)"
            said.append(f"{titles[metric]} puts {best.title} first inside them, {whole.title} on whole squares{sure}")
    return [f"The black bars around the pictures change the order: {'; '.join(said)}."] if said else []


def _first(rows: list[Standing], metric: str) -> Standing | None:
    """The best network by `metric` among those that finished."""
    scored = [row for row in rows if row.finished and getattr(row, metric) is not None]
    sign = -1 if METRICS[metric.removesuffix(CONTENT)] else 1
    return min(scored, key=lambda row: sign * getattr(row, metric), default=None)


def _beats(pairs: dict[str, list[Difference]], metric: str, arch: str, other: str) -> bool:
    """Whether `arch` is better than `other` by more than luck, on the seeds and photographs that both have."""
    sign = 1 if METRICS[metric.removesuffix(CONTENT)] else -1
    return any(
        one.separable and sign * one.estimate.mean * (1 if one.a == arch else -1) > 0
        for one in pairs[metric]
        if {one.a, one.b} == {arch, other}
    )


def _against_bicubic(name: str, trained: list[Standing], bicubic: Standing) -> list[str]:
    shares = [(row.title + of_survivors(row), (row.of_bicubic or 0) - 1) for row in trained]
    distances = listed(
        [f"{title} is {_percent(abs(share))} {'better' if share < 0 else 'worse'}" for title, share in shares]
    )
    said = f"Bicubic interpolation, which costs nothing, has {name} {bicubic.perceptual:.4f}: {distances}."
    if all(share >= 0 for _, share in shares):
        said += " This budget is too small for any network here to beat it; give more with --budget.usd."
    return [said]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def with_interval(one: Estimate | None, digits: int = 4) -> str:
    """`0.0123 [0.0110, 0.0136]`, or the mean alone."""
    if one is None:
        return "-"
    ends = "" if one.low is None or one.high is None else f" [{one.low:.{digits}f}, {one.high:.{digits}f}]"
    return f"{one.mean:.{digits}f}{ends}"


def shown_p(p: float | None) -> str:
    """A p-value as `0.012`, `< 0.001` where it is smaller, or `-` for none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _unfinished(run: Run) -> list[TrialRow]:
    return [trial for trial in run.trials if trial.status != "finished"]


def _first_line(trial: TrialRow) -> str:
    reasons = {
        "dead": "its picture is constant whatever the input; stopped before it spent its budget",
        "diverged": "its loss is no number any more",
    }
    lines = (trial.error or reasons.get(trial.status, "")).strip().splitlines()
    return lines[-1] if lines else ""
