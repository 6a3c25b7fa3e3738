"""A finished run is judged again by other weights and on other sets, all seeds at once, without training."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prepare_here, synthetic
from PIL import Image
from rich.console import Console
from skimage import data as photographs

from raysr.benchmark import EvaluateConfig
from raysr.cost import DEFAULT_PRICE, Budget
from raysr.device import this_device
from raysr.images import Geometry
from raysr.judge_run import RunEvaluation, evaluate_run, images_of, print_run_evaluation
from raysr.losses import perceptual_infos
from raysr.pairs import PairSet
from raysr.provenance import RunInfo
from raysr.runs import Run, gather, unfinished_row
from raysr.spec import TrainConfig, TrialSpec
from raysr.statistics import estimate, score_table
from raysr.train import Reporter, run_trial
from raysr.trial import Trial
from raysr.world import World

JOB = Path(__file__).parents[1] / "jobs" / "evaluate.py"


def make_run(data: str, folder: str, seeds: int) -> None:
    """Bicubic and `seeds` of ESPCN, trained for two steps on the set in `data`, and a trial that failed."""
    scale = PairSet(data, "val").geometry.scale
    train = TrainConfig(batch_size=2, patch_px=6 * scale, loss="l1", evaluate_at=())
    specs = [
        TrialSpec(
            arch=arch,
            seed=seed,
            data=data,
            run=folder,
            budget=Budget(samples=4),
            price=DEFAULT_PRICE,
            train=train,
            scale=scale,
        )
        for arch, seed in (("bicubic", 0), *(("espcn", seed) for seed in range(seeds)), ("srcnn", 0))
    ]
    perceptual, alex = perceptual_infos("vgg", None, None)
    RunInfo(
        preset="paper",
        device=this_device("cpu"),
        notional=True,
        perceptual=perceptual,
        alex=alex,
        specs=specs,
        config=train,
        resources={},
        figure_image_id="none",
    ).write()
    rows = [run_trial(Trial(spec, World(device=torch.device("cpu"))), Reporter(lambda _: None)) for spec in specs[:-1]]
    gather(folder, [*rows, unfinished_row(specs[-1], "failed", "no memory", "LPIPS (VGG)")])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of 32 pixels, x2. To be copied."""
    home = tmp_path_factory.mktemp("trained")
    (home / "photographs").mkdir()
    for index in range(8):
        Image.fromarray(synthetic(index, 40, 30)).save(home / "photographs" / f"{index:02d}.png")
    data = prepare_here(str(home / "photographs"), home / "set", Geometry(hr_px=32, fit="pad"))
    make_run(data, str(home / "run"), 4)
    return home / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> str:
    """Bicubic, four seeds of ESPCN, one of which has lost its weights, and a trial that failed."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "checkpoints" / "espcn-3.safetensors").unlink()
    return str(folder)


def test_a_run_of_another_scale_is_judged_at_that_scale(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = prepare_here(str(picture_folder(8)), tmp_path / "set", Geometry(hr_px=36, scale=3, fit="pad"))
    make_run(data, str(tmp_path / "run"), 1)
    found = evaluate_run(EvaluateConfig(model=str(tmp_path / "run")))
    assert {evaluation.upscaler.scale for evaluation in found.evaluations.values()} == {3}
    again = images_of(found, 0)
    for trial in Run.read(str(tmp_path / "run")).trials:
        if trial.status == "finished":
            mine = again[again["arch"] == trial.arch]
            assert mine["psnr"].mean() == pytest.approx(trial.psnr, abs=1e-3)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """Three photographs in colour."""
    folder = tmp_path / "Test3"
    folder.mkdir()
    for index, picture in enumerate((photographs.astronaut(), photographs.coffee(), photographs.chelsea())):
        Image.fromarray(np.ascontiguousarray(picture[:80, 100:200])).save(folder / f"{index}.png")
    return str(folder)


def shown(found: RunEvaluation) -> str:
    out = StringIO()
    print_run_evaluation(found, Console(file=out, width=200))
    return out.getvalue()


def test_on_its_own_set_every_seed_has_the_scores_that_the_run_has(run: str) -> None:
    found = evaluate_run(EvaluateConfig(model=run))
    kept = Run.read(run).images
    assert kept["flat"].eq(False).all()
    assert {(trial.flat_targets, trial.at_ceiling) for trial in Run.read(run).trials if trial.psnr} == {(0, 0)}
    again = images_of(found, 0)
    assert sorted(zip(again["arch"], again["seed"], strict=True)) == [
        ("bicubic", 0),
        ("bicubic", 0),
        *(("espcn", seed) for seed in range(3) for _ in range(2)),
    ]
    for row in again.to_dict("records"):
        then = kept[
            (kept["arch"] == row["arch"]) & (kept["seed"] == row["seed"]) & (kept["image_id"] == row["image_id"])
        ]
        assert row["perceptual"] == pytest.approx(float(then["perceptual"].iloc[0]), abs=2e-6)
        assert row["psnr"] == pytest.approx(float(then["psnr"].iloc[0]), abs=1e-3)


def test_means_have_intervals_over_seeds_and_photographs_and_what_is_missing_is_said(run: str, pictures: str) -> None:
    found = evaluate_run(EvaluateConfig(model=run, sets=(pictures,)))
    text = shown(found)
    expected = estimate(score_table(images_of(found, 0), "espcn", "perceptual").to_numpy())
    assert expected.basis == "seeds and photographs"
    assert f"{expected.mean:.4f} [{expected.low:.4f}, {expected.high:.4f}]" in text
    assert "LPIPS (VGG)" in text
    assert "LPIPS (Alex)" in text
    assert "left out: ESPCN, seed 3: its weights are not in" in text
    assert "left out: SRCNN, seed 0: it ended as failed" in text
    assert "LPIPS (VGG): Bicubic - ESPCN = -" in text
    assert "literature: luminance (limited range" in text


def test_a_black_frame_counts_in_no_mean_and_no_interval(run: str, pictures: str) -> None:
    before = evaluate_run(EvaluateConfig(model=run, sets=(pictures,), perceptual="none"))
    Image.new("RGB", (100, 80)).save(Path(pictures, "black.png"))
    found = evaluate_run(EvaluateConfig(model=run, sets=(pictures,), perceptual="none"))
    tables = [score_table(images_of(one, 0), "espcn", "psnr") for one in (before, found)]
    assert tables[0].equals(tables[1])
    text = shown(found)
    assert text.count("Test3: black.png: 1 of 4 targets are one value everywhere, and no mean counts them") == 1
    assert "restores exactly" not in text
    images = images_of(found, 0)
    assert set(images[images["image_id"] == "black.png"]["flat"]) == {True}
    for picture in Path(pictures).glob("[0-9].png"):
        picture.unlink()
    assert "1 of 1 targets" in shown(evaluate_run(EvaluateConfig(model=run, sets=(pictures,), perceptual="none")))


def test_psnr_of_a_run_is_over_the_pictures_that_no_network_restores_exactly(run: str, pictures: str) -> None:
    found = evaluate_run(EvaluateConfig(model=run, sets=(pictures,), perceptual="none"))
    for member, evaluation in found.evaluations.items():
        if member.arch == "bicubic":
            (result,) = evaluation.sets
            first = replace(result.pictures[0], psnr=100.0)
            changed = replace(evaluation, sets=(replace(result, pictures=(first, *result.pictures[1:])),))
            found.evaluations[member] = changed
    assert score_table(images_of(found, 0), "espcn", "psnr").shape[1] == 2
    text = shown(found)
    assert "Test3: PSNR is over the pictures that no network restores exactly; 1 are restored by one or more" in text
    assert "Bicubic, seed 0: Test3: 0.png: 1 of 3 pictures equal their targets" in text


def test_other_weights_judge_the_same_networks(run: str, pictures: str, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    command = [
        sys.executable,
        str(JOB),
        "--model",
        run,
        "--sets",
        pictures,
        "--perceptual",
        "vgg-random",
        "--json",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "LPIPS (random VGG)" in done.stdout
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(line["arch"], line["seed"]) for line in lines} == {("bicubic", 0), *(("espcn", seed) for seed in range(3))}
    assert sum(line["image_id"] == "mean" for line in lines) == 4
    assert {line["perceptual_name"] for line in lines} == {"LPIPS (random VGG)"}


def test_a_target_is_computed_once_for_all_networks(run: str, pictures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from raysr.perceptual import PerceptualLoss

    plain: Callable[..., list[torch.Tensor]] = PerceptualLoss.features
    seen: list[int] = []
    monkeypatch.setattr(PerceptualLoss, "features", lambda self, y: (seen.append(1), plain(self, y))[1])
    evaluate_run(EvaluateConfig(model=run, sets=(pictures,)))
    assert len(seen) == 3 + 4 * 3  # three targets, and four networks on three pictures


def test_a_run_without_weights_and_a_call_without_sets_are_refused(run: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--sets takes at least one folder"):
        EvaluateConfig(model="bicubic")
    for trial in Run.read(run).trials:
        if trial.arch == "espcn":
            Path(run, "checkpoints", f"espcn-{trial.seed}.safetensors").unlink(missing_ok=True)
    rows = [trial for trial in Run.read(run).trials if trial.arch != "bicubic"]
    gather(run, rows)
    with pytest.raises(ValueError, match="has no finished network with weights"):
        evaluate_run(EvaluateConfig(model=run))


def test_ctrl_c_keeps_the_networks_that_were_judged(run: str, pictures: str) -> None:
    def stop(word: str) -> None:
        if word.startswith("ESPCN, seed 1"):
            raise KeyboardInterrupt

    found = evaluate_run(EvaluateConfig(model=run, sets=(pictures,)), stop)
    assert [member.seed for member in found.evaluations if member.arch == "espcn"] == [0]
    assert found.interrupted
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(EvaluateConfig(model=run, sets=(pictures,)), lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
