"""The same tuning money for every architecture: Ray Tune searches learning rate, batch size and schedule."""

import json
import math
import os
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray.tune
import torch
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from raysr import storage
from raysr.batches import TrainingBatches
from raysr.cluster import QUIET, use_assigned_cpus
from raysr.cost import ROUNDING, Budget
from raysr.failures import LIMITS, Failure, RayFailedError, failure_of, fit
from raysr.launch import FAILED
from raysr.ledger import Ledger
from raysr.models import file_name
from raysr.pairs import PairSet
from raysr.presets import SearchConfig
from raysr.provenance import now
from raysr.resources import Resources
from raysr.spec import TrainConfig, TrialSpec
from raysr.train import Reporter, run_trial
from raysr.trial import Trial
from raysr.world import World

MOST_SHARE = 0.25
"""Share of an architecture's search money that one configuration may spend, if it is never stopped."""

REDUCTION = 3
"""At each rung ASHA lets the best one in so many go on (Li et al. 2020)."""

RUNGS = 2
"""Times that a configuration is judged before its end: after 1/9 and 1/3 of what it may spend."""

JUDGED_SHARE = 0.1
"""Share of the training photographs that are set apart to judge the search, and JUDGED_MOST at most."""

JUDGED_MOST = 100

MOST_CONFIGURATIONS = 100
"""Of an architecture: more would mean that they end before they cost anything."""

MOST_FAILURES = 5
"""So many configurations of an architecture may fail before its search is given up."""

WORST = 1e9
"""A score beyond every distance. ASHA takes quantiles, which two infinite ones turn into no number: then nobody would
be stopped."""

_SEARCH = 11
"""Of the random numbers that draw configurations and the photographs that judge them."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A configuration and how far it came."""

    index: int
    learning_rate: float
    batch_size: int
    schedule: str
    rung_usd: float
    """Money at which it was last judged."""
    charged_usd: float
    perceptual: float | None
    """On the photographs that were set apart; None when it gave no number, or failed."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an architecture's search money found."""

    arch: str
    best: int
    """Index of the configuration that the final runs use."""
    charged_usd: float
    """Of the money that there was."""
    billed_usd: float
    """With set-up, judging and, after a resume, searches that were cut off."""
    judged_on: int
    """Photographs."""
    tried: Sequence[Tried]

    @property
    def settings(self) -> dict[str, Any]:
        """For the final runs, as TrainConfig names them."""
        best = next(one for one in self.tried if one.index == self.best)
        return {name: getattr(best, name) for name in ("learning_rate", "batch_size", "schedule")}


def judging_photographs(location: str) -> tuple[str, ...]:
    """The training photographs of the set in `location` that judge a search: a third split, always the same.

    Raises ValueError for a set with fewer than two training photographs.
    """
    names = sorted(PairSet(location, "train", verify=False).photographs)
    if len(names) < 2:
        raise ValueError(f"a search needs at least 2 training photographs, and {location} has {len(names)}")
    count = min(JUDGED_MOST, max(1, round(JUDGED_SHARE * len(names))))
    chosen = np.random.default_rng([_SEARCH, len(names)]).permutation(len(names))[:count]
    return tuple(names[i] for i in sorted(chosen))


def draw(search: SearchConfig, default: TrainConfig, index: int) -> dict[str, Any]:
    """The configuration `index`, the same for every architecture; 0 is the one that a run without a search uses."""
    if index == 0:
        return {name: getattr(default, name) for name in ("learning_rate", "batch_size", "schedule")}
    rng = np.random.default_rng([_SEARCH, index])
    low, high = np.log(search.learning_rates)
    return {
        "learning_rate": float(np.exp(rng.uniform(low, high))),
        "batch_size": int(rng.choice(search.batch_sizes)),
        "schedule": str(rng.choice(search.schedules)),
    }


def check_search(search: SearchConfig, specs: Sequence[TrialSpec], workers: int) -> None:
    """Raise ValueError for a search that could not run, before any money is spent."""
    first = specs[0]
    pairs = PairSet(first.data, "train", verify=False, without=judging_photographs(first.data))
    for size in search.batch_sizes:
        TrainingBatches(pairs, batch_size=size, seed=0, world_size=workers, patch_px=first.train.patch_px)


