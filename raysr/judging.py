"""One picture through a network, beside its target, by a protocol."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from raysr.checkpoints import Upscaler
from raysr.errors import text_of
from raysr.images import Box, Geometry, PictureError, make_pairs
from raysr.judge import Judge
from raysr.losses import Perceptual
from raysr.metrics import Scores, score
from raysr.pairs import PairRow, to_tensor, to_y
from raysr.protocol import RGB, Protocol, luminance_of, resize, resize_bytes, whole_bytes, with_chroma_of
from raysr.resemblance import doubt
from raysr.testsets import UNUSED, Listed, changes_of, open_picture

Input = Literal["made", "given", "prepared"]

NO_NUMBERS = "the network's picture has values that are no numbers"


class Judges(NamedTuple):
    """The networks that judge, where their weights are at hand."""

    perceptual: Perceptual | Judge | None
    """A Judge takes luminance alone."""
    alex: Perceptual | None
    unwanted: bool = False
    """Whether they were not asked for."""


class Comparison(NamedTuple):
    """A picture and its target, ready to be scored: black is 0 and white is 1."""

    sr: Float[Tensor, "1 c h w"]
    hr: Float[Tensor, "1 c h w"]
    box: Box
    """What is scored: the border is outside it, and so is the padding where it does not count."""
    input: Input
    note: str | None
    flat: bool
    """Whether what counts of the target is one value everywhere, in each channel."""
    changes: tuple[str, ...] = ()
    """What was changed as the files were read."""

    def cropped(self) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 c h w"]]:
        """Both pictures inside the box."""
        window = (..., slice(self.box.top, self.box.bottom), slice(self.box.left, self.box.right))
        return self.sr[window].contiguous(), self.hr[window].contiguous()


def compare_picture(upscaler: Upscaler, picture: Listed, protocol: Protocol, *, use_given: bool = True) -> Comparison:
    """Enlarge the input of `picture`, its counterpart if there is one that fits, and stand it beside the target.

    Raises PictureError with the reason where the picture cannot be used.
    """
    scale = upscaler.scale
    if protocol.square_px is not None:
        found = _compare_square(upscaler, picture, protocol, protocol.square_px)
        given = picture.given if use_given else None
        note = None if given is None else f"{given.name}{UNUSED}the input is made from the square"
        return found._replace(note=note)
    hr, lr, note, changes = open_picture(picture, scale, use_given=use_given)
    if lr is not None and picture.given is not None:
        note = doubt(picture.given.name, lr, hr)
    height, width = hr.shape[:2]
    small = resize_bytes(hr, width // scale, height // scale, protocol.kernel) if lr is None else lr
    sr = enlarge(upscaler, small, protocol)
    target = (luminance_of(hr, protocol) if protocol.colour == "y" else _to_unit(hr)).to(sr.device)
    box = _inside(Box(0, 0, width, height), protocol, scale)
    flat = _is_flat(target[..., box.top : box.bottom, box.left : box.right])
    return Comparison(sr, target, box, "made" if lr is None else "given", note, flat, changes)


def _compare_square(upscaler: Upscaler, picture: Listed, protocol: Protocol, side: int) -> Comparison:
    """The photograph fitted into a square as `jobs/prepare.py` does it."""
    if protocol.fit == "tiles":
        raise PictureError("it has many tiles: prepare a set of them with jobs/prepare.py, and score that")
    if protocol.kernel == "opencv" or upscaler.scale not in (2, 3, 4):
        raise PictureError(f"squares are made for x2, x3 and x4, not x{upscaler.scale}")
    geometry = Geometry(
        hr_px=side,
        scale=upscaler.scale,  # pyright: ignore[reportArgumentType]
        fit=protocol.fit,
        kernel=protocol.kernel,
        y_range=protocol.y_range,
        fast_jpeg=protocol.fast_jpeg,
    )
    made = make_pairs(_bytes(picture.target), geometry, picture.max_pixels)
    (pair,) = made.pairs
    row = PairRow(picture.target.name, picture.target.name, pair.hr, pair.lr, pair.content_box, protocol.y_range)
    return compare_pair(upscaler, row, protocol)._replace(input="made", changes=changes_of("target", made.notes))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or text_of(error)}") from error


def compare_pair(upscaler: Upscaler, row: PairRow, protocol: Protocol) -> Comparison:
    """Enlarge the input of a prepared pair; a network of colours gets luminance in all three and gives its Y."""
    lr, hr = (to_tensor([plane], row.y_range).to(upscaler.device) for plane in (row.lr, row.hr))
    if upscaler.bicubic:
        large = resize(lr[0, 0, :, :, None].cpu().numpy(), hr.shape[3], hr.shape[2], protocol.kernel)
        sr = torch.from_numpy(np.ascontiguousarray(large[..., 0]))[None, None].to(hr.device)
    elif upscaler.channels == 3:
        sr = to_y(_run(upscaler, lr.repeat(1, 3, 1, 1)))
    else:
        sr = _run(upscaler, lr)
    sr = whole_bytes(sr, protocol.y_range) if protocol.sr_bits == "bytes" else sr.clamp(0, 1)
    content = row.content_box if protocol.padding == "out" else Box(0, 0, hr.shape[3], hr.shape[2])
    return Comparison(sr, hr, _inside(content, protocol, upscaler.scale), "prepared", None, row.flat)


def enlarge(upscaler: Upscaler, lr: RGB, protocol: Protocol) -> Float[Tensor, "1 c H W"]:
    """What is scored of an 8-bit colour picture: Y of it or its colours, from 0 to 1.

    A luminance network sees luminance alone. Where colours are compared, its picture takes the input's chroma, enlarged
    by bicubic. Bicubic and networks of colours enlarge the colours, and luminance is taken of what they give.
    """
    if upscaler.channels == 1 and not upscaler.bicubic:
        y = _run(upscaler, luminance_of(lr, protocol).to(upscaler.device))
        if protocol.colour == "y":
            return whole_bytes(y, protocol.y_range) if protocol.sr_bits == "bytes" else y
        rgb = with_chroma_of(y, lr, protocol.kernel)
    elif upscaler.bicubic:
        rgb = _bicubic(lr, upscaler.scale, protocol).to(upscaler.device)
    else:
        rgb = _run(upscaler, _to_unit(lr).to(upscaler.device))
    if protocol.colour == "y" and protocol.y_bits == "bytes":
        # Pillow cuts fractions of luminance off: the same must happen to both pictures, and it takes 8-bit colours.
        pixels = (whole_bytes(rgb, "full")[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
        return luminance_of(pixels.cpu().numpy(), protocol).to(rgb.device)
    if protocol.sr_bits == "bytes":
        rgb = whole_bytes(rgb, "full")
    return rgb if protocol.colour == "rgb" else to_y(rgb)


def _bicubic(lr: RGB, scale: int, protocol: Protocol) -> Float[Tensor, "1 3 H W"]:
    width, height = scale * lr.shape[1], scale * lr.shape[0]
    if protocol.sr_bits == "bytes":
        return _to_unit(resize_bytes(lr, width, height, protocol.kernel))
    return _to_unit(resize(lr, width, height, protocol.kernel)).clamp(0, 1)


def _run(upscaler: Upscaler, lr: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c H W"]:
    """In float32; raises PictureError where the picture does not fit into memory."""
    with torch.no_grad(), _memory_for(lr):
        return upscaler.run(lr).float().clamp(0, 1)


@contextmanager
def _memory_for(picture: Tensor) -> Generator[None]:
    """Turns whatever says that memory has run out into a PictureError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Torch's allocator for CPUs raises a plain RuntimeError.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in text_of(error):
            raise
        raise PictureError(
            f"{picture.shape[3]} x {picture.shape[2]} pixels are too many for the device's memory"
        ) from error


