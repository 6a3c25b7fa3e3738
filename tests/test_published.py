"""Bicubic by the literature's protocol, held to values that come from elsewhere, on photographs that anyone has."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from raysr.benchmark import EvaluateConfig, evaluate_sets
from raysr.images import imresize_exact

NAMES = ("astronaut", "camera", "chelsea", "coffee")

KNOWN = {
    2: {
        "astronaut": (31.713, 0.94582),
        "camera": (31.216, 0.87546),
        "chelsea": (35.259, 0.91604),
        "coffee": (30.597, 0.88611),
    },
    3: {
        "astronaut": (28.683, 0.8936),
        "camera": (28.991, 0.815),
        "chelsea": (32.891, 0.85423),
        "coffee": (28.407, 0.81346),
    },
    4: {
        "astronaut": (26.844, 0.84294),
        "camera": (27.492, 0.76911),
        "chelsea": (31.476, 0.80641),
        "coffee": (27.292, 0.76494),
    },
}
"""PSNR in dB and SSIM of bicubic by scale, as `by_definition` has them."""


def keys(x: np.ndarray) -> np.ndarray:
    """The cubic kernel of Keys (1981) with a = -0.5."""
    x = np.abs(x)
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(old: int, new: int) -> np.ndarray:
    """A row for each new sample of MATLAB's imresize: the kernel, widened where it shrinks, over a mirrored line."""
    ratio = new / old
    wide = min(ratio, 1.0)
    found = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) / ratio - 0.5
        taps = np.arange(math.floor(centre - 2 / wide), math.ceil(centre + 2 / wide) + 1)
        shares = keys((taps - centre) * wide)
        inside = np.where(taps < 0, -taps - 1, taps)
        inside = np.where(inside >= old, 2 * old - 1 - inside, inside)
        np.add.at(found[row], inside, shares / shares.sum())
    return found


def resized(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """In 8 bits: half a step rounds up."""
    down, across = weights(rgb.shape[0], height), weights(rgb.shape[1], width)
    return np.floor(np.einsum("ih,hwc,jw->ijc", down, rgb, across, optimize=True) + 0.5).clip(0, 255)


def ssim_of(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. (2004): an 11 x 11 Gaussian window of 1.5 pixels, where it lies inside the picture."""
    window = np.exp(-(np.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def local(picture: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            picture = np.apply_along_axis(np.convolve, axis, picture, window, "valid")
        return picture

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean, other_mean = local(one), local(other)
    variance, other_variance = local(one**2) - mean**2, local(other**2) - other_mean**2
    covariance = local(one * other) - mean * other_mean
    likeness = (2 * mean * other_mean + c1) * (2 * covariance + c2)
    return float((likeness / ((mean**2 + other_mean**2 + c1) * (variance + other_variance + c2))).mean())


def by_definition(rgb: np.ndarray, scale: int) -> tuple[float, float]:
    """PSNR and SSIM of bicubic in numpy alone, from the definitions: what the engine is held to."""
    height, width = (side // scale for side in rgb.shape[:2])
    hr = rgb[: height * scale, : width * scale].astype(float)
    sr = resized(resized(hr, width, height), width * scale, height * scale)
    inside = slice(scale, -scale)
    sr_y, hr_y = ((one @ [65.481, 128.553, 24.966] / 255 + 16)[inside, inside] for one in (sr, hr))
    return 10 * math.log10(255**2 / ((sr_y - hr_y) ** 2).mean()), ssim_of(sr_y, hr_y)


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's; grey ones in three equal colours."""
    picture = getattr(photographs, name)()
    return np.dstack([picture] * 3) if picture.ndim == 2 else picture


@pytest.mark.parametrize("scale", KNOWN)
def test_bicubic_has_the_known_values_on_bundled_photographs(scale: int, tmp_path: Path) -> None:
    for name in NAMES:
        Image.fromarray(photograph(name)).save(tmp_path / f"{name}.png")
    found = evaluate_sets(EvaluateConfig(sets=(str(tmp_path),), scale=scale, perceptual="none"))
    ours = {Path(one.image_id).stem: one for one in found.sets[0].scored}
    for name, (psnr, ssim) in KNOWN[scale].items():
        assert (ours[name].psnr, ours[name].ssim) == (pytest.approx(psnr, abs=5e-3), pytest.approx(ssim, abs=5e-5)), (
            name
        )
    means = found.sets[0].means()
    for metric, index, digits in (("psnr", 0, 5e-3), ("ssim", 1, 5e-5)):
        assert means[metric] == pytest.approx(np.mean([one[index] for one in KNOWN[scale].values()]), abs=digits)


@pytest.mark.parametrize("scale", KNOWN)
def test_the_known_values_are_those_of_the_definitions(scale: int) -> None:
    for name in ("camera", "chelsea"):
        psnr, ssim = by_definition(photograph(name), scale)
        assert (round(psnr, 3), round(ssim, 5)) == KNOWN[scale][name]


CORNER = np.zeros((4, 4))
CORNER[0, 0], CORNER[1, 0], CORNER[0, 1], CORNER[0, 3] = 100, 10, 1, 100


@pytest.mark.parametrize(
    ("picture", "size", "known"),
    [
        (
            np.arange(64.0).reshape(8, 8),
            (4, 4),
            [
                [4.042969, 6.082031, 8.105469, 10.144531],
                [20.355469, 22.394531, 24.417969, 26.457031],
                [36.542969, 38.582031, 40.605469, 42.644531],
                [52.855469, 54.894531, 56.917969, 58.957031],
            ],
        ),
        (np.arange(64.0).reshape(8, 8), (2, 2), [[12.383789, 16.631836], [46.368164, 50.616211]]),
        (
            np.arange(16.0).reshape(4, 4),
            (3, 3),
            [[0.750552, 2.100442, 3.450331], [6.15011, 7.5, 8.84989], [11.549669, 12.899558, 14.249448]],
        ),
        (
            CORNER,
            (5, 5),
            [
                [108.685225, 27.697097, -12.446562, 26.884193, 109.2025],
                [35.471365, 8.970789, -3.589562, 6.637437, 26.961],
                [-0.650312, -0.212219, 0.394531, -1.607906, -6.53125],
                [-0.768075, -0.18963, 0.045938, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.0, 0.0],
            ],
        ),
    ],
    ids=["8 to 4", "8 to 2", "4 to 3", "4 to 5"],
)
def test_imresize_gives_the_numbers_that_matlab_printed(
    picture: np.ndarray, size: tuple[int, int], known: list[list[float]]
) -> None:
    """MATLAB's own output for small pictures, as the tests of bicubic_pytorch (Son 2020) hold it."""
    assert imresize_exact(picture, *size) == pytest.approx(np.array(known), abs=1e-4)
    down = weights(picture.shape[0], size[1]) @ picture @ weights(picture.shape[1], size[0]).T
    assert down == pytest.approx(np.array(known), abs=1e-6)
