import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.RCAN import RCAN
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

from raysr import storage
from raysr.checkpoints import CheckpointError, load_upscaler
from raysr.models import build_model, count_parameters, file_name, find_architecture, parse_arch, write_arch
from raysr.models.pretrained import file_hash
from raysr.pairs import to_y
from raysr.presets import expand_archs
from raysr.trial_files import TrialFiles

CPU = torch.device("cpu")


def compact(channels: int, out: int | None = None, scale: int = 2) -> nn.Module:
    """A small network of the community's, with random weights."""
    torch.manual_seed(0)
    return Compact(num_in_ch=channels, num_out_ch=out or channels, num_feat=8, num_conv=2, upscale=scale)


def own(scale: int) -> nn.Module:
    """A network of the user's own."""
    return nn.Sequential(nn.Conv2d(1, scale**2, 3, padding=1), nn.PixelShuffle(scale))


def checkpoint(folder: Path, arch: str, scale: int = 2) -> tuple[str, nn.Module]:
    """A checkpoint as a run leaves it."""
    torch.manual_seed(1)
    model = build_model(arch, scale)
    files = TrialFiles(str(folder), arch, 0)
    files.write_model(model, {"arch": arch, "scale": str(scale), "seed": "0", "step": "9"})
    return str(folder / files.checkpoint), model


def test_bicubic_needs_no_checkpoint() -> None:
    found = load_upscaler("bicubic", None, CPU)
    assert (found.name, found.scale, found.parameters, found.origin) == ("bicubic", 2, 0, "untrained")
    assert found.run(torch.rand(1, 1, 4, 6)).shape == (1, 1, 8, 12)
    assert load_upscaler("bicubic", 3, CPU).run(torch.rand(1, 1, 4, 6)).shape == (1, 1, 12, 18)


def test_an_untrained_network_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"ESPCN has 21,284 parameters, .* no trained ones: give a checkpoint"):
        load_upscaler("espcn", 2, CPU)
    with pytest.raises(ValueError, match="did you mean 'bicubic'"):
        load_upscaler("bicubik", 2, CPU)


def test_a_runs_checkpoint_is_the_network_that_was_trained(tmp_path: Path) -> None:
    file, model = checkpoint(tmp_path, "espcn", 3)
    before = torch.get_rng_state()
    found = load_upscaler(file, None, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.name, found.scale, found.channels, found.origin) == ("espcn, seed 0", 3, 1, "raysr")
    lr = torch.rand(1, 1, 8, 9)
    with torch.no_grad():
        assert torch.equal(found.run(lr), model.eval().to(memory_format=torch.channels_last)(lr))


def test_a_checkpoint_of_another_scale_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, "espcn", 3)
    with pytest.raises(CheckpointError, match="is a network for x3, and --scale says 2"):
        load_upscaler(file, 2, CPU)


def test_a_checkpoint_that_names_code_of_ones_own_needs_a_word_for_it(tmp_path: Path) -> None:
    arch = f"{__name__}:own"
    file, _ = checkpoint(tmp_path, arch)
    with pytest.raises(CheckpointError, match=rf"network of your own, {arch}: if that is so, add --arch '{arch}'"):
        load_upscaler(file, None, CPU)
    assert load_upscaler(file, None, CPU, arch).parameters == 40