def _result(spec: TrialSpec) -> str:
    return storage.join(spec.run, "search", file_name(spec.arch), "found.json")


def searched(spec: TrialSpec) -> bool:
    """Whether the settings of the architecture have been found before."""
    return storage.exists(_result(spec))


def find_settings(spec: TrialSpec, search: SearchConfig, resources: Resources) -> Found:
    """Search the settings of one architecture, or read what was found before.

    Each configuration trains on one accelerator. Raises RuntimeError when none gave a score, KeyboardInterrupt when the
    user stopped the search.
    """
    if searched(spec):
        known = json.loads(storage.read_bytes(_result(spec)))
        return Found(**known | {"tried": [Tried(**one) for one in known["tried"]]})
    folder = storage.join(spec.run, "search", file_name(spec.arch))
    earlier = storage.children(folder)
    attempt = storage.join(folder, f"attempt-{len(earlier) + 1}")
    # A frozen cost is of one batch size, and of one worker: a configuration has no more.
    same = set(search.batch_sizes) == {spec.train.batch_size} and resources.workers_per_trial == 1
    frozen = spec.frozen if same else None
    base = replace(spec, run=attempt, held_out=judging_photographs(spec.data), frozen=frozen)
    money = _Money(base, search)
    failure = _tune(money, resources)
    if not money.finished:
        raise KeyboardInterrupt  # Tune itself takes the first Ctrl-C: it stops its trials and returns
    tried = money.tried()
    scored = [one for one in tried if one.perceptual is not None and np.isfinite(one.perceptual)]
    if not scored:
        told = f"no configuration of {spec.arch} gave a score: {failure.text if failure else 'all of them diverged'}"
        raise RayFailedError(told) if failure is not None and failure.cause == "machine" else RuntimeError(told)
    # The longest training decides first: a score at an earlier rung is of another stage of the schedule.
    best = min(scored, key=lambda one: (-min(one.rung_usd, money.most), one.perceptual))
    lost = sum(_billed(storage.join(folder, name)) for name in earlier)
    found = Found(
        arch=spec.arch,
        best=best.index,
        charged_usd=sum(one.charged_usd for one in tried),
        billed_usd=lost + _billed(attempt),
        judged_on=len(base.held_out),
        tried=tried,
    )
    storage.write_text(_result(spec), json.dumps(asdict(found), indent=2))
    return found


def _billed(attempt: str) -> float:
    """Everything that the configurations of one attempt at a search have spent."""
    names = storage.children(storage.join(attempt, "ledger"))
    journals = [Ledger(attempt, name.removesuffix(".jsonl")) for name in names]
    return sum(last.billed_usd for journal in journals if (last := journal.last()) is not None)


def configured(base: TrialSpec, search: SearchConfig, index: int, usd: float) -> TrialSpec:
    """The trial of configuration `index`, which may spend `usd` and is judged at the rungs of the search on the way."""
    most = MOST_SHARE * (search.usd or 0.0)
    rungs = [most / REDUCTION**rung for rung in range(RUNGS, -1, -1)]
    train = replace(
        base.train,
        **draw(search, base.train, index),
        evaluate_at=tuple(rung / usd for rung in rungs if rung < usd * 0.999),
    )
    return replace(base, seed=index, budget=Budget(usd=usd), train=train)


