"""The Inverted U-Net's widest place in strips of rows: the same numbers, without ever holding all of it twice.

`up` is the transposed convolution that `raysr.models.upconv` makes of nearest x2 and a 3x3 convolution (kernel 4,
stride 2, padding 1), `down` a 3x3 convolution of stride 2 with padding 1. Row i of the input meets rows 2i - 1 to
2i + 2 of what lies between, and row j of the result rows 2j - 1 to 2j + 1: the halo of a strip is one row either side.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

STRIP_BYTES = {"cpu": 32 << 20, "cuda": 128 << 20}
"""Of the widest tensor, in one strip."""

WHOLE_STRIPS = 8
"""So many strips of it are taken as one: strips of what is not large save little memory, and cost a few per cent. Four
times as many where no gradients are wanted, because there they cost a sixth and save less."""


def strip_rows(x: Float[Tensor, "n i h w"], kernel: Float[Tensor, "i c 4 4"], *, learning: bool) -> int | None:
    """Rows of `x` to take at a time; None for all at once: where what lies between is no more than WHOLE_STRIPS, and on
    devices that STRIP_BYTES does not name, `meta` among them, which holds nothing."""
    h, w = x.shape[2:]
    row = 4 * w * kernel.shape[1] * x.element_size()
    strip = STRIP_BYTES.get(x.device.type)
    if strip is None:
        return None
    whole = WHOLE_STRIPS * strip * (1 if learning else 4)
    return None if row * h * len(x) <= whole else max(1, strip // row)


def strips_forward(
    x: Float[Tensor, "n i h w"], kernel: Tensor, bias: Tensor, down: Tensor, down_bias: Tensor, rows: int
) -> Float[Tensor, "n o h w"]:
    """`relu(down(relu(up(x))))`, `rows` of the result at a time: for a forward pass that nothing is learnt from."""
    n, _, h, w = x.shape
    z = x.new_empty(n, len(down), h, w).to(memory_format=layout_of(kernel))
    for one, a, b in _strips(n, h, rows):
        first, last = max(2 * a - 1, 0), 2 * b
        i, j = max((first - 1) // 2, 0), min((last + 2) // 2, h)
        y = nn.functional.conv_transpose2d(x[one, :, i:j], kernel, bias, stride=2, padding=1).relu_()
        y = y[:, :, first - 2 * i : last - 2 * i]
        z[one, :, a:b] = nn.functional.conv2d(y, down, down_bias, stride=2, padding=(int(a == 0), 1)).relu_()
    return z


def strips_backward(
    grad: Float[Tensor, "n o h w"],
    x: Float[Tensor, "n i h w"],
    kernel: Float[Tensor, "i c 4 4"],
    y: Float[Tensor, "n c 2*h 2*w"],
    down: Float[Tensor, "o c 3 3"],
    rows: int,
) -> tuple[Float[Tensor, "n i h w"], Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `x`, `kernel`, its bias, `down` and its bias, of which `grad` is that of `down(y)` and `y` is
    `relu(up(x))`. The gradient of `y`, as large as `y` itself, is only ever there in strips."""
    n, _, h, _ = x.shape
    exact = torch.promote_types(x.dtype, torch.float32)
    grad_x = torch.empty_like(x)
    sums = [torch.zeros_like(one, dtype=exact) for one in (kernel, kernel[0, :, 0, 0], down, down[:, 0, 0, 0])]
    for one, a, b in _strips(n, h, rows):
        grad_y = _grad_between(grad[one], y[one], down, a, b)
        grad_x[one, :, a:b] = nn.functional.conv2d(grad_y, kernel, stride=2, padding=(0, 1))
        _, grad_kernel, _ = torch.ops.aten.convolution_backward(
            grad_y, x[one, :, a:b], kernel, None, [2, 2], [0, 1], [1, 1], True, [0, 0], 1, [False, True, False]
        )
        top = int(a == 0)  # the first strip has the border's padding, the others a row of their neighbour
        _, grad_down, grad_down_bias = torch.ops.aten.convolution_backward(
            grad[one, :, a:b],
            y[one, :, max(2 * a - 1, 0) : 2 * b],
            down,
            [len(down)],
            [2, 2],
            [top, 1],
            [1, 1],
            False,
            [0, 0],
            1,
            [False, True, True],
        )
        grad_bias = channel_sums(grad_y[:, :, 1:-1])
        for total, part in zip(sums, (grad_kernel, grad_bias, grad_down, grad_down_bias), strict=True):
            total += part
    grad_kernel, grad_bias, grad_down, grad_down_bias = (total.to(x.dtype) for total in sums)
    return grad_x, grad_kernel, grad_bias, grad_down, grad_down_bias


def _grad_between(grad: Tensor, y: Tensor, down: Tensor, a: int, b: int) -> Tensor:
    """The gradient before `y`'s ReLU in the rows 2a - 1 to 2b that rows a to b of the input meet; 0 outside."""
    h = grad.shape[2]
    i, j = max(a - 1, 0), min(b + 1, h)
    found = nn.functional.conv_transpose2d(grad[:, :, i:j], down, stride=2, padding=(0, 1), output_padding=(0, 1))
    found = found[:, :, 2 * (a - i) :][:, :, : 2 * (b - a) + 2]
    if b == h:
        found = nn.functional.pad(found, (0, 0, 0, 1))
    first, last = max(2 * a - 1, 0), min(2 * b + 1, 2 * h)
    inside = found[:, :, first - (2 * a - 1) :][:, :, : last - first]
    torch.ops.aten.threshold_backward.grad_input(inside, y[:, :, first:last], 0, grad_input=inside)
    if a == 0:
        found[:, :, 0] = 0
    return found


def channel_sums(grad: Float[Tensor, "n c h w"]) -> Float[Tensor, " c"]:
    """The gradient of a bias. The library's own for a transposed convolution takes longer on a CPU than all the rest of
    its backward pass; as a product with a row of ones it costs next to nothing (docs/log.md)."""
    if not grad.is_contiguous(memory_format=torch.channels_last):
        return grad.sum((0, 2, 3))
    pixels = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
    return (pixels.new_ones(1, len(pixels)) @ pixels)[0]


def _strips(n: int, h: int, rows: int) -> Iterator[tuple[slice, int, int]]:
    """Of each picture in turn: its place in the batch, and a strip's first row and the one after its last."""
    for one in range(n):
        for a in range(0, h, rows):
            yield slice(one, one + 1), a, min(a + rows, h)


def layout_of(kernel: Tensor) -> torch.memory_format:
    """By strides: a kernel of one channel counts as both layouts for torch itself."""
    return torch.channels_last if kernel.stride(1) == 1 else torch.contiguous_format
