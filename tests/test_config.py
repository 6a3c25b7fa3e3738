"""What the words of a command line come to, whatever their order and wherever the program runs."""

import os
from pathlib import Path

import pytest
import torch

from raysr.benchmark import EvaluateConfig
from raysr.calibration import Calibration, Timing, conditions
from raysr.cost import DEFAULT_PRICE, Budget
from raysr.losses import load_perceptual
from raysr.models import trainable_parameters
from raysr.presets import CompareConfig, SearchConfig
from raysr.provenance import tree_sha256
from raysr.spec import TrainConfig, TrialSpec
from raysr.weights import WeightsError

ODD = ("plain", "with space", "per%20cent", "ha#sh", "[bold]", "[/b]", "que?ry", "gr\u00fc\u00dfe", "\u6771")
"""Names that some library would take for something else."""


def test_shares_are_sorted_and_each_is_validated_once() -> None:
    assert TrainConfig(evaluate_at=(0.5, 0.1, 0.5)).evaluate_at == (0.1, 0.5)


def test_what_is_named_twice_counts_once() -> None:
    assert CompareConfig(preset="paper", charged=("train", "stall", "train")).charged == ("train", "stall")
    search = SearchConfig(usd=1, batch_sizes=(8, 4, 8), schedules=("cosine", "constant", "cosine"))
    assert (search.batch_sizes, search.schedules) == ((4, 8), ("cosine", "constant"))


def test_a_test_set_that_is_named_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    EvaluateConfig(sets=("Set5", "Set14"))
    with pytest.raises(ValueError, match=r"--sets names .*Set5 more than once"):
        EvaluateConfig(sets=("./Set5", "Set14", f"{tmp_path}/Set14/../Set5"))


@pytest.mark.parametrize("name", ODD)
def test_every_place_is_made_absolute_where_it_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = TrainConfig(vgg_weights=name, alex_weights=f"./{name}")
    config = CompareConfig(preset="paper", data=name, calibration=f"{name}/calibration.json", resume=name)
    monkeypatch.chdir("/")  # as in a worker
    here = str(tmp_path / name)
    assert [train.vgg_weights, config.data, config.resume] == [here] * 3
    assert train.alex_weights is not None
    assert os.path.normpath(train.alex_weights) == here
    assert config.calibration == f"{here}/calibration.json"


def test_an_address_stays_one() -> None:
    train = TrainConfig(vgg_weights="s3://bucket/a b/vgg.pth?region=eu", alex_weights="s3://bucket/a%20b/alex.pth")
    assert train.vgg_weights == "s3://bucket/a%20b/vgg.pth?region=eu"
    assert train.alex_weights == "s3://bucket/a%20b/alex.pth"


@pytest.mark.parametrize("name", ODD)
def test_a_table_of_architectures_is_read_from_any_place(name: str, tmp_path: Path, s3: str) -> None:
    from raysr import storage

    table = '[[arch]]\nname = "espcn"\n'
    (tmp_path / f"{name}.toml").parent.mkdir(exist_ok=True)
    (tmp_path / f"{name}.toml").write_text(table)
    assert CompareConfig(preset="paper", archs=(str(tmp_path / f"{name}.toml"),)).archs == ("espcn",)
    place = storage.join(s3, tmp_path.name, f"{name}.toml")
    storage.write_text(place, table)
    assert CompareConfig(preset="paper", archs=(place,)).archs == ("espcn",)


def test_weights_are_read_from_a_bucket_and_one_that_lacks_them_is_named(s3: str, tmp_path: Path) -> None:
    from safetensors.torch import save

    from raysr import storage
    from raysr.weights import read_packaged

    place = storage.join(s3, tmp_path.name, "a b#c.safetensors")
    storage.write_bytes(place, save({name: tensor.contiguous() for name, tensor in read_packaged("vgg").items()}))
    assert load_perceptual("vgg", place).info.name == "LPIPS (VGG)"
    missing = storage.join(s3, tmp_path.name, "missing.pth")
    with pytest.raises(WeightsError, match=r"no weights file at s3://.*missing.pth: give another --vgg-weights"):
        load_perceptual("vgg", missing)


def test_a_network_is_built_once_to_count_it_and_random_numbers_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from raysr import models

    built: list[str] = []
    build = models.build_model
    monkeypatch.setattr(models, "build_model", lambda arch, scale: built.append(arch) or build(arch, scale))
    trainable_parameters.cache_clear()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for arch in ("espcn", "bicubic"):
        spec = TrialSpec(arch=arch, seed=0, data="", run="", budget=Budget(usd=1), price=DEFAULT_PRICE)
        assert [spec.untrained for _ in range(10)] == [arch == "bicubic"] * 10
    assert built == ["espcn", "bicubic"]
    assert torch.equal(torch.get_rng_state(), before)


def test_where_the_pairs_lie_is_a_condition_of_a_calibration(small_set: str) -> None:
    resources = {"workers_per_trial": 1, "cpus_per_worker": 2, "max_concurrent": 1}

    def spec(hold: str) -> TrialSpec:
        train = TrainConfig(hold_data=hold)  # type: ignore[arg-type]
        return TrialSpec(
            arch="espcn", seed=0, data=small_set, run="", budget=Budget(usd=1), price=DEFAULT_PRICE, train=train
        )

    timing = Timing(arch="espcn", start_seconds=0, step_seconds=1, timed_steps=1, spent_seconds=1)
    then = conditions(spec("auto"), "cpu", resources)
    kept = Calibration({"espcn": timing}, {"espcn": then})
    kept.check([spec("auto")], "cpu", resources, "file")
    with pytest.raises(ValueError, match="hold_data is always, then auto"):
        kept.check([spec("always")], "cpu", resources, "file")
    # A file of an older version says nothing of it.
    older = Calibration({"espcn": timing}, {"espcn": {name: then[name] for name in then if name != "hold_data"}})
    older.check([spec("auto")], "cpu", resources, "file")


def test_code_is_told_apart_by_its_files(tmp_path: Path) -> None:
    for name, text in (("a.py", "one"), ("inner/b.py", "two"), ("page.html.j2", "three"), ("notes.txt", "four")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    first = tree_sha256(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / "a.pyc").write_text("no source")
    assert tree_sha256(tmp_path) == first
    (tmp_path / "inner/b.py").write_text("other")
    second = tree_sha256(tmp_path)
    (tmp_path / "inner/b.py").rename(tmp_path / "inner/c.py")
    assert len({first, second, tree_sha256(tmp_path)}) == 3
