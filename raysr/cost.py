"""Money: prices, budgets, and the meter that turns seconds of an accelerator into dollars."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

Segment = Literal["setup", "compile", "train", "stall", "eval", "checkpoint", "idle", "lost"]
"""What a worker's time goes to. stall: waiting for data. idle: waiting for Ray to take a report over. lost: work after
the last checkpoint before a crash, done again."""

CHARGED: tuple[Segment, ...] = ("compile", "train", "stall")
"""What a trial pays for unless told otherwise: its steps, their compilation and its waiting for data."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What an hour of one accelerator costs."""

    usd_per_hour: float
    source: str
    date: str
    """When it was looked up, ISO 8601."""
    accelerator: str | None = None
    """The model that is priced, where the price says so."""
    provider_kind: str | None = None
    """`on demand`, `spot`, `serverless`, ..."""

    def __post_init__(self) -> None:
        if not 0 < self.usd_per_hour < float("inf"):
            raise ValueError(f"a price must be above 0 dollars an hour, got {self.usd_per_hour}")

    def usd(self, accelerator_seconds: float) -> float:
        """Dollars for that many seconds of one accelerator."""
        return accelerator_seconds * self.usd_per_hour / 3600

    def seconds(self, usd: float) -> float:
        """Seconds of one accelerator that so many dollars pay for."""
        return usd * 3600 / self.usd_per_hour


