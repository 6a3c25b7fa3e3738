"""What a comparison will cost and take, before it begins: training, validation and starting; and what it did take."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from raysr.cost import Price, format_usd
from raysr.evaluate import evaluate, fast_layout, upscale
from raysr.judge import Judge, Targets
from raysr.losses import Perceptual, load_alex, load_perceptual
from raysr.models import build_model
from raysr.pairs import PairSet
from raysr.precision import exact_float32, resolve_precision
from raysr.rows import TrialRow
from raysr.spec import TrialSpec

START_S = 12.0
"""Seconds from a trial's turn to its first work, on two CPU cores (benchmarks/ray_overhead.py)."""

SEARCH_CONFIGURATIONS = 15
"""Configurations that a search tries, about: each may spend a quarter of its money, and most are stopped early."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that one validation picture takes on the device that trains."""

    enlarge_s: dict[str, float]
    """By architecture."""
    judge_s: float
    """At a validation between the first step and the last."""
    judge_all_s: float
    """At the last validation, which has every score."""


def measure_pace(specs: Sequence[TrialSpec], device: torch.device) -> Pace:
    """Enlarge the first validation picture by each architecture of `specs`, and judge it; in a worker."""
    exact_float32()
    first, train = specs[0], specs[0].train
    row = PairSet(first.data, "val", verify=False).read_group(0)[0]
    precision = resolve_precision(train.eval_precision, device)
    enlarge_s: dict[str, float] = {}
    for arch in dict.fromkeys(spec.arch for spec in specs):
        with torch.random.fork_rng(devices=[]):
            model = build_model(arch, first.scale).to(device).eval()
        with fast_layout(model, device):
            for _ in range(2 if device.type == "cuda" else 1):  # a GPU's libraries choose their kernels the first time
                enlarge_s[arch] = _seconds(lambda model=model: upscale(model, row, device, precision).cpu())
    judge = Judge(load_perceptual(train.perceptual, train.vgg_weights), Targets(device))
    second_judge = load_alex(train.alex_weights) if first.second_opinion else None
    nothing = build_model("bicubic", first.scale)
    alex = None if second_judge is None else second_judge.to(device)

    def judged(second: Perceptual | None, *, whole: bool) -> float:
        def work() -> object:
            return evaluate(nothing, [row], judge, device=device, precision=precision, alex=second, whole=whole)

        _seconds(work)  # the target's features are computed, and kept
        return _seconds(work)

    return Pace(enlarge_s=enlarge_s, judge_s=judged(None, whole=True), judge_all_s=judged(alex, whole=False))


def _seconds(work: Callable[[], object]) -> float:
    """Of what ends with numbers on the CPU, for which a GPU is waited."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the trials that are left will take, in seconds of wall time."""

    trials: int
    training_s: float | None
    """None where the budget is in steps, which nobody has timed."""
    validation_s: float
    start_s: float
    search_s: float
    charged_usd: float | None
    billed_usd: float | None
    notional: bool

    def line(self) -> str:
        """For people."""
        parts = [f"validation {clock(self.validation_s)}", f"starting {clock(self.start_s)}"]
        if self.search_s:
            parts.insert(0, f"search {clock(self.search_s)}")
        trials = f"{self.trials} trial{'s' if self.trials != 1 else ''} to go"
        if self.training_s is None or self.charged_usd is None or self.billed_usd is None:
            return f"{trials}: about {', '.join(parts)}, and the training, whose time is known as it goes"
        whole = self.training_s + self.validation_s + self.start_s + self.search_s
        parts.insert(0, f"training {clock(self.training_s)}")
        dollars = "notional dollars" if self.notional else "dollars"
        return (
            f"{trials}: about {clock(whole)} ({', '.join(parts)}), and in {dollars} {format_usd(self.charged_usd)} "
            f"charged, about {format_usd(self.billed_usd)} billed"
        )


def forecast(
    specs: Sequence[TrialSpec],
    pace: Pace,
    pictures: int,
    *,
    workers: int,
    at_once: int,
    searching: Collection[str],
    search_usd: float,
    search_pictures: int,
    spent_usd: Mapping[str, float],
    notional: bool,
) -> Forecast:
    """What `specs`, the trials that are left, will take on `workers` accelerators each, `at_once` at a time.

    `pictures` validate. `search_usd` is what each architecture of `searching` has for a search that is still to come,
    which `search_pictures` judge. `spent_usd` is what trials were charged before, by name.
    """
    price: Price = specs[0].price
    untrained = {spec.arch: spec.untrained for spec in {spec.arch: spec for spec in specs}.values()}
    training_s, validation_s, known = 0.0, 0.0, True
    for spec in specs:
        each = pace.judge_all_s if spec.train.judge_between == "all" else pace.judge_s
        between, last = (pace.enlarge_s[spec.arch] + judged for judged in (each, pace.judge_all_s))
        if untrained[spec.arch]:
            validation_s += pictures * last / workers  # by one worker: counted as a share of a trial's
            continue
        looks = 1 + len(spec.train.evaluate_at)
        validation_s += pictures * (last + between * looks) / workers
        usd = spec.budget.limit_usd(spec.price)
        known = known and usd is not None
        training_s += price.seconds(max(0.0, (usd or 0.0) - spent_usd.get(spec.name, 0.0))) / workers
    search_s = 0.0
    for arch in searching:
        # A configuration is judged up to three times.
        each = START_S + 3 * search_pictures * (pace.enlarge_s[arch] + pace.judge_s)
        search_s += price.seconds(search_usd) + SEARCH_CONFIGURATIONS * each
    begun = sum(not untrained[spec.arch] for spec in specs)
    at_once = max(1, min(at_once, begun))
    charged = price.usd(training_s * workers) if known else None
    searched_usd = search_usd * len(searching)
    billed = None if charged is None else charged + price.usd(validation_s * workers) + searched_usd
    return Forecast(
        trials=len(specs),
        training_s=training_s / at_once if known else None,
        validation_s=validation_s / at_once,
        start_s=START_S * begun / at_once,
        search_s=search_s / at_once,
        charged_usd=charged,
        billed_usd=billed,
        notional=notional,
    )


def taken(rows: Sequence[TrialRow], seconds: float) -> str:
    """What the comparison did take, `seconds` of wall time since it was called, for people."""
    parts = {
        "training": ("compile", "train", "stall", "lost"),
        "validation": ("eval",),
        "set-up and checkpoints": ("setup", "checkpoint", "idle"),
    }
    sums = {
        name: sum((row.seconds or {}).get(key, 0.0) for row in rows for key in keys) for name, keys in parts.items()
    }
    told = ", ".join(f"{name} {clock(value)}" for name, value in sums.items())
    charged, billed = (sum(getattr(row, f"{name}_usd") for row in rows) for name in ("charged", "billed"))
    return (
        f"took {clock(seconds)}; each trial's own seconds add up to {told}; {format_usd(charged)} charged, "
        f"{format_usd(billed)} billed"
    )


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
