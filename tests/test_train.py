import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import prepare_here, synthetic
from PIL import Image
from rich.console import Console
from torch import nn

from raysr.cost import Budget
from raysr.images import Geometry
from raysr.manifest import ManifestError
from raysr.models import count_parameters
from raysr.models.espcn import ESPCN
from raysr.presets import CompareConfig
from raysr.resume import read_resumed
from raysr.spec import TrainConfig
from raysr.train_one import TrainOneConfig, train_one

ROOT = Path(__file__).parents[1]
TRAIN = TrainConfig(learning_rate=1e-3, batch_size=2, patch_px=16, evaluate_at=(0.5,))


def test_a_network_trained_alone_leaves_a_run_like_a_comparison(small_set: str, tmp_path: Path) -> None:
    said = io.StringIO()
    budget = Budget(gpu_seconds=4)  # so short that a busy machine may miss it by more than a real one's tolerance
    config = TrainOneConfig(
        arch="espcn", data=small_set, out=str(tmp_path / "runs"), budget=budget, tolerance=0.5, train=TRAIN
    )
    outcome = train_one(config, Console(file=said, width=200))
    assert (outcome.error, outcome.interrupted) == (None, False)
    (trial,) = outcome.run.trials
    assert trial.status == "finished"
    assert trial.charged_usd == pytest.approx(4 * 0.27 / 3600, rel=0.5)
    assert outcome.run.info["price"]["usd_per_hour"] == 0.27
    assert outcome.run.info["perceptual"]["name"] == "LPIPS (VGG)"
    assert (
        outcome.run.info["data"]["content_sha256"]
        == json.loads(Path(small_set, "manifest.json").read_text())["content_sha256"]
    )
    assert outcome.run.curves["step"].iloc[0] == 0
    assert sorted(outcome.run.images["image_id"]) == sorted(pd.unique(outcome.run.images["image_id"]))
    lines = said.getvalue().splitlines()
    assert lines[0] == f"run folder: {outcome.run.folder}"
    # A line a validation (start, half, end) and one for the end of the trial.
    assert [line.split("  ")[1] for line in lines[1:]] == ["training", "training", "training", "finished"]


def test_a_folder_without_a_set_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    config = TrainOneConfig(arch="espcn", data=str(tmp_path), out=str(tmp_path / "runs"), train=TRAIN)
    with pytest.raises(ManifestError, match=r"holds no prepared set \(manifest.json is missing\).*jobs/prepare.py"):
        train_one(config, Console(file=io.StringIO()))
    assert not (tmp_path / "runs").exists()


def set_with(folder: Path, *val: np.ndarray) -> str:
    """A prepared set that validates on these pictures of 40 x 30 pixels."""
    pictures = {f"train/{index}.png": synthetic(index, 40, 30) for index in range(3)}
    for name, picture in (pictures | {f"val/{index}.png": one for index, one in enumerate(val)}).items():
        file = folder / "photographs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return prepare_here(str(folder / "photographs"), folder / "set", Geometry(hr_px=32, fit="pad"))


BLANK = np.full((30, 40, 3), 200, np.uint8)


def test_a_validation_picture_of_one_value_is_counted_in_the_row_and_in_no_mean(tmp_path: Path) -> None:
    data = set_with(tmp_path, BLANK, synthetic(8, 40, 30))
    outcome = train_one(
        TrainOneConfig(arch="bicubic", data=data, out=str(tmp_path / "runs"), train=TRAIN), Console(file=io.StringIO())
    )
    (trial,), images = outcome.run.trials, outcome.run.images
    assert (trial.status, trial.flat_targets, trial.at_ceiling) == ("finished", 1, 0)
    (photograph,) = images[~images["flat"]].to_dict("records")
    for name in ("psnr", "psnr_content", "ssim", "perceptual"):
        assert getattr(trial, name) == pytest.approx(photograph[name]), name
    assert list(outcome.run.curves["flat_targets"]) == [1]


def test_a_set_that_validates_on_nothing_but_blanks_is_refused_before_it_trains(tmp_path: Path) -> None:
    config = TrainOneConfig(arch="espcn", data=set_with(tmp_path, BLANK), out=str(tmp_path / "runs"), train=TRAIN)
    with pytest.raises(ValueError, match=r"every validation target of .* is one value everywhere"):
        train_one(config, Console(file=io.StringIO()))


def test_a_network_that_does_not_enlarge_is_refused_before_it_trains(small_set: str, tmp_path: Path) -> None:
    # The identity gives back the size that it was given.
    config = TrainOneConfig(arch="torch.nn:Identity", data=small_set, out=str(tmp_path / "runs"), train=TRAIN)
    with pytest.raises(ValueError, match=r"must turn \[1, 1, 16, 16\] into floats \[1, 1, 32, 32\] at scale 2, gave"):
        train_one(config, Console(file=io.StringIO()))


def test_crops_too_small_for_a_network_are_refused_before_it_trains(small_set: str, tmp_path: Path) -> None:
    config = TrainOneConfig(arch="hat(width=60, groups=1)", data=small_set, out=str(tmp_path / "runs"), train=TRAIN)
    with pytest.raises(ValueError, match=r"8 x 8 pixels are too few for HAT, which takes 9 a side and more"):
        train_one(config, Console(file=io.StringIO()))


def thirds_only(scale: int) -> nn.Module:
    """A network of the user's own that there is for one scale alone."""
    if scale != 3:
        raise RuntimeError("made for x3")
    return ESPCN(scale)