def test_code_named_in_a_header_is_not_run_before_it_is_confirmed(tmp_path: Path) -> None:
    file = tmp_path / "bad.safetensors"
    save_file({"w": torch.zeros(1)}, file, {"arch": f"pathlib:Path(x='{tmp_path}')", "scale": "2"})
    with pytest.raises(CheckpointError, match="add --arch"):
        load_upscaler(str(file), None, CPU, "espcn")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"arch": "espcn", "scale": "2"}, "does not fit the architecture that it names, espcn: Error"),
        ({"arch": "espcn"}, "does not fit the architecture that it names, espcn: KeyError: 'scale'"),
        ({"arch": "esspcn", "scale": "2"}, "did you mean 'espcn'"),
        (None, "no network that spandrel knows; a checkpoint of raysr is known by the architecture in its header"),
    ],
)
def test_tensors_that_are_not_what_the_header_says_are_refused(
    header: dict[str, str] | None, complaint: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.safetensors"
    save_file({"w": torch.zeros(1)}, file, header)
    with pytest.raises(CheckpointError, match=complaint):
        load_upscaler(str(file), None, CPU)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_community_network_is_recognised_by_its_tensors(channels: int, suffix: str, tmp_path: Path) -> None:
    model = compact(channels, scale=4)
    file = tmp_path / f"4x_mine{suffix}"
    if suffix == ".pth":
        torch.save({"params_ema": model.state_dict()}, file)
    else:
        save_file(model.state_dict(), file)
    found = load_upscaler(str(file), None, CPU)
    assert found.name == f"RealESRGAN Compact (4x_mine{suffix})"
    assert (found.scale, found.channels, found.origin, found.cost) == (4, channels, "community", "unknown")
    assert found.parameters == sum(tensor.numel() for tensor in model.parameters())
    lr = torch.rand(1, channels, 8, 9)
    with torch.no_grad():
        assert torch.allclose(found.run(lr), model(lr).clamp(0, 1), atol=1e-6)


def test_a_community_network_of_windows_takes_pictures_of_any_size(tmp_path: Path) -> None:
    file = tmp_path / "swinir.safetensors"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        model = SwinIR(
            img_size=16,
            embed_dim=12,
            depths=[2],
            num_heads=[2],
            window_size=8,
            upscale=2,
            upsampler="pixelshuffledirect",
            resi_connection="1conv",
        )
    save_file(model.state_dict(), file)
    found = load_upscaler(str(file), None, CPU)
    assert found.run(torch.rand(1, 3, 11, 19)).shape == (1, 3, 22, 38)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_community_network_takes_luminance_in_a_comparison_and_is_not_trained(channels: int, tmp_path: Path) -> None:
    file = tmp_path / "2x.pth"
    network = compact(channels).eval()
    torch.save(network.state_dict(), file)
    arch = f"checkpoint(file={str(file)!r}, sha256={file_hash(str(file))!r})"
    model = build_model(arch, 2).eval()
    lr = torch.rand(2, 1, 5, 7)
    with torch.no_grad():
        wanted = network(lr.expand(-1, channels, -1, -1)).clamp(0, 1)
        wanted = to_y(wanted) if channels == 3 else wanted
        assert torch.allclose(model(lr), wanted, atol=1e-6)
    assert count_parameters(model) == 0
    assert count_parameters(model, trainable_only=False) == count_parameters(network)
    assert model.state_dict().keys() == {f"network.{name}" for name in network.state_dict()}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_writes_into_its_input_joins_a_comparison(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=8, n_colors=channels, reduction=4, norm=channels == 3)
    file = tmp_path / "rcan.pth"
    torch.save(network.state_dict(), file)
    model = build_model(f"checkpoint(file={str(file)!r})", 2)
    lr = torch.rand(2, 1, 5, 7)
    before = lr.clone()
    with torch.no_grad():
        assert model(lr).shape == (2, 1, 10, 14)
    assert torch.equal(lr, before)


def test_a_pinned_file_that_has_changed_is_not_evaluated_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "2x.pth"
    torch.save(compact(1).state_dict(), file)
    options = {"file": str(file), "sha256": file_hash(str(file))[:12], "title": "Mine"}
    assert load_upscaler(write_arch("checkpoint", options), None, CPU).name == "Mine"
    torch.save(compact(3).state_dict(), file)
    with pytest.raises(
        CheckpointError, match=f"another file than the one whose SHA-256 begins with {options['sha256']}"
    ):
        load_upscaler(write_arch("checkpoint", options), None, CPU)


def test_bicubic_is_interpolation_whatever_it_is_called(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, "bicubic")
    assert all(load_upscaler(name, None, CPU).bicubic for name in ("bicubic", "bicubic()", file))
    assert not load_upscaler(checkpoint(tmp_path, "espcn")[0], None, CPU).bicubic


def test_a_file_on_an_object_store_may_have_a_query_and_a_published_hash(s3: str, tmp_path: Path) -> None:
    torch.save(compact(1).state_dict(), tmp_path / "2x one.pth")
    address = os.environ["AWS_ENDPOINT_URL"]
    file = storage.absolute(f"s3://raysr-test/nets/2x one.pth?endpoint_override={address}")
    storage.write_bytes(file, (tmp_path / "2x one.pth").read_bytes())
    (arch,) = expand_archs(file)
    assert expand_archs(arch) == [arch]
    assert file_hash(file).startswith(parse_arch(arch)[1]["sha256"])
    assert (find_architecture(arch).title, file_name(arch)) == ("2x one.pth", "2x_one.pth")
    published = write_arch("checkpoint", {"file": file, "sha256": file_hash(file).upper()})
    for name in (arch, published):
        assert count_parameters(build_model(name, 2), trainable_only=False) == count_parameters(compact(1))
    found = load_upscaler(arch, None, CPU)
    assert (found.origin, found.cost, found.parameters) == ("community", "unknown", count_parameters(compact(1)))


def test_a_checkpoint_of_a_run_is_no_network_from_elsewhere(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path, "compact")
    with pytest.raises(CheckpointError, match=r"is a checkpoint of raysr, of compact: jobs/evaluate.py judges it"):
        build_model(f"checkpoint(file={file!r})", 2)
    pointing = tmp_path / "pointing.safetensors"
    save_file({"w": torch.zeros(1)}, pointing, {"arch": f"checkpoint(file={file!r})", "scale": "2"})
    with pytest.raises(CheckpointError, match="names another file"):
        load_upscaler(str(pointing), None, CPU)


def half_frozen(scale: int) -> nn.Module:
    """A network of the user's own that trains nothing, and is no formula either."""
    return own(scale).requires_grad_(requires_grad=False)


def test_random_weights_that_are_not_trained_are_refused_by_name_too() -> None:
    with pytest.raises(ValueError, match="has 40 parameters, and a name brings no trained ones"):
        load_upscaler(f"{__name__}:half_frozen", 2, CPU)


def test_a_file_that_changed_or_is_for_another_scale_is_refused_in_a_comparison(tmp_path: Path) -> None:
    file = tmp_path / "4x.pth"
    torch.save(compact(1, scale=4).state_dict(), file)
    arch = f"checkpoint(file={str(file)!r}, sha256={file_hash(str(file))!r})"
    with pytest.raises(CheckpointError, match=r"is a network for x4, where one for x2 is needed"):
        build_model(arch, 2)
    torch.save(compact(1).state_dict(), file)
    with pytest.raises(CheckpointError, match="is another file than the one whose SHA-256 begins with"):
        build_model(arch, 2)


def test_a_community_network_that_does_not_enlarge_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "1x.safetensors"
    save_file(compact(3, scale=1).state_dict(), file)
    with pytest.raises(CheckpointError, match=r"does not enlarge pictures \(x1\)"):
        load_upscaler(str(file), None, CPU)


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pth_is_not_run(zipped: bool, tmp_path: Path) -> None:
    witness, file = tmp_path / "witness", tmp_path / "bad.pth"
    torch.save({"params": Payload(witness)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="cannot be read as a network: "):
        load_upscaler(str(file), None, CPU)
    file.write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(CheckpointError, match="cannot be read as a network: "):
        load_upscaler(str(file), None, CPU)
    assert not witness.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit.")
def test_a_traced_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = str(tmp_path / "traced.pth")
    torch.jit.trace(own(2), torch.rand(1, 1, 8, 8)).save(file)
    with pytest.raises(CheckpointError, match=r"is a traced or scripted network .* torch.save\(network.state_dict\(\)"):
        load_upscaler(file, None, CPU)


def test_an_exception_without_text_is_named_in_the_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "2x.pth"
    torch.save(compact(1).state_dict(), file)

    def silent(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("spandrel.ModelLoader.load_from_file", silent)
    with pytest.raises(CheckpointError, match=r"2x.pth cannot be read as a network: NotImplementedError$"):
        load_upscaler(str(file), None, CPU)


def test_files_that_are_missing_damaged_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file nowhere.pth; names of architectures that need none: bicubic"):
        load_upscaler("nowhere.pth", None, CPU)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x10" + bytes(40))
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        load_upscaler(str(damaged), None, CPU)
    other = tmp_path / "model.onnx"
    other.touch()
    with pytest.raises(CheckpointError, match=r"networks are read from \.safetensors and \.pth files"):
        load_upscaler(str(other), None, CPU)
