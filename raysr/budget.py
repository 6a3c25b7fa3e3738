"""How far a budget goes: the share that is spent, the steps that it still pays for, and what hangs on that share."""

import math
from collections.abc import Sequence
from typing import Literal

from raysr.cost import ROUNDING, Budget, CostMeter, StepCost
from raysr.world import World

CHECK_EVERY_STEPS = {"cpu": 1, "cuda": 8}
"""Steps between two looks at the clock: a GPU must be waited for, which costs time; a CPU never runs ahead."""

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
    """One trial's budget against its meter; every rank gets the same answers.

    A budget is either money that the meter charges, or a number of steps that is known from the start: one given in
    steps, or money at a frozen cost of a step (`frozen`), where the charge is that cost and not the clock's.
    """

    def __init__(
        self,
        budget: Budget,
        meter: CostMeter,
        world: World,
        *,
        limit_steps: int | None,
        shares: Sequence[float],
        frozen: StepCost | None = None,
    ) -> None:
        """`limit_steps` where they are known, None for metered money; `shares` of the budget are when to validate."""
        self.limit_usd = budget.limit_usd(meter.price)
        self.limit_steps = limit_steps
        self.shares = sorted(shares)
        self.shares_done = 0
        """How many of the shares have been validated."""
        self._meter, self._world, self._frozen = meter, world, frozen
        self._pace = -1, 0.0, 0.0
        """The step at which the clock was last looked at, the share of the budget spent by then, and that of a step."""
        self._longest = CHECK_EVERY_STEPS.get(world.device.type, 1)

    def charged_usd(self, step: int) -> float:
        """What the trial has been charged after `step` steps: by the clock, or at the frozen cost."""
        return self._meter.charged_usd if self._frozen is None else self._meter.price.usd(self._frozen.seconds(step))

    def fraction(self, step: int) -> float:
        """Share of the budget that is spent after `step` steps; 1 where there is nothing to train."""
        if self.limit_usd is None:
            return step / self.limit_steps if self.limit_steps else 1.0
        return self.charged_usd(step) / self.limit_usd

    @property
    def step_fraction(self) -> float:
        """Share of the budget that the next step is expected to take; 0 when nothing is known yet."""
        if self.limit_usd is None:
            return 1 / self.limit_steps if self.limit_steps else 0.0
        if self._frozen is not None:
            return self._meter.price.usd(self._frozen.step_seconds) / self.limit_usd
        return (self._meter.step_usd or 0.0) / self.limit_usd

    def midway(self, step: int, ahead: int) -> float:
        """Share of the budget that is spent in the middle of the step `ahead` steps after the clock stood at `step`.

        Where the number of steps is known it does not hang on when the clock was looked at.
        """
        if self.limit_steps is not None:
            return self.fraction(step + ahead) + self.step_fraction / 2
        if ahead == 0 or self._pace[0] != step:
            # Each rank's clock has its own set-up and waiting, and all must learn at one rate.
            self._pace = step, self._world.same(self.fraction(step)), self._world.same(self.step_fraction)
        _, spent, each = self._pace
        return spent + (ahead + 0.5) * each

    def steps_to_go(self, step: int) -> int:
        """How many steps to take before the next look at the clock; 0 when the next one would pass the budget."""
        spent, each = self.fraction(step), self.step_fraction
        left = 1 - spent
        if self.limit_steps is not None:
            if step >= self.limit_steps:
                return 0
            certain, most = 1, min(self._longest, self.limit_steps - step)
        else:
            if left < each * (1 - ROUNDING) or left <= 0:
                return self._world.agree(0)
            # Half of what is left, then half of the rest: a step that grows dearer on the way costs one step at most.
            certain, most = 2, self._longest
        if not each:
            return self._world.agree(1)
        due = min(left, self._next_share - spent)
        return self._world.agree(max(1, min(most, int(due / each / certain + ROUNDING))))

    def validation_due(self, step: int) -> bool:
        """Whether the next step would pass a share that has not been validated, and the budget pays for that step.

        So a share's validation is of the last step that it had paid for.
        """
        due = self._passed(step) > self.shares_done and self.fraction(step) + self.step_fraction <= 1 + ROUNDING
        return bool(self._world.agree(int(due)))

    def validated(self, step: int) -> None:
        """Take note that the shares which the next step would pass have been validated."""
        self.shares_done = self._passed(step)

    def paid_share(self, step: int) -> float:
        """The largest share to validate at, or 1 for the end, that the step after `step` would pass; 0 for none."""
        return [0.0, *self.shares, 1.0][self._passed(step) + self._passes(1.0, step)]

    def _passed(self, step: int) -> int:
        return sum(self._passes(share, step) for share in self.shares)

    def _passes(self, share: float, step: int) -> bool:
        return step > 0 and share * (1 + ROUNDING) < self.fraction(step) + self.step_fraction

    @property
    def _next_share(self) -> float:
        return [*self.shares, 1.0][self.shares_done]

    def equalisation_error_pct(self, step: int) -> float | None:
        """How far the charged dollars lie from the budget, in per cent of it; None for a budget in steps."""
        return None if self.limit_usd is None else 100 * (self.fraction(step) - 1)

    def violation(self, step: int, tolerance: float) -> str | None:
        """Why the charge after `step` steps is too far from the budget to be compared, if it is.

        `tolerance` is a share of the budget, and never tighter than one step.
        """
        error = self.equalisation_error_pct(step)
        if error is not None and self.step_fraction > 1:
            return f"one step takes {self.step_fraction:.1f} times the budget, which pays for none; give more"
        allowed = 100 * max(tolerance, self.step_fraction)
        if error is None or abs(error) <= allowed:
            return None
        return f"charged {error:+.2f}% away from its budget, and the tolerance is {allowed:.2f}%"
