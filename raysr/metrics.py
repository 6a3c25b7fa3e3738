"""Scores of each picture against its target: PSNR, SSIM, MS-SSIM and perceptual distance."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from pytorch_msssim import ms_ssim as _ms_ssim
from pytorch_msssim import ssim as _ssim
from torch import Tensor

from raysr.images import Y_LIMITED, Box, YRange

SSIM_MIN_PX = 11
"""The Gaussian window of SSIM."""
MS_SSIM_MIN_PX = 161
"""Four halvings of that window: pytorch-msssim refuses sides of 160 pixels and less."""
PERCEPTUAL_MIN_PX = 16
"""Four poolings of VGG16."""
ALEX_MIN_PX = 64
"""Below this AlexNet's last layers see a few pixels."""
PSNR_CEILING_DB = 100.0
"""Given for equal pictures, where PSNR is infinite, so that means stay finite."""


@dataclass(frozen=True)
class Scores:
    """Scores of one picture; None where the picture is too small for the metric."""

    perceptual: float | None = None
    """Distance that was trained on; lower is better."""
    ms_ssim: float | None = None
    ssim: float | None = None
    psnr: float | None = None
    """In dB."""
    lpips_alex: float | None = None
    """LPIPS on AlexNet, where its weights are at hand."""


Distance = Callable[[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]], Float[Tensor, " n"]]
"""LPIPS of each pair of luminance pictures: a `losses.Perceptual`, which takes colours too, or a `judge.Judge`."""


def psnr(sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each image in dB, for values in [0, 1] (Huynh-Thu & Ghanbari 2008)."""
    mse = (sr - hr).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(mse)).clamp(max=PSNR_CEILING_DB)


def on_scale_of(pictures: Float[Tensor, "n c h w"], y_range: YRange) -> Float[Tensor, "n c h w"]:
    """Black at 0 and white at 1, or for the limited range at 16/255 and 235/255, as PSNR and SSIM see them."""
    black, white = (v / 255 for v in Y_LIMITED) if y_range == "limited" else (0.0, 1.0)
    return black + (white - black) * pictures


def ssim(sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Structural similarity of each image, values in [0, 1], 11x11 Gaussian window (Wang et al. 2004)."""
    return _ssim(sr, hr, data_range=1.0, size_average=False)


def ms_ssim(sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Multi-scale SSIM of each image over five scales, sides above 160 pixels (Wang et al. 2003)."""
    return _ms_ssim(sr, hr, data_range=1.0, size_average=False)


def score(
    sr: Float[Tensor, "1 c h w"],
    hr: Float[Tensor, "1 c h w"],
    perceptual: Distance | None,
    alex: Distance | None = None,
    y_range: YRange = "full",
) -> Scores:
    """Every score of one picture, as `score_batch` has them."""
    (only,) = score_batch(sr, hr, perceptual, alex, y_range)
    return only


def score_batch(
    sr: Float[Tensor, "n c h w"],
    hr: Float[Tensor, "n c h w"],
    perceptual: Distance | None,
    alex: Distance | None = None,
    y_range: YRange = "full",
) -> list[Scores]:
    """Every score of each picture, luminance or RGB, in float32; `sr` is clamped to [0, 1] first, and not rounded.

    Black is 0 and white is 1 for the networks that judge. With a `y_range` of limited, PSNR and the two SSIM see black
    as 16/255 and white as 235/255, as in the literature, which makes PSNR 1.32 dB higher.
    """
    with torch.no_grad(), torch.autocast(sr.device.type, enabled=False):
        sr, hr = sr.float().clamp(0, 1), hr.float()
        side = min(hr.shape[-2:])
        sr_y, hr_y = (on_scale_of(picture, y_range) for picture in (sr, hr))
        columns = (
            _distances(perceptual, sr, hr) if side >= PERCEPTUAL_MIN_PX else None,
            ms_ssim(sr_y, hr_y) if side >= MS_SSIM_MIN_PX else None,
            ssim(sr_y, hr_y) if side >= SSIM_MIN_PX else None,
            psnr(sr_y, hr_y),
            _distances(alex, sr, hr) if side >= ALEX_MIN_PX else None,
        )
        values = [[None] * len(sr) if column is None else column.tolist() for column in columns]
    return [Scores(*row) for row in zip(*values, strict=True)]


def _distances(
    judge: Distance | None, sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"]
) -> Float[Tensor, " n"] | None:
    return None if judge is None else judge(sr, hr)


def score_content(
    sr: Float[Tensor, "1 1 h w"],
    hr: Float[Tensor, "1 1 h w"],
    box: Box,
    perceptual: Distance,
    alex: Distance | None = None,
    y_range: YRange = "full",
) -> tuple[Scores, str | None]:
    """Scores inside the content box alone, and the reason why one of them is empty, if one is."""
    window = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    scores = score(sr[window], hr[window], perceptual, alex, y_range)
    side = min(box.right - box.left, box.bottom - box.top)
    if scores.ms_ssim is not None:
        return scores, None
    empty = ", ".join(f.name for f in fields(scores)[:3] if getattr(scores, f.name) is None)
    return scores, f"content is {side} pixels on its short side, too thin for {empty}"
