"""How far a budget goes: the share that is spent, the steps that it still pays for, and what hangs on that share."""

import math
from collections.abc import Sequence
from typing import Literal

from raysr.cost import Budget, CostMeter
from raysr.world import World

CHECK_EVERY_STEPS = {"cpu": 1, "cuda": 8}
"""Steps between two looks at the clock: a GPU must be waited for, which costs time; a CPU never runs ahead."""

_ROUNDING = 1e-9
"""Sums of dollars carry rounding errors: so much of a step is forgiven."""

Schedule = Literal["constant", "cosine"]

WARMUP_FROM = 0.01
"""Share of the learning rate that a warm-up begins with."""


def rate_factor(schedule: Schedule, warmup: float, spent: float) -> float:
    """What the learning rate is multiplied with after the share `spent` of the budget (0 to 1).

    A linear warm-up over the share `warmup`, then constant, or half a cosine down to 0 at the end of the budget
    (Loshchilov & Hutter 2017). It goes by money and not by steps, so that every architecture finishes its schedule.
    """
    if spent < warmup:
        return WARMUP_FROM + (1 - WARMUP_FROM) * spent / warmup
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (spent - warmup) / (1 - warmup)))) / 2


class Spending:
    """One trial's budget against its meter; every rank gets the same answers."""

    def __init__(
        self, budget: Budget, meter: CostMeter, world: World, *, limit_steps: int | None, shares: Sequence[float]
    ) -> None:
        """`limit_steps` for a budget in steps, None for money; `shares` of the budget are when to validate."""
        self.limit_usd = budget.limit_usd(meter.price)
        self.limit_steps = limit_steps
        self.shares = sorted(shares)
        self.shares_done = 0
        """How many of the shares have been validated."""
        self._meter, self._world = meter, world
        self._longest = CHECK_EVERY_STEPS.get(world.device.type, 1)

    def fraction(self, step: int) -> float:
        """Share of the budget that is spent after `step` steps; 1 where there is nothing to train."""
        if self.limit_usd is None:
            return step / self.limit_steps if self.limit_steps else 1.0
        return self._meter.charged_usd / self.limit_usd

    @property
    def step_fraction(self) -> float:
        """Share of the budget that the next step is expected to take; 0 when nothing is known yet."""
        if self.limit_usd is None:
            return 1 / self.limit_steps if self.limit_steps else 0.0
        return (self._meter.step_usd or 0.0) / self.limit_usd

    def steps_to_go(self, step: int) -> int:
        """How many steps to take before the next look at the clock; 0 when the next one would pass the budget."""
        spent, each = self.fraction(step), self.step_fraction
        left = 1 - spent
        if left < each * (1 - _ROUNDING) or left <= 0:
            return self._world.agree(0)
        if not each:
            return self._world.agree(1)
        due = min(left, self._next_share - spent)
        # Half of what is left, then half of the rest: a step that grows dearer on the way costs one step at most.
        certain = 1 if self.limit_usd is None else 2
        return self._world.agree(max(1, min(self._longest, int(due / each / certain + _ROUNDING))))

    def validation_due(self, step: int) -> bool:
        """Whether the next step would pass a share that has not been validated, and the budget pays for that step.

        So a share's validation is of the last step that it had paid for.
        """
        due = self._passed(step) > self.shares_done and self.fraction(step) + self.step_fraction <= 1 + _ROUNDING
        return bool(self._world.agree(int(due)))

    def validated(self, step: int) -> None:
        """Take note that the shares which the next step would pass have been validated."""
        self.shares_done = self._passed(step)

    def _passed(self, step: int) -> int:
        reached = self.fraction(step) + self.step_fraction
        return sum(share * (1 + _ROUNDING) < reached for share in self.shares) if step else 0

    @property
    def _next_share(self) -> float:
        return [*self.shares, 1.0][self.shares_done]

    @property
    def equalisation_error_pct(self) -> float | None:
        """How far the charged dollars lie from the budget, in per cent of it; None for a budget in steps."""
        return None if self.limit_usd is None else 100 * (self._meter.charged_usd / self.limit_usd - 1)

    def violation(self, tolerance: float) -> str | None:
        """Why the trial's charge is too far from its budget to be compared, if it is.

        `tolerance` is a share of the budget, and never tighter than one step.
        """
        error = self.equalisation_error_pct
        if error is not None and self.step_fraction > 1:
            return f"one step takes {self.step_fraction:.1f} times the budget, which pays for none; give more"
        allowed = 100 * max(tolerance, self.step_fraction)
        if error is None or abs(error) <= allowed:
            return None
        return f"charged {error:+.2f}% away from its budget, and the tolerance is {allowed:.2f}%"
