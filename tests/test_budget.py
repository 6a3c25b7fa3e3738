import math
from collections.abc import Sequence

import pytest
from test_cost import DOLLAR_A_SECOND, Clock, spend

from raysr.budget import WARMUP_FROM, Spending, rate_factor
from raysr.cost import Budget, CostMeter
from raysr.world import World


def spending(
    budget: Budget, *, steps: int | None = None, shares: Sequence[float] = ()
) -> tuple[Spending, CostMeter, Clock]:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    return Spending(budget, meter, World(), limit_steps=steps, shares=shares), meter, clock


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
        assert money.violation(0.02) is None or seconds > 2


def test_a_share_is_validated_at_the_last_step_that_it_pays_for() -> None:
    money, meter, clock = spending(Budget(usd=10), shares=(0.25, 0.5))
    validated: list[int] = []
    step = 0
    while money.steps_to_go(step):
        spend(meter, clock, 1)
        step += 1
        if money.validation_due(step):
            money.validated(step)
            validated.append(step)
    assert validated == [2, 5]


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
    assert (money.limit_usd, money.equalisation_error_pct, money.violation(0.01)) == (None, None, None)


def test_a_charge_beyond_the_tolerance_is_a_violation_but_never_within_one_step() -> None:
    money, meter, clock = spending(Budget(usd=100))
    for _ in range(90):
        spend(meter, clock, 1)
    assert money.equalisation_error_pct == pytest.approx(-10)
    assert money.violation(0.02) == "charged -10.00% away from its budget, and the tolerance is 2.00%"
    assert money.violation(0.1) is None
    coarse, meter, clock = spending(Budget(usd=10))
    for _ in range(3):
        spend(meter, clock, 3)
    assert coarse.equalisation_error_pct == pytest.approx(-10)
    assert coarse.violation(0.02) is None  # another step of 3 would have been further off


def test_a_budget_that_pays_for_no_step_is_never_met() -> None:
    money, meter, clock = spending(Budget(usd=1))
    spend(meter, clock, 71)
    assert money.violation(0.02) == "one step takes 71.0 times the budget, which pays for none; give more"


def test_the_rate_stays_rises_or_falls_with_the_share_that_is_spent() -> None:
    assert [rate_factor("constant", 0, spent) for spent in (0, 0.5, 1)] == [1, 1, 1]
    assert [rate_factor("cosine", 0, spent) for spent in (0, 0.5, 1, 1.01)] == pytest.approx([1, 0.5, 0, 0])
    assert rate_factor("cosine", 0, 0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    warm = [rate_factor("constant", 0.1, spent) for spent in (0, 0.05, 0.1, 0.5)]
    assert warm == pytest.approx([WARMUP_FROM, (1 + WARMUP_FROM) / 2, 1, 1])
    assert rate_factor("cosine", 0.2, 0.6) == pytest.approx(0.5)
