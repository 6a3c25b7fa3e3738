"""Inverted U-Net (Lalchandani 2025): overshoot the target size, then come back down with strided convolutions."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.bicubic import bicubic_upscale
from raysr.models.layers import Residual, conv
from raysr.models.upconv import overshoot, upsample_conv_relu

OUTPUT_BIAS = 0.4
"""Start of the last bias. With torch's default the last ReLU left 8 of 20 seeds with an all-zero picture."""

NARROWER = {3: (2, 4), 4: (2, 4, 4)}
"""By how much the strided convolutions are narrower than the upsampling ones, by the number of upsamples."""


class InvertedUNet(nn.Module):
    """Algorithm 1 of the paper: `ups` x [nearest x2, conv3x3, ReLU], then stride-2 conv3x3, then conv3x3 to Y.

    With the paper's `width` of 64 filters, three upsamples come back to x2 through 32 and 16 (the paper); four through
    32, 16 and 16 (its future work, of which the paper gives no widths). `down` names other filters for the convolutions
    that come back, such as `(64, 32, 16)`. `layers` is that definition; with `fused` each upsample, its convolution and
    ReLU run as one transposed convolution with the same weights, which gives the same picture and gradients for less.

    Two options are not the paper's. `skip` adds what the network gives to bicubic interpolation, as VDSR does, and has
    no ReLU at its end, so that it learns what bicubic lacks. `blocks` residual blocks of EDSR's kind come first, at the
    low resolution, where they see further for less: the plain network sees about 5x5 input pixels.

    Raises ValueError for another `ups`, a width that is no positive multiple of 4, fewer than 0 blocks, a `down` that
    is not `ups - 1` long, or a scale other than 2.
    """

    def __init__(
        self,
        scale: int,
        ups: int = 3,
        width: int = 64,
        skip: bool = False,
        blocks: int = 0,
        fused: bool = True,
        down: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if ups not in NARROWER or scale != 2:
            raise ValueError(f"the Inverted U-Net is defined for 3 or 4 ups at scale 2, got ups={ups}, scale={scale}")
        if width < 4 or width % 4:
            raise ValueError(f"the Inverted U-Net's width must be a positive multiple of 4, got {width}")
        if blocks < 0:
            raise ValueError(f"the Inverted U-Net takes at least 0 blocks, got {blocks}")
        widths = [width // narrower for narrower in NARROWER[ups]] if down is None else list(down)
        if len(widths) != ups - 1:
            raise ValueError(f"the Inverted U-Net with {ups} ups has {ups - 1} convolutions down, got down={widths}")
        self.ups, self.skip, self.fused = ups, skip, fused
        channels = width if blocks else 1
        residual = [Residual(conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(blocks)]
        self.low = nn.Sequential(conv(1, width), *residual) if blocks else nn.Identity()
        layers: list[nn.Module] = []
        for _ in range(ups):
            up = nn.Upsample(scale_factor=2, mode="nearest")
            layers += [up, conv(channels, width), nn.ReLU(inplace=True)]
            channels = width
        for narrow in widths:
            layers += [nn.Conv2d(channels, narrow, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
            channels = narrow
        output = conv(channels, 1)
        # The one departure from the paper: all six convolutions end in ReLU (Algorithm 1), the last one too, so a
        # seed whose output starts all zero has no gradient and never learns. Start in the middle of the range.
        nn.init.constant_(output.bias, 0.0 if skip else OUTPUT_BIAS)  # pyright: ignore[reportArgumentType]
        self.layers = nn.Sequential(*layers, output, nn.Identity() if skip else nn.ReLU())

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`; without `skip` the result is never negative."""
        sr = self._up_and_down(self.low(lr))
        return bicubic_upscale(lr, 2) + sr if self.skip else sr

    def _up_and_down(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 H W"]:
        if not self.fused:
            return self.layers(x)
        down = 3 * self.ups
        *ups, last = (_conv(layer) for layer in self.layers[1:down:3])
        for up in ups:
            x = upsample_conv_relu(x, up)
        return self.layers[down + 2 :](overshoot(x, last, _conv(self.layers[down])))


def _conv(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)  # noqa: S101
    return layer
