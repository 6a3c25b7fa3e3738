"""U-Net (Ronneberger et al. 2015) after a bicubic enlargement: what the Inverted U-Net turns upside down."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.bicubic import bicubic_upscale
from raysr.models.layers import conv


def _two_convs(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(conv(taken, given), nn.ReLU(), conv(given, given), nn.ReLU())


class UNet(nn.Module):
    """Encoder and decoder with skips, at the target size; He et al.'s initialisation, as published.

    Super-resolution has no canonical form of it. This one has the paper's layers (two 3x3 convolutions with ReLU a
    level, 2x2 max pooling down, 2x2 transposed convolution up, the encoder's features beside it, 1x1 at the end), half
    its widths with one level less, and padding inside where the paper's loses a border: any size of picture will do.
    """

    def __init__(self, scale: int, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.scale = scale
        self.multiple = 2 ** (len(widths) - 1)
        """The enlarged sides are padded to a multiple of this."""
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(_two_convs(a, b) for a, b in [(1, widths[0]), *pairs])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.decode = nn.ModuleList(_two_convs(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(widths[0], 1, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                # Each output pixel of a 2x2 transposed convolution of stride 2 sees one pixel, not four.
                area = 1 if isinstance(layer, nn.ConvTranspose2d) else math.prod(layer.kernel_size)
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * area)))
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr` and restore it."""
        x = bicubic_upscale(lr, self.scale)
        height, width = x.shape[-2:]
        # Not "reflect": it cannot add more than the picture has.
        x = nn.functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        skips: list[Tensor] = []
        for level, encode in enumerate(self.down):
            x = encode(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, decode in zip(self.up, self.decode, strict=True):
            x = decode(torch.cat([skips.pop(), up(x)], dim=1))
        return self.last(x)[..., :height, :width]
