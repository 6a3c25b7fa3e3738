"""What a comparison will cost and take is told before it begins."""

import re
from dataclasses import replace

import pytest
import torch

from raysr.cost import Budget, Price, StepCost
from raysr.forecast import START_S, Forecast, Pace, clock, forecast, measure_pace, taken
from raysr.rows import TrialRow
from raysr.spec import TrainConfig, TrialSpec

PRICE = Price(usd_per_hour=3.6, source="a list", date="2026-11-27")
"""A tenth of a cent a second."""

PACE = Pace(enlarge_s={"bicubic": 0.0, "espcn": 0.1, "vdsr": 1.0}, judge_s=0.5, judge_all_s=1.5)


MINUTE = Budget(gpu_seconds=60)


def trials(*archs: str, seeds: int = 1, budget: Budget = MINUTE) -> list[TrialSpec]:
    train = TrainConfig(evaluate_at=(0.5,))
    return [
        TrialSpec(arch=arch, seed=seed, data="nowhere", run="nowhere", budget=budget, price=PRICE, train=train)
        for seed in range(seeds)
        for arch in archs
    ]


def told(specs: list[TrialSpec], **changes: object) -> Forecast:
    settings = {"workers": 1, "at_once": 1, "searching": (), "search_usd": 0.0, "search_pictures": 10}
    settings |= {"notional": False, "spent_usd": {}} | changes
    return forecast(specs, PACE, 10, **settings)  # pyright: ignore[reportArgumentType]


def test_training_validation_and_starting_add_up() -> None:
    found = told(trials("bicubic", "espcn", "vdsr"))
    assert found.training_s == pytest.approx(120)
    # Ten pictures: bicubic once with every score; the others at the start, at a half, and at the end with every score.
    espcn, vdsr = 10 * (2 * 0.6 + 1.6), 10 * (2 * 1.5 + 2.5)
    assert found.validation_s == pytest.approx(15 + espcn + vdsr)
    assert found.start_s == pytest.approx(2 * START_S)
    assert found.charged_usd == pytest.approx(0.120)
    assert found.billed_usd == pytest.approx(0.120 + (15 + espcn + vdsr) / 1000)
    whole = clock(120 + found.validation_s + found.start_s)
    assert found.line().startswith(f"3 trials to go: about {whole} (training 2:00, validation 1:38, starting 0:24)")
    assert "in dollars $0.120 charged, about $0.218 billed" in found.line()


def test_trials_side_by_side_take_less_time_and_as_much_money() -> None:
    one, four = told(trials("espcn", seeds=4)), told(trials("espcn", seeds=4), at_once=4)
    assert one.training_s == pytest.approx(4 * four.training_s)
    assert one.validation_s == pytest.approx(4 * four.validation_s)
    assert (one.charged_usd, one.billed_usd) == (four.charged_usd, four.billed_usd)


def test_places_that_no_trial_takes_save_no_time() -> None:
    assert told(trials("espcn", seeds=2), at_once=8).training_s == pytest.approx(60)


def test_every_score_at_every_validation_takes_longer() -> None:
    specs = [replace(spec, train=replace(spec.train, judge_between="all")) for spec in trials("espcn")]
    assert told(specs).validation_s == pytest.approx(10 * 3 * 1.6)


def test_two_workers_spend_a_budget_in_half_the_time() -> None:
    two = told(trials("espcn"), workers=2)
    assert two.training_s == pytest.approx(30)
    assert two.charged_usd == pytest.approx(0.060)


def test_what_a_trial_has_spent_before_it_is_taken_up_again_is_not_to_come() -> None:
    found = told(trials("espcn", seeds=2), spent_usd={"espcn-0": 0.045})
    assert found.training_s == pytest.approx(60 + 15)
    assert found.charged_usd == pytest.approx(0.075)


def test_a_search_that_is_still_to_come_is_told_of() -> None:
    found = told(trials("bicubic", "espcn", "vdsr"), searching={"espcn"}, search_usd=0.1, notional=True)
    assert found.search_s == pytest.approx(100 + 15 * (START_S + 3 * 10 * 0.6))
    assert "(training 2:00, search " in found.line()
    assert "notional dollars" in found.line()


def test_a_budget_in_steps_has_no_time_before_it_begins() -> None:
    for budget in (Budget(epochs={"espcn": 4}), Budget(samples=100)):
        found = told(trials("espcn", budget=budget))
        assert found.charged_usd is None
        assert "1 trial to go: about validation 0:28, starting 0:12, and the training, whose time" in found.line()


def test_a_frozen_cost_does_not_change_what_a_trial_spends() -> None:
    specs = [replace(spec, frozen=StepCost(start_seconds=0, step_seconds=7)) for spec in trials("espcn")]
    assert told(specs).charged_usd == pytest.approx(0.060)


def test_every_architecture_is_timed_on_a_real_picture(small_set: str) -> None:
    specs = [
        TrialSpec(arch=arch, seed=0, data=small_set, run="nowhere", budget=Budget(usd=1), price=PRICE)
        for arch in ("bicubic", "espcn", "vdsr")
    ]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pace = measure_pace(specs, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pace.enlarge_s) == ["bicubic", "espcn", "vdsr"]
    assert all(0 < seconds < 10 for seconds in (*pace.enlarge_s.values(), pace.judge_s, pace.judge_all_s))


def test_at_the_end_what_it_took_is_said() -> None:
    seconds = {"setup": 2.0, "train": 58.0, "stall": 2.0, "eval": 30.0, "checkpoint": 1.0}
    row = TrialRow(
        arch="espcn",
        seed=0,
        status="finished",
        params=1,
        perceptual_name="LPIPS (VGG)",
        charged_usd=0.06,
        billed_usd=0.093,
        seconds=seconds,
    )
    failed = TrialRow(arch="vdsr", seed=0, status="failed", params=1, perceptual_name="LPIPS (VGG)")
    words = taken([row, row, failed], 3725)
    assert words.startswith("took 1:02:05; each trial's own seconds add up to training 2:00, validation 1:00, set-up")
    assert re.search(r"\$0\.120 charged, \$0\.186 billed", words)
