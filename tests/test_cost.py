import contextlib
from datetime import date

import pytest

from raysr.cost import DEFAULT_PRICE, PAPER_BUDGET, Budget, CostMeter, Price, format_usd
from raysr.prices import DEFAULT_PRICE_NAME, PRICES, find_price

DOLLAR_A_SECOND = Price(usd_per_hour=3600, source="test", date="2026-11-24")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def spend(meter: CostMeter, clock: Clock, seconds: float, steps: int = 1, waiting: float = 0.0) -> None:
    with meter.training(steps):
        with meter.waiting_for_data():
            clock.now += waiting
        clock.now += seconds


def test_steps_and_waiting_for_data_are_charged_and_nothing_else_is() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    for name, seconds in (("setup", 10), ("eval", 20), ("checkpoint", 40)):
        with meter.segment(name):
            clock.now += seconds
    clock.now += 1000  # outside of any segment
    spend(meter, clock, 3, waiting=2)
    measured = {name: seconds for name, seconds in meter.seconds.items() if seconds}
    assert measured == {"setup": 10, "train": 3, "stall": 2, "eval": 20, "checkpoint": 40}
    assert meter.charged_usd == pytest.approx(5)
    assert meter.billed_usd == pytest.approx(75)


def test_every_accelerator_is_paid_until_the_slowest_is_done() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, accelerators=4, clock=clock, slowest=lambda seconds: seconds + 1)
    spend(meter, clock, 2)
    assert meter.charged_seconds == pytest.approx(12)
    assert meter.charged_usd == pytest.approx(12)
    assert meter.step_usd == pytest.approx(12)
    with meter.segment("eval"):
        clock.now += 5
    assert meter.billed_usd == pytest.approx(4 * (3 + 5))


def test_the_device_is_waited_for_at_both_ends_and_not_at_every_step() -> None:
    waits: list[float] = []
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock, synchronise=lambda: waits.append(clock.now))
    spend(meter, clock, 8, steps=8)
    assert waits == [0, 8]
    assert meter.step_usd == pytest.approx(1)
    with meter.segment("eval"):
        clock.now += 5
    assert waits == [0, 8, 8, 13]


def test_the_next_step_is_expected_to_cost_the_median_of_the_latest() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    assert meter.step_usd is None
    for seconds in (50, 1, 1, 1.5, 1, 2, 1, 1, 1):
        spend(meter, clock, seconds)
    assert meter.step_usd == pytest.approx(1)
    for _ in range(5):
        spend(meter, clock, 3)
    assert meter.step_usd == pytest.approx(3)


def test_waiting_for_data_is_counted_once_however_often_it_happens() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    for waiting in (2, 0.5, 0):
        spend(meter, clock, 3, waiting=waiting)
    assert (meter.seconds["stall"], meter.seconds["train"]) == pytest.approx((2.5, 9))


def test_time_is_counted_when_the_work_raises() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    with contextlib.suppress(ZeroDivisionError), meter.segment("eval"):
        clock.now += 7
        _ = 1 / 0
    assert meter.seconds["eval"] == 7


def test_a_segment_inside_another_is_counted_once() -> None:
    clock = Clock()
    meter = CostMeter(DOLLAR_A_SECOND, clock=clock)
    with meter.segment("checkpoint"):
        clock.now += 1
        with meter.segment("idle"):
            clock.now += 5
        clock.now += 2
        with meter.segment("idle"):
            clock.now += 7
    assert (meter.seconds["checkpoint"], meter.seconds["idle"]) == (3, 12)
    assert meter.billed_usd == pytest.approx(15)


def test_what_lies_in_no_segment_is_a_figure_of_its_own_and_only_of_this_attempt() -> None:
    clock = Clock()
    first = CostMeter(DOLLAR_A_SECOND, clock=clock)
    spend(first, clock, 50)
    later = CostMeter(DOLLAR_A_SECOND, clock=clock)
    later.load_state(first.state())
    later.lose(20)
    spend(later, clock, 9)
    clock.now += 1
    assert later.unaccounted_share == pytest.approx(0.1)
    assert (later.seconds["lost"], later.billed_usd, later.charged_usd) == (20, pytest.approx(79), pytest.approx(59))


def test_what_is_charged_can_be_chosen() -> None:
    meter = CostMeter(DOLLAR_A_SECOND, clock=Clock(), charged=("train", "lost"))
    meter.lose(20)
    assert meter.charged_usd == pytest.approx(20)


def test_the_ledger_goes_on_from_a_checkpoint() -> None:
    clock = Clock()
    meter, later = CostMeter(DOLLAR_A_SECOND, clock=clock), CostMeter(DOLLAR_A_SECOND, clock=clock)
    spend(meter, clock, 4, waiting=1)
    for attempt in (meter, later):
        with attempt.segment("setup"):
            clock.now += 30
    spend(later, clock, 0)  # whatever was measured before the checkpoint was read
    later.load_state(meter.state())
    assert later.seconds["setup"] == pytest.approx(60)
    assert later.charged_usd == pytest.approx(5)
    assert later.step_usd == pytest.approx(5)
    spend(later, clock, 2)
    assert later.charged_usd == pytest.approx(7)
    assert meter.charged_usd == pytest.approx(5)


