"""The search's money and its third split; the whole of it on Ray is tried in test_compare."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from raysr.cost import Budget, Price, StepCost
from raysr.ledger import Ledger
from raysr.pairs import PairSet
from raysr.presets import SearchConfig
from raysr.resources import Resources
from raysr.search import (
    MOST_FAILURES,
    WORST,
    _Money,
    _TuneReporter,
    check_search,
    configured,
    draw,
    find_settings,
    judging_photographs,
)
from raysr.spec import TrainConfig, TrialSpec, open_sets
from raysr.train import Reporter, run_trial
from raysr.trial import Trial
from raysr.trial_files import TrialFiles
from raysr.world import World

pytestmark = pytest.mark.ray

DOLLAR_A_SECOND = Price(usd_per_hour=3600, source="test", date="2026-11-24")
TRAIN = TrainConfig(batch_size=2, patch_px=16)
SEARCH = SearchConfig(usd=36, batch_sizes=(1, 2))


@pytest.fixture
def base(small_set: str, tmp_path: Path) -> TrialSpec:
    return TrialSpec(
        arch="espcn",
        seed=0,
        data=small_set,
        run=str(tmp_path / "search"),
        budget=Budget(usd=1),
        price=DOLLAR_A_SECOND,
        train=TRAIN,
        held_out=judging_photographs(small_set),
    )


def spent(spec: TrialSpec, usd: float) -> None:
    ledger = Ledger(spec.run, spec.name)
    ledger.begin({})
    ledger.write("end", step=1, seconds={"train": usd}, charged_usd=usd, billed_usd=2 * usd, unaccounted_share=0.0)


def test_the_search_is_judged_on_training_photographs_that_it_does_not_train_on(base: TrialSpec) -> None:
    train, judge = open_sets(base)
    every, val = PairSet(base.data, "train"), PairSet(base.data, "val")
    assert judge.photographs == set(base.held_out)
    assert train.photographs == every.photographs - judge.photographs
    assert len(train) + len(judge) == len(every) == 6
    assert not judge.photographs & val.photographs
    assert {row.photograph for row in judge.rows()} == judge.photographs
    kept = {row.image_id: row for row in every.rows() if row.photograph not in judge.photographs}
    for row in train.rows():
        assert np.array_equal(row.hr, kept.pop(row.image_id).hr)
    assert not kept
    assert judging_photographs(base.data) == base.held_out


def test_a_trial_without_a_search_keeps_the_sets_own_splits(base: TrialSpec) -> None:
    train, val = open_sets(replace(base, held_out=()))
    assert (train.split, val.split, len(train), len(val)) == ("train", "val", 6, 2)


def test_every_architecture_is_offered_the_same_configurations_its_own_first() -> None:
    assert draw(SEARCH, TRAIN, 0) == {"learning_rate": 1e-4, "batch_size": 2, "schedule": "constant"}
    drawn = [draw(SEARCH, TRAIN, index) for index in range(1, 200)]
    assert drawn == [draw(SEARCH, replace(TRAIN, learning_rate=1), index) for index in range(1, 200)]
    rates = np.array([one["learning_rate"] for one in drawn])
    assert 3e-5 <= rates.min() < 4e-5
    assert 2e-3 < rates.max() <= 3e-3
    assert np.median(np.log10(rates)) == pytest.approx(np.log10(3e-4), abs=0.2)  # by its logarithm
    assert {one["batch_size"] for one in drawn} == {1, 2}
    assert {one["schedule"] for one in drawn} == {"constant", "cosine"}


def test_a_configuration_is_judged_at_a_ninth_a_third_and_the_whole_of_what_it_may_spend(base: TrialSpec) -> None:
    assert configured(base, SEARCH, 3, 9.0).train.evaluate_at == pytest.approx((1 / 9, 1 / 3))
    assert configured(base, SEARCH, 3, 10.0).train.evaluate_at == pytest.approx((0.1, 0.3, 0.9))
    assert configured(base, SEARCH, 3, 2.0).train.evaluate_at == pytest.approx((0.5,))


def test_what_a_configuration_does_not_spend_is_there_for_others_and_all_of_it_goes(base: TrialSpec) -> None:
    money = _Money(base, SEARCH)
    rng = np.random.default_rng(1)
    offers, total = 0, 0.0
    while (offer := money.suggest(f"{offers}")) != Searcher.FINISHED:
        assert isinstance(offer, dict)
        # Judged at 1, 3 and 9 dollars: most end early. A step costs up to a tenth of a dollar.
        usd = float(rng.choice([1.0, 1.0, 3.0, offer["usd"]])) - float(rng.uniform(0, 0.1))
        usd = min(usd, offer["usd"])
        spent(configured(base, SEARCH, offer["index"], offer["usd"]), usd)
        money.on_trial_complete(f"{offers}", {"rung_usd": usd, "perceptual": 0.1})
        offers, total = offers + 1, total + usd
    assert offers > 8
    assert 36 - 1.1 < total <= 36
    assert [one.index for one in money.tried()] == list(range(offers))
    assert sum(one.charged_usd for one in money.tried()) == pytest.approx(total)


def test_while_others_may_give_money_back_the_search_waits(base: TrialSpec) -> None:
    money = _Money(base, SEARCH)
    for trial in "abcd":
        assert isinstance(money.suggest(trial), dict)
    assert money.suggest("e") is None
    assert not money.finished
    spent(configured(base, SEARCH, 0, 9.0), 1.0)
    money.on_trial_complete("a", {"rung_usd": 1.0, "perceptual": 0.2})
    assert money.suggest("e") == {"index": 4, "usd": pytest.approx(8.0)}


def test_a_search_of_which_everything_fails_ends(base: TrialSpec) -> None:
    money = _Money(base, SEARCH)
    for index in range(MOST_FAILURES):
        assert isinstance(money.suggest(f"{index}"), dict)
        money.on_trial_complete(f"{index}", None, error=True)
    assert money.suggest("last") == Searcher.FINISHED


def test_a_search_that_cannot_run_is_refused(base: TrialSpec) -> None:
    with pytest.raises(ValueError, match="has 5 training pairs, fewer than a batch of 6"):
        check_search(replace(SEARCH, batch_sizes=(2, 6)), [base], 1)
    with pytest.raises(ValueError, match="batch size 1 must be a positive multiple of the 2 workers"):
        check_search(SEARCH, [base], 2)


def test_a_search_is_charged_the_frozen_cost_where_its_batch_size_is_fixed(
    base: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskedError(Exception):
        pass

    asked: list[TrialSpec] = []

    def look(money: _Money, resources: object) -> None:
        asked.append(configured(money.base, money.search, 3, 2.0))
        raise AskedError

    monkeypatch.setattr("raysr.search._tune", look)
    spec = replace(base, held_out=(), frozen=StepCost(start_seconds=0, step_seconds=0.5))
    for sizes in ((2,), (1, 2)):
        with pytest.raises(AskedError):
            find_settings(spec, replace(SEARCH, batch_sizes=sizes), Resources(False, 1, 1, 1))
    with pytest.raises(AskedError):
        find_settings(spec, replace(SEARCH, batch_sizes=(2,)), Resources(False, 2, 1, 1))
    fixed, free, of_two_workers = asked
    assert of_two_workers.frozen is None  # a configuration has one
    assert (fixed.frozen, fixed.frozen_steps) == (spec.frozen, 4)
    assert (free.frozen, free.frozen_steps) == (None, None)


def test_of_the_configurations_that_trained_longest_the_best_score_wins_and_not_the_best_of_all(
    base: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The dollars at which each was last judged, and its score: 9 is the most, the last one had what was left beside it.
    reached = [(1.0, 0.05), (9.0, 0.30), (3.0, 0.10), (9.0, 0.20), (9.5, 0.25), (9.0, math.inf)]

    def tune(money: _Money, resources: object) -> None:
        for index, (usd, score) in enumerate(reached):
            offer = money.suggest(f"{index}")
            assert isinstance(offer, dict)
            spent(money._open[f"{index}"], usd)
            money.on_trial_complete(f"{index}", {"rung_usd": usd, "perceptual": score})
        money.finished = True

    monkeypatch.setattr("raysr.search._tune", tune)
    spec = replace(base, held_out=())
    found = find_settings(spec, replace(SEARCH, usd=36.0), Resources(False, 1, 1, 1))
    assert found.best == 3
    assert found.settings == draw(SEARCH, TRAIN, 3)
    assert found.charged_usd == pytest.approx(sum(usd for usd, _ in reached))
    assert found.billed_usd == pytest.approx(2 * found.charged_usd)
    assert find_settings(spec, SEARCH, Resources(False, 1, 1, 1)) == found  # read, not searched again


def test_a_search_that_was_stopped_is_no_result_and_stays_on_the_bill_of_the_next(
    base: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter((False, True))

    def tune(money: _Money, resources: object) -> None:
        assert isinstance(money.suggest("only"), dict)
        spent(money._open["only"], 5.0)
        money.on_trial_complete("only", {"rung_usd": 3.0, "perceptual": 0.2})
        money.finished = next(ends)

    monkeypatch.setattr("raysr.search._tune", tune)
    spec = replace(base, held_out=())
    with pytest.raises(KeyboardInterrupt):
        find_settings(spec, SEARCH, Resources(False, 1, 1, 1))
    found = find_settings(spec, SEARCH, Resources(False, 1, 1, 1))
    assert (found.charged_usd, found.billed_usd) == (5, 2 * 5 + 2 * 5)


def test_the_last_configuration_takes_what_would_be_too_little_for_another(base: TrialSpec) -> None:
    money = _Money(base, SEARCH)
    for left, offered in ((10.5, 9.0), (9.9, 9.9), (1.5, 1.5)):
        money.left = left
        assert money.suggest(f"{left}") == {"index": len(money._open) - 1, "usd": offered}


def test_a_configuration_without_a_score_is_the_worst_and_no_error(
    base: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", told.append)
    trial = Trial(configured(base, SEARCH, 0, 9.0), World(device=torch.device("cpu")))
    trial.validate()
    for score in (math.nan, None, 0.5):
        trial.curve[-1] = replace(trial.curve[-1], perceptual=score)
        _TuneReporter(lambda _: None).validated(trial)
    assert [one["perceptual"] for one in told] == [WORST, WORST, 0.5]
    money = _Money(base, SEARCH)
    for index in range(2):
        assert isinstance(money.suggest(f"{index}"), dict)
        spent(configured(base, SEARCH, index, 9.0), 1.0)
        money.on_trial_complete(f"{index}", {"rung_usd": 1.0, "perceptual": (WORST, 0.2)[index]})
    assert [one.perceptual for one in money.tried()] == [None, 0.2]


def test_two_configurations_without_a_score_do_not_keep_the_others_from_being_judged() -> None:
    scheduler = ASHAScheduler(
        time_attr="rung_usd", metric="perceptual", mode="min", grace_period=1, max_t=10, reduction_factor=3
    )
    bracket = scheduler._brackets[0]
    for name, score in (("a", WORST), ("b", WORST), ("c", 0.2), ("d", 0.1)):
        bracket.on_result(SimpleNamespace(trial_id=name), 1, -score)
    assert bracket.on_result(SimpleNamespace(trial_id="e"), 1, -0.5) == ASHAScheduler.STOP
    assert bracket.on_result(SimpleNamespace(trial_id="f"), 1, -0.05) == ASHAScheduler.CONTINUE


def test_a_search_does_not_judge_networks_that_have_learned_nothing(base: TrialSpec) -> None:
    spec = replace(configured(base, SEARCH, 0, 9.0), budget=Budget(samples=8))
    row = run_trial(Trial(spec, World(device=torch.device("cpu"))), Reporter(lambda _: None))
    files = TrialFiles(spec.run, spec.arch, spec.seed)
    assert row.perceptual_start is None
    assert min(point.step for point in files.read_curve()) > 0
    # Nor does it take the scores that only a final run shows.
    assert all(point.perceptual_content is None for point in files.read_curve())
