import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysr.cost import DEFAULT_PRICE, Budget, StepCost
from raysr.evaluate import MEAN_NAMES, evaluate, to_uint8, upscale
from raysr.flops import count_arch
from raysr.losses import load_perceptual
from raysr.memory import estimate_step
from raysr.models import build_model
from raysr.objective import Objective
from raysr.pairs import PairSet
from raysr.perceptual import PerceptualLoss
from raysr.progress import Progress
from raysr.runs import unfinished_row
from raysr.spec import TrainConfig, TrialSpec
from raysr.telling import row_of
from raysr.train import SETTLE_S, TIMED_BLOCKS, WARMUP_STEPS, Reporter, run_trial, time_steps
from raysr.trial import DEAD_AFTER_CHECKS, Trial
from raysr.trial_files import TrialFiles
from raysr.world import World

CONFIG = TrainConfig(learning_rate=1e-3, batch_size=2, patch_px=16, perceptual="vgg-random", evaluate_at=(0.5,))
QUICK = replace(CONFIG, loss="l1")
"""For tests of many steps that are not about the loss."""
SILENT = Reporter(lambda progress: None)


class Clock:
    """Stands still but for `advance`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def make_trial(small_set: str, tmp_path: Path) -> Callable[..., Trial]:
    def make(
        arch: str = "espcn",
        budget: Budget | None = None,
        step_seconds: Callable[[int], float] = lambda step: 1.0,
        run: str = "run",
        train: TrainConfig = CONFIG,
        **more: Any,
    ) -> Trial:
        """A trial whose steps take `step_seconds(step)` of its own clock."""
        spec = TrialSpec(
            arch=arch,
            seed=3,
            data=small_set,
            run=str(tmp_path / run),
            budget=budget or Budget(gpu_seconds=10),
            price=DEFAULT_PRICE,
            train=train,
            **more,
        )
        clock = Clock()
        trial = Trial(spec, World(), clock=clock)
        if trial.optimizer is not None:
            trial.optimizer.register_step_post_hook(lambda *_: clock.advance(step_seconds(trial.step)))
        return trial

    return make


def weights(trial: Trial) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trial.model.state_dict().items()}


def test_two_steps_and_two_more_after_a_checkpoint_equal_four(make_trial: Callable[..., Trial]) -> None:
    straight = make_trial()
    straight.take_steps(4)
    first = make_trial()
    first.take_steps(2)
    first.validate()
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    second = make_trial()
    second.load_state(torch.load(io.BytesIO(buffer.getvalue())))
    second.take_steps(2)
    assert second.step == 4
    assert [point.step for point in second.curve] == [2]
    assert second.meter.charged_usd == pytest.approx(straight.meter.charged_usd)
    assert second.meter.step_usd == pytest.approx(straight.meter.step_usd)
    for name, tensor in weights(straight).items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_a_trial_ends_on_the_last_step_that_its_budget_pays(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(gpu_seconds=10), step_seconds=lambda step: 0.7)
    row = run_trial(trial, SILENT)
    assert row.status == "finished"
    assert row.steps == 14
    assert row.charged_usd == pytest.approx(DEFAULT_PRICE.usd(9.8))
    assert row.budget_usd == pytest.approx(DEFAULT_PRICE.usd(10))
    assert row.usd_per_epoch == pytest.approx(DEFAULT_PRICE.usd(0.7 * 3))
    assert row.samples_per_s == pytest.approx(2 / 0.7)


def test_steps_that_grow_dearer_overshoot_by_less_than_one_of_them(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(gpu_seconds=20), step_seconds=lambda step: 0.1 * 1.1**step)
    run_trial(trial, SILENT)
    assert trial.meter.charged_seconds < 20 + 0.1 * 1.1**trial.step
    assert trial.meter.charged_seconds > 20 - 0.1 * 1.1**trial.step


def test_a_trial_that_has_spent_its_budget_takes_no_step_after_a_resume(make_trial: Callable[..., Trial]) -> None:
    spent = make_trial(budget=Budget(gpu_seconds=3))
    run_trial(spent, SILENT)
    assert spent.step == 3
    again = make_trial(budget=Budget(gpu_seconds=3))
    again.load_state(spent.state())
    row = run_trial(again, SILENT)
    assert row.steps == 3
    assert row.charged_usd == pytest.approx(DEFAULT_PRICE.usd(3))


class CrashError(Exception):
    pass


@pytest.mark.parametrize("seconds", [1.0, 3.7])
def test_dear_and_cheap_steps_end_within_one_of_the_budget_through_a_crash(
    seconds: float, make_trial: Callable[..., Trial]
) -> None:
    budget, saved = Budget(gpu_seconds=60), []

    class Keep(Reporter):
        def validated(self, trial: Trial) -> None:
            buffer = io.BytesIO()
            torch.save(trial.state(), buffer)
            saved.append(buffer.getvalue())

    def crash(*_: object) -> None:
        if first.meter.charged_seconds > 45:
            raise CrashError

    first = make_trial(budget=budget, step_seconds=lambda step: seconds, train=QUICK)
    assert first.optimizer is not None
    first.optimizer.register_step_pre_hook(crash)
    with pytest.raises(CrashError):
        run_trial(first, Keep(lambda progress: None))
    # A worker's last words: what it had spent when the heartbeat came.
    first._last_entry = -1e9
    first.enter("heartbeat")
    second = make_trial(budget=budget, step_seconds=lambda step: seconds, train=QUICK)
    second.load_state(torch.load(io.BytesIO(saved[-1])))
    kept = second.meter.charged_seconds
    assert 30 - seconds < kept <= 30
    row = run_trial(second, SILENT)
    assert row.status == "finished"
    assert 60 - seconds < second.meter.charged_seconds <= 60 + 1e-6
    assert row.steps == int(60 / seconds)
    assert row.attempts == 2
    assert row.seconds is not None
    assert row.seconds["lost"] == pytest.approx(first.meter.charged_seconds - kept)
    assert row.billed_usd == pytest.approx(DEFAULT_PRICE.usd(sum(row.seconds.values())))
    events = [(entry.attempt, entry.event) for entry in second.ledger.read()]
    assert events[0] == (1, "start")
    assert events[-1] == (2, "end")
    assert (1, "checkpoint") in events


def test_checkpoints_come_by_the_clock_too_and_a_resumed_trial_goes_on_exactly_there(
    make_trial: Callable[..., Trial],
) -> None:
    budget = Budget(samples=28)  # 14 steps
    calm = run_trial(make_trial(budget=budget, run="calm", train=QUICK), SILENT)
    first = make_trial(budget=budget, checkpoint_every_s=3.0, train=QUICK)
    assert first.optimizer is not None

    def crash(*_: object) -> None:
        if first.step == 12:
            raise CrashError

    first.optimizer.register_step_pre_hook(crash)
    with pytest.raises(CrashError):
        run_trial(first, SILENT)
    # By the clock after 3 and 6 steps, by the validation after half (7), by the clock again after 10.
    assert [entry.step for entry in first.ledger.read() if entry.event == "checkpoint"] == [0, 3, 6, 7, 10]
    second = make_trial(budget=budget, checkpoint_every_s=3.0, train=QUICK)
    second.load_state(torch.load(io.BytesIO(second.files.read_state() or b"")))
    assert second.step == 10
    row = run_trial(second, SILENT)
    exact = ("steps", *MEAN_NAMES, "perceptual_start")
    assert [getattr(row, name) for name in exact] == [getattr(calm, name) for name in exact]
    one, two = (TrialFiles(trial.run, "espcn", 3).read_curve() for trial in (first.files, make_trial(run="calm").files))
    assert [(point.step, point.loss) for point in one] == [(point.step, point.loss) for point in two]


@pytest.mark.parametrize("when", ["validation", "clock"])
def test_a_worker_that_was_given_up_for_dead_overwrites_nothing_when_it_comes_back(
    when: str, make_trial: Callable[..., Trial]
) -> None:
    train, seconds = (QUICK, 300.0) if when == "validation" else (replace(QUICK, evaluate_at=()), 2.0)
    late = make_trial(budget=Budget(samples=12), checkpoint_every_s=seconds, train=train)
    later = make_trial(budget=Budget(samples=12), train=QUICK)
    files, kept = Path(late.spec.run), dict[Path, bytes]()

    class Suspended(Reporter):
        def validated(self, trial: Trial) -> None:
            later.load_state(torch.load(io.BytesIO(late.files.read_state() or b"")))
            later.begin()
            kept.update({file: file.read_bytes() for file in files.rglob("*") if file.is_file()})

    with pytest.raises(RuntimeError, match="attempt 1 is over: attempt 2 has begun on"):
        run_trial(late, Suspended(lambda progress: None))
    now = {file: file.read_bytes() for file in files.rglob("*") if file.is_file()}
    journal = Path(late.ledger.location)
    assert {file for file in now if now[file] != kept.get(file)} <= {journal}
    assert late.step < 6


def test_a_trial_killed_between_its_last_validation_and_its_row_keeps_its_curve(
    make_trial: Callable[..., Trial],
) -> None:
    budget = Budget(samples=8)

    class Die(Reporter):
        def validated(self, trial: Trial) -> None:
            if trial.step == 4:
                raise CrashError

    calm = make_trial(budget=budget, run="calm")
    run_trial(calm, SILENT)
    first, second = make_trial(budget=budget), make_trial(budget=budget)
    with pytest.raises(CrashError):
        run_trial(first, Die(lambda progress: None))
    second.load_state(torch.load(io.BytesIO(second.files.read_state() or b"")))
    run_trial(second, SILENT)
    assert second.curve[-1].loss is not None
    assert [(p.step, p.loss, p.perceptual) for p in second.curve] == [
        (p.step, p.loss, p.perceptual) for p in calm.curve
    ]


def test_a_trial_resumed_before_its_first_step_does_not_validate_there_again(make_trial: Callable[..., Trial]) -> None:
    class Die(Reporter):
        def validated(self, trial: Trial) -> None:
            raise CrashError

    first, second = (make_trial(budget=Budget(samples=4), train=replace(QUICK, evaluate_at=())) for _ in range(2))
    with pytest.raises(CrashError):
        run_trial(first, Die(lambda progress: None))
    second.load_state(torch.load(io.BytesIO(second.files.read_state() or b"")))
    row = run_trial(second, SILENT)
    validations = [(entry.attempt, entry.step) for entry in second.ledger.read() if entry.event == "validation"]
    assert validations == [(1, 0), (2, 2)]
    assert [point.step for point in second.curve] == [0, 2]
    assert row.perceptual_start == first.curve[0].perceptual


def test_at_a_frozen_cost_unlike_clocks_leave_the_same_trial(make_trial: Callable[..., Trial]) -> None:
    frozen = StepCost(start_seconds=2, step_seconds=0.8)
    config = replace(CONFIG, schedule="cosine", warmup=0.1)
    slow, fast = (
        run_trial(
            make_trial(step_seconds=lambda step, s=seconds: s, run=f"{seconds}", frozen=frozen, train=config), SILENT
        )
        for seconds in (3.0, 0.1)
    )
    assert (slow.status, slow.steps) == ("finished", 10)
    assert slow.charged_usd == pytest.approx(DEFAULT_PRICE.usd(10))
    assert slow.equalisation_error_pct == pytest.approx(0)
    assert (slow.metered_usd, fast.metered_usd) == pytest.approx((DEFAULT_PRICE.usd(30), DEFAULT_PRICE.usd(1)))
    exact = ("steps", "charged_usd", *MEAN_NAMES)
    assert [getattr(slow, name) for name in exact] == [getattr(fast, name) for name in exact]


def test_a_step_is_timed_by_its_median_and_the_start_is_counted_once(make_trial: Callable[..., Trial]) -> None:
    # The first step compiles for 20 s, others' work slows the next ones down; one of the timed ones is held up.
    settling = range(WARMUP_STEPS, WARMUP_STEPS + 5)
    seconds = {1: 20.0} | dict.fromkeys(settling, SETTLE_S / 4.5) | {settling.stop + 4: 9.0}
    trial = make_trial("srcnn", step_seconds=lambda step: seconds.get(step, 0.7))
    timing = time_steps(trial)
    assert timing.cost.step_seconds == pytest.approx(0.7)
    assert timing.cost.start_seconds == pytest.approx(19.3)
    assert (timing.timed_steps, trial.step) == (TIMED_BLOCKS, TIMED_BLOCKS + WARMUP_STEPS + len(settling))
    assert timing.cost.seconds(3) == pytest.approx(20 + 2 * 0.7)
    assert timing.spent_seconds >= 20 + 2 * 0.7 + SETTLE_S + 9 + 8 * 0.7 - 1e-6


def test_validation_and_reporting_are_free(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(gpu_seconds=4))
    clock = trial.meter._clock
    assert isinstance(clock, Clock)

    class Slow(Reporter):
        def validated(self, trial: Trial) -> None:
            clock.advance(1000)

    row = run_trial(trial, Slow(lambda progress: None))
    assert row.steps == 4
    assert row.charged_usd == pytest.approx(DEFAULT_PRICE.usd(4))
    assert row.billed_usd > DEFAULT_PRICE.usd(3000)


def test_a_budget_of_epochs_is_taken_to_the_step(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(epochs={"espcn": 2}))
    row = run_trial(trial, SILENT)
    assert (row.steps, row.epochs, row.budget_usd) == (6, 2.0, None)


def test_a_budget_of_samples_or_of_operations_is_taken_to_the_step(make_trial: Callable[..., Trial]) -> None:
    samples = run_trial(make_trial(budget=Budget(samples=9)), SILENT)
    assert (samples.steps, samples.status, samples.equalisation_error_pct) == (4, "finished", None)
    assert samples.step_flops is not None
    flops = run_trial(make_trial(budget=Budget(flops=3.5 * samples.step_flops), run="flops"), SILENT)
    assert flops.steps == 3
    assert flops.network_flops is not None
    assert 0 < flops.network_flops < samples.step_flops
    assert "relu" in str(flops.uncounted_operations)


def test_the_curve_begins_before_the_first_step_and_ends_after_the_last(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(gpu_seconds=8))
    row = run_trial(trial, SILENT)
    assert [point.step for point in trial.curve] == [0, 4, 8]
    assert [point.fraction for point in trial.curve] == pytest.approx([0, 0.5, 1])
    assert trial.curve[0].charged_usd == 0
    assert row.perceptual_start == trial.curve[0].perceptual
    assert row.perceptual == trial.curve[-1].perceptual
    assert row.perceptual != row.perceptual_start


def test_a_trial_leaves_weights_scores_and_a_picture_that_agree(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(gpu_seconds=2))
    row = run_trial(trial, SILENT)
    folder = Path(trial.spec.run)
    assert row.checkpoint is not None
    model = build_model("espcn", 2)
    model.load_state_dict(load_file(folder / row.checkpoint))
    first = PairSet(trial.spec.data, "val").read_group(0)[0]
    picture = np.asarray(Image.open(folder / "trials/espcn-3/picture.png"))
    assert np.array_equal(picture, to_uint8(upscale(model, first, torch.device("cpu"), "float32")))
    files = TrialFiles(trial.spec.run, "espcn", 3)
    assert files.read_row() == row
    assert files.read_curve() == trial.curve
    pictures = [score.image_id for score in trial.scores]
    kept = [(score["step"], score["image_id"]) for score in files.read_images()]
    assert kept == [(step, picture) for step in (0, 1, 2) for picture in pictures]
    assert [score["perceptual"] for score in files.read_images()[-2:]] == [score.perceptual for score in trial.scores]


def test_a_network_whose_picture_has_died_ends_as_dead_with_money_left(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial("inverted_unet3", Budget(gpu_seconds=100))
    with torch.no_grad():
        trial.model.layers[-2].bias.fill_(-100)
    row = run_trial(trial, SILENT)
    assert row.status == "dead"
    assert row.steps == DEAD_AFTER_CHECKS


def test_a_network_that_died_before_a_checkpoint_is_given_up_after_as_many_checks_as_ever(
    make_trial: Callable[..., Trial],
) -> None:
    first, second = (make_trial("inverted_unet3", Budget(gpu_seconds=100)) for _ in range(2))
    with torch.no_grad():
        first.model.layers[-2].bias.fill_(-100)
    first.validate()
    for _ in range(DEAD_AFTER_CHECKS - 3):
        first.take_steps(1)
    assert first.fault() is None
    second.load_state(first.state())
    row = run_trial(second, SILENT)
    assert (row.status, row.steps) == ("dead", DEAD_AFTER_CHECKS)


def test_a_loss_that_is_no_number_ends_the_trial_as_diverged(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial("srcnn", Budget(gpu_seconds=100))
    with torch.no_grad():
        trial.model.layers[0].bias.fill_(float("nan"))
    row = run_trial(trial, SILENT)
    assert (row.status, row.steps) == ("diverged", 1)


def test_a_network_whose_last_picture_is_no_number_has_diverged_and_not_finished(
    make_trial: Callable[..., Trial],
) -> None:
    trial = make_trial("srcnn", Budget(samples=4))
    steps = trial.optimizer
    assert steps is not None

    def break_after_the_last(*_: object) -> None:
        if trial.step == 1:  # counted after the second step
            with torch.no_grad():
                trial.model.layers[0].bias.fill_(float("nan"))

    steps.register_step_post_hook(break_after_the_last)
    row = run_trial(trial, SILENT)
    assert (row.status, row.steps) == ("diverged", 2)


def test_bicubic_is_scored_and_spends_nothing(make_trial: Callable[..., Trial]) -> None:
    row = run_trial(make_trial("bicubic"), SILENT)
    assert (row.status, row.steps, row.charged_usd, row.params) == ("finished", 0, 0.0, 0)
    assert row.perceptual is not None
    assert row.psnr is not None
    assert row.psnr > 20


def test_random_crops_leave_validation_on_whole_squares(make_trial: Callable[..., Trial]) -> None:
    whole = make_trial("bicubic", train=replace(CONFIG, patch_px=None))
    crops = make_trial("bicubic")
    whole.validate()
    crops.validate()
    assert crops.scores == whole.scores


def test_the_seed_decides_the_first_weights_and_nothing_else_does(make_trial: Callable[..., Trial]) -> None:
    torch.manual_seed(99)
    one = weights(make_trial())
    torch.rand(7)
    two = weights(make_trial())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_row_made_for_an_interrupted_trial_holds_its_last_validation(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(budget=Budget(gpu_seconds=8))

    class Interrupt(Reporter):
        def validated(self, trial: Trial) -> None:
            if trial.step:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, Interrupt(lambda progress: None))
    row = unfinished_row(trial.spec, "interrupted", "stopped", "LPIPS (random VGG)")
    assert (row.status, row.steps, row.params) == ("interrupted", 4, 21284)
    assert row.perceptual == trial.curve[-1].perceptual
    assert row.perceptual_start == trial.curve[0].perceptual
    assert (row.attempts, row.billed_usd) == (1, trial.ledger.read()[-1].billed_usd)
    assert row.billed_usd >= row.charged_usd
    assert (Path(trial.spec.run) / str(row.checkpoint)).is_file()


def test_progress_tells_how_long_the_rest_will_take(make_trial: Callable[..., Trial]) -> None:
    seen: list[Progress] = []

    class Watch(Reporter):
        def progress(self, progress: Progress) -> None:
            seen.append(progress)

    run_trial(make_trial(budget=Budget(gpu_seconds=8)), Watch(lambda progress: None))
    half = next(progress for progress in seen if progress.validations == 2)
    assert half.fraction == pytest.approx(0.5)
    assert half.seconds_left == pytest.approx(4)
    assert (seen[-1].phase, seen[-1].status) == ("ended", "finished")


def test_every_network_finishes_its_schedule_whatever_its_steps_cost(make_trial: Callable[..., Trial]) -> None:
    config = replace(QUICK, schedule="cosine", warmup=0.1)
    for seconds in (0.1, 0.37):
        trial = make_trial(budget=Budget(gpu_seconds=10), step_seconds=lambda step, s=seconds: s, train=config)
        rates: list[float] = []
        assert trial.optimizer is not None
        trial.optimizer.register_step_pre_hook(lambda optimizer, *_, r=rates: r.append(optimizer.param_groups[0]["lr"]))
        run_trial(trial, SILENT)
        assert max(rates) == pytest.approx(1e-3, rel=0.01)
        assert rates[-1] < 0.01 * max(rates)
        peak = rates.index(max(rates))
        assert peak / len(rates) == pytest.approx(0.1, abs=0.05)
        assert rates[:peak] == sorted(rates[:peak])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_trial_far_from_its_budget_is_marked_invalid_with_the_reason(make_trial: Callable[..., Trial]) -> None:
    # The last of 32 steps takes 5 s instead of 0.3.
    trial = make_trial(budget=Budget(gpu_seconds=10), step_seconds=lambda step: 5 if step == 31 else 0.3)
    row = run_trial(trial, SILENT)
    assert row.status == "invalid"
    assert row.equalisation_error_pct == pytest.approx(43)
    assert row.error == "charged +43.00% away from its budget, and the tolerance is 3.00%"
    assert row.perceptual is not None


def test_a_trial_in_parts_ends_where_a_whole_one_does_and_a_resumed_one_keeps_its_parts(
    make_trial: Callable[..., Trial],
) -> None:
    exact = replace(CONFIG, precision="float32")
    whole, parts = make_trial(train=exact), make_trial(train=replace(exact, micro_batch=1))
    for trial in (whole, parts):
        trial.take_steps(2)
    assert (whole.stepper.micro_batch, parts.stepper.micro_batch) == (2, 1)
    for name, tensor in weights(whole).items():
        # Adam makes a whole step of whatever sign a gradient of about 0 has.
        assert (parts.model.state_dict()[name] - tensor).abs().mean() < 1e-5, name
    resumed = make_trial(train=exact)
    resumed.load_state(parts.state())
    assert resumed.stepper.micro_batch == 1
    parts.validate()
    assert (row_of(parts, "finished").micro_batch, row_of(parts, "finished").threads) == (1, torch.get_num_threads())


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")  # the tests' own check of shapes
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
def test_compilation_is_charged_once_and_shown_and_not_again_after_a_resume(make_trial: Callable[..., Trial]) -> None:
    train = replace(CONFIG, compile="default", precision="float32")
    trial = make_trial(train=train)
    seen: list[float] = []
    trial.meter._clock = clock = Clock()  # only compilation takes time on this clock
    trial.stepper.warm_up = lambda *pairs, real=trial.stepper.warm_up: (real(*pairs), clock.advance(7))
    trial.take_steps(1)
    seen.append(trial.meter.seconds["compile"])
    trial.take_steps(1)
    assert seen == [trial.meter.seconds["compile"]] == [7]
    trial.validate()
    assert row_of(trial, "finished").seconds["compile"] == 7
    plain = make_trial(train=replace(train, compile="off"))
    plain.take_steps(2)
    for name, tensor in weights(plain).items():
        assert (trial.model.state_dict()[name] - tensor).abs().mean() < 1e-5, name
    resumed = make_trial(train=train)
    resumed.load_state(trial.state())
    before = dict(resumed.meter.seconds)
    resumed.take_steps(1)
    assert resumed.meter.seconds["compile"] == before["compile"] == 7


@pytest.mark.parametrize(
    "bad",
    [
        {"micro_batch": 0},
        {"learning_rate": 0},
        {"batch_size": 0},
        {"evaluate_at": (0.5, 1.0)},
        {"warmup": 1.0},
        {"warmup": -0.1},
    ],
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be above 0|between 0 and 1|from 0 to below 1|at least one pair"):
        replace(CONFIG, **bad)


NORMALISED = "srresnet(blocks=1)"
"""Its batch normalisation has statistics that every rank gathers for itself."""


def two_workers(rank: int, address: str, data: str, run: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    spec = TrialSpec(
        arch=NORMALISED,
        seed=0,
        data=data,
        run=run,
        budget=Budget(epochs={NORMALISED: 2}),
        price=DEFAULT_PRICE,
        train=replace(CONFIG, evaluate_at=()),
    )
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    trial = Trial(spec, World.current(torch.device("cpu")), wrap=DistributedDataParallel)
    row = run_trial(trial, SILENT)
    assert not torch.backends.cudnn.allow_tf32
    torch.save({"weights": weights(trial), "row": row, "train": trial.meter.seconds}, f"{run}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_train_one_network_and_both_are_paid(small_set: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.multiprocessing.spawn(two_workers, (f"file://{tmp_path}/meet", small_set, str(run)), nprocs=2)
    one, two = (torch.load(run / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert one["row"].steps == two["row"].steps == 6
    assert one["row"].charged_usd == pytest.approx(
        DEFAULT_PRICE.usd(2 * (one["train"]["train"] + one["train"]["stall"]))
    )
    for name, tensor in one["weights"].items():
        assert torch.equal(two["weights"][name], tensor), name
    # Validation is shared out: both pictures are in rank 0's scores.
    files = TrialFiles(str(run), NORMALISED, 0)
    images = files.read_images()[-2:]
    assert [(score["step"], score["image_id"]) for score in images] == [(6, "02.png"), (6, "04.png")]
    # Both were scored with the network that the checkpoint holds.
    model = build_model(NORMALISED, 2)
    model.load_state_dict(load_file(run / files.checkpoint))
    val = PairSet(small_set, "val").rows()
    scores = evaluate(model, val, load_perceptual("vgg-random"), device=torch.device("cpu"), precision="float32")
    for score, image in zip(sorted(scores, key=lambda score: score.image_id), images, strict=True):
        assert score.psnr == pytest.approx(image["psnr"], abs=1e-4)


@pytest.mark.parametrize("loss", ["l1", "0.8*lpips+0.2*charbonnier"])
def test_another_loss_is_minimised_and_the_network_is_judged_as_ever(
    loss: str, make_trial: Callable[..., Trial]
) -> None:
    trial = make_trial(train=replace(CONFIG, loss=loss), budget=Budget(samples=24))
    row = run_trial(trial, SILENT)
    assert (row.status, row.steps, row.perceptual_name) == ("finished", 12, "LPIPS (random VGG)")
    assert trial.curve[-1].loss is not None
    assert trial.curve[-1].loss < trial.curve[1].loss
    assert row.psnr > trial.curve[0].psnr


def random_layer(scale: int) -> nn.Module:
    """A network of the user's own whose steps draw random numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(8, scale**2, 1), nn.PixelShuffle(scale)
    )


