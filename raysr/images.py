"""From a decoded photograph to luminance pairs: pure functions on Pillow and numpy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float32, Real, UInt8
from PIL import Image

from raysr.decoding import MAX_PIXELS, decode
from raysr.layouts import PictureError

LEAST_PX = 11
"""Shortest side of what a padded square holds of a photograph: the window of SSIM."""

FLAT, PARTLY_FLAT = "one value everywhere", "one value everywhere in some tiles"
"""Notes of pictures that have nothing to restore."""

YRange = Literal["full", "limited"]
Y_LIMITED = (16, 235)
"""Luminance of black and of white in ITU-R BT.601's limited range."""

Luminance = UInt8[np.ndarray, "h w"]


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
    kernel: Literal["pillow", "matlab"] = "pillow"
    """What makes the input from the target: Pillow's bicubic, as in the paper, or MATLAB's imresize, as in the
    literature."""
    y_range: YRange = "full"
    """Luminance from 0 to 255 (the paper's), or from 16 to 235 as in ITU-R BT.601 (the literature's)."""
    fast_jpeg: Annotated[bool, tyro.conf.arg(prefix_name=False)] = False
    """Decode a JPEG's luminance alone, and no larger than twice what pad and crop need; pixels differ a little."""

    @property
    def lr_px(self) -> int:
        """Side of the square input, in pixels."""
        return self.hr_px // self.scale

    @property
    def black(self) -> int:
        """The luminance of black."""
        return Y_LIMITED[0] if self.y_range == "limited" else 0

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


def luminance(image: Image.Image, y_range: YRange = "full") -> Image.Image:
    """The Y channel (ITU-R BT.601): Pillow's of 0..255, as in the paper, or MATLAB's rgb2ycbcr of 16..235."""
    if y_range == "limited":
        if image.mode == "L":
            return image.point([round(16 + 219 * grey / 255) for grey in range(256)])
        return image.convert("L", (65.481 / 255, 128.553 / 255, 24.966 / 255, 16))
    return image if image.mode == "L" else image.convert("YCbCr").getchannel("Y")


def imresize(y: Luminance, width: int, height: int) -> UInt8[np.ndarray, "height width"]:
    """MATLAB's imresize of 8-bit luminance, rounded as it rounds."""
    return to_bytes(imresize_exact(y, width, height))


def imresize_exact(plane: Real[np.ndarray, "h w"], width: int, height: int) -> Float32[np.ndarray, "height width"]:
    """MATLAB's imresize: bicubic (Keys 1981, a = -0.5), widened where it shrinks, the picture mirrored at its edges.

    Pillow's bicubic is the same kernel, but leaves out what lies beyond the edges: so it is given the mirror image too.
    """
    margin_x, margin_y = (
        2 * math.ceil(max(1, old / new)) + 2 for old, new in ((plane.shape[1], width), (plane.shape[0], height))
    )
    mirrored = np.pad(plane, ((margin_y, margin_y), (margin_x, margin_x)), mode="symmetric").astype(np.float32)
    box = (margin_x, margin_y, margin_x + plane.shape[1], margin_y + plane.shape[0])
    return np.asarray(Image.fromarray(mirrored).resize((width, height), Image.Resampling.BICUBIC, box=box))


