from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from raysr.evaluate import (
    EVALUATED_PX,
    MEAN_NAMES,
    SUMMARY_NAMES,
    TIMED_RUNS,
    ImageScore,
    evaluate,
    inference_ms,
    mean_scores,
    summary,
    to_uint8,
    upscale,
)
from raysr.images import Box
from raysr.losses import Perceptual, load_perceptual
from raysr.metrics import PSNR_CEILING_DB
from raysr.models import build_model
from raysr.pairs import PairRow, PairSet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return load_perceptual("vgg-random")


@pytest.fixture(scope="module")
def rows(bundled_set: str) -> list[PairRow]:
    return PairSet(bundled_set, "val").rows()[:4]


def test_every_picture_gets_a_row(rows: list[PairRow], perceptual: Perceptual) -> None:
    scores = evaluate(build_model("bicubic", 2), rows, perceptual, device=CPU, precision="float32")
    assert [(score.image_id, score.photograph) for score in scores] == [(row.image_id, row.photograph) for row in rows]
    for score in scores:
        assert 20 < score.psnr < 60
        assert score.psnr == score.psnr_content  # tiles have no bars
        assert score.ms_ssim is None
        assert score.note == "96 pixels are too few for ms_ssim"


def test_content_is_scored_apart_from_its_bars(perceptual: Perceptual) -> None:
    hr = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    hr[:16] = hr[48:] = 0
    row = PairRow("a", "a", hr, hr[::2, ::2].copy(), Box(0, 16, 64, 48), "full")
    (score,) = evaluate(build_model("bicubic", 2), [row], perceptual, device=CPU, precision="float32")
    assert score.psnr == pytest.approx(score.psnr_content + 10 * np.log10(2), abs=0.5)  # half of the square is right
    assert "content is 32 pixels" in str(score.note)


def test_pictures_that_are_scored_together_have_the_scores_of_each_alone(
    rows: list[PairRow], perceptual: Perceptual, monkeypatch: pytest.MonkeyPatch
) -> None:
    barred = rows[1]._replace(content_box=Box(0, 10, 96, 80))
    mixed = [rows[0], barred, *rows[2:]]
    seen: list[int] = []
    model = build_model("espcn", 2)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    alone = evaluate(model, mixed, perceptual, device=CPU, precision="float32")
    monkeypatch.setitem(EVALUATED_PX, "cpu", 3 * rows[0].hr.size)
    together = evaluate(model, mixed, perceptual, device=CPU, precision="float32")
    assert seen == [1, 1, 1, 1, 3, 1]
    for one, other in zip(alone, together, strict=True):
        assert (one.image_id, one.note) == (other.image_id, other.note)
        for name in ("perceptual", "ssim", "psnr", "perceptual_content", "psnr_content"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4), name


def test_the_network_is_left_as_it_was(rows: list[PairRow], perceptual: Perceptual) -> None:
    class Watched(nn.Module):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)

    for training in (True, False):
        model = Watched().train(training)
        evaluate(model, rows[:1], perceptual, device=CPU, precision="float32")
        assert model.training is training


def test_kernels_lie_channels_last_while_scoring_alone_and_the_scores_are_the_same(
    rows: list[PairRow], perceptual: Perceptual, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("inverted_unet3(width=8)", 2)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    places, seen = [kernel.data_ptr() for kernel in kernels], list[bool]()
    model.register_forward_pre_hook(lambda *_: seen.append(all(kernel.stride(1) == 1 for kernel in kernels)))
    inside = evaluate(model, rows[:2], perceptual, device=CPU, precision="float32")
    upscale(model, rows[0], CPU, "float32")
    assert seen == [True, True, False]
    assert [kernel.data_ptr() for kernel in kernels] == places
    monkeypatch.setattr("raysr.evaluate.fast_layout", lambda *_: nullcontext())
    for one, other in zip(inside, evaluate(model, rows[:2], perceptual, device=CPU, precision="float32"), strict=True):
        assert one.psnr == pytest.approx(other.psnr, rel=1e-5)
        assert one.perceptual == pytest.approx(other.perceptual, rel=1e-4)


def test_a_network_that_fails_has_its_kernels_back_and_one_that_makes_them_anew_keeps_them(
    rows: list[PairRow], perceptual: Perceptual
) -> None:
    model = build_model("espcn", 2)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, rows[:1], perceptual, device=CPU, precision="float32")
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    span = build_model("span", 2)
    begun = {name: parameter.clone() for name, parameter in span.named_parameters()}
    evaluate(span, rows[:1], perceptual, device=CPU, precision="float32")
    inside = {name: parameter.clone() for name, parameter in span.named_parameters() if "eval_conv" in name}
    span.eval()
    upscale(span, rows[0], CPU, "float32")  # folds its convolutions again
    kernels = [name for name, kept in inside.items() if kept.ndim == 4]
    assert kernels
    for name, parameter in span.named_parameters():
        assert name not in inside or torch.allclose(inside[name], parameter, rtol=1e-4, atol=1e-6), name
    assert not any(torch.allclose(inside[name], begun[name], rtol=1e-2) for name in kernels)


