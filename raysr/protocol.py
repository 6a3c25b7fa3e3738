"""How a picture is scored, with nothing left to assume, and the conversions that a protocol names."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Real, UInt8
from PIL import Image
from torch import Tensor

from raysr.images import Y_LIMITED, Box, YRange, imresize_exact, luminance, to_bytes
from raysr.pairs import Y_WEIGHTS

Kernel = Literal["pillow", "matlab", "opencv"]
Bits = Literal["float", "bytes"]
RGB = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """An evaluation protocol. It has no defaults: a score means something only beside all of these.

    The same in all of them: an input that is made here is rounded to 8 bits, and what the model gives is cut to the
    range from black to white.
    """

    name: str
    """Of a named protocol; one that was changed says how: `literature (y_range=full)`."""
    colour: Literal["y", "rgb"]
    """What is compared: luminance alone, or the three colours."""
    y_range: YRange
    """Luminance from 0 to 255 or from 16 to 235; limited makes PSNR 1.32 dB higher. Without a meaning for rgb."""
    y_bits: Bits
    """Luminance of an 8-bit RGB picture in full precision, or rounded to whole bytes as in an image file."""
    kernel: Kernel
    """Bicubic that makes the input from the target, and that enlarges where the model is `bicubic` (and the chroma
    under a luminance network): Pillow's, MATLAB's imresize, or OpenCV's, which has a = -0.75 and no anti-aliasing: a
    common mistake, here to be recognised."""
    border: int | Literal["scale"]
    """Pixels of the target cut off on each side before scoring."""
    fit: Literal["pad", "crop", "tiles"] | None
    """How a photograph becomes squares, as in `raysr.images.Geometry`. None: full size, cut on the right and at the
    bottom to a multiple of the scale."""
    square_px: int | None
    """Side of these squares, a multiple of the scale; None at full size."""
    fast_jpeg: bool
    """Whether a JPEG is decoded no larger than the squares need, as `Geometry.fast_jpeg` says."""
    padding: Literal["in", "out"]
    """Whether the black bars of `pad` count. Without a meaning where there are none."""
    sr_bits: Bits
    """The model's picture in full precision, or rounded to 8 bits before scoring. Colours whose luminance is wanted in
    whole bytes are always rounded."""
    perceptual: Literal["vgg", "vgg-random", "none"]
    """Weights of the perceptual distance."""

    def __post_init__(self) -> None:
        if self.border != "scale" and self.border < 0:
            raise ValueError(f"a border of {self.border} pixels cannot be cut: expected 0 or more, or scale")
        if (self.square_px is None) != (self.fit is None):
            raise ValueError(
                f"{self.name}: squares have a fit and a side, got fit={self.fit}, square_px={self.square_px}"
            )
        if self.square_px is not None and (self.colour == "rgb" or self.kernel == "opencv" or self.y_bits == "float"):
            raise ValueError(
                f"{self.name}: squares are made of luminance in whole bytes by Pillow's or MATLAB's bicubic, got "
                f"colour={self.colour}, kernel={self.kernel}, y_bits={self.y_bits}; --protocol literature takes these"
            )

    def cut(self, box: Box, scale: int) -> Box:
        """What is scored of a picture that is, or whose content is, `box`."""
        border = scale if self.border == "scale" else self.border
        return Box(box.left + border, box.top + border, box.right - border, box.bottom - border)


PAPER = Protocol(
    name="paper",
    colour="y",
    y_range="full",
    y_bits="bytes",
    kernel="pillow",
    border=0,
    fit="pad",
    square_px=512,
    fast_jpeg=False,
    padding="in",
    sr_bits="float",
    perceptual="vgg",
)
"""That of the Inverted U-Net paper (Lalchandani 2025), as raysr trains and compares by it."""

LITERATURE = Protocol(
    name="literature",
    colour="y",
    y_range="limited",
    y_bits="float",
    kernel="matlab",
    border="scale",
    fit=None,
    square_px=None,
    fast_jpeg=False,
    padding="out",
    sr_bits="bytes",
    perceptual="vgg",
)
"""That of the literature since Dong et al. 2014, luminance in full precision as BasicSR's test_y_channel has it."""

