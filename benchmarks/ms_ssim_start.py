"""How many freshly initialised networks MS-SSIM can teach nothing, and how many the loss made of it cannot.

python benchmarks/ms_ssim_start.py --data data/bsds320 --archs srcnn espcn srresnet
"""

from dataclasses import dataclass

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from raysr.metrics import ms_ssim
from raysr.models import build_model
from raysr.objective import ms_ssim_loss
from raysr.pairs import PairSet, to_tensor


@dataclass(frozen=True)
class Config:
    data: str
    """A prepared set of squares of at least 192 pixels; its first pairs are looked at, in the middle."""
    archs: tuple[str, ...] = ("srcnn", "espcn", "edsr_baseline", "srresnet", "vdsr", "inverted_unet3")
    seeds: int = 10
    pairs: int = 4
    px: int = 192


def main(config: Config) -> None:
    found = PairSet(config.data, "train", verify=False)
    scale = found.geometry.scale
    rows = [row for row, _ in zip(found.rows(), range(config.pairs), strict=False)]
    lr = middle(to_tensor([row.lr for row in rows], found.geometry.y_range), config.px // scale)
    hr = middle(to_tensor([row.hr for row in rows], found.geometry.y_range), config.px)
    print(f"of {config.seeds} networks, no gradient on {config.pairs} pairs of {config.px} pixels\n")
    print("| network | 1 - MS-SSIM | the loss |\n|---|---|---|")
    for arch in config.archs:
        stuck = [0, 0]
        for seed in range(config.seeds):
            torch.manual_seed(seed)
            network = build_model(arch, scale)
            sr = network(lr)
            for index, loss in enumerate((1 - ms_ssim(sr, hr), ms_ssim_loss(sr, hr))):
                stuck[index] += not has_gradient(network, loss.mean())
        print(f"| {arch} | {stuck[0]} | {stuck[1]} |", flush=True)


def middle(pictures: Float[Tensor, "n 1 h w"], px: int) -> Float[Tensor, "n 1 px px"]:
    """The square in the middle."""
    top, left = ((side - px) // 2 for side in pictures.shape[2:])
    return pictures[..., top : top + px, left : left + px]


def has_gradient(network: nn.Module, loss: Tensor) -> bool:
    """Whether any parameter would move."""
    parameters = [one for one in network.parameters() if one.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    return any(bool((one != 0).any()) for one in gradients)


if __name__ == "__main__":
    main(tyro.cli(Config))
