"""One training step: the network, the loss and Adam, in as many parts as the memory asks for."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from raysr.errors import text_of
from raysr.memory import estimate_step, free_bytes
from raysr.precision import Precision, autocast

CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]


class Stepped(NamedTuple):
    """What a step saw, on its device."""

    loss: Float[Tensor, ""]
    """Mean over the pairs."""
    constant: Tensor
    """Whether the network gave a constant picture for targets that are none."""


class Stepper:
    """Takes training steps with a network: the same step whether its pairs go through together or in parts.

    The loss is a mean over pairs, so the gradients of parts add up to the whole's. Only batch normalisation sees which
    pairs went together: such a network takes its whole batch at a time.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: Precision,
        micro_batch: int,
        may_shrink: bool = False,
    ) -> None:
        """`micro_batch` pairs go through at a time, fewer (`may_shrink`) if the device runs out of memory over them."""
        self.network, self.loss, self.optimizer = network, loss, optimizer
        self.device = device
        self.precision: Precision = precision
        self.micro_batch, self.may_shrink = micro_batch, may_shrink

    def step(self, lr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 H W"]) -> Stepped:
        """Train on these pairs, on the device, values in [0, 1]."""
        self.optimizer.zero_grad(set_to_none=True)
        seen = self.gradients(lr, hr)
        self.optimizer.step()
        return seen

    def gradients(self, lr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 H W"]) -> Stepped:
        """Add the gradients of these pairs' mean loss to the network's."""
        before = (
            [buffer.clone() for buffer in self.network.buffers()] if self.may_shrink and self.micro_batch > 1 else []
        )
        while True:
            try:
                return self._in_parts(lr, hr)
            except torch.OutOfMemoryError as error:
                if normalises_batches(self.network):
                    raise torch.OutOfMemoryError(
                        f"{text_of(error)}; this network normalises over its batch of {len(lr)}, which must go through "
                        "whole: give a smaller --batch-size or --patch-px"
                    ) from error
                if not self.may_shrink or self.micro_batch == 1:
                    raise
                self.micro_batch = -(-self.micro_batch // 2)
                self.optimizer.zero_grad(set_to_none=True)  # what the first parts had added
                for buffer, value in zip(self.network.buffers(), before, strict=True):
                    buffer.copy_(value)

    def warm_up(self, lr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 H W"]) -> None:
        """Let whatever compiles compile, for pairs of this size; the network stays as it is."""
        before = [buffer.clone() for buffer in self.network.buffers()]
        self.gradients(torch.zeros_like(lr), torch.zeros_like(hr))
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)

    def _in_parts(self, lr: Tensor, hr: Tensor) -> Stepped:
        total = torch.zeros((), device=self.device)
        constant = torch.ones((), dtype=torch.bool, device=self.device)
        parts = list(zip(lr.split(self.micro_batch), hr.split(self.micro_batch), strict=True))
        for index, (lr_part, hr_part) in enumerate(parts):
            with self._synchronised(last=index + 1 == len(parts)):
                with autocast(self.precision, self.device):
                    sr = self.network(lr_part)
                    loss = self.loss(sr, hr_part).sum() / len(lr)
                loss.backward()
            total += loss.detach()
            constant &= is_constant(sr) & ~is_constant(hr_part)
        return Stepped(total, constant)

    def _synchronised(self, *, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange their gradients once a step, with the last part."""
        no_sync: Any = getattr(self.network, "no_sync", None)
        return nullcontext() if last or no_sync is None else no_sync()


def compiled(network: nn.Module, mode: CompileMode) -> nn.Module:
    """`network` as torch.compile makes it for one size of batch, with the same parameters; itself where it is off."""
    if mode == "off":
        return network
    faster: Any = torch.compile(network, mode=None if mode == "default" else mode, dynamic=False)
    return faster


def choose_micro_batch(
    wanted: int | None,
    share: int,
    model: nn.Module,
    loss: nn.Module,
    *,
    px: int,
    scale: int,
    precision: Precision,
    device: torch.device,
    least_px: int = 1,
    sharers: int = 1,
    reserved_bytes: float = 0.0,
) -> int:
    """How many of the `share` pairs that this process has of a batch go through the network at a time.

    `wanted` where it is given, else as many as the free memory of `device` allows by estimate (squares of `px` target
    pixels; `loss` needs at least `least_px`). `sharers` processes share that memory, and validation will keep
    `reserved_bytes` of it. Raises ValueError where batch normalisation would see another batch.
    """
    whole = normalises_batches(model)
    if whole and wanted is not None and wanted < share:
        raise ValueError(
            f"--micro-batch {wanted}: this network normalises over its batch of {share}, which parts of it would change"
        )
    if whole or (wanted is not None):
        return share if whole else min(share, int(wanted or share))
    need = estimate_step(model, loss, px, scale, precision, least_px=least_px)
    free = free_bytes(device)
    return need.pairs(None if free is None else free / sharers - reserved_bytes, share, device.type)


def normalises_batches(model: nn.Module) -> bool:
    """Whether a pair's picture hangs on the pairs that go through together: batch normalisation."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def is_constant(pictures: Tensor) -> Tensor:
    """Whether all pictures have one value everywhere, as a tensor on their device."""
    return pictures.detach().amax() == pictures.detach().amin()
