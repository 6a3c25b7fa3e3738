"""SRCNN (Dong et al. 2014): bicubic first, then three convolutions at the target size."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.bicubic import bicubic_upscale


class SRCNN(nn.Module):
    """SRCNN with 64 and 32 filters, 9-1-5 (2014) or with `middle=5` 9-5-5 (2016), and the enlargement inside.

    `init="paper"` draws the weights from a Gaussian of deviation 0.001 around 0 with biases of 0, as published. The
    default departs from it and takes torch's: the published start is a picture of nearly 0, meant for hundreds of
    millions of steps. The published networks also lose a border, where these pad with zeros.
    """

    def __init__(self, scale: int, middle: Literal[1, 5] = 1, init: str = "torch") -> None:
        super().__init__()
        if init not in ("torch", "paper"):
            raise ValueError(f"SRCNN's init is torch or paper, got {init!r}")
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 9, padding=4),
            nn.ReLU(),
            nn.Conv2d(64, 32, middle, padding=middle // 2),
            nn.ReLU(),
            nn.Conv2d(32, 1, 5, padding=2),
        )
        if init == "paper":
            for name, parameter in self.named_parameters():
                nn.init.normal_(parameter, std=0.001) if name.endswith("weight") else nn.init.zeros_(parameter)

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr` and restore it."""
        return self.layers(bicubic_upscale(lr, self.scale))