def test_a_network_that_there_is_for_another_scale_alone_is_trained_on_it(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = prepare_here(str(picture_folder(4)), tmp_path / "set3", Geometry(hr_px=36, scale=3, fit="pad"))
    arch, budget = f"{__name__}:thirds_only", Budget(samples=4)
    config = TrainOneConfig(
        arch=arch, data=data, out=str(tmp_path / "runs"), budget=budget, train=replace(TRAIN, patch_px=18)
    )
    (trial,) = train_one(config, Console(file=io.StringIO())).run.trials
    assert (trial.status, trial.steps, trial.params) == ("finished", 2, count_parameters(ESPCN(3)))


def test_an_unknown_architecture_gets_a_hint() -> None:
    with pytest.raises(ValueError, match=r"unknown architecture 'espn'; did you mean 'espcn'\?"):
        TrainOneConfig(arch="espn", data="set")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_stopped_keeps_what_was_reached_and_goes_on(
    small_set: str, tmp_path: Path, stop: signal.Signals
) -> None:
    command = [sys.executable, "jobs/train.py", "espcn", "--data", small_set, "--out", str(tmp_path / "runs")]
    command += ["--budget.samples", "1600", "--batch-size", "2", "--patch-px", "16", "--evaluate-at", "0.02"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if "of budget 2%" in line:
                break
        job.send_signal(stop)
        out, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "stopped before the end" in err
    assert "report.html" in out
    (run,) = (tmp_path / "runs").iterdir()
    row = json.loads((run / "trials.jsonl").read_text())
    assert row["status"] == "interrupted"
    assert row["steps"] > 0
    assert (run / row["checkpoint"]).is_file()
    assert (run / "report.html").stat().st_size > 1_000_000  # plotly is inside
    if stop == signal.SIGINT:
        return
    again = TrainOneConfig(resume=str(run))
    outcome = train_one(again, Console(file=io.StringIO()))
    (ended,) = outcome.run.trials
    assert (ended.status, ended.steps, ended.attempts) == ("finished", 800, 2)
    assert len(outcome.run.info["resumed"]) == 1
    # What has ended stays as it is.
    assert train_one(again, Console(file=io.StringIO())).run.trials == [ended]


def test_a_run_goes_on_with_its_own_settings_alone(small_set: str, tmp_path: Path) -> None:
    config = TrainOneConfig(
        arch="espcn", data=small_set, out=str(tmp_path / "runs"), budget=Budget(samples=4), train=TRAIN
    )
    run = train_one(config, Console(file=io.StringIO())).run.folder
    for change, message in (
        ({"seed": 3}, r"--seed 3 contradicts .*, which was begun with 0: leave it out"),
        ({"arch": "srcnn"}, r"the architecture srcnn contradicts"),
        ({"budget": Budget(samples=8)}, r"--budget.samples 8 contradicts .*, which was begun with 4"),
        (
            {"train": replace(TRAIN, learning_rate=0.5)},
            r"--learning-rate 0.5 contradicts .*, which was begun with 0.001",
        ),
        ({"data": str(tmp_path / "nowhere")}, r"where the set of .* lies elsewhere now, say --data DIR"),
    ):
        with pytest.raises(ValueError, match=message):
            train_one(TrainOneConfig(**{"resume": run} | change), Console(file=io.StringIO()))  # type: ignore[arg-type]
    same = TrainOneConfig(resume=run, budget=Budget(samples=4), train=replace(TrainConfig(), learning_rate=1e-3))
    train_one(same, Console(file=io.StringIO()))  # what agrees is no contradiction
    with pytest.raises(ValueError, match=r"is a run of jobs/train.py: go on with it by jobs/train.py --resume"):
        read_resumed(CompareConfig(preset="paper", resume=run))
    with pytest.raises(FileNotFoundError, match=r"holds no run.json"):
        train_one(TrainOneConfig(resume=str(tmp_path)), Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "--seed takes a whole number of at least 0, got -1"),
        ({"tolerance": 0.0}, "--tolerance takes a share"),
        ({"checkpoint_every_s": 0.0}, "--checkpoint-every-s takes seconds above 0"),
        ({"data": None}, r"name an architecture and --data DIR, or a run to go on with: --resume RUN"),
        ({"price": "0"}, "a price must be above 0 dollars"),
        ({"price": "nothing"}, "nothing"),
        ({"budget": Budget(usd=-1)}, "above 0"),
        ({"train": replace(TRAIN, batch_size=100)}, "fewer than a batch of 100"),
        ({"arch": "torch.nn:Identity"}, "must turn"),
    ],
)
def test_what_cannot_run_leaves_no_folder_of_a_run(
    change: dict[str, object], message: str, small_set: str, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    words = {"arch": "espcn", "data": small_set, "out": str(out), "train": TRAIN} | change
    with pytest.raises(ValueError, match=message):
        train_one(TrainOneConfig(**words), Console(file=io.StringIO()))  # type: ignore[arg-type]
    assert not list(out.glob("*"))


class Breaks(nn.Module):
    """A network of the user's own that fails in training alone."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.inner = ESPCN(scale)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if self.training and torch.is_grad_enabled():
            raise KeyError("a fault of its own")
        return self.inner(lr)


def test_a_network_that_fails_leaves_a_row_with_its_error(small_set: str, tmp_path: Path) -> None:
    arch, budget = f"{__name__}:Breaks", Budget(samples=4)
    config = TrainOneConfig(arch=arch, data=small_set, out=str(tmp_path / "runs"), budget=budget, train=TRAIN)
    outcome = train_one(config, Console(file=io.StringIO()))
    (row,) = outcome.run.trials
    assert (row.status, row.cause) == ("failed", "network")
    assert row.error is not None
    assert "a fault of its own" in row.error
    assert outcome.error == row.error
