"""SRCNN (Dong et al. 2014): bicubic first, then three convolutions at the target size."""

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.bicubic import bicubic_upscale


class SRCNN(nn.Module):
    """SRCNN 9-1-5 with 64 and 32 filters, with the enlargement inside as in the Inverted U-Net paper."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 9, padding=4),
            nn.ReLU(),
            nn.Conv2d(64, 32, 1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 5, padding=2),
        )

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr` and restore it."""
        return self.layers(bicubic_upscale(lr, self.scale))
