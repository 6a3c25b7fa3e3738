from dataclasses import MISSING, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic
from PIL import Image

from raysr.images import Box, luminance
from raysr.pairs import to_y
from raysr.protocol import (
    LITERATURE,
    PAPER,
    PROTOCOLS,
    Protocol,
    changed,
    differences,
    luminance_of,
    resize,
    resize_bytes,
    whole_bytes,
    with_chroma_of,
)
from raysr.selfcheck import measure
from raysr.testsets import find_set

SET14 = Path(__file__).parents[2] / "shared" / "data" / "set14"
RGB = synthetic(3, 30, 22)


def test_a_protocol_has_no_defaults() -> None:
    assert all(field.default is MISSING and field.default_factory is MISSING for field in fields(Protocol))
    assert all(field.kw_only for field in fields(Protocol))
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}


def test_a_changed_protocol_says_how_it_differs_from_the_named_one() -> None:
    full = changed(LITERATURE, y_range="full")
    assert full.name == "literature (y_range=full)"
    assert differences(full, LITERATURE) == {"y_range": "full"}
    assert changed(full, border=0).name == "literature (y_range=full, border=0)"
    assert changed(full, y_range="limited") == LITERATURE


@pytest.mark.parametrize("change", [{"colour": "rgb"}, {"kernel": "opencv"}, {"y_bits": "float"}])
def test_squares_are_luminance_in_whole_bytes(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="squares are made of luminance in whole bytes"):
        changed(PAPER, **change)


def test_a_border_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="a border of -1 pixels cannot be cut"):
        replace(LITERATURE, border=-1)


def test_the_border_is_the_scale_or_a_number_of_pixels() -> None:
    assert LITERATURE.cut(Box(0, 0, 30, 20), 3) == (3, 3, 27, 17)
    assert replace(LITERATURE, border=4).cut(Box(2, 0, 30, 20), 3) == (6, 4, 26, 16)


def test_opencvs_bicubic_has_its_own_kernel_and_no_anti_aliasing() -> None:
    step = np.zeros((1, 16, 1))
    step[0, 8] = 1
    # An impulse enlarged by 2 samples the kernel at odd quarters; Keys' with a = -0.75.
    distance = np.abs((np.arange(32) + 0.5) / 2 - 0.5 - 8)
    near = 1.25 * distance**3 - 2.25 * distance**2 + 1
    far = -0.75 * distance**3 + 3.75 * distance**2 - 6 * distance + 3
    kernel = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    assert resize(step, 32, 1, "opencv")[0, :, 0] == pytest.approx(kernel, abs=1e-6)
    half = resize(step, 8, 1, "opencv")[0, :, 0]
    assert np.count_nonzero(np.abs(half) > 1e-6) == 2  # four taps half a step apart: two outputs see the impulse
    assert np.count_nonzero(np.abs(resize(step, 8, 1, "matlab")[0, :, 0]) > 1e-6) == 4  # the widened kernel


@pytest.mark.parametrize("kernel", ["pillow", "matlab", "opencv"])
def test_a_flat_picture_stays_flat_and_bytes_are_the_rounded_picture(kernel: str) -> None:
    flat = np.full((10, 14, 3), 77, np.uint8)
    assert (resize_bytes(flat, 7, 5, kernel) == 77).all()
    exact, whole = resize(RGB, 15, 11, kernel), resize_bytes(RGB, 15, 11, kernel)
    assert exact.shape == whole.shape == (11, 15, 3)
    assert np.abs(exact.clip(0, 255) - whole).max() <= (1.01 if kernel == "pillow" else 0.5001)  # Pillow rounds twice


def test_pillows_bytes_are_pillows() -> None:
    pillows = Image.fromarray(RGB).resize((60, 44), Image.Resampling.BICUBIC)
    assert np.array_equal(resize_bytes(RGB, 60, 44, "pillow"), np.asarray(pillows))


@pytest.mark.parametrize("y_range", ["full", "limited"])
def test_luminance_is_exact_or_that_of_an_image_file(y_range: str) -> None:
    black, span = (16, 219) if y_range == "limited" else (0, 255)
    exact = luminance_of(RGB, replace(LITERATURE, y_range=y_range))
    assert exact[0, 0].numpy() == pytest.approx(RGB @ np.array([65.481, 128.553, 24.966]) / 219 / 255, abs=1e-6)
    stored = luminance_of(RGB, replace(LITERATURE, y_range=y_range, y_bits="bytes")) * span + black
    assert np.array_equal(stored[0, 0].round().numpy(), np.asarray(luminance(Image.fromarray(RGB), y_range)))
    assert (whole_bytes(exact, y_range) * span + black - (exact * span + black)).abs().max() <= 0.5001


def test_luminance_and_enlarged_chroma_of_a_flat_picture_are_the_picture() -> None:
    colour = np.array([[[200, 90, 30]]], np.uint8)
    lr, hr = np.tile(colour, (3, 4, 1)), np.tile(colour, (6, 8, 1))
    colours = with_chroma_of(luminance_of(hr, LITERATURE), lr, "matlab")
    assert colours[0].permute(1, 2, 0).numpy() == pytest.approx(hr / 255, abs=1e-6)


def test_luminance_survives_the_chroma_that_is_laid_over_it() -> None:
    grey = np.full((11, 15, 3), 120, np.uint8)
    grey[..., 0] += 9
    y = 0.4 + 0.2 * torch.rand(1, 1, 22, 30, generator=torch.Generator().manual_seed(0))
    assert to_y(with_chroma_of(y, grey, "matlab")) == pytest.approx(y.numpy(), abs=1e-6)


@pytest.mark.skipif(not SET14.is_dir(), reason="uses the photographs of ../shared/data, which is missing here")
@pytest.mark.parametrize(
    ("change", "set5", "set14"),
    [
        ({}, 33.68, 30.33),
        ({"kernel": "pillow"}, 33.67, 30.32),
        ({"kernel": "pillow", "y_range": "full", "y_bits": "bytes"}, 32.33, 28.99),
        ({"kernel": "opencv"}, 34.45, 30.83),
    ],
)
def test_bicubic_has_the_known_value_in_all_four_protocols(change: dict[str, str], set5: float, set14: float) -> None:
    for folder, known in ((SET14.parent / "set5", set5), (SET14, set14)):
        found, unusable = measure(find_set(folder, 2), changed(LITERATURE, **change))
        assert found == pytest.approx(known, abs=0.02)
        assert unusable == []
