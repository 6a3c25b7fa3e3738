"""From the bytes of a file to a still picture: upright, with 8 bits, and without alpha."""

import io
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image

from raysr.errors import text_of
from raysr.layouts import (
    Grey,
    PictureError,
    check_tiff,
    grey_of,
    is_cut,
    is_rounded,
    is_tiff,
    layout_name,
    mend_transparent_colour,
    tags_of,
    unread_tiff,
)
from raysr.metadata import UPRIGHT, read_orientation, take_apart

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
"""What `decode` opens. Of an MPO, a JPEG with a second view inside as many phones write, the first view is taken."""

MAX_PIXELS = 89_478_485
"""Largest picture that is unpacked where nobody asks for more, as for Pillow: a small file can claim to be huge."""

MAX_MEGAPIXELS = MAX_PIXELS / 1e6

INVISIBLE = "nothing of it is visible: it is transparent everywhere"


class Photo(NamedTuple):
    """An opened picture."""

    image: Image.Image
    """Upright (EXIF rotation applied), 8 bits, mode L or RGB, alpha laid on black."""
    full_size: tuple[int, int]
    """Width and height in the file, upright; `image` is smaller where it was decoded at a reduced size."""
    notes: tuple[str, ...]
    """What was changed on the way: alpha laid on black, 16 bits, CMYK, CIELAB, rotation, metadata not read."""


def pixels_of(max_megapixels: float) -> int:
    """The number of pixels that --max-megapixels allows; raises ValueError for one that is no number above 0."""
    if not (math.isfinite(max_megapixels) and max_megapixels > 0):
        raise ValueError(f"--max-megapixels must be a number above 0, got {max_megapixels}")
    return round(max_megapixels * 1e6)


def decode(
    data: bytes, fast_for_px: int | None = None, fit: str | None = None, *, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Open one still picture safely.

    With `fast_for_px`, a JPEG is decoded to luminance alone, for pad and crop no larger than twice the square of that
    side needs. Raises PictureError with the reason: not a picture, damaged, animated, over `max_pixels`, without
    8- or 16-bit integer samples, in a layout that Pillow reads wrongly, or transparent everywhere. Metadata that cannot
    be read is noted, and never a reason.

    Sets Image.MAX_IMAGE_PIXELS for a while: not for several threads at once.
    """
    # Damaged files raise almost anything from inside a decoder (struct.error, IndexError, SyntaxError, ...).
    try:
        with _pillow():
            return _decode(data, fast_for_px, fit, max_pixels)
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"damaged: {text_of(error)}") from error


@contextmanager
def _pillow() -> Generator[None]:
    """Pillow without its own limit, and without its warnings of metadata, which are of no concern here."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _decode(data: bytes, fast_for_px: int | None, fit: str | None, max_pixels: int) -> Photo:
    if not data:
        raise PictureError("the file is empty")
    parts = take_apart(data)
    image = _identify(parts.picture, max_pixels)
    if image.format == "TIFF":
        check_tiff(image, parts.picture)
    elif image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise PictureError(f"animated or multi-page ({frames} frames)")
    mend_transparent_colour(image, parts.picture)
    grey = grey_of(image)
    orientation = read_orientation(image, parts)
    notes, size = _notes(image, orientation.value, broken=orientation.broken), image.size
    if fast_for_px is not None and image.mode in ("L", "RGB"):
        within = {"pad": max(size), "crop": min(size)}.get(fit or "")
        ratio = 1.0 if within is None else min(1.0, 2 * fast_for_px / within)
        image.draft("L", (math.ceil(size[0] * ratio), math.ceil(size[1] * ratio)))
    _load(image)
    turned = image.transpose(UPRIGHT[orientation.value]) if orientation.value in UPRIGHT else image
    upright = _eight_bits(turned, grey)
    if image.format not in ("JPEG", "MPO"):  # a TIFF's size is that of the upright picture already
        size = upright.size
    elif orientation.value >= 5:
        size = (size[1], size[0])
    return Photo(upright, size, notes)


def _identify(data: bytes, max_pixels: int) -> Image.Image:
    """The picture's format and size, before any of its pixels is unpacked."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        told = unread_tiff(data) if is_tiff(data) else f"not a picture in any of {', '.join(FORMATS)}"
        raise PictureError(told) from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise PictureError(
            f"more than {max_pixels:,} pixels ({image.width} x {image.height}); --max-megapixels "
            f"{math.ceil(pixels / 1e6)} takes it"
        )
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        if image.format != "TIFF":
            raise
        raise PictureError(f"damaged: {text_of(error)} (TIFF of {layout_name(tags_of(image))})") from error


def _notes(image: Image.Image, orientation: int, *, broken: bool) -> tuple[str, ...]:
    known = {
        "alpha laid on black": image.has_transparency_data,
        "16 bits rounded to 8": is_rounded(image),
        "16 bits cut to 8": not image.mode.startswith("I") and is_cut(image),
        "CMYK turned into RGB": image.mode == "CMYK",
        "CIELAB turned into RGB": image.mode == "LAB",
        "turned upright": orientation in UPRIGHT,
        "metadata not readable, not turned": broken,
    }
    return tuple(note for note, true in known.items() if true)


def _eight_bits(image: Image.Image, grey: Grey) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > grey.peak:
            raise PictureError(f"samples from {samples.min()} to {samples.max()}, expected 0 to {grey.peak}")
        hidden = samples == image.info.get("transparency", -1)
        if hidden.all():
            raise PictureError(INVISIBLE)
        light = grey.peak - samples if grey.negative else samples
        rounded = (510 * light + grey.peak) // (2 * grey.peak)
        return Image.fromarray(np.where(hidden, 0, rounded).astype(np.uint8))
    if image.mode == "F":
        raise PictureError("floating-point samples, expected 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if rgba.getchannel("A").getextrema() == (0, 0):
            raise PictureError(INVISIBLE)
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        # Grey stays grey: Pillow's Y of a grey colour can be one less than that grey.
        return flat.getchannel("R") if image.mode in ("L", "LA", "La") else flat.convert("RGB")
    return image.convert("RGB")
