"""Floating-point operations of a training step, counted by torch, with what its counter leaves out."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry


@dataclass(frozen=True)
class StepFlops:
    """Of one pair in one training step, forward and backward; a multiply-add is two."""

    network: float
    """Of the architecture alone."""
    total: float
    """With the loss, which is the same for every architecture at one size of picture."""
    uncounted: tuple[str, ...]
    """Operations that ran and that torch's counter takes for free: activations, pooling, interpolation, ..."""


COUNTED_PX = 32
"""Side of the largest input that is counted as it is."""

_NO_ARITHMETIC = (
    "view",
    "detach",
    "t",
    "expand",
    "clone",
    "copy_",
    "empty",
    "zeros",
    "ones",
    "fill_",
    "alias",
    "_to_copy",
)


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in flop_registry:
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def count_step(
    model: nn.Module, perceptual: nn.Module, lr: Float[Tensor, "1 1 h w"], hr: Float[Tensor, "1 1 H W"]
) -> StepFlops:
    """Count one step on an eager copy of `model` in float32, on the CPU; neither is changed."""
    network, loss = copy.deepcopy(model).cpu().float(), copy.deepcopy(perceptual).cpu().float()
    lr, hr = lr.cpu(), hr.cpu()
    with FlopCounterMode(display=False) as alone:
        network(lr).sum().backward()
    seen = _Seen()
    with FlopCounterMode(display=False) as whole, seen:
        loss(network(lr), hr).mean().backward()
    free = tuple(sorted(seen.names - set(_NO_ARITHMETIC)))
    return StepFlops(float(alone.get_total_flops()), float(whole.get_total_flops()), free)


def count_arch(model: nn.Module, perceptual: nn.Module, hr_px: int, scale: int, *, least_px: int = 1) -> StepFlops:
    """Count one step on a square of `hr_px` target pixels.

    A larger square than COUNTED_PX is counted at that size and scaled by area, which is exact for convolutions: at 512
    pixels the real arithmetic would take minutes and tens of GB on a CPU.
    """
    px = min(hr_px, scale * max(COUNTED_PX, -(-least_px // scale)))
    found = count_step(model, perceptual, torch.zeros(1, 1, px // scale, px // scale), torch.zeros(1, 1, px, px))
    area = (hr_px / px) ** 2
    return StepFlops(found.network * area, found.total * area, found.uncounted)


def count_forward(model: nn.Module, lr_px: int, channels: int = 1) -> float:
    """Multiply-adds of enlarging one square of `lr_px` pixels, in `eval()`; nothing is computed and nothing changed."""
    # Tensors without data, not the device `meta`, which autocast does not know.
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        network = copy.deepcopy(model).eval()
    # With gradients: without, what is large is computed in strips, whose halos would be counted twice.
    with fake, torch.enable_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, channels, lr_px, lr_px))
    return counter.get_total_flops() / 2
