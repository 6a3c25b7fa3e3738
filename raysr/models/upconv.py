"""Nearest x2, a 3x3 convolution and ReLU as one transposed convolution: the same function for 16 products in 36."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raysr.models.strips import channel_sums, layout_of, strip_rows, strips_backward, strips_forward


def upsample_conv_relu(x: Float[Tensor, "n i h w"], conv: nn.Conv2d) -> Float[Tensor, "n o 2*h 2*w"]:
    """`relu(conv(upsample(x, 2, "nearest")))` for a 3x3 convolution with padding 1, borders and gradients included.

    The enlarged picture is never written. Computes in autocast's type where autocast is on. The gradient can be taken
    once, not twice.
    """
    return _UpsampleConvReLU.apply(*_operands(x, transposed_kernel(conv.weight), conv.bias))


def overshoot(x: Float[Tensor, "n i h w"], up: nn.Conv2d, down: nn.Conv2d) -> Float[Tensor, "n o h w"]:
    """`relu(down(upsample_conv_relu(x, up)))` for a `down` that is a 3x3 convolution of stride 2 with padding 1.

    What lies between the two is by far the largest thing in the network. Here nobody else can see it, so its gradient
    is masked where it lies, and where it is large it is only ever there in strips (raysr.models.strips).
    """
    x, kernel, *others = _operands(x, transposed_kernel(up.weight), up.bias, down.weight, down.bias)
    if not torch.is_grad_enabled():
        rows = strip_rows(x, kernel, learning=False)
        if rows is not None:
            bias, weight, down_bias = others
            return strips_forward(x, kernel, bias, weight, down_bias, rows)
    return _Overshoot.apply(x, kernel, *others)


def transposed_kernel(weight: Float[Tensor, "o i 3 3"]) -> Float[Tensor, "i o 4 4"]:
    """The kernel of the transposed convolution with stride 2 and padding 1 that equals nearest x2 and then `weight`.

    It is channels-last where `weight` is: the library then writes what it gives in that layout, whatever the input's.
    """
    layout = layout_of(weight)
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        # After nearest x2 two neighbouring taps of the 3x3 kernel meet the same input pixel: their weights add up.
        weight = torch.stack([last, middle + last, first + middle, first], axis)
    return weight.transpose(0, 1).contiguous(memory_format=layout)


def _operands(x: Tensor, *others: Tensor | None) -> list[Tensor]:
    """All in the type that the operation will run in: custom functions are not seen by autocast."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return [other.to(dtype) for other in (x, *others) if other is not None]


class _UpsampleConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        y = nn.functional.conv_transpose2d(x, kernel, bias, stride=2, padding=1).relu_()
        ctx.save_for_backward(x, kernel, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, kernel, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
        return _transposed_backward(grad, x, kernel, ctx.needs_input_grad[0])


class _Overshoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        y = nn.functional.conv_transpose2d(x, kernel, bias, stride=2, padding=1).relu_()
        z = nn.functional.conv2d(y, down, down_bias, stride=2, padding=1).relu_()
        ctx.save_for_backward(x, kernel, y, down, z)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, kernel, y, down, z = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, z, 0)
        rows = strip_rows(x, kernel, learning=True)
        if rows is not None:
            return strips_backward(grad, x, kernel, y, down, rows)
        grad_y, grad_down, grad_down_bias = torch.ops.aten.convolution_backward(
            grad, y, down, [len(down)], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True]
        )
        torch.ops.aten.threshold_backward.grad_input(grad_y, y, 0, grad_input=grad_y)
        return *_transposed_backward(grad_y, x, kernel, ctx.needs_input_grad[0]), grad_down, grad_down_bias


def _transposed_backward(
    grad: Tensor, x: Tensor, kernel: Tensor, wants_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of input, kernel and bias of a transposed convolution with stride 2 and padding 1."""
    grad_x = nn.functional.conv2d(grad, kernel, stride=2, padding=1) if wants_x else None
    _, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad, x, kernel, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1, [False, True, False]
    )
    return grad_x, grad_kernel, channel_sums(grad)
