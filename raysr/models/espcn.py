"""ESPCN (Shi et al. 2016): all convolutions at the low resolution, then a pixel shuffle."""

from jaxtyping import Float
from torch import Tensor, nn


class ESPCN(nn.Module):
    """ESPCN 5-3-3 with 64 and 32 filters and tanh, the paper's choice for quality."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(32, scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`."""
        return self.layers(lr)
