"""Networks of the community, built from the classes of spandrel (MIT) for luminance and freshly initialised.

These are plain modules that train; what spandrel's loader wraps around them is for inference. Each state dict is one
that spandrel recognises, but for PLKSR's, whose names begin with `network.`. The library is imported where a network is
built: it knows forty others, and importing them takes seconds.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from raysr.images import PictureError


def span(scale: int, features: int = 48) -> nn.Module:
    """SPAN (Wan et al. 2024) with six attention blocks of `features` channels.

    In training each 3x3 convolution is four (1x1, 3x3, 1x1, and a 1x1 beside them); in `eval()` they are folded into
    the one that is deployed, anew for each picture, which its time at inference includes. Of the 2,213,240 parameters
    that are published 1,817,864 train, for the folded ones are among them; what is deployed has 406,372. `norm=False`:
    no shift by the RGB mean and no range of 255, which are for colour.
    """
    from spandrel.architectures.SPAN import SPAN

    network = SPAN(num_in_ch=1, num_out_ch=1, feature_channels=features, upscale=scale, norm=False)
    for name, parameter in network.named_parameters():
        if ".eval_conv." in name:
            # What eval() folds the others into. It has no gradient, and several workers would wait for it.
            parameter.requires_grad_(False)
    return network


def compact(scale: int, features: int = 64, convs: int = 16) -> nn.Module:
    """Compact, that is SRVGGNetCompact of Real-ESRGAN (Wang et al. 2021): PReLU, and a nearest-neighbour residual."""
    from spandrel.architectures.Compact import Compact

    return Compact(num_in_ch=1, num_out_ch=1, num_feat=features, num_conv=convs, upscale=scale)


def swinir(
    scale: int,
    channels: int = 1,
    width: int = 180,
    groups: int = 6,
    upsampler: str = "pixelshuffle",
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """SwinIR (Liang et al. 2021) for classical super-resolution: `groups` of six layers, windows of 8.

    Pads to whole windows inside and crops; raises PictureError below 5 pixels a side. The authors train with
    `drop_path_rate=0.1`, which leaves out layers at random; off here, so that a step is the same work each time.
    `channels=3` is the published form, for counting.
    """
    from spandrel.architectures.SwinIR import SwinIR

    with _old_meshgrid():
        network = SwinIR(
            **_transformer(scale, channels, width, groups, drop_path_rate), window_size=8, upsampler=upsampler
        )
    return _from_half_a_window(network, 8)


def hat(scale: int, channels: int = 1, width: int = 180, groups: int = 6, drop_path_rate: float = 0.0) -> nn.Module:
    """HAT (Chen et al. 2023): SwinIR's frame, windows of 16 that overlap, and attention over channels.

    Pads to whole windows inside and crops; raises PictureError below 9 pixels a side. DropPath is off by default and
    `channels=3` for counting, as in `swinir`.
    """
    from spandrel.architectures.HAT import HAT

    with _old_meshgrid():
        network = HAT(
            **_transformer(scale, channels, width, groups, drop_path_rate),
            window_size=16,
            compress_ratio=3,
            squeeze_factor=30,
            conv_scale=0.01,
            overlap_ratio=0.5,
            upsampler="pixelshuffle",
        )
    return _from_half_a_window(network, 16)


def _from_half_a_window(network: nn.Module, window: int) -> nn.Module:
    """`network`, which says so where a picture is too small to be reflected up to a whole window."""
    network.register_forward_pre_hook(partial(_check_sides, window // 2 + 1))
    return network


def _check_sides(least: int, network: nn.Module, args: tuple[Tensor, ...]) -> None:
    height, width = args[0].shape[-2:]
    if min(height, width) < least:
        raise PictureError(
            f"{width} x {height} pixels are too few for {type(network).__name__}, which takes {least} a side and more"
        )


def plksr(scale: int, blocks: int = 12, features: int = 64) -> nn.Module:
    """PLKSR-tiny (Lee et al. 2024): `blocks` of 3x3 convolutions and one of 13x13 on a quarter of the channels.

    Without the element-wise attention of the full PLKSR, as in the authors' options for the tiny one. The class knows
    only three channels: luminance goes in three times, and what comes out is averaged.
    """
    from spandrel.architectures.PLKSR import PLKSR

    return Luminance(
        PLKSR(dim=features, n_blocks=blocks, upscaling_factor=scale, ccm_type="DCCM", kernel_size=13, use_ea=False)
    )


class Luminance(nn.Module):
    """A network for RGB on luminance: in three times, and out as the mean of the three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`."""
        return self.network(lr.expand(-1, 3, -1, -1)).mean(dim=1, keepdim=True)


def _transformer(scale: int, channels: int, width: int, groups: int, drop_path_rate: float) -> dict[str, Any]:
    """What the published options of SwinIR and HAT share."""
    return {
        "img_size": 64,
        "in_chans": channels,
        "embed_dim": width,
        "depths": [6] * groups,
        "num_heads": [6] * groups,
        "mlp_ratio": 2,
        "upscale": scale,
        "drop_path_rate": drop_path_rate,
    }


@contextmanager
def _old_meshgrid() -> Generator[None]:
    """Torch warns of the way in which these two call it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        yield
