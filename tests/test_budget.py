import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_cost import DOLLAR_A_SECOND, Clock, spend

from raysr.budget import WARMUP_FROM, Spending, rate_factor
from raysr.cost import Budget, CostMeter, StepCost
from raysr.world import World


def spending(
    budget: Budget,
    *,
    steps: int | None = None,
    shares: Sequence[float] = (),
    frozen: StepCost | None = None,
    device: str = "cpu",
) -> tuple[Spending, CostMeter, Clock]:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    world = World(device=torch.device(device))  # by whose kind alone a GPU is looked at seldom
    return Spending(budget, meter, world, limit_steps=steps, shares=shares, frozen=frozen), meter, clock


def test_two_networks_of_unlike_steps_end_within_one_step_of_the_same_budget() -> None:
    for seconds in (1.0, 3.7):
        money, meter, clock = spending(Budget(usd=100))
        step = 0
        while todo := money.steps_to_go(step):
            for _ in range(todo):
                spend(meter, clock, seconds)
                step += 1
        assert 100 - seconds < meter.charged_usd <= 100 + 1e-9
        assert step == int(100 / seconds)
        assert money.violation(step, 0.02) is None or seconds > 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_steps_that_grow_dearer_between_two_looks_at_the_clock_overshoot_by_less_than_one(device: str) -> None:
    dear = 1.9
    for first in range(0, 100, 3):  # the first dear step
        money, meter, clock = spending(Budget(usd=100), device=device)
        step = 0
        while todo := money.steps_to_go(step):
            with meter.training(todo):
                for _ in range(todo):
                    clock.now += 1 if step < first else dear
                    step += 1
        assert 100 - dear < meter.charged_usd < 100 + dear, first


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("seconds", [1.0, 3.7])
def test_noisy_steps_spend_the_budget_to_two_per_cent_or_one_step_and_else_are_a_violation(
    device: str, seconds: float
) -> None:
    kept = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        money, meter, clock = spending(Budget(usd=400), device=device)
        step, last = 0, 0.0
        while todo := money.steps_to_go(step):
            with meter.training(todo):
                # One step in a hundred is held up, as on a busy machine.
                last = float((seconds * rng.lognormal(0, 0.1, todo) * np.where(rng.random(todo) < 0.01, 4, 1)).sum())
                clock.now += last
                step += todo
        error, one = meter.charged_usd - 400, meter.step_usd
        assert one is not None
        assert -one < error < last
        within = abs(error) <= max(0.02 * 400, one) + 1e-9
        assert (money.violation(step, 0.02) is None) == within
        kept += within
    assert kept >= 38


def test_a_gpu_is_looked_at_every_eighth_step_and_never_asked_for_a_step_too_much() -> None:
    money, meter, clock = spending(Budget(usd=100), device="cuda")
    looks, step = list[int](), 0
    while todo := money.steps_to_go(step):
        looks.append(todo)
        with meter.training(todo):
            clock.now += todo
        step += todo
    # One step while nothing is known of its price; at the end half of what is left, again and again.
    assert looks == [1, *[8] * 10, 8, 5, 3, 1, 1, 1]
    assert meter.charged_usd == 100


@pytest.mark.parametrize("shares", [(0.25, 0.5), (0.5, 0.25)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_share_is_validated_at_the_last_step_that_it_pays_for(device: str, shares: tuple[float, ...]) -> None:
    money, meter, clock = spending(Budget(usd=100), shares=shares, device=device)
    assert money.paid_share(0) == 0
    money.validated(0)  # before the first step
    told: list[tuple[int, float]] = []
    step = 0
    while todo := money.steps_to_go(step):
        spend(meter, clock, 0.7 * todo, steps=todo)
        step += todo
        if money.validation_due(step):
            told.append((step, money.paid_share(step)))
            money.validated(step)
    assert told == [(35, 0.25), (71, 0.5)]
    assert (step, money.paid_share(step)) == (142, 1)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.7, 1.1])
def test_a_budget_of_so_many_steps_pays_for_as_many(seconds: float) -> None:
    for count in range(1, 60):
        money, meter, clock = spending(Budget(usd=seconds * count))
        step = 0
        while todo := money.steps_to_go(step):
            spend(meter, clock, seconds * todo, steps=todo)
            step += todo
        assert step == count
        assert StepCost(start_seconds=0, step_seconds=seconds).steps(seconds * count) == count


def test_a_known_share_that_pays_for_no_step_is_validated_after_the_first() -> None:
    money, _, _ = spending(Budget(samples=40), steps=10, shares=(0.05, 0.5))
    money.validated(0)
    assert (money.shares_done, money.paid_share(0)) == (0, 0)
    assert money.validation_due(1)


def test_a_rate_goes_by_the_money_that_is_spent_in_the_middle_of_its_step() -> None:
    money, meter, clock = spending(Budget(usd=10), device="cuda")
    spend(meter, clock, 4, steps=4)
    assert money.midway(4, 0) == pytest.approx(0.45)
    clock.now += 1
    assert [money.midway(4, ahead) for ahead in (1, 2)] == pytest.approx([0.55, 0.65])


def test_of_what_is_not_trained_all_is_spent() -> None:
    money, _, _ = spending(Budget(samples=40))
    assert (money.fraction(0), money.step_fraction) == (1, 0)


