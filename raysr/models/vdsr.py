"""VDSR (Kim et al. 2016): bicubic first, then twenty convolutions that learn what is missing."""

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.bicubic import bicubic_upscale
from raysr.models.layers import conv


class VDSR(nn.Module):
    """Twenty 3x3 convolutions of 64 filters and a global residual; He et al.'s initialisation, as published.

    One network a scale, where the published one was trained on all three at once; its gradient clipping is the
    training's affair. Raises ValueError for fewer than two.
    """

    def __init__(self, scale: int, depth: int = 20) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"VDSR has at least 2 layers, got depth={depth}")
        self.scale = scale
        convs = [conv(1, 64), *(conv(64, 64) for _ in range(depth - 2)), conv(64, 1)]
        for layer in convs:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        inner = [part for layer in convs[:-1] for part in (layer, nn.ReLU())]
        self.layers = nn.Sequential(*inner, convs[-1])

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr` and add the detail."""
        bicubic = bicubic_upscale(lr, self.scale)
        return bicubic + self.layers(bicubic)
