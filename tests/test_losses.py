import hashlib
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raysr.losses import Perceptual, load_alex, load_perceptual
from raysr.weights import WeightsError


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> None:
    """Here every trunk is drawn anew."""


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return load_perceptual("vgg-random")


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 1, 48, 40, generator=generator), torch.rand(3, 1, 48, 40, generator=generator)


def trunk_state(trunk: str, seed: int) -> dict[str, Tensor]:
    """A torchvision state dict as far as LPIPS needs it: `features.*`, drawn at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = lpips.pretrained_networks.vgg16 if trunk == "vgg" else lpips.pretrained_networks.alexnet
        names = net(pretrained=False).state_dict()
        return {f"features.{name.split('.', 1)[1]}": torch.randn_like(t) * 0.03 for name, t in names.items()}


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(trunk_state("vgg", 1), path)
    return path


pytestmark = [
    pytest.mark.filterwarnings("ignore:The parameter 'pretrained' is deprecated"),
    pytest.mark.filterwarnings("ignore:Arguments other than a weight enum"),
]


def test_random_weights_have_a_name_of_their_own_and_are_always_the_same(perceptual: Perceptual) -> None:
    assert perceptual.info.name == "LPIPS (random VGG)"
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert load_perceptual("vgg-random").info == perceptual.info
    assert torch.equal(torch.get_rng_state(), before)


def test_the_distance_is_that_of_the_lpips_package(perceptual: Perceptual, pair: tuple[Tensor, Tensor]) -> None:
    sr, hr = pair
    theirs = perceptual.network(sr.repeat(1, 3, 1, 1), hr.repeat(1, 3, 1, 1), normalize=True).flatten()
    assert torch.allclose(perceptual(sr, hr), theirs, rtol=1e-6)
    assert perceptual(sr, hr).shape == (3,)


def test_the_learned_heads_are_those_of_the_package(perceptual: Perceptual) -> None:
    theirs = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth", map_location="cpu")
    assert len(theirs) == 5
    for name, tensor in theirs.items():
        assert torch.equal(perceptual.network.state_dict()[name], tensor)


def test_equal_pictures_have_no_distance_and_others_do(perceptual: Perceptual, pair: tuple[Tensor, Tensor]) -> None:
    sr, hr = pair
    assert torch.equal(perceptual(hr, hr), torch.zeros(3))
    assert (perceptual(sr, hr) > 0.01).all()


def test_the_gradient_reaches_the_picture_and_no_weight(perceptual: Perceptual, pair: tuple[Tensor, Tensor]) -> None:
    sr = pair[0].clone().requires_grad_()
    perceptual(sr, pair[1]).mean().backward()
    assert sr.grad is not None
    assert (sr.grad != 0).float().mean() > 0.99
    assert all(parameter.grad is None for parameter in perceptual.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_are_those_weights_and_are_named_for_their_hash(suffix: str, tmp_path: Path) -> None:
    state = trunk_state("vgg", 2)
    path = tmp_path / f"mine{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = load_perceptual("vgg", str(path))
    for name, tensor in loaded.network.net.state_dict().items():
        assert torch.equal(tensor, state[f"features.{name.split('.', 1)[1]}"])
    # Only torchvision's own tensors make it LPIPS. The name is short enough for the head of a column.
    assert loaded.info.name == f"LPIPS (VGG {loaded.info.weights_sha256[:8]})"
    assert loaded.info.source == str(path)


def test_other_weights_give_another_distance(
    vgg_file: Path, perceptual: Perceptual, pair: tuple[Tensor, Tensor]
) -> None:
    mine = load_perceptual("vgg", str(vgg_file))
    assert mine.info.weights_sha256 != perceptual.info.weights_sha256
    assert not torch.allclose(mine(*pair), perceptual(*pair))


def test_a_file_that_is_no_vgg16_is_refused_by_its_name(tmp_path: Path) -> None:
    text, alex, pickle = tmp_path / "text.pth", tmp_path / "alex.pth", tmp_path / "broken.safetensors"
    text.write_text("not weights")
    pickle.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    torch.save(trunk_state("alex", 0), alex)
    with pytest.raises(WeightsError, match=r"text\.pth cannot be read as a state dict"):
        load_perceptual("vgg", str(text))
    with pytest.raises(WeightsError, match=r"broken\.safetensors cannot be read as a state dict"):
        load_perceptual("vgg", str(pickle))
    with pytest.raises(WeightsError, match=r"alex\.pth is no torchvision vgg state dict: \d+ tensors are missing"):
        load_perceptual("vgg", str(alex))
    with pytest.raises(WeightsError, match=r"no weights file at .*nowhere\.pth"):
        load_perceptual("vgg", str(tmp_path / "nowhere.pth"))


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "was_here").touch, ())

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth cannot be read"):
        load_perceptual("vgg", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was_here").exists()


def test_weights_in_the_cache_are_taken_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysr.losses.packaged_file", lambda trunk: None)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    torch.save(trunk_state("vgg", 3), file)
    # Its name promises a hash that these bytes do not have: it is not called LPIPS (VGG).
    info = load_perceptual("vgg").info
    assert info.name == f"LPIPS (VGG {info.weights_sha256[:8]})"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    right = file.rename(file.with_name(f"vgg16-{digest[:8]}.pth"))
    monkeypatch.setattr("raysr.losses._url", lambda trunk: f"https://example.org/{right.name}")
    for given in (None, str(right)):
        assert load_perceptual("vgg", given).info.name == "LPIPS (VGG)"


def test_random_weights_and_a_file_contradict_each_other(vgg_file: Path) -> None:
    with pytest.raises(WeightsError, match="contradicts --perceptual vgg-random"):
        load_perceptual("vgg-random", str(vgg_file))


def test_the_second_opinion_is_there_only_when_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[Tensor, Tensor]
) -> None:
    monkeypatch.setattr("raysr.losses.packaged_file", lambda trunk: None)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert load_alex() is None
    file = tmp_path / "alex.pth"
    torch.save(trunk_state("alex", 0), file)
    alex = load_alex(str(file))
    assert alex is not None
    assert alex.info.name.startswith("LPIPS (Alex ")
    sr, hr = (torch.nn.functional.interpolate(picture, size=64) for picture in pair)
    assert (alex(sr, hr) > 0).all()