class _Money(Searcher):
    """Gives out configurations of one architecture as long as there is money; what one does not spend comes back."""

    def __init__(self, base: TrialSpec, search: SearchConfig) -> None:
        super().__init__(metric="perceptual", mode="min")
        self.base, self.search = base, search
        self.left = search.usd or 0.0
        self.most = MOST_SHARE * self.left
        self.least = self.most / REDUCTION**RUNGS
        self.finished = False
        self._specs: list[TrialSpec] = []
        self._open: dict[str, TrialSpec] = {}
        self._reached: dict[int, dict[str, Any]] = {}
        self._failures = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next configuration; None while others may still give money back."""
        if self.left < self.least or self._failures >= MOST_FAILURES or len(self._specs) >= MOST_CONFIGURATIONS:
            if self._open:
                return None
            self.finished = True
            return Searcher.FINISHED
        # The last one takes what would be too little for another.
        usd = self.left if self.left < self.most + self.least else self.most
        spec = configured(self.base, self.search, len(self._specs), usd)
        self.left -= usd
        self._specs.append(spec)
        self._open[trial_id] = spec
        return {"index": spec.seed, "usd": usd}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the score."""
        if "rung_usd" in result and FAILED not in result:
            self._reached[self._open[trial_id].seed] = result

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take back what it has not spent, by its own ledger."""
        self.on_trial_result(trial_id, result or {})
        spec = self._open.pop(trial_id)
        self.left += (spec.budget.usd or 0.0) - _charged(spec)
        self._failures += error or FAILED in (result or {})

    def tried(self) -> list[Tried]:
        """What was given out, and how far it came."""
        return [
            Tried(
                index=spec.seed,
                learning_rate=spec.train.learning_rate,
                batch_size=spec.train.batch_size,
                schedule=spec.train.schedule,
                rung_usd=self._reached.get(spec.seed, {}).get("rung_usd", 0.0),
                charged_usd=_charged(spec),
                perceptual=_known(self._reached.get(spec.seed, {}).get("perceptual")),
            )
            for spec in self._specs
        ]

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search that was cut off begins anew."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


def known_or_worst(score: float | None) -> float:
    """What ASHA is told: of a configuration that gives no number, WORST."""
    return score if score is not None and math.isfinite(score) else WORST


def _known(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) and score < WORST else None


def _charged(spec: TrialSpec) -> float:
    spent = Ledger(spec.run, spec.name).last()
    return spent.charged_usd if spent is not None else 0.0


class _TuneReporter(Reporter):
    """Tells Tune, whose scheduler may end the trial here: the call returns only when it may go on."""

    def validated(self, trial: Trial) -> None:
        """Report the dollars that this validation stands for, and its score."""
        rung_usd = trial.spending.paid_share(trial.step) * (trial.spending.limit_usd or 0.0)
        score = trial.curve[-1].perceptual
        with trial.meter.segment("idle"):
            # A share of a budget, multiplied out again, may fall short of its rung by a rounding error.
            ray.tune.report({"rung_usd": rung_usd * (1 + ROUNDING), "perceptual": known_or_worst(score)})


def _tune(money: _Money, resources: Resources) -> Failure | None:
    """Run the search; returns the first failure of a configuration, one of the network's before the machine's."""

    base, search = money.base, money.search

    def work(config: dict[str, Any]) -> None:
        os.environ.update(QUIET)
        use_assigned_cpus()
        device = torch.device("cuda" if resources.use_gpu else "cpu")
        spec = configured(base, search, config["index"], config["usd"])
        try:
            run_trial(Trial(spec, World(device=device)), _TuneReporter(lambda progress: None))
        except Exception as error:  # noqa: BLE001  told, not raised: Tune would begin the configuration again
            told = replace(failure_of(error), text="".join(traceback.format_exception(error)).strip())
            ray.tune.report({"rung_usd": 0.0, "perceptual": WORST, FAILED: asdict(told)})

    needs = {name.lower(): amount for name, amount in resources.per_worker.items() if name in ("CPU", "GPU")}
    scheduler = ASHAScheduler(
        time_attr="rung_usd",
        grace_period=money.least,  # pyright: ignore[reportArgumentType]
        # Just above the last rung: its number of rungs comes from a logarithm that rounds down.
        max_t=money.most + money.least,  # pyright: ignore[reportArgumentType]
        reduction_factor=REDUCTION,
    )
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(work, {**needs, **resources.model}),
        tune_config=ray.tune.TuneConfig(
            metric="perceptual",
            mode="min",
            search_alg=money,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=resources.max_concurrent,
            reuse_actors=False,
        ),
        run_config=ray.tune.RunConfig(
            name="search",
            # A configuration whose process is killed, for memory for example, begins again.
            failure_config=ray.tune.FailureConfig(max_failures=LIMITS["process"]),
            storage_path=storage.join(money.base.run, "ray", now().strftime("%Y%m%d-%H%M%S-%f")),
            verbose=0,
        ),
    )
    failures: list[Failure] = []
    for result in fit(tuner):
        told = (result.metrics or {}).get(FAILED)
        failures += [Failure(**told)] if told else [failure_of(result.error)] if result.error is not None else []
    return min(failures, key=lambda one: one.cause == "machine", default=None)
