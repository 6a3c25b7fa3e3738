"""Where a run may be taken up again."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raysr.cost import DEFAULT_PRICE, Budget
from raysr.device import Device
from raysr.manifest import Manifest
from raysr.presets import CompareConfig
from raysr.resume import Resumed, read_resumed
from raysr.rows import TrialRow
from raysr.spec import TrainConfig
from raysr.trial_files import TrialFiles

HERE = Device("AMD EPYC, family 25 model 17 (2 cores)", "bfloat16")
OTHER = Device("AMD EPYC, family 26 model 2 (4 cores)", "bfloat16")
OLDER = Device("AMD EPYC, family 25 model 1 (2 cores)", "float32")
SHARES = {"use_gpu": False, "workers_per_trial": 1, "cpus_per_worker": 1, "max_concurrent": 2}


def begun(run: Path, precision: str = "auto", eval_precision: str = "float32", **info: Any) -> Resumed:
    (run / "run.json").write_text("{}")
    train = TrainConfig(precision=precision, eval_precision=eval_precision)  # type: ignore[arg-type]
    config = CompareConfig(preset="paper", archs=("espcn", "srcnn"), seeds=2, train=train)
    facts = {"device": HERE.name, "notional": True, "data": {}, "config": {"seeds": 2}} | info
    return Resumed(str(run), config, Budget(usd=1), DEFAULT_PRICE, "set", facts)


def test_money_by_the_clock_is_of_one_device(tmp_path: Path) -> None:
    run = begun(tmp_path, best_precision="bfloat16")
    run.check_device(HERE, use_gpu=False, every_cost_is_frozen=False)
    with pytest.raises(ValueError, match=r"was begun on AMD EPYC, family 25 model 17 .* seconds do not compare"):
        run.check_device(OTHER, use_gpu=False, every_cost_is_frozen=False)


def test_steps_at_a_frozen_cost_may_be_taken_on_another_device_of_the_kind(tmp_path: Path) -> None:
    run = begun(tmp_path, best_precision="bfloat16")
    run.check_device(OTHER, use_gpu=False, every_cost_is_frozen=True)
    with pytest.raises(ValueError, match="from CPU to CPU or from GPU to GPU"):
        run.check_device(Device("NVIDIA H100", "bfloat16"), use_gpu=True, every_cost_is_frozen=True)


def test_trials_share_a_processor_otherwise_only_where_every_cost_is_frozen(tmp_path: Path) -> None:
    run = begun(tmp_path, best_precision="bfloat16")
    two = replace(run, config=replace(run.config, max_concurrent=2))
    two.check_device(HERE, use_gpu=False, every_cost_is_frozen=True)
    with pytest.raises(ValueError, match=r"--max-concurrent 2 contradicts .* begun with 1: .* charges by the clock"):
        two.check_device(HERE, use_gpu=False, every_cost_is_frozen=False)
    # Each trial of a GPU has its own, however many there are.
    on_gpu = replace(two, info=two.info | {"notional": False, "device": "NVIDIA H100"})
    on_gpu.check_device(Device("NVIDIA H100", "bfloat16"), use_gpu=True, every_cost_is_frozen=False)


def test_a_run_goes_on_in_its_own_precision_alone(tmp_path: Path) -> None:
    run = begun(tmp_path, best_precision="bfloat16")
    with pytest.raises(ValueError, match=r"--precision auto, which came to bfloat16, and on .* comes to float32: go"):
        run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)
    told = begun(tmp_path, precision="float32", best_precision="bfloat16")
    told.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)
    half = begun(tmp_path, precision="float32", eval_precision="auto", best_precision="bfloat16")
    with pytest.raises(ValueError, match="was begun with --eval-precision auto, which came to bfloat16"):
        half.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)


def test_of_a_run_that_does_not_say_its_precision_the_trials_do(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)  # nothing was trained yet
    files = TrialFiles(str(tmp_path), "srcnn", 1)
    files.write_state(b"begun", 1)
    with pytest.raises(ValueError, match="is of an older version, and does not say in which precision it trains"):
        run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)
    row = TrialRow(arch="srcnn", seed=1, status="finished", params=1, perceptual_name="", steps=9, precision="bfloat16")
    files.write_row(row)
    run.check_device(OTHER, use_gpu=False, every_cost_is_frozen=True)
    with pytest.raises(ValueError, match="which came to bfloat16"):
        run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)
    run.note("now", OTHER, SHARES)
    assert json.loads((tmp_path / "run.json").read_text())["best_precision"] == "bfloat16"


def stored(run: Path, data: str, code: dict[str, str] | None = None, **settings: Any) -> str:
    """A run's `run.json`; `code` are hashes of networks of the user's own."""
    config = asdict(CompareConfig(preset="paper", seeds=3)) | settings
    for new in ("extend_seeds", "wait_for_gpus", "accelerator"):
        if new not in settings:
            del config[new]  # as in the file of an older version
    info = {"config": config, "budget": asdict(Budget(usd=1)), "price": asdict(DEFAULT_PRICE)}
    info["data"] = {"location": data, "content_sha256": Manifest.read(data).content_sha256}
    info |= {} if code is None else {"code": code}
    (run / "run.json").write_text(json.dumps(info))
    return str(run)


def test_seeds_can_be_added_to_a_run_and_are_said_to_be(tmp_path: Path, small_set: str) -> None:
    run = stored(tmp_path, small_set)
    again = CompareConfig(preset="paper", seeds=5, resume=run)
    assert read_resumed(again).config.seeds == 3
    more = read_resumed(replace(again, extend_seeds=5))
    assert more.config.seeds == 5
    more.note("now", HERE, SHARES)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["config"]["seeds"] == 5
    assert written["extended"] == [{"at": "now", "seeds": [3, 5]}]
    same = read_resumed(replace(again, extend_seeds=5))  # the same command, after the job was killed
    same.note("later", HERE, SHARES)
    assert json.loads((tmp_path / "run.json").read_text())["extended"] == written["extended"]
    assert read_resumed(replace(again, seeds=3, extend_seeds=5)).config.seeds == 5  # a flag of its beginning
    with pytest.raises(ValueError, match=r"--seeds 4 contradicts .* begun with 5: leave it out, or add seeds with"):
        read_resumed(replace(again, seeds=4))
    with pytest.raises(ValueError, match=r"--extend-seeds 4, but .* has 5 seeds already: give more, or leave it out"):
        read_resumed(replace(again, extend_seeds=4))
    with pytest.raises(ValueError, match="--extend-seeds adds seeds to a run: say which with --resume"):
        CompareConfig(preset="paper", extend_seeds=4)


def test_a_resumed_run_waits_for_the_gpus_that_are_asked_for_now(tmp_path: Path, small_set: str) -> None:
    run = stored(tmp_path, small_set, wait_for_gpus=4)
    again = CompareConfig(preset="paper", seeds=5, resume=run)
    assert read_resumed(again).config.wait_for_gpus == 4
    assert read_resumed(replace(again, wait_for_gpus=0)).config.wait_for_gpus == 0


def test_a_resumed_run_takes_the_accelerators_that_are_there_now(tmp_path: Path, small_set: str) -> None:
    run = stored(tmp_path, small_set, accelerator="A100")
    again = CompareConfig(preset="paper", seeds=5, resume=run)
    assert read_resumed(again).config.accelerator == "A100"
    assert read_resumed(replace(again, accelerator="H100")).config.accelerator == "H100"


def test_a_resumed_run_runs_as_many_trials_at_a_time_as_is_said_now(tmp_path: Path, small_set: str) -> None:
    run = stored(tmp_path, small_set, max_concurrent=4)
    again = CompareConfig(preset="paper", seeds=5, resume=run)
    assert read_resumed(again).config.max_concurrent == 4
    assert read_resumed(replace(again, max_concurrent=2)).config.max_concurrent == 2


def test_a_run_notes_on_what_it_was_taken_up_again(tmp_path: Path) -> None:
    run = begun(tmp_path, resumed=[{"at": "then", "commit": "abc"}])
    run.note("now", OTHER, SHARES)
    written = json.loads((tmp_path / "run.json").read_text())
    assert [(one["at"], one.get("device")) for one in written["resumed"]] == [("then", None), ("now", OTHER.name)]
    assert written["resumed"][1]["resources"] == SHARES
    assert written["data"] == {"location": "set"}