def _to_unit(picture: Real[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, 2, 0))).float()[None] / 255


def _is_flat(picture: Float[Tensor, "1 c h w"]) -> bool:
    return bool((picture.amax((0, 2, 3)) == picture.amin((0, 2, 3))).all())


def _inside(box: Box, protocol: Protocol, scale: int) -> Box:
    cut = protocol.cut(box, scale)
    if min(cut.right - cut.left, cut.bottom - cut.top) < 1:
        size = f"{box.right - box.left} x {box.bottom - box.top}"
        raise PictureError(f"nothing of {size} pixels is left inside a border of {cut.left - box.left}")
    return cut


def judge(comparison: Comparison, protocol: Protocol, judges: Judges) -> tuple[Scores, str | None]:
    """Every score inside the comparison's box, and what is to be said of them.

    Raises PictureError where the networks that judge need more memory than there is.
    """
    sr, hr = comparison.cropped()
    y_range = "full" if protocol.colour == "rgb" else protocol.y_range
    with _memory_for(comparison.hr):
        scores = score(sr, hr, judges.perceptual, judges.alex, y_range)
    values = asdict(scores)
    absent = {"perceptual": judges.perceptual is None, "lpips_alex": judges.alex is None}
    missing = [name for name, value in values.items() if value is None and not absent.get(name)]
    small = f"{min(hr.shape[-2:])} pixels are too few for {', '.join(missing)}" if missing else None
    broken = None if all(value is None or math.isfinite(value) for value in values.values()) else NO_NUMBERS
    return scores, "; ".join(note for note in (comparison.note, small, broken) if note) or None
