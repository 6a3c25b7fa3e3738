"""The training loss: the distance of `losses.Perceptual`, value and gradient, for a fraction of its cost."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raysr.losses import Perceptual
from raysr.precision import Precision
from raysr.weights import CONVOLUTIONS

EPSILON = 1e-10
"""Added to a feature's length before it is divided by it, as in the lpips package."""

CENTRE = 0.45
"""Taken from luminance before it is rounded to bfloat16, whose steps are finest about 0; VGG's own means lie near."""

CHUNK_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}
"""Features that are compared at a time: few enough to stay in a core's cache, or to be few kernels on a GPU."""


class PerceptualLoss(nn.Module):
    """LPIPS on VGG16 (Zhang et al. 2018) as `losses.Perceptual` computes it, with a gradient for `sr` alone.

    What is saved: the target's features keep no graph; luminance enters the first convolution as it is, beside ones
    for shift and scale (the padding around the picture has neither); normalisation,
    difference, weighting, mean and their gradient are one pass over each layer's features; in bfloat16 the weights are
    held in it and the features are read as they are. The gradient can be taken once, not twice.
    """

    def __init__(self, perceptual: Perceptual, precision: Precision = "float32") -> None:
        """Take the weights of `perceptual`, whose trunk must be VGG16, for arithmetic in `precision`."""
        super().__init__()
        assert perceptual.trunk == "vgg"  # noqa: S101
        state = perceptual.state
        for index, head in enumerate(perceptual.heads):
            self.register_buffer(f"head{index}", head, persistent=False)
        own = perceptual.heads[0].dtype
        dtype = torch.bfloat16 if precision == "bfloat16" else own
        self.parts: list[list[int]] = [[] for _ in perceptual.heads]
        """Numbers of the convolutions before each compared layer. Each part but the first begins with a pooling."""
        for number, convolution in enumerate(CONVOLUTIONS["vgg"]):
            self.parts[convolution.part - 1].append(number)
            weight, bias = state[convolution.weight], state[convolution.bias]
            weight = weight if number else _fold_luminance(weight, dtype)
            weight = weight.to(dtype, memory_format=torch.channels_last)
            self.register_buffer(f"weight{number}", weight, persistent=False)
            self.register_buffer(f"bias{number}", bias.to(dtype), persistent=False)

    def forward(self, sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair in float32, 0 for equal pictures; values in [0, 1], sides of at least 16 pixels."""
        with torch.autocast(sr.device.type, enabled=False):
            with torch.no_grad():
                targets = self.features(hr)
            layers = zip(self.features(sr), targets, self._heads, strict=True)
            return torch.stack([_Distance.apply(*layer) for layer in layers]).sum(0)

    @property
    def _heads(self) -> list[Tensor]:
        return [self.get_buffer(f"head{index}") for index in range(len(self.parts))]

    def between(self, sr: Sequence[Tensor], hr: Sequence[Tensor]) -> Float[Tensor, " n"]:
        """Distance of each pair of pictures by their `features`, without a gradient."""
        layers = zip(sr, hr, self._heads, strict=True)
        return torch.stack([distance_and_gradient(*layer, wants_gradient=False)[0] for layer in layers]).sum(0)

    def features(self, y: Float[Tensor, "n 1 h w"]) -> list[Tensor]:
        """What LPIPS compares: the five layers of VGG16, [n, c, h, w] each, channels last."""
        y = y.to(self.get_buffer("head0").dtype) - CENTRE
        x = _luminance_channels(y, self.get_buffer("weight0").dtype).contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = []
        for numbers in self.parts:
            x = nn.functional.max_pool2d(x, 2) if features else x
            for number in numbers:
                weight, bias = self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}")
                x = nn.functional.conv2d(x, weight, bias, padding=1).relu_()
            features.append(x)
        return features


SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What LPIPS takes from each colour in [-1, 1], and divides it by: ImageNet's mean and deviation."""


def _fold_luminance(weight: Float[Tensor, "o 3 3 3"], dtype: torch.dtype) -> Float[Tensor, "o c 3 3"]:
    """The first convolution for the channels of `_luminance_channels`.

    (2 y - 1 - shift) / scale of each colour, parted into what luminance less CENTRE and what 1 is multiplied with.
    """
    # The package has them in float32, also where it computes in another type.
    shift, scale = (torch.tensor(values).to(weight)[None, :, None, None] for values in (SHIFT, SCALE))
    of_y, of_one = ((weight * part).sum(1) for part in (2 / scale, (2 * CENTRE - 1 - shift) / scale))
    if dtype == weight.dtype:
        return torch.stack([of_y, of_one], 1)
    of_y, of_y_rest, of_one, of_one_rest = *_in_two(of_y, dtype), *_in_two(of_one, dtype)
    return torch.stack([of_y, of_y, of_y_rest, of_one, of_one_rest], 1)


def _luminance_channels(y: Float[Tensor, "n 1 h w"], dtype: torch.dtype) -> Float[Tensor, "n c h w"]:
    """`y` and 1; where `dtype` is coarser, each of picture and weights is a coarse part and the rest of it.

    A package that copies luminance to three channels rounds it three times, which partly evens out: rounded once it
    would be worse. The rest of y times the rest of the weights is left out.
    """
    one = torch.ones_like(y)
    if y.dtype == dtype:
        return torch.cat([y, one], 1)
    coarse = y.to(dtype)
    rest = (y.detach() - coarse.detach().to(y.dtype)).to(dtype)  # a constant: the gradient is that of the coarse part
    return torch.cat([coarse, rest, coarse, one.to(dtype), one.to(dtype)], 1)


def _in_two(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`tensor` as it is in a coarser type, and what that leaves."""
    coarse = tensor.to(dtype)
    return coarse, (tensor - coarse.to(tensor.dtype)).to(dtype)


class _Distance(torch.autograd.Function):
    """Of one layer's features: the weighted squares of their differences, each of length 1, averaged over pixels."""

    @staticmethod
    def forward(ctx: Any, sr: Tensor, hr: Tensor, head: Tensor) -> Tensor:
        distances, gradient = distance_and_gradient(sr, hr, head, wants_gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (of_features,) = ctx.saved_tensors
        return of_features * grad.to(of_features.dtype).view(-1, 1, 1, 1), None, None


def distance_and_gradient(
    sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"], head: Float[Tensor, " c"], *, wants_gradient: bool
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c h w"] | None]:
    """LPIPS of one layer for each picture, and its gradient with respect to `sr`, in one pass in the type of `head`.

    Where all features of a pixel are 0 their length has no gradient: the lpips package gives NaN there, this gives 0.
    """
    n, c, h, w = sr.shape
    distances = torch.zeros(n, dtype=head.dtype, device=sr.device)
    gradient = torch.empty_like(sr, memory_format=torch.channels_last) if wants_gradient else None
    elements = CHUNK_ELEMENTS[sr.device.type]
    together, rows = max(1, elements // (c * h * w)), max(1, elements // c)
    for first in range(0, n, together):
        some = slice(first, first + together)
        pixels, targets = (x[some].permute(0, 2, 3, 1).reshape(-1, h * w, c) for x in (sr, hr))
        out = None if gradient is None else gradient[some].permute(0, 2, 3, 1).view(-1, h * w, c)
        for start in range(0, h * w, rows):
            part = slice(start, start + rows)
            a, b = pixels[:, part].to(head.dtype), targets[:, part].to(head.dtype)
            length = torch.linalg.vector_norm(a, dim=2, keepdim=True)
            scaled = length + EPSILON
            a = a / scaled
            difference = a - b / (torch.linalg.vector_norm(b, dim=2, keepdim=True) + EPSILON)
            weighted = difference * head
            distances[some] += torch.linalg.vecdot(weighted.flatten(1), difference.flatten(1))
            if out is not None:
                along = (a * weighted).sum(2, keepdim=True) * (scaled / length.clamp_min(EPSILON))
                out[:, part] = weighted.sub_(a.mul_(along)).mul_((2 / (h * w)) / scaled)
    return distances / (h * w), gradient
