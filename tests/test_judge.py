"""The judge of a validation gives the lpips package's numbers, and computes a target once."""

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from skimage import data as photographs
from torch import Tensor

from raysr.judge import DISK_MARGIN, Judge, Targets, drop_targets, features_bytes
from raysr.losses import Perceptual, load_perceptual

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def package() -> Perceptual:
    return load_perceptual("vgg")


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Three pictures of 64 x 49 pixels with noise, and without."""
    camera = torch.from_numpy(photographs.camera().copy()).float() / 255
    hr = torch.stack([camera[y : y + 64, 200:249] for y in (0, 100, 300)])[:, None]
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    return (hr + 0.05 * noise).clamp(0, 1), hr


def counted(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures that go through the trunk from now on."""
    seen: list[int] = []
    plain = judge.loss.features
    monkeypatch.setattr(judge.loss, "features", lambda y: (seen.append(len(y)), plain(y))[1])
    return seen


@pytest.mark.parametrize("kept_in", ["memory", "files", "nothing"])
def test_the_numbers_are_those_of_the_package_the_first_time_and_the_second(
    kept_in: str, package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    folder = str(tmp_path / "targets") if kept_in == "files" else None
    judge = Judge(package, Targets(CPU, 0 if kept_in == "nothing" else 1, folder))
    with torch.no_grad():
        expected = package(*pair)
    assert (expected > 0.05).all()
    for _ in range(2):
        assert torch.allclose(judge(*pair), expected, rtol=0, atol=1e-6)
    assert (judge(pair[1], pair[1]) < 1e-9).all()


def test_a_target_goes_through_the_trunk_once(
    package: Perceptual, pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(package, Targets(CPU))
    seen = counted(judge, monkeypatch)
    for _ in range(3):
        judge(*pair)
    assert seen == [3, 1, 1, 1, 3, 3]


def test_another_process_reads_what_one_has_kept(
    package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Judge(package, Targets(CPU, folder=str(tmp_path / "targets")))(*pair)
    judge = Judge(package, Targets(CPU, folder=str(tmp_path / "targets")))
    seen = counted(judge, monkeypatch)
    assert torch.equal(judge(*pair), first)
    assert seen == [3]
    # Other pixels, and the same pixels in another shape, are other targets.
    turned = pair[1].transpose(2, 3).contiguous()
    judge(turned, turned)
    judge(pair[0], pair[1] + 1e-3)
    assert seen == [3, 3, 1, 1, 1, 3, 1, 1, 1]


@pytest.mark.parametrize("left", [0, 60, 2000])
def test_a_file_that_a_crash_has_cut_off_is_made_again(
    left: int, package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    first = Judge(package, Targets(CPU, folder=str(tmp_path)))(*pair)
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for file, data in whole.items():
        file.write_bytes(data[:left])
    assert torch.equal(Judge(package, Targets(CPU, folder=str(tmp_path)))(*pair), first)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_other_weights_do_not_read_these_files(
    package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    Judge(package, Targets(CPU, folder=str(tmp_path)))(*pair)
    other = load_perceptual("vgg-random")
    with torch.no_grad():
        expected = other(*pair)
    assert torch.allclose(Judge(other, Targets(CPU, folder=str(tmp_path)))(*pair), expected, rtol=0, atol=1e-6)


PICTURE_BYTES = 4 * (64 * 64 * 49 + 128 * 32 * 24 + 256 * 16 * 12 + 512 * 8 * 6 + 512 * 4 * 3)


@pytest.mark.parametrize("in_files", [False, True])
def test_no_more_is_kept_than_the_bound(
    in_files: bool, package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "targets") if in_files else None
    bound = 2.5 * PICTURE_BYTES / 1e9
    judge = Judge(package, Targets(CPU, bound, folder))
    expected = judge(*pair)
    seen = counted(judge, monkeypatch)
    assert torch.equal(judge(*pair), expected)
    assert seen == [3, 1]  # two of three targets were kept
    if in_files:
        files = list((tmp_path / "targets").iterdir())
        assert len(files) == 2
        assert sum(file.stat().st_size for file in files) <= 1e9 * bound
        # What another process has kept counts too, and what it is just renaming does not matter.
        (tmp_path / "targets" / "gone.npy").symlink_to(tmp_path / "nowhere")
        late = Judge(package, Targets(CPU, bound, folder))
        late(pair[0][:1], pair[1][:1].flip(3))
        assert len(list((tmp_path / "targets").glob("*-64x49.npy"))) == 2


def test_a_disk_that_is_nearly_full_is_left_to_what_must_be_written(
    package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "targets").mkdir()
    judge = Judge(package, Targets(CPU, folder=str(tmp_path / "targets")))
    monkeypatch.setattr("raysr.judge.shutil.disk_usage", lambda _: SimpleNamespace(free=DISK_MARGIN + 1000))
    judge(*pair)
    assert list((tmp_path / "targets").iterdir()) == []


def test_nothing_is_kept_of_what_is_asked_for_once(
    package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    judge = Judge(package, Targets(CPU, folder=str(tmp_path / "targets")))
    assert torch.allclose(judge.once(*pair), judge(*pair), rtol=0, atol=1e-7)
    kept = list((tmp_path / "targets").iterdir())
    judge.once(pair[1], pair[0])
    assert list((tmp_path / "targets").iterdir()) == kept
    assert features_bytes(64, 49) == PICTURE_BYTES


def test_a_full_disk_costs_time_and_no_trial(
    package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    judge = Judge(package, Targets(CPU, folder=str(tmp_path / "targets")))
    with monkeypatch.context() as patch:
        patch.setattr("raysr.judge.np.save", full)
        expected = judge(*pair)
    assert list((tmp_path / "targets").iterdir()) == []
    assert torch.equal(judge(*pair), expected)


def test_an_object_store_is_no_place_for_them_and_a_folder_is_deleted_at_the_end(
    package: Perceptual, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    judge = Judge(package, Targets(CPU, folder="s3://bucket/run/targets"))
    judge(*pair)
    # On this machine, until the trial's process ends.
    here = judge.targets.folder
    assert here is not None
    assert len(list(here.iterdir())) == 3
    del judge
    gc.collect()
    assert not here.exists()
    folder = tmp_path / "targets"
    Judge(package, Targets(CPU, folder=str(folder)))(*pair)
    assert len(list(folder.iterdir())) == 3
    for place in (None, "s3://bucket/run/targets", str(folder), str(folder)):
        drop_targets(place)
    assert not folder.exists()


def test_neither_a_graph_nor_autocast_reaches_it(package: Perceptual, pair: tuple[Tensor, Tensor]) -> None:
    judge = Judge(package, Targets(CPU))
    expected = judge(*pair)
    with torch.autocast("cpu", torch.bfloat16):
        found = judge(pair[0].clone().requires_grad_(), pair[1])
    assert torch.equal(found, expected)
    assert not found.requires_grad