def test_layers_that_draw_random_numbers_go_on_exactly_where_they_were(make_trial: Callable[..., Trial]) -> None:
    straight, first, second = (make_trial(arch=f"{__name__}:random_layer") for _ in range(3))
    straight.take_steps(2)
    straight.take_steps(2)
    first.take_steps(1)
    torch.rand(7)
    first.take_steps(1)
    state = io.BytesIO()
    torch.save(first.state(), state)
    second.load_state(torch.load(io.BytesIO(state.getvalue())))
    second.take_steps(2)
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(second)[name], tensor), name


def test_a_loss_that_needs_larger_squares_is_counted_on_them(make_trial: Callable[..., Trial]) -> None:
    with pytest.raises(ValueError, match=r"unknown loss 'ssim'.*did you mean 'ms_ssim'"):
        replace(CONFIG, loss="ssim")
    loss = Objective("ms_ssim", load_perceptual("vgg-random"), "float32")
    model = build_model("espcn", 2)
    assert count_arch(model, loss, 512, 2, least_px=loss.least_px).total > 0
    assert estimate_step(model, loss, 512, 2, "float32", least_px=loss.least_px).pair > 0


def test_a_second_trial_reads_the_targets_that_the_first_one_kept_and_the_last_validation_alone_has_every_score(
    small_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = PerceptualLoss.features, list[int]()
    monkeypatch.setattr(PerceptualLoss, "features", lambda self, y: (seen.append(len(y)), plain(self, y))[1])
    counts: list[int] = []
    for seed in range(2):
        train = replace(CONFIG, loss="l1", perceptual="vgg", evaluate_at=())
        spec = TrialSpec(
            arch="espcn",
            seed=seed,
            data=small_set,
            run=str(tmp_path / "run"),
            budget=Budget(samples=4),
            price=DEFAULT_PRICE,
            train=train,
            targets=str(tmp_path / "run" / "targets"),
        )
        before = len(seen)
        trial = Trial(spec, World(device=torch.device("cpu")))
        run_trial(trial, Reporter(lambda _: None))
        counts.append(len(seen) - before)
        first, last = trial.files.read_curve()
        assert (first.perceptual_content, last.perceptual_content is None) == (None, False)
    # Two pictures: before the first step and at the end, there inside the content too (both pictures, never kept).
    assert counts == [2 + 2 + 2 + 4, 2 + 2 + 4]
    assert len(list((tmp_path / "run" / "targets").iterdir())) == 2


def test_every_validation_has_every_score_where_that_is_asked_for(small_set: str, tmp_path: Path) -> None:
    train = replace(CONFIG, loss="l1", evaluate_at=(), judge_between="all")
    spec = TrialSpec(
        arch="bicubic",
        seed=0,
        data=small_set,
        run=str(tmp_path / "run"),
        budget=Budget(samples=4),
        price=DEFAULT_PRICE,
        train=train,
    )
    trial = Trial(spec, World(device=torch.device("cpu")))
    trial.validate()
    assert trial.curve[-1].perceptual_content is not None
    assert trial.alex is not None
    assert Trial(replace(spec, second_opinion=False), World(device=torch.device("cpu"))).alex is None
