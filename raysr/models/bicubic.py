"""Bicubic interpolation, the yardstick."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def bicubic_upscale(lr: Float[Tensor, "n c h w"], scale: int) -> Float[Tensor, "n c H W"]:
    """Enlarge by `scale` as Pillow's BICUBIC does, without its rounding; values may leave [0, 1] at edges."""
    # Torch's plain bicubic has a = -0.75; only its antialias form has Pillow's a = -0.5 (Keys 1981).
    with torch.autocast(lr.device.type, enabled=False):
        return nn.functional.interpolate(
            lr.float(), scale_factor=float(scale), mode="bicubic", antialias=True, align_corners=False
        )


class Bicubic(nn.Module):
    """Bicubic interpolation as a network without parameters."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`."""
        return bicubic_upscale(lr, self.scale)
