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
from raysr.spec import TrainConfig

HERE = Device("AMD EPYC, family 25 model 17 (2 cores)", "bfloat16")
OTHER = Device("AMD EPYC, family 26 model 2 (4 cores)", "bfloat16")
OLDER = Device("AMD EPYC, family 25 model 1 (2 cores)", "float32")


def begun(run: Path, precision: str = "auto", **info: Any) -> Resumed:
    (run / "run.json").write_text("{}")
    config = CompareConfig(preset="paper", train=TrainConfig(precision=precision))  # type: ignore[arg-type]
    facts = {"device": HERE.name, "notional": True, "data": {}} | info
    facts["config"] = {"seeds": config.seeds}
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


def test_a_run_goes_on_in_its_own_precision_alone(tmp_path: Path) -> None:
    run = begun(tmp_path, best_precision="bfloat16")
    with pytest.raises(ValueError, match=r"trains in bfloat16, which --precision auto came to on .* comes to float32"):
        run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)
    told = begun(tmp_path, precision="float32", best_precision="bfloat16")
    told.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)


def test_of_a_run_that_does_not_say_its_precision_the_trials_do(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)  # nothing was trained yet
    rows = [{"arch": "espcn", "precision": None}, {"arch": "srcnn", "precision": "bfloat16"}]
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.check_device(OTHER, use_gpu=False, every_cost_is_frozen=True)
    with pytest.raises(ValueError, match="trains in bfloat16"):
        run.check_device(OLDER, use_gpu=False, every_cost_is_frozen=True)


def stored(run: Path, data: str, **settings: Any) -> str:
    """A run's `run.json`."""
    config = asdict(CompareConfig(preset="paper", seeds=3)) | settings
    for new in ("extend_seeds", "wait_for_gpus"):
        if new not in settings:
            del config[new]  # as in the file of an older version
    info = {"config": config, "budget": asdict(Budget(usd=1)), "price": asdict(DEFAULT_PRICE)}
    info["data"] = {"location": data, "content_sha256": Manifest.read(data).content_sha256}
    (run / "run.json").write_text(json.dumps(info))
    return str(run)


def test_seeds_can_be_added_to_a_run_and_are_said_to_be(tmp_path: Path, small_set: str) -> None:
    run = stored(tmp_path, small_set)
    again = CompareConfig(preset="paper", seeds=5, resume=run)
    assert read_resumed(again).config.seeds == 3
    more = read_resumed(replace(again, extend_seeds=5))
    assert more.config.seeds == 5
    more.note("now", HERE)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["config"]["seeds"] == 5
    assert written["extended"] == [{"at": "now", "seeds": [3, 5]}]
    same = read_resumed(replace(again, extend_seeds=5))  # the same command, after the job was killed
    same.note("later", HERE)
    assert json.loads((tmp_path / "run.json").read_text())["extended"] == written["extended"]
    with pytest.raises(ValueError, match=r"--extend-seeds 4, but .* has 5 seeds already: give more, or leave it out"):
        read_resumed(replace(again, extend_seeds=4))
    with pytest.raises(ValueError, match="--extend-seeds adds seeds to a run: say which with --resume"):
        CompareConfig(preset="paper", extend_seeds=4)


def test_a_resumed_run_waits_for_the_gpus_that_are_asked_for_now(tmp_path: Path, small_set: str) -> None:
    run = stored(tmp_path, small_set, wait_for_gpus=4)
    again = CompareConfig(preset="paper", seeds=5, resume=run)
    assert read_resumed(again).config.wait_for_gpus == 4
    assert read_resumed(replace(again, wait_for_gpus=2)).config.wait_for_gpus == 2


def test_a_run_notes_on_what_it_was_taken_up_again(tmp_path: Path) -> None:
    run = begun(tmp_path, resumed=[{"at": "then", "commit": "abc"}])
    run.note("now", OTHER)
    written = json.loads((tmp_path / "run.json").read_text())
    assert [(one["at"], one.get("device")) for one in written["resumed"]] == [("then", None), ("now", OTHER.name)]
    assert written["data"] == {"location": "set"}
