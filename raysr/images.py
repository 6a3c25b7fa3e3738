"""From the bytes of a photograph to luminance pairs: pure functions on Pillow and numpy."""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
"""What `decode` opens. Of an MPO, a JPEG with a second view inside as many phones write, the first view is taken."""

MAX_PIXELS = 89_478_485
"""Largest picture that `decode` unpacks, Pillow's own limit: a small file can claim to be a huge picture."""

Luminance = UInt8[np.ndarray, "h w"]


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason, fit to be shown beside its name."""


class Box(NamedTuple):
    """A rectangle in high-resolution pixels; `right` and `bottom` are outside it."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a photograph becomes training pairs."""

    hr_px: int = 512
    """Side of the square target, in pixels."""
    scale: Literal[2, 3, 4] = 2
    """Side of the target divided by the side of the input."""
    fit: Literal["pad", "crop", "tiles"] | None = None
    """pad: shrink to fit the square and pad with black, as in the paper. crop: shrink the largest centred square.
    tiles: every whole square of the full-size photograph. None: tiles for `bundled`, pad for everything else."""

    def __post_init__(self) -> None:
        if self.scale not in (2, 3, 4) or self.hr_px < 1 or self.hr_px % self.scale:
            raise ValueError(
                "hr_px must be a positive multiple of scale, and scale 2, 3 or 4; "
                f"got hr_px={self.hr_px}, scale={self.scale}"
            )


class Pair(NamedTuple):
    """One training example: uint8 luminance, `hr` of hr_px square, `lr` smaller by the scale."""

    hr: Luminance
    lr: Luminance
    content_box: Box


def decode(data: bytes) -> Image.Image:
    """Open one still picture safely: upright (EXIF rotation applied), 8 bits, mode L or RGB, alpha laid on black.

    Raises PictureError with the reason: not a picture, damaged, animated, over MAX_PIXELS, or without 8- or 16-bit
    integer samples.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata, which is of no concern here, and of a picture that is too large.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise PictureError(f"not a picture in any of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:
        raise PictureError(f"damaged: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels ({image.width} x {image.height})")
    # Damaged files raise almost anything from inside a decoder (struct.error, IndexError, SyntaxError, ...).
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":
                raise PictureError(f"animated or multi-page ({frames} frames)")
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"damaged: {error}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > 65535:
            raise PictureError(f"samples from {samples.min()} to {samples.max()}, expected 8 or 16 bits")
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise PictureError("floating-point samples, expected 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        # Grey stays grey: Pillow's Y of a grey colour can be one less than that grey.
        return flat.getchannel("R") if image.mode in ("L", "LA", "La") else flat.convert("RGB")
    return image.convert("RGB")


def luminance(image: Image.Image) -> Image.Image:
    """The Y channel of Pillow's full-range YCbCr (ITU-R BT.601, 0..255), as in the paper."""
    return image if image.mode == "L" else image.convert("YCbCr").getchannel("Y")


def fit_into_square(y: Image.Image, hr_px: int) -> tuple[Image.Image, Box]:
    """Scale to fit, keeping the aspect ratio, and pad the two short sides evenly with black.

    A smaller photograph is padded, never enlarged. The box is where the photograph lies: a black bar is easy to
    restore, so scores that count it flatter every model.
    """
    ratio = min(1.0, hr_px / max(y.size))
    width, height = (max(1, round(side * ratio)) for side in y.size)
    content = y if (width, height) == y.size else y.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (hr_px - width) // 2, (hr_px - height) // 2
    square = Image.new("L", (hr_px, hr_px), 0)
    square.paste(content, (left, top))
    return square, Box(left, top, left + width, top + height)


def _centred_square(y: Image.Image) -> Image.Image:
    side = min(y.size)
    left, top = (y.width - side) // 2, (y.height - side) // 2
    return y.crop((left, top, left + side, top + side))


def _tiles(y: Image.Image, hr_px: int) -> Iterator[Image.Image]:
    columns, rows = y.width // hr_px, y.height // hr_px
    left, top = (y.width - columns * hr_px) // 2, (y.height - rows * hr_px) // 2
    for row in range(rows):
        for column in range(columns):
            x, z = left + column * hr_px, top + row * hr_px
            yield y.crop((x, z, x + hr_px, z + hr_px))


def degrade(hr: Image.Image, scale: int) -> Image.Image:
    """The low-resolution input: Pillow's anti-aliased bicubic, as in the paper."""
    return hr.resize((hr.width // scale, hr.height // scale), Image.Resampling.BICUBIC)


def make_pairs(data: bytes, geometry: Geometry) -> list[Pair]:
    """Every pair that the photograph in `data` gives: one for pad and crop, one a whole square for tiles.

    Raises PictureError with the reason when it gives none. `geometry.fit` must be decided (not None).
    """
    y = luminance(decode(data))
    if geometry.fit == "pad":
        squares = [fit_into_square(y, geometry.hr_px)]
    elif geometry.fit == "crop":
        squares = [fit_into_square(_centred_square(y), geometry.hr_px)]
    elif geometry.fit == "tiles":
        whole = Box(0, 0, geometry.hr_px, geometry.hr_px)
        squares = [(tile, whole) for tile in _tiles(y, geometry.hr_px)]
    else:
        raise ValueError(f"geometry.fit must be pad, crop or tiles here, got {geometry.fit!r}")
    if not squares:
        raise PictureError(f"{y.width} x {y.height} pixels hold no whole square of {geometry.hr_px}")
    return [Pair(np.asarray(hr), np.asarray(degrade(hr, geometry.scale)), box) for hr, box in squares]
