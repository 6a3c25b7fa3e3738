"""The frozen cost of a step: its file, and what it may be used for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raysr.calibration import Calibration, Timing, conditions
from raysr.cost import Budget, Price, StepCost
from raysr.spec import TrainConfig, TrialSpec

RESOURCES = {"workers_per_trial": 1, "cpus_per_worker": 2, "max_concurrent": 1, "use_gpu": False}


@pytest.fixture
def spec(small_set: str, tmp_path: Path) -> TrialSpec:
    return TrialSpec(
        arch="espcn",
        seed=0,
        data=small_set,
        run=str(tmp_path / "run"),
        budget=Budget(usd=10),
        price=Price(usd_per_hour=3600, source="test", date="2026-11-24"),
        train=TrainConfig(batch_size=2, patch_px=16, perceptual="vgg-random"),
    )


@pytest.fixture
def calibration(spec: TrialSpec) -> Calibration:
    timing = Timing(arch="espcn", start_seconds=2.0, step_seconds=0.5, timed_steps=9, spent_seconds=30.0)
    return Calibration({}, {}).with_timing(timing, conditions(spec, "a card", RESOURCES))


def test_a_calibration_is_read_as_it_was_written_with_the_steps_for_people(
    calibration: Calibration, spec: TrialSpec, tmp_path: Path
) -> None:
    location = str(tmp_path / "calibration.json")
    calibration.write(location, [spec])
    assert Calibration.read(location) == calibration
    written = json.loads(Path(location).read_text())
    assert (written["budget_usd"], written["archs"]["espcn"]["steps"]) == (10, 16)


def test_several_rounds_come_to_their_median_and_tell_how_far_apart_they_were() -> None:
    rounds = [
        Timing(arch="espcn", start_seconds=start, step_seconds=step, timed_steps=9, spent_seconds=30.0)
        for start, step in ((1.0, 0.5), (3.0, 0.9), (2.0, 0.4))
    ]
    whole = Timing.over_rounds(rounds)
    assert (whole.start_seconds, whole.step_seconds, whole.rounds) == (2.0, 0.5, 3)
    assert (whole.timed_steps, whole.spent_seconds) == (27, 90.0)
    assert whole.spread == pytest.approx(1.0)
    assert Timing.over_rounds(rounds[:1]) == rounds[0]


def test_every_seed_of_a_timed_network_is_frozen_at_its_cost_and_others_are_left(
    calibration: Calibration, spec: TrialSpec
) -> None:
    specs = [spec, replace(spec, seed=1), replace(spec, arch="srcnn")]
    cost = StepCost(start_seconds=2.0, step_seconds=0.5)
    assert [one.frozen for one in calibration.freeze(specs)] == [cost, cost, None]
    assert [one.frozen_steps for one in calibration.freeze(specs)] == [16, 16, None]
    assert calibration.freeze([replace(spec, budget=Budget(samples=4))])[0].frozen_steps is None


def test_the_same_conditions_may_use_it_again_whatever_the_budget_and_the_rate(
    calibration: Calibration, spec: TrialSpec
) -> None:
    other = replace(spec, seed=4, budget=Budget(usd=99), train=replace(spec.train, learning_rate=1e-2))
    calibration.check([other, replace(spec, arch="bicubic")], "a card", RESOURCES, "FILE")


@pytest.mark.parametrize(
    ("change", "device", "cpus", "complaint"),
    [
        ({}, "another card", 2, r"FILE timed espcn under other conditions \(device is another card, then a card\)"),
        ({}, "a card", 1, r"cpus_per_worker is 1, then 2"),
        ({"train": TrainConfig(batch_size=4, patch_px=16)}, "a card", 2, r"batch_size is 4, then 2; perceptual is vgg"),
        ({"charged": ("train",)}, "a card", 2, r"charged is \['train'\], then \['compile', 'train', 'stall'\]"),
        ({"arch": "srcnn"}, "a card", 2, "FILE has no timing of srcnn; it has espcn: calibrate anew with --mode"),
    ],
)
def test_other_conditions_are_refused_by_name(
    change: dict[str, object], device: str, cpus: int, complaint: str, calibration: Calibration, spec: TrialSpec
) -> None:
    with pytest.raises(ValueError, match=complaint):
        calibration.check([replace(spec, **change)], device, RESOURCES | {"cpus_per_worker": cpus}, "FILE")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("patch_px", 24),
        ("batch_size", 4),
        ("precision", "bfloat16"),
        ("loss", "l1"),
        ("perceptual", "vgg"),
        ("micro_batch", 1),
        ("compile", "default"),
    ],
)
def test_every_setting_that_moves_the_time_of_a_step_is_a_condition(
    name: str, other: object, calibration: Calibration, spec: TrialSpec
) -> None:
    changed = replace(spec, train=replace(spec.train, **{name: other}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"under other conditions \({name} is {other}, then "):
        calibration.check([changed], "a card", RESOURCES, "FILE")


@pytest.mark.parametrize("name", ["workers_per_trial", "cpus_per_worker", "max_concurrent"])
def test_every_share_of_the_machine_is_a_condition(name: str, calibration: Calibration, spec: TrialSpec) -> None:
    with pytest.raises(ValueError, match=rf"under other conditions \({name} is 7, then "):
        calibration.check([spec], "a card", RESOURCES | {name: 7}, "FILE")


def test_a_network_that_is_timed_later_joins_those_that_were(calibration: Calibration, spec: TrialSpec) -> None:
    other = replace(spec, arch="srcnn")
    timing = replace(calibration.timings["espcn"], arch="srcnn", step_seconds=1.0)
    both = calibration.with_timing(timing, conditions(other, "a card", RESOURCES))
    both.check([spec, other], "a card", RESOURCES, "FILE")
    assert [one.frozen_steps for one in both.freeze([spec, other])] == [16, 8]


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"archs": {"espcn": {"timing": {}}}}', '{"archs": 3}'])
def test_a_file_that_is_no_calibration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no calibration\.json of a run"):
        Calibration.read(str(tmp_path / "x.json"))
    with pytest.raises(FileNotFoundError, match=r"there is no calibration at .*y\.json: give the calibration\.json"):
        Calibration.read(str(tmp_path / "y.json"))