def to_bytes(samples: Real[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Samples from 0 to 255 as MATLAB's uint8() has them: half a step rounds up."""
    return np.floor(samples + 0.5).clip(0, 255).astype(np.uint8)


def fit_into_square(
    y: Image.Image, hr_px: int, *, black: int = 0, full_size: tuple[int, int] | None = None
) -> tuple[Image.Image, Box]:
    """Scale to fit, keeping the aspect ratio, and pad the two short sides evenly with black.

    A smaller photograph is padded, never enlarged; `full_size` is that of one that was decoded at a reduced size. The
    box is where the photograph lies: a black bar is easy to restore, so scores that count it flatter every model.
    """
    full_size = full_size or y.size
    ratio = min(1.0, hr_px / max(full_size))
    width, height = (max(1, round(side * ratio)) for side in full_size)
    content = y if (width, height) == y.size else y.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (hr_px - width) // 2, (hr_px - height) // 2
    square = Image.new("L", (hr_px, hr_px), black)
    square.paste(content, (left, top))
    return square, Box(left, top, left + width, top + height)


def crop_to_square(y: Image.Image, hr_px: int) -> Image.Image:
    """The largest centred square, scaled to `hr_px`."""
    side = min(y.size)
    left, top = (y.width - side) // 2, (y.height - side) // 2
    square = (left, top, left + side, top + side)
    return y.crop(square) if side == hr_px else y.crop(square).resize((hr_px, hr_px), Image.Resampling.BICUBIC)


def _tiles(y: Image.Image, hr_px: int) -> Iterator[Image.Image]:
    columns, rows = y.width // hr_px, y.height // hr_px
    left, top = (y.width - columns * hr_px) // 2, (y.height - rows * hr_px) // 2
    for row in range(rows):
        for column in range(columns):
            x, z = left + column * hr_px, top + row * hr_px
            yield y.crop((x, z, x + hr_px, z + hr_px))


def degrade(hr: Image.Image, scale: int, kernel: Literal["pillow", "matlab"] = "pillow") -> Image.Image:
    """The low-resolution input: Pillow's anti-aliased bicubic, as in the paper, or MATLAB's."""
    width, height = hr.width // scale, hr.height // scale
    if kernel == "matlab":
        return Image.fromarray(imresize(np.asarray(hr), width, height))
    return hr.resize((width, height), Image.Resampling.BICUBIC)


class Prepared(NamedTuple):
    """What became of one photograph."""

    y: Image.Image
    """Its luminance, of full size unless it was decoded at a reduced one."""
    pairs: list[Pair]
    notes: tuple[str, ...]


def make_pairs(data: bytes, geometry: Geometry, max_pixels: int = MAX_PIXELS) -> Prepared:
    """Every pair that the photograph in `data` gives: one for pad and crop, one a whole square for tiles.

    Raises PictureError with the reason when it gives none. `geometry.fit` must be decided (not None).
    """
    hr_px, fit = geometry.hr_px, geometry.fit
    photo = decode(data, hr_px if geometry.fast_jpeg else None, fit, max_pixels=max_pixels)
    y, (width, height) = luminance(photo.image, geometry.y_range), photo.full_size
    whole = Box(0, 0, hr_px, hr_px)
    if fit == "pad":
        squares = [fit_into_square(y, hr_px, black=geometry.black, full_size=photo.full_size)]
        _refuse_thin(squares[0][1], photo.full_size, hr_px)
    elif fit == "crop":
        squares = [(crop_to_square(y, hr_px), whole)] if min(width, height) >= hr_px else []
    elif fit == "tiles":
        squares = [(tile, whole) for tile in _tiles(y, hr_px)]
    else:
        raise ValueError(f"geometry.fit must be pad, crop or tiles here, got {fit!r}")
    if not squares:
        raise PictureError(f"{width} x {height} pixels hold no whole square of {hr_px}")
    pairs = [Pair(np.asarray(hr), np.asarray(degrade(hr, geometry.scale, geometry.kernel)), box) for hr, box in squares]
    return Prepared(y, pairs, photo.notes + _notes(squares))


def _refuse_thin(content: Box, full_size: tuple[int, int], hr_px: int) -> None:
    """Raise PictureError where next to nothing of a padded square is the photograph."""
    width, height = content.right - content.left, content.bottom - content.top
    least = min(LEAST_PX, hr_px)
    if min(width, height) < least:
        raise PictureError(
            f"{full_size[0]} x {full_size[1]} pixels become {width} x {height} in a square of {hr_px}, and a side of "
            f"less than {least} cannot be judged"
        )


def _notes(squares: list[tuple[Image.Image, Box]]) -> tuple[str, ...]:
    """What is to be told of squares that any network restores without an error."""
    flat = [low == high for low, high in (square.crop(box).getextrema() for square, box in squares)]
    return (FLAT,) if all(flat) else (PARTLY_FLAT,) if any(flat) else ()