def test_a_share_that_only_a_step_beyond_the_budget_would_pass_is_left_to_the_end() -> None:
    # Ten steps of 0.97 are 9.7; the share is at 9.8, and an eleventh step would cost too much.
    money, meter, clock = spending(Budget(usd=10), shares=(0.5, 0.98))
    validated: list[int] = []
    step = 0
    while money.steps_to_go(step):
        spend(meter, clock, 0.97)
        step += 1
        if money.validation_due(step):
            money.validated(step)
            validated.append(step)
    assert (validated, step) == ([5], 10)


def test_shares_closer_than_a_step_are_validated_once() -> None:
    money, meter, clock = spending(Budget(usd=10), shares=(0.01, 0.02, 0.05))
    spend(meter, clock, 1)
    assert money.validation_due(1)
    money.validated(1)
    assert money.shares_done == 3
    assert not money.validation_due(1)


def test_a_budget_of_steps_validates_at_shares_of_them() -> None:
    money, _, _ = spending(Budget(epochs={"espcn": 1}), steps=40, shares=(0.1, 0.5))
    due = [step for step in range(1, 41) if money.validation_due(step) and not money.validated(step)]
    assert due == [4, 20]
    assert money.steps_to_go(40) == 0
    assert (money.limit_usd, money.equalisation_error_pct(40), money.violation(40, 0.01)) == (None, None, None)


def test_a_charge_beyond_the_tolerance_is_a_violation_but_never_within_one_step() -> None:
    money, meter, clock = spending(Budget(usd=100))
    for _ in range(90):
        spend(meter, clock, 1)
    assert money.equalisation_error_pct(90) == pytest.approx(-10)
    assert money.violation(90, 0.02) == "charged -10.00% away from its budget, and the tolerance is 2.00%"
    assert money.violation(90, 0.1) is None
    coarse, meter, clock = spending(Budget(usd=10))
    for _ in range(3):
        spend(meter, clock, 3)
    assert coarse.equalisation_error_pct(3) == pytest.approx(-10)
    assert coarse.violation(3, 0.02) is None  # another step of 3 would have been further off


def test_a_budget_that_pays_for_no_step_is_never_met() -> None:
    money, meter, clock = spending(Budget(usd=1))
    spend(meter, clock, 71)
    assert money.violation(1, 0.02) == "one step takes 71.0 times the budget, which pays for none; give more"


def test_the_rate_stays_rises_or_falls_with_the_share_that_is_spent() -> None:
    assert [rate_factor("constant", 0, spent) for spent in (0, 0.5, 1)] == [1, 1, 1]
    assert [rate_factor("cosine", 0, spent) for spent in (0, 0.5, 1, 1.01)] == pytest.approx([1, 0.5, 0, 0])
    assert rate_factor("cosine", 0, 0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    warm = [rate_factor("constant", 0.1, spent) for spent in (0, 0.05, 0.1, 0.5)]
    assert warm == pytest.approx([WARMUP_FROM, (1 + WARMUP_FROM) / 2, 1, 1])
    assert rate_factor("cosine", 0.2, 0.6) == pytest.approx(0.5)


def test_at_a_frozen_cost_the_clock_decides_nothing() -> None:
    frozen = StepCost(start_seconds=4, step_seconds=0.8)
    steps = frozen.steps(20)
    assert steps == 20
    told: list[tuple[list[int], list[int], list[float]]] = []
    for seconds in (0.1, 3.0):
        money, meter, clock = spending(Budget(usd=20), steps=steps, shares=(0.25, 0.5), frozen=frozen)
        looks, validated, middles, step = [0], [], [], 0
        while todo := money.steps_to_go(step):
            middles += [money.midway(step, ahead) for ahead in range(todo)]
            for _ in range(todo):
                spend(meter, clock, seconds)
            step += todo
            looks.append(step)
            if money.validation_due(step):
                money.validated(step)
                validated.append(step)
        assert money.charged_usd(step) == pytest.approx(20)
        assert money.equalisation_error_pct(step) == pytest.approx(0)
        assert money.violation(step, 0.02) is None
        assert meter.charged_usd == pytest.approx(20 * seconds)
        told.append((looks, validated, middles))
    assert told[0] == told[1]
    assert told[0][0][-1] == steps
    # The start is part of the budget: at a quarter of it one step is paid, not five.
    assert told[0][1] == [1, 7]
    assert (money.charged_usd(0), money.fraction(0)) == (0, 0)


def test_the_schedule_of_a_known_number_of_steps_does_not_hang_on_when_the_clock_was_looked_at() -> None:
    money, _, _ = spending(Budget(samples=400), steps=100)
    assert money.midway(40, 3) == money.midway(43, 0) == pytest.approx(0.435)


@pytest.mark.parametrize(("seconds", "steps"), [(4.9, 1), (4.7, 0), (0, 0), (12, 10)])
def test_a_frozen_cost_pays_whole_steps_after_the_start(seconds: float, steps: int) -> None:
    assert StepCost(start_seconds=4, step_seconds=0.8).steps(seconds) == steps


@pytest.mark.parametrize(("start", "step"), [(0, 0), (-1, 1), (0, float("nan")), (float("inf"), 1)])
def test_a_step_that_costs_nothing_or_no_number_is_refused(start: float, step: float) -> None:
    with pytest.raises(ValueError, match="must take more than 0 seconds"):
        StepCost(start_seconds=start, step_seconds=step)