DEFAULT_PRICE = Price(
    usd_per_hour=0.27,
    accelerator="RTX A5000",
    provider_kind="on demand",
    source="RTX A5000 (the paper's card), catalogue price of a rented one at RunPod; $0.26 in an older copy of it",
    date="2026-11-24",
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every trial may spend: one of these, or none for the default of whoever reads it."""

    usd: float | None = None
    """Dollars, metered."""
    gpu_seconds: float | None = None
    """Seconds of one accelerator, metered; at one price the same as dollars."""
    flops: float | None = None
    """Floating-point operations of the training steps, loss included, as torch counts them."""
    samples: int | None = None
    """Squares (or crops) trained on."""
    epochs: dict[str, int] | None = None
    """Passes over the training set, by architecture, whatever they cost."""

    def checked(self) -> "Budget":
        """Itself; raises ValueError unless exactly one budget is given and it is above 0."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            flags = ", ".join(f"--budget.{name.replace('_', '-')}" for name in vars(self))
            raise ValueError(f"give exactly one of {flags}; got {given}")
        (name, value), *_ = given.items()
        values = value.values() if isinstance(value, dict) else [value]
        if not values or not 0 < min(values) <= max(values) < math.inf:
            raise ValueError(f"--budget.{name} must be above 0 and finite, got {value}")
        return self

    def limit_usd(self, price: Price) -> float | None:
        """The budget in dollars; None for one that is in steps."""
        if self.gpu_seconds is not None:
            return price.usd(self.gpu_seconds)
        return self.usd

    def limit_steps(
        self, arch: str, *, steps_per_epoch: int, batch_size: int, step_flops: float | None = None
    ) -> int | None:
        """The budget in whole steps; None for money.

        `step_flops` are those of a whole batch, needed for a budget of them. Raises ValueError for an architecture
        without a number of epochs, and for a budget that does not pay for one step.
        """
        if self.epochs is not None:
            if arch not in self.epochs:
                raise ValueError(f"--budget.epochs names no number for {arch!r}; it has {', '.join(self.epochs)}")
            return self.epochs[arch] * steps_per_epoch
        if self.samples is not None:
            name, steps, each = "samples", self.samples // batch_size, float(batch_size)
        elif self.flops is not None:
            assert step_flops is not None  # noqa: S101
            name, steps, each = "flops", int(self.flops // step_flops), step_flops
        else:
            return None
        if steps < 1:
            raise ValueError(
                f"--budget.{name} {getattr(self, name):g} pays for no step of {arch}, which takes {each:g}"
            )
        return steps


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What training one network costs, timed once and then frozen; in seconds over all of a trial's accelerators."""

    start_seconds: float
    """What the first steps take longer than later ones: warm-up and compilation, once a trial."""
    step_seconds: float

    def __post_init__(self) -> None:
        if not (0 < self.step_seconds < math.inf and 0 <= self.start_seconds < math.inf):
            raise ValueError(f"a step must take more than 0 seconds and its start at least 0, got {self}")

    def seconds(self, steps: int) -> float:
        """Of `steps` steps from the first one on."""
        return self.start_seconds + steps * self.step_seconds if steps else 0.0

    def steps(self, seconds: float) -> int:
        """How many whole steps `seconds` pay for."""
        return max(0, math.floor((seconds - self.start_seconds) / self.step_seconds + ROUNDING))


ROUNDING = 1e-9
"""Sums of dollars carry rounding errors: so much of a step is forgiven."""

PAPER_BUDGET = Budget(usd=5.20)
"""What the paper paid for its Inverted U-Net; it paid $5.60 for each of the other two."""


def format_usd(usd: float) -> str:
    """Dollars for people: cents where there are dollars, three digits that count below."""
    return f"${usd:.2f}" if usd >= 1 or usd == 0 else f"${usd:#.3g}"


class CostMeter:
    """Seconds by segment on a monotonic clock, and what they cost: those of `charged` segments, and all (`billed`).

    `synchronise` waits for the device and is called at both ends of a segment, so keep segments several steps long.
    `slowest` turns this rank's elapsed seconds into the slowest rank's: all accelerators are paid until the last one
    is done. Clock and price can be injected.
    """

    def __init__(
        self,
        price: Price,
        *,
        accelerators: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        synchronise: Callable[[], None] = lambda: None,
        slowest: Callable[[float], float] = lambda seconds: seconds,
        charged: Sequence[Segment] = CHARGED,
    ) -> None:
        self.price = price
        self.charged = tuple(charged)
        self.accelerators = accelerators
        self.seconds: dict[Segment, float] = dict.fromkeys(get_args(Segment), 0.0)
        self._clock = clock
        self._synchronise = synchronise
        self._slowest = slowest
        self._waited = 0.0
        self._inside = 0.0
        self._begun = clock()
        self._before = 0.0
        self._step_seconds: deque[float] = deque(maxlen=9)

    @contextmanager
    def segment(self, name: Segment) -> Generator[None, None, None]:
        """Count the time inside as `name`, less that of segments inside it."""
        self._synchronise()
        start, outside = self._clock(), self._inside
        self._inside = 0.0
        try:
            yield
        finally:
            self._synchronise()
            elapsed = self._clock() - start
            self.seconds[name] += elapsed - self._inside
            self._inside = outside + elapsed

    @contextmanager
    def training(self, steps: int) -> Generator[None, None, None]:
        """Count the time inside as `steps` training steps, less what `waiting_for_data` took of it."""
        self._waited = 0.0
        self._synchronise()
        start = self._clock()
        yield
        # Not after an error: the other ranks would wait for ever for this one to agree on the time.
        self._synchronise()
        elapsed = self._slowest(self._clock() - start)
        self.seconds["stall"] += self._waited
        self.seconds["train"] += elapsed - self._waited
        self._step_seconds.append(elapsed / steps)

    @contextmanager
    def waiting_for_data(self) -> Generator[None, None, None]:
        """Count the time inside, a part of `training`, as `stall`."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @property
    def charged_seconds(self) -> float:
        """Accelerator-seconds charged so far, over all accelerators."""
        return self.accelerators * sum(self.seconds[name] for name in self.charged)

    @property
    def charged_usd(self) -> float:
        """Dollars charged so far."""
        return self.price.usd(self.charged_seconds)

    @property
    def billed_usd(self) -> float:
        """Dollars for every measured second, charged or not."""
        return self.price.usd(self.accelerators * sum(self.seconds.values()))

    @property
    def unaccounted_share(self) -> float:
        """Share of this attempt's wall time since the meter was made that lies in no segment."""
        wall = self._clock() - self._begun
        return 1 - (sum(self.seconds.values()) - self._before) / wall if wall > 0 else 0.0

    def lose(self, seconds: float) -> None:
        """Take over `seconds` of an earlier attempt that no checkpoint kept."""
        self.seconds["lost"] += seconds
        self._before += seconds

    @property
    def step_usd(self) -> float | None:
        """Expected cost of the next step: the median of the latest ones; None before the first."""
        if not self._step_seconds:
            return None
        return self.price.usd(self.accelerators * median(self._step_seconds))

    def state(self) -> dict[str, Any]:
        """The ledger, to be kept in a checkpoint."""
        return {"seconds": dict(self.seconds), "step_seconds": list(self._step_seconds)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's ledger; what this attempt has measured already, its set-up, is kept."""
        for name in self.seconds:
            self.seconds[name] += state["seconds"][name]
        self._before += sum(state["seconds"].values())
        self._step_seconds.clear()
        self._step_seconds.extend(state["step_seconds"])
