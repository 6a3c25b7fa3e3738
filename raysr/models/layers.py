"""What several families share."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn


def conv(taken: int, given: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size of its input."""
    return nn.Conv2d(taken, given, kernel, padding=kernel // 2)


def shuffled_up(scale: int, width: int, activation: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """From [n, width, h, w] to [n, width, scale*h, scale*w] by 3x3 convolutions and pixel shuffles (Shi et al. 2016).

    Two stages of x2 at scale 4, as in SRResNet and EDSR. Raises ValueError for a scale other than 2, 3 or 4.
    """
    if scale not in (2, 3, 4):
        raise ValueError(f"pixel shuffles enlarge by 2, 3 or 4, got scale={scale}")
    layers: list[nn.Module] = []
    for stage in (2, 2) if scale == 4 else (scale,):
        layers += [conv(width, width * stage**2), nn.PixelShuffle(stage)]
        if activation is not None:
            layers.append(activation())
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """x + share * body(x)."""

    def __init__(self, *body: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.share = share

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Add the body's correction to `x`."""
        change = self.body(x)
        return x + (change if self.share == 1 else self.share * change)
