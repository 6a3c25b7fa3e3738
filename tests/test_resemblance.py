"""Inputs that are made in any sound way resemble their targets; inputs of other pictures do not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data as photographs

from raysr.protocol import RGB, resize_bytes
from raysr.resemblance import doubt

NAMES = ("astronaut", "coffee", "chelsea", "camera", "grass", "moon")


def targets() -> dict[str, RGB]:
    """Photographs of one size; grass has no shape larger than a blade, and the moon has little contrast."""
    pictures = {name: getattr(photographs, name)()[:288, :384] for name in NAMES}
    return {name: np.dstack([one] * 3) if one.ndim == 2 else one for name, one in pictures.items()}


TARGETS = targets()


def noisy(picture: RGB, sigma: float) -> RGB:
    return (picture + np.random.default_rng(0).normal(0, sigma, picture.shape)).clip(0, 255).astype(np.uint8)


def blurred(hr: RGB, scale: int, radius: float) -> RGB:
    image = Image.fromarray(hr).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image.resize((hr.shape[1] // scale, hr.shape[0] // scale), Image.Resampling.BICUBIC))


def as_jpeg(picture: RGB, quality: int) -> RGB:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def small(hr: RGB, scale: int) -> RGB:
    return resize_bytes(hr, hr.shape[1] // scale, hr.shape[0] // scale, "matlab")


SOUND = {
    "pillow": lambda hr, scale: resize_bytes(hr, hr.shape[1] // scale, hr.shape[0] // scale, "pillow"),
    "not anti-aliased": lambda hr, scale: resize_bytes(hr, hr.shape[1] // scale, hr.shape[0] // scale, "opencv"),
    "every other pixel": lambda hr, scale: hr[::scale, ::scale],
    "blurred": lambda hr, scale: blurred(hr, scale, 4),
    "noisy": lambda hr, scale: noisy(small(hr, scale), 50),
    "blurred and noisy": lambda hr, scale: noisy(blurred(hr, scale, 3), 25),
    "JPEG": lambda hr, scale: as_jpeg(small(hr, scale), 10),
    "dark": lambda hr, scale: (small(hr, scale) * 0.3).astype(np.uint8),
    "gamma": lambda hr, scale: (255 * (small(hr, scale) / 255) ** 2.2).astype(np.uint8),
    "colours in the other order": lambda hr, scale: small(hr, scale)[..., ::-1],
}


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("made", SOUND)
def test_an_input_made_in_any_sound_way_resembles_its_target(made: str, scale: int) -> None:
    assert {name: doubt(name, SOUND[made](hr, scale), hr) for name, hr in TARGETS.items()} == dict.fromkeys(TARGETS)


@pytest.mark.parametrize("scale", [2, 4])
def test_an_input_of_another_picture_does_not(scale: int) -> None:
    for name, hr in TARGETS.items():
        for other, picture in TARGETS.items():
            if other != name:
                told = doubt("catx2.png", small(picture, scale), hr)
                assert str(told).startswith("catx2.png does not resemble its target made smaller (correlation "), other


@pytest.mark.parametrize("wrong", ["turned", "negative", "blank"])
def test_a_turned_a_negative_and_a_blank_input_do_not(wrong: str) -> None:
    hr = TARGETS["astronaut"]
    lr = {"turned": hr[::-2, ::-2], "negative": 255 - hr[::2, ::2], "blank": np.zeros_like(hr[::2, ::2])}[wrong]
    assert doubt("a.png", np.ascontiguousarray(lr), hr) is not None


def test_a_target_with_hardly_any_contrast_is_not_doubted_for_its_noise() -> None:
    for hr in (np.full((64, 80, 3), 90, np.uint8), noisy(np.full((64, 80, 3), 90.0), 2)):
        assert doubt("fog.png", noisy(small(hr, 2), 10), hr) is None