PROTOCOLS = {"paper": PAPER, "literature": LITERATURE}


def differences(one: Protocol, other: Protocol) -> dict[str, Any]:
    """The fields of `one` that `other` has otherwise."""
    names = [field.name for field in fields(one) if field.name != "name"]
    return {name: getattr(one, name) for name in names if getattr(one, name) != getattr(other, name)}


def changed(protocol: Protocol, **changes: Any) -> Protocol:
    """`protocol` with some fields changed, and a name that says which of them are not those of the named one."""
    base = PROTOCOLS[protocol.name.partition(" ")[0]]
    new = replace(protocol, name=base.name, **changes)
    shown = ", ".join(f"{name}={value}" for name, value in differences(new, base).items())
    return replace(new, name=f"{base.name} ({shown})" if shown else base.name)


def resize(
    picture: Real[np.ndarray, "h w c"], width: int, height: int, kernel: Kernel
) -> Float32[np.ndarray, "height width c"]:
    """Bicubic in full precision, each channel alone; values may leave the range of `picture` at edges."""
    planes = np.moveaxis(picture.astype(np.float32), 2, 0)
    if kernel == "opencv":
        # Torch's plain bicubic is OpenCV's INTER_CUBIC: Keys' kernel with a = -0.75, never widened.
        new = torch.nn.functional.interpolate(
            torch.from_numpy(planes.copy())[None], size=(height, width), mode="bicubic", align_corners=False
        )[0].numpy()
    elif kernel == "matlab":
        new = np.stack([imresize_exact(plane, width, height) for plane in planes])
    else:
        new = np.stack(
            [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
        )
    return np.moveaxis(new, 0, 2)


def resize_bytes(picture: RGB, width: int, height: int, kernel: Kernel) -> UInt8[np.ndarray, "height width 3"]:
    """Bicubic in 8 bits, as the library of that name gives it: Pillow rounds after each of its two passes."""
    if kernel == "pillow":
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    return to_bytes(resize(picture, width, height, kernel))


def luminance_of(picture: RGB, protocol: Protocol) -> Float[Tensor, "1 1 h w"]:
    """Luminance of an 8-bit picture, black 0 and white 1 whatever its range."""
    if protocol.y_bits == "float":
        y = picture @ np.array(Y_WEIGHTS) / 255
    else:
        black, white = Y_LIMITED if protocol.y_range == "limited" else (0, 255)
        y = (np.asarray(luminance(Image.fromarray(picture), protocol.y_range), float) - black) / (white - black)
    return torch.from_numpy(y).float()[None, None]


def whole_bytes(pictures: Float[Tensor, "n c h w"], y_range: YRange) -> Float[Tensor, "n c h w"]:
    """Values from 0 (black) to 1 (white) as an image file of that range keeps them."""
    black, white = Y_LIMITED if y_range == "limited" else (0, 255)
    return ((pictures.clamp(0, 1) * (white - black) + black + 0.5).floor() - black) / (white - black)


def with_chroma_of(y: Float[Tensor, "1 1 H W"], lr: RGB, kernel: Kernel) -> Float[Tensor, "1 3 H W"]:
    """Colours from 0 to 1: a network's luminance, and the input's chroma enlarged by bicubic.

    This is how a luminance network gives a colour picture (Dong et al. 2014): the eye sees little detail in chroma.
    """
    small = lr / 255.0
    chroma = small[..., [0, 2]] - (small @ np.array(Y_WEIGHTS))[..., None]  # red - Y and blue - Y
    large = torch.from_numpy(np.ascontiguousarray(resize(chroma, y.shape[3], y.shape[2], kernel))).to(y.device)
    red, blue = (y[0, 0] + large[..., channel] for channel in (0, 1))
    green = (y[0, 0] - Y_WEIGHTS[0] * red - Y_WEIGHTS[2] * blue) / Y_WEIGHTS[1]
    return torch.stack([red, green, blue])[None].clamp(0, 1)