def test_bfloat16_changes_a_picture_by_little(rows: list[PairRow]) -> None:
    torch.manual_seed(0)
    model = build_model("espcn", 2)
    exact, rounded = (upscale(model, rows[0], CPU, precision) for precision in ("float32", "bfloat16"))
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.02


def test_the_mean_leaves_out_pictures_without_a_score() -> None:
    score = ImageScore(image_id="a", photograph="a", note=None, **dict.fromkeys(MEAN_NAMES, 1.0) | {"lpips_alex": None})
    means = mean_scores([score, replace(score, psnr=3.0, ms_ssim=None)])
    assert (means["psnr"], means["ms_ssim"], means["lpips_alex"]) == (2.0, 1.0, None)


def test_a_photograph_counts_once_however_many_tiles_it_has() -> None:
    tile = ImageScore(image_id="a#0", photograph="a", note=None, **dict.fromkeys(MEAN_NAMES, 1.0))
    other = replace(tile, image_id="b#0", photograph="b", psnr=5.0)
    assert mean_scores([tile, replace(tile, image_id="a#1", psnr=3.0), other])["psnr"] == 3.5


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_one_score_that_is_no_number_leaves_no_mean_of_the_others(bad: float) -> None:
    one = ImageScore(image_id="a#0", photograph="a", note=None, **dict.fromkeys(MEAN_NAMES, 1.0))
    for photograph in ("a", "b"):  # among the tiles of one photograph, and among photographs
        means = mean_scores([one, replace(one, photograph=photograph, psnr=bad)])
        assert (means["psnr"], means["ssim"]) == (None, 1.0)


def test_neither_flat_targets_nor_the_ceiling_of_psnr_lift_a_mean() -> None:
    tile = ImageScore(image_id="a#0", photograph="a", note=None, **dict.fromkeys(MEAN_NAMES, 0.5))
    scores = [
        replace(tile, psnr=42.0, psnr_content=40.0),
        replace(tile, image_id="a#1", psnr=PSNR_CEILING_DB, psnr_content=PSNR_CEILING_DB, ssim=1.0),
        replace(tile, photograph="b", psnr=PSNR_CEILING_DB, ssim=1.0, perceptual=0.0, flat=True),
        replace(tile, photograph="c", psnr=99.0, psnr_content=60.0, ssim=0.0, flat=True),
    ]
    found = summary(scores)
    assert (found["psnr"], found["psnr_content"], found["ssim"], found["perceptual"]) == (42.0, 40.0, 0.75, 0.5)
    assert (found["flat_targets"], found["at_ceiling"]) == (2, 1)
    assert tuple(found) == SUMMARY_NAMES


def test_a_target_is_flat_by_its_content_alone(perceptual: Perceptual) -> None:
    hr = np.zeros((32, 32), np.uint8)
    hr[8:24] = 77
    row = PairRow("a", "a", hr, hr[::2, ::2].copy(), Box(0, 8, 32, 24), "full")
    hr = hr.copy()
    hr[9, 9] = 78
    rows = [row, row._replace(hr=hr)]
    scores = evaluate(build_model("bicubic", 2), rows, perceptual, device=CPU, precision="float32")
    assert [score.flat for score in scores] == [True, False]


def test_inference_is_timed_on_the_picture_alone_and_leaves_the_network_as_it_was(rows: list[PairRow]) -> None:
    model, waits = build_model("espcn", 2), []
    took = inference_ms(model, rows[0], device=CPU, precision="float32", synchronise=lambda: waits.append(1))
    assert 0 < took < 1000
    assert len(waits) == 2 * (1 + TIMED_RUNS)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_picture_is_rounded_to_the_nearest_of_256_values() -> None:
    sr = torch.tensor([[[[-0.2, 0.0, 0.499 / 255, 0.501 / 255, 254.6 / 255, 1.3]]]])
    assert to_uint8(sr).tolist() == [[0, 0, 0, 1, 255, 255]]
