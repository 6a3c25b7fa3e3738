"""What is minimised: one loss, or a weighted sum of several such as `0.8*lpips+0.2*l1`."""

import ast
import math
from collections.abc import Callable
from difflib import get_close_matches

import torch
from jaxtyping import Float
from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim  # pyright: ignore[reportPrivateUsage]
from torch import Tensor, nn

from raysr.losses import Perceptual
from raysr.perceptual import PerceptualLoss
from raysr.precision import Precision

CHARBONNIER_EPSILON = 1e-3
"""Where Charbonnier turns from a square into an absolute value (Lai et al. 2017)."""

LEAST_SIMILARITY = 0.01
"""Below this the loss of MS-SSIM departs from the metric."""

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, finest first (Wang et al. 2003)."""

_WINDOW = _fspecial_gauss_1d(11, 1.5)[None]

Loss = Callable[[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 h w"]], Float[Tensor, " n"]]


def l1(sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Mean absolute difference of each picture; what EDSR and most networks after it are trained on."""
    return (sr - hr).abs().mean((1, 2, 3))


def mse(sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Mean squared difference of each picture; what SRCNN, ESPCN and VDSR are trained on."""
    return (sr - hr).square().mean((1, 2, 3))


def charbonnier(sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Mean of sqrt(difference^2 + 0.001^2) of each picture (Charbonnier et al. 1994, as in Lai et al. 2017)."""
    return ((sr - hr).square() + CHARBONNIER_EPSILON**2).sqrt().mean((1, 2, 3))


def ms_ssim_loss(sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """1 less MS-SSIM of each picture over five scales (Wang et al. 2003); sides above 160 pixels.

    MS-SSIM itself is 0 and has no gradient where light and dark are exchanged on any one scale, as in every third
    freshly initialised ESPCN (docs/log.md), which would then never learn. A scale's similarity x below LEAST_SIMILARITY
    e goes on as e^2 / (2e - x) here: smoothly, above 0, and rising with x.
    """
    factors: list[Tensor] = []
    for scale, exponent in enumerate(_EXPONENTS):
        if scale:
            padding = [side % 2 for side in sr.shape[2:]]
            sr, hr = (nn.functional.avg_pool2d(one, 2, padding=padding) for one in (sr, hr))
        whole, contrast = _ssim(sr, hr, data_range=1.0, win=_WINDOW, size_average=False)
        x = whole if scale + 1 == len(_EXPONENTS) else contrast
        # Where the other branch is taken, its argument is clamped: an infinite gradient times 0 would be NaN.
        low = LEAST_SIMILARITY**2 / (2 * LEAST_SIMILARITY - x.clamp(max=LEAST_SIMILARITY))
        factors.append(torch.where(x < LEAST_SIMILARITY, low, x) ** exponent)
    return 1 - torch.stack(factors).prod(0).mean(1)


LOSSES: dict[str, Loss | None] = {
    "lpips": None,
    "l1": l1,
    "mse": mse,
    "charbonnier": charbonnier,
    "ms_ssim": ms_ssim_loss,
}
"""By the name in `--loss`; `lpips` is made from the perceptual weights of the run."""

MIN_SIDE_PX = {"lpips": 16, "ms_ssim": 161}
"""Smallest square that a loss can judge, where that is not 1: both halve it four times."""


def parse_loss(text: str) -> dict[str, float]:
    """The weights in `text` by the name of the loss: `{"lpips": 0.8, "l1": 0.2}` for `0.8*lpips+0.2*l1`.

    Raises ValueError for what cannot be read, an unknown name (with the closest known one), a name that comes twice,
    and a weight that is not above 0.
    """
    try:
        terms = [_term(node) for node in _summands(ast.parse(text.strip(), mode="eval").body)]
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read --loss {text!r}: expected a name or a sum such as 0.8*lpips+0.2*l1") from error
    weights: dict[str, float] = {}
    for name, weight in terms:
        if name not in LOSSES:
            closest = get_close_matches(name, LOSSES, n=1, cutoff=0.4)
            hint = f"; did you mean {closest[0]!r}?" if closest else ";"
            raise ValueError(f"unknown loss {name!r} in --loss {text!r}{hint} known: {', '.join(LOSSES)}")
        if name in weights:
            raise ValueError(f"--loss {text!r} names {name} twice: add its weights up")
        if not 0 < weight < math.inf:
            raise ValueError(f"--loss {text!r}: the weight of {name} must be above 0 and finite, got {weight:g}")
        weights[name] = weight
    return weights


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _term(node: ast.expr) -> tuple[str, float]:
    if isinstance(node, ast.Name):
        return node.id, 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Name):
        return node.right.id, float(ast.literal_eval(node.left))
    raise SyntaxError


def smallest_side(text: str) -> int:
    """Side in pixels of the smallest square that the losses in `text` can judge."""
    return max(MIN_SIDE_PX.get(name, 1) for name in parse_loss(text))


class Objective(nn.Module):
    """The weighted sum of losses that `text` names, for each picture."""

    def __init__(self, text: str, perceptual: Perceptual, precision: Precision) -> None:
        """`perceptual` and `precision` are those of `lpips`; the others are computed in float32."""
        super().__init__()
        self.weights, self.least_px = parse_loss(text), smallest_side(text)
        self.lpips = PerceptualLoss(perceptual, precision) if "lpips" in self.weights else None

    def forward(self, sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
        """In float32, 0 for equal pictures but for what Charbonnier adds; values in [0, 1]."""
        with torch.autocast(sr.device.type, enabled=False):
            sr = sr.float() if sr.dtype == torch.bfloat16 else sr
            terms = [weight * self._loss(name)(sr, hr) for name, weight in self.weights.items()]
        return torch.stack(terms).sum(0)

    def _loss(self, name: str) -> Loss:
        loss = self.lpips if name == "lpips" else LOSSES[name]
        assert loss is not None  # noqa: S101
        return loss
