"""SRResNet (Ledig et al. 2017): residual blocks with batch normalisation, the generator of SRGAN."""

from jaxtyping import Float
from torch import Tensor, nn

from raysr.models.layers import Residual, conv, shuffled_up


class SRResNet(nn.Module):
    """Sixteen blocks of 64 with BN and PReLU between 9x9 ends; torch's initialisation, as the paper states none.

    The paper's network is x4; x2 has one of its two shuffles and x3 one of three. Several workers normalise each with
    its own share of the batch.
    """

    def __init__(self, scale: int, blocks: int = 16) -> None:
        super().__init__()
        self.head = nn.Sequential(conv(1, 64, 9), nn.PReLU())
        body = [
            Residual(conv(64, 64), nn.BatchNorm2d(64), nn.PReLU(), conv(64, 64), nn.BatchNorm2d(64))
            for _ in range(blocks)
        ]
        self.body = Residual(*body, conv(64, 64), nn.BatchNorm2d(64))
        self.tail = nn.Sequential(shuffled_up(scale, 64, nn.PReLU), conv(64, 1, 9))

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`."""
        return self.tail(self.body(self.head(lr)))
