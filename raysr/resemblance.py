"""Whether an input that came with a set is of the same picture as its target."""

import numpy as np
from jaxtyping import Real, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from raysr.pairs import Y_WEIGHTS
from raysr.protocol import RGB

BLUR_PX = 2.0
"""Standard deviation of the blur, in pixels of the input: it takes noise and sharpness away, by which inputs differ."""

LEAST = 0.7
"""Least correlation of an input with its target. Measured on 91 photographs, x2 and x4. Inputs that are blurred by 4
pixels, have noise of 50 of 255 or are JPEGs of quality 10 reach 0.79 and more. Of pairs of different photographs 99 %
stay below 0.54."""

SLIGHT = 5.0
"""Levels of 255 by which a blurred input may differ from its target whatever the correlation: noise alone decides that
of a picture with hardly any contrast."""

UNLIKE = " does not resemble its target made smaller"
"""Between an input's name and the figure, in a note."""


def doubt(name: str, lr: RGB, hr: UInt8[np.ndarray, "H W 3"]) -> str | None:
    """A note where `lr`, of the file `name`, is no smaller `hr`; None where it may be.

    What is compared is the shape of blurred luminance: brightness, contrast, noise and sharpness may be others.
    """
    small = np.asarray(Image.fromarray(hr).resize((lr.shape[1], lr.shape[0]), Image.Resampling.BICUBIC))
    one, other = _shape(lr), _shape(small)
    sizes = float(np.sqrt((one**2).mean() * (other**2).mean()))
    if np.sqrt(((one - other) ** 2).mean()) <= SLIGHT:
        return None
    correlation = float((one * other).mean()) / sizes if sizes else 0.0
    if correlation >= LEAST:
        return None
    return f"{name}{UNLIKE} (correlation {correlation:.2f}): it may be of another picture, turned or moved"


def _shape(picture: RGB) -> Real[np.ndarray, "h w"]:
    """Blurred luminance around its mean."""
    blurred = gaussian_filter(picture @ np.array(Y_WEIGHTS), BLUR_PX, mode="reflect")
    return blurred - blurred.mean()
