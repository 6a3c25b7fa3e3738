"""EDSR and MDSR (Lim et al. 2017): SRResNet without its batch normalisation, wider, and for several scales at once.

Torch's initialisation, as in the authors' code. That code works on RGB in [0, 255] less DIV2K's mean; these take
luminance in [0, 1] as it is.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.bicubic import bicubic_upscale
from raysr.models.layers import Residual, conv, shuffled_up


def residual_block(width: int, kernel: int = 3, share: float = 1.0) -> Residual:
    """Two convolutions with a ReLU between them, of which `share` is added."""
    return Residual(conv(width, width, kernel), nn.ReLU(), conv(width, width, kernel), share=share)


class EDSR(nn.Module):
    """The baseline, 16 blocks of 64; with `blocks=32, width=256, residual_scale=0.1` the network of the paper's table.

    Without the residual scale the wide one does not train stably (section 3.3). `skip`, which is not the paper's, adds
    bicubic interpolation, as the Inverted U-Net's option does: with 4 blocks it is that network with a pixel shuffle in
    place of the overshoot.
    """

    def __init__(
        self, scale: int, blocks: int = 16, width: int = 64, residual_scale: float = 1.0, skip: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.skip = scale, skip
        body = [residual_block(width, share=residual_scale) for _ in range(blocks)]
        self.head = conv(1, width)
        self.body = Residual(*body, conv(width, width))
        last = conv(width, 1)
        self.tail = nn.Sequential(shuffled_up(scale, width), last)
        if skip:
            # Torch's start adds noise of half the range to bicubic, which takes hundreds of steps to unlearn. The
            # Inverted U-Net's last layer has 16 channels, and starts near bicubic by itself.
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`."""
        sr = self.tail(self.body(self.head(lr)))
        return bicubic_upscale(lr, self.scale) + sr if self.skip else sr


class MDSR(nn.Module):
    """80 blocks of 64 that all scales share, between two 5x5 blocks and a pixel shuffle for each of `scales`.

    A trial here has one scale, so by default there is only that one's branch: of the published network with three, two
    thirds of the branches would never have a gradient, which a network on several workers cannot have either. With
    `scales=(2, 3, 4)` it is the published network; what `scale` does not use is frozen. `channels=3` is its RGB form.
    """

    def __init__(self, scale: int, scales: Sequence[int] | None = None, channels: int = 1, blocks: int = 80) -> None:
        super().__init__()
        scales = (scale,) if scales is None else scales
        if scale not in scales:
            raise ValueError(f"MDSR with scales={tuple(scales)} has no branch for scale {scale}")
        self.scale = str(scale)
        self.head = conv(channels, 64)
        self.before = nn.ModuleDict(
            {str(each): nn.Sequential(residual_block(64, 5), residual_block(64, 5)) for each in scales}
        )
        self.body = Residual(*(residual_block(64) for _ in range(blocks)), conv(64, 64))
        self.up = nn.ModuleDict({str(each): shuffled_up(each, 64) for each in scales})
        self.tail = conv(64, channels)
        for branches in (self.before, self.up):
            for name, branch in branches.items():
                branch.requires_grad_(name == self.scale)

    def forward(self, lr: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c H W"]:
        """Enlarge `lr` by the branch of `scale`."""
        return self.tail(self.up[self.scale](self.body(self.before[self.scale](self.head(lr)))))
