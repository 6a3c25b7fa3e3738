"""The architectures: each maps luminance [n, 1, h, w] in [0, 1] to [n, 1, scale*h, scale*w]."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from raysr.models.bicubic import Bicubic
from raysr.models.espcn import ESPCN
from raysr.models.inverted_unet import InvertedUNet
from raysr.models.srcnn import SRCNN


@dataclass(frozen=True)
class Architecture:
    """A row of the field."""

    title: str
    """As printed in tables."""
    build: Callable[[int], nn.Module]
    """From the scale to a freshly initialised network."""
    source: str
    """The paper that defines it."""
    paper_epochs: int | None = None
    """Epochs in Table 1 of the Inverted U-Net paper."""
    paper_lpips: float | None = None
    paper_ms_ssim: float | None = None


_PAPER = "Lalchandani 2025, Machine Learning for Resolution"

MODELS: dict[str, Architecture] = {
    "bicubic": Architecture("Bicubic", Bicubic, "Keys 1981, anti-aliased as in Pillow"),
    "srcnn": Architecture("SRCNN", SRCNN, "Dong et al. 2014, 9-1-5", 50, 0.0928, 0.9844),
    "espcn": Architecture("ESPCN", ESPCN, "Shi et al. 2016", 40, 0.0994, 0.9856),
    "inverted_unet3": Architecture(
        "Inverted U-Net", lambda scale: InvertedUNet(scale, ups=3), f"{_PAPER}, Algorithm 1", 10, 0.0831, 0.9847
    ),
    "inverted_unet4": Architecture(
        "Inverted U-Net (4 ups)", lambda scale: InvertedUNet(scale, ups=4), f"{_PAPER}, future work"
    ),
}
"""Every architecture by name; `bicubic` is the one that is not trained."""


def build_model(arch: str, scale: int) -> nn.Module:
    """A freshly initialised network; seed torch before the call. Raises ValueError for an unknown name."""
    return find_architecture(arch).build(scale)


def find_architecture(arch: str) -> Architecture:
    """The row of `arch`; raises ValueError with the closest known name."""
    if arch in MODELS:
        return MODELS[arch]
    closest = get_close_matches(arch, MODELS, n=1, cutoff=0.4)
    hint = f"; did you mean {closest[0]!r}?" if closest else ";"
    raise ValueError(f"unknown architecture {arch!r}{hint} known: {', '.join(MODELS)}")


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
