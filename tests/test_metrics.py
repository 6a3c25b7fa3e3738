from pathlib import Path

import numpy as np
import pytest
import pytorch_msssim
import torch
from PIL import Image
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from raysr.images import Box, degrade, luminance
from raysr.losses import Perceptual, load_perceptual
from raysr.metrics import PSNR_CEILING_DB, ms_ssim, psnr, score, score_content, ssim

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return load_perceptual("vgg-random")


def picture(size: int = 192, sigma: float = 0.0) -> Tensor:
    y = torch.from_numpy(photographs.camera()[:size, :size].copy())[None, None].float() / 255
    return y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_psnr_is_that_of_scikit_image(sigma: float) -> None:
    sr, hr = picture(sigma=sigma), picture()
    theirs = peak_signal_noise_ratio(hr.numpy().astype(float), sr.numpy().astype(float), data_range=1.0)
    assert psnr(sr, hr).item() == pytest.approx(theirs, abs=1e-3)


def test_psnr_of_a_known_error_is_the_known_value() -> None:
    hr = torch.full((2, 1, 8, 8), 0.5)
    assert psnr(hr + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), hr).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_ssim_is_that_of_scikit_image_with_the_same_window() -> None:
    sr, hr = picture(sigma=0.05), picture()
    theirs = structural_similarity(
        hr[0, 0].numpy().astype(float),
        sr[0, 0].numpy().astype(float),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(sr, hr).item() == pytest.approx(theirs, abs=2e-4)


def test_ssim_and_ms_ssim_are_those_of_pytorch_msssim() -> None:
    sr, hr = picture(sigma=0.05), picture()
    assert ssim(sr, hr).item() == pytorch_msssim.ssim(sr, hr, data_range=1.0).item()
    assert ms_ssim(sr, hr).item() == pytorch_msssim.ms_ssim(sr, hr, data_range=1.0).item()


def test_equal_pictures_have_the_best_scores(perceptual: Perceptual) -> None:
    scores = score(picture(), picture(), perceptual)
    assert (scores.perceptual, scores.psnr) == (0.0, PSNR_CEILING_DB)
    assert scores.ssim == pytest.approx(1)
    assert scores.ms_ssim == pytest.approx(1)


def test_values_outside_of_0_to_1_are_clamped_before_scoring(perceptual: Perceptual) -> None:
    hr = picture().round()  # black and white
    assert score(hr * 3 - 1, hr, perceptual) == score(hr, hr, perceptual)


@pytest.mark.parametrize(
    ("box", "empty", "reason"),
    [
        (Box(0, 0, 192, 161), [], None),
        (Box(0, 20, 192, 180), ["ms_ssim"], "content is 160 pixels on its short side, too thin for ms_ssim"),
        (Box(90, 0, 105, 192), ["ms_ssim", "perceptual"], "15 pixels on its short side, too thin for perceptual"),
        (Box(0, 0, 10, 192), ["ms_ssim", "perceptual", "ssim"], "too thin for perceptual, ms_ssim, ssim"),
    ],
)
def test_content_too_thin_for_a_metric_gets_no_score_and_the_reason(
    box: Box, empty: list[str], reason: str | None, perceptual: Perceptual
) -> None:
    scores, note = score_content(picture(sigma=0.05), picture(), box, perceptual)
    assert sorted(name for name in ("ms_ssim", "perceptual", "ssim") if getattr(scores, name) is None) == empty
    assert scores.psnr == pytest.approx(26, abs=2)
    assert note == reason if reason is None else reason in str(note)


def test_black_bars_flatter_every_score(perceptual: Perceptual) -> None:
    sr, hr = picture(sigma=0.05), picture()
    box = Box(0, 10, 192, 182)
    for bars in (slice(0, 10), slice(182, 192)):
        sr[..., bars, :] = hr[..., bars, :] = 0
    whole, (inside, _) = score(sr, hr, perceptual), score_content(sr, hr, box, perceptual)
    assert whole.psnr > inside.psnr
    assert inside.ssim is not None
    assert whole.ssim is not None
    assert whole.ssim > inside.ssim


@pytest.mark.skipif(not SHARED.exists(), reason="needs the photographs of Set5 and Set14 in ../shared/data")
@pytest.mark.parametrize(("name", "published"), [("set5", 32.33), ("set14", 28.99)])
def test_bicubic_scores_what_is_published_for_full_range_luminance(name: str, published: float) -> None:
    scores: list[float] = []
    for file in sorted((SHARED / name).glob("*.png")):
        y = luminance(Image.open(file).convert("RGB"))
        sr = degrade(y, 2).resize(y.size, Image.Resampling.BICUBIC)
        a, b = (torch.from_numpy(np.array(p)[2:-2, 2:-2])[None, None].float() / 255 for p in (sr, y))
        scores.append(psnr(a, b).item())
    assert len(scores) == {"set5": 5, "set14": 14}[name]
    assert float(np.mean(scores)) == pytest.approx(published, abs=0.02)