def test_seconds_of_an_accelerator_are_dollars_at_its_price() -> None:
    assert Budget(gpu_seconds=3600).limit_usd(DEFAULT_PRICE) == pytest.approx(0.27)
    assert Budget(usd=5.2).limit_usd(DEFAULT_PRICE) == 5.2
    assert Budget(epochs={"espcn": 1}).limit_usd(DEFAULT_PRICE) is None


def test_epochs_become_steps_for_each_architecture() -> None:
    budget = Budget(epochs={"espcn": 40, "srcnn": 50})
    assert budget.limit_steps("srcnn", steps_per_epoch=431, batch_size=8) == 21550
    assert Budget(usd=1).limit_steps("srcnn", steps_per_epoch=431, batch_size=8) is None
    with pytest.raises(ValueError, match="names no number for 'unet'; it has espcn, srcnn"):
        budget.limit_steps("unet", steps_per_epoch=431, batch_size=8)


def test_samples_and_flops_become_whole_steps_and_pay_for_one_at_least() -> None:
    assert Budget(samples=100).limit_steps("srcnn", steps_per_epoch=9, batch_size=8) == 12
    assert Budget(flops=1e12).limit_steps("srcnn", steps_per_epoch=9, batch_size=8, step_flops=3e11) == 3
    with pytest.raises(ValueError, match=r"--budget.samples 7 pays for no step of srcnn, which takes 8"):
        Budget(samples=7).limit_steps("srcnn", steps_per_epoch=9, batch_size=8)
    with pytest.raises(ValueError, match=r"--budget.flops 1e\+09 pays for no step of srcnn, which takes 3e\+11"):
        Budget(flops=1e9).limit_steps("srcnn", steps_per_epoch=9, batch_size=8, step_flops=3e11)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(),
            r"give exactly one of --budget.usd, --budget.gpu-seconds, .*--budget.epochs; got {}",
        ),
        (Budget(usd=1, gpu_seconds=2), "give exactly one of .* {'usd': 1, 'gpu_seconds': 2}"),
        (Budget(usd=0), "--budget.usd must be above 0 and finite, got 0"),
        (Budget(usd=float("inf")), "--budget.usd must be above 0 and finite, got inf"),
        (Budget(gpu_seconds=-3), "--budget.gpu.seconds must be above 0 and finite, got -3"),
        (Budget(epochs={"espcn": 0}), "--budget.epochs must be above 0"),
        (Budget(epochs={}), "--budget.epochs must be above 0"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(budget: Budget, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        budget.checked()


@pytest.mark.parametrize("usd", [0, -1, float("nan")])
def test_a_price_must_be_above_0(usd: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 dollars an hour"):
        Price(usd_per_hour=usd, source="", date="")


def test_a_price_is_a_name_or_a_number_and_stands_with_its_source_and_date() -> None:
    assert find_price(DEFAULT_PRICE_NAME, "2030-01-01") == DEFAULT_PRICE
    assert "RTX A5000" in DEFAULT_PRICE.source
    given = find_price("2.5", "2030-01-01")
    assert (given.usd_per_hour, given.source, given.date) == (2.5, "given with --price", "2030-01-01")
    assert find_price("a10g-aws", "2030-01-01").accelerator == "A10G"


@pytest.mark.parametrize("name", PRICES)
def test_every_price_of_the_table_says_what_whose_and_when(name: str) -> None:
    price = PRICES[name]
    assert price.accelerator is not None
    assert price.provider_kind in {"on demand", "spot", "serverless"}
    assert date.fromisoformat(price.date) <= date(2026, 11, 24)
    assert 0.1 < price.usd_per_hour < 10


def test_an_unknown_price_gets_a_hint_and_the_table() -> None:
    with pytest.raises(ValueError, match=r"got 'h100-smx-lambda'; did you mean 'h100-sxm-lambda'\? known: rtx-a5000"):
        find_price("h100-smx-lambda", "2030-01-01")
    for bad in ("0", "nan", "inf", "-1"):
        with pytest.raises(ValueError, match="must be above 0 dollars an hour"):
            find_price(bad, "2030-01-01")


def test_the_papers_budget_is_what_it_paid() -> None:
    assert Budget(usd=5.20) == PAPER_BUDGET


@pytest.mark.parametrize(
    ("usd", "shown"), [(0, "$0.00"), (5.2, "$5.20"), (0.0018751, "$0.00188"), (0.14, "$0.140"), (123.456, "$123.46")]
)
def test_dollars_are_shown_with_the_digits_that_count(usd: float, shown: str) -> None:
    assert format_usd(usd) == shown
