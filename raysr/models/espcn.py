"""ESPCN (Shi et al. 2016): all convolutions at the low resolution, then a pixel shuffle."""

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.layers import conv

KERAS_OUTPUT_BIAS = 0.4
"""Start of the last bias of the Keras form; the tutorial's is 0."""


class ESPCN(nn.Module):
    """ESPCN 5-3-3 with 64 and 32 filters and tanh, the paper's choice for quality; torch's initialisation."""

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


class KerasESPCN(nn.Module):
    """The ESPCN that the Keras tutorial trains (Long 2020): 5-3-3-3 with 64, 64 and 32 filters and ReLU.

    Orthogonal weights and biases of 0 as there, but for the last bias, which starts at KERAS_OUTPUT_BIAS.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        convs = [conv(1, 64, 5), conv(64, 64), conv(64, 32), conv(32, scale**2)]
        for layer in convs:
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        # The tutorial's last convolution ends in ReLU as well, and a phase of the picture that starts negative hardly
        # learns. From 0, 38 of 50 seeds had one that was black over 95 % of a photograph (one seed had all four, at
        # x2); from the middle of the range none.
        nn.init.constant_(convs[-1].bias, KERAS_OUTPUT_BIAS)  # pyright: ignore[reportArgumentType]
        self.layers = nn.Sequential(*(part for layer in convs for part in (layer, nn.ReLU())), nn.PixelShuffle(scale))

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`; the result is never negative."""
        return self.layers(lr)
