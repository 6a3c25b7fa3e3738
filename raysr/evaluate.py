"""Validation: a network on whole squares, a row of scores a picture."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from raysr.judge import Judge
from raysr.metrics import PSNR_CEILING_DB, Distance, Scores, score_batch, score_content
from raysr.pairs import PairRow, to_tensor
from raysr.precision import Precision, autocast


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """Scores of one validation picture, on the whole square (as in the paper) and inside the content box.

    None stands where a picture is too small for a metric, with the reason in `note`, and where a validation between
    the first and the last step left a score out.
    """

    image_id: str
    photograph: str
    perceptual: float | None
    ms_ssim: float | None
    ssim: float | None
    psnr: float
    lpips_alex: float | None
    perceptual_content: float | None
    ms_ssim_content: float | None
    ssim_content: float | None
    psnr_content: float | None
    lpips_alex_content: float | None
    note: str | None
    flat: bool = False
    """Whether the target's content is one value everywhere: such a picture counts in no mean."""


SCORE_NAMES = ("perceptual", "ms_ssim", "ssim", "psnr", "lpips_alex")
"""The metrics of an ImageScore; each has a `_content` twin."""

MEAN_NAMES = tuple(name + suffix for suffix in ("", "_content") for name in SCORE_NAMES)

SUMMARY_NAMES = (*MEAN_NAMES, "flat_targets", "at_ceiling")
"""What `summary` gives."""

TIMED_RUNS = 7
"""Runs of which `inference_ms` is the median."""


EVALUATED_PX = {"cpu": 1, "cuda": 2**22}
"""Target pixels that are validated together, or one picture; a CPU gains nothing from more than one."""


def kernels_of(model: nn.Module) -> list[nn.Parameter]:
    """What the two-dimensional convolutions of `model` are made of."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 4]


def lay_channels_last(kernel: nn.Parameter) -> None:
    """Also a kernel of one channel, which counts as both layouts: its strides tell the library which to take."""
    kernel.data = kernel.data.to(memory_format=torch.channels_last)


@contextmanager
def fast_layout(model: nn.Module, device: torch.device) -> Generator[None]:
    """Have the kernels of `model` channels-last inside, on a CPU.

    In float32 the Inverted U-Net enlarges a picture in a third to half of the time then (benchmarks/README.md); its
    training step would take a fifth longer (docs/log.md). Numbers differ in their last digits.
    """
    laid: list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]] = []
    try:
        for kernel in kernels_of(model) if device.type == "cpu" else ():
            before = kernel.data
            lay_channels_last(kernel)
            laid.append((kernel, before, kernel.data))
        yield
    finally:
        for kernel, before, inside in laid:
            if kernel.data_ptr() == inside.data_ptr():  # SPAN makes some of its kernels anew in each forward pass
                kernel.data = before


def upscale(model: nn.Module, row: PairRow, device: torch.device, precision: Precision) -> torch.Tensor:
    """The network's picture for one pair: [1, 1, H, W], float32, clamped to [0, 1]."""
    return _upscale_batch(model, [row], device, precision)


def _upscale_batch(
    model: nn.Module, rows: Sequence[PairRow], device: torch.device, precision: Precision
) -> torch.Tensor:
    with torch.no_grad(), autocast(precision, device):
        return model(to_tensor([row.lr for row in rows], rows[0].y_range).to(device)).float().clamp(0, 1)


def evaluate(
    model: nn.Module,
    rows: Iterable[PairRow],
    perceptual: Distance,
    *,
    device: torch.device,
    precision: Precision,
    alex: Distance | None = None,
    whole: bool = False,
) -> list[ImageScore]:
    """Score `model` on each pair of one set, several at a time on a GPU: the network in `precision`, metrics in
    float32. With `whole` nothing is scored inside the content box of a padded square.
    """
    was_training = model.training
    model.eval()
    scores: list[ImageScore] = []
    waiting: list[PairRow] = []
    with fast_layout(model, device):
        for row in rows:
            waiting.append(row)
            if (len(waiting) + 1) * row.hr.size > EVALUATED_PX[device.type]:
                scores += _score_rows(model, waiting, perceptual, alex, device, precision, whole=whole)
                waiting = []
        if waiting:
            scores += _score_rows(model, waiting, perceptual, alex, device, precision, whole=whole)
    model.train(was_training)
    return scores


def _score_rows(
    model: nn.Module,
    rows: Sequence[PairRow],
    perceptual: Distance,
    alex: Distance | None,
    device: torch.device,
    precision: Precision,
    *,
    whole: bool,
) -> list[ImageScore]:
    y_range = rows[0].y_range
    sr, hr = _upscale_batch(model, rows, device, precision), to_tensor([row.hr for row in rows], y_range).to(device)
    scores: list[ImageScore] = []
    for index, square in enumerate(score_batch(sr, hr, perceptual, alex, y_range)):
        row, one = rows[index], slice(index, index + 1)
        content, note = Scores(), None
        if row.content_box == (0, 0, hr.shape[-1], hr.shape[-2]):
            content = square
            note = None if square.ms_ssim is not None else f"{hr.shape[-1]} pixels are too few for ms_ssim"
        elif not whole:
            inside = perceptual.once if isinstance(perceptual, Judge) else perceptual
            content, note = score_content(sr[one], hr[one], row.content_box, inside, alex, y_range)
        twins = {f"{name}_content": value for name, value in asdict(content).items()}
        scores.append(
            ImageScore(
                image_id=row.image_id,
                photograph=row.photograph,
                **asdict(square),
                **twins,
                note=note,
                flat=row.flat,
            )
        )
    return scores


def inference_ms(
    model: nn.Module, row: PairRow, *, device: torch.device, precision: Precision, synchronise: Callable[[], None]
) -> float:
    """Milliseconds to enlarge one picture that is on the device already: the median of TIMED_RUNS after a first one."""
    lr = to_tensor([row.lr], row.y_range).to(device)
    seconds: list[float] = []
    with fast_layout(model, device), torch.no_grad(), autocast(precision, device):
        for _ in range(1 + TIMED_RUNS):
            synchronise()
            start = time.perf_counter()
            model(lr)
            synchronise()
            seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds[1:])


class PictureRow(Protocol):
    """A row of scores of one picture."""

    @property
    def photograph(self) -> str:
        """What it is a picture of: tiles of one photograph share it."""
        ...

    @property
    def flat(self) -> bool:
        """Whether its target is one value everywhere."""
        ...

    @property
    def psnr(self) -> float | None:
        """In dB."""
        ...


def is_at_ceiling(one: PictureRow) -> bool:
    """Whether the network's picture equals its target, which has content."""
    return not one.flat and one.psnr is not None and one.psnr >= PSNR_CEILING_DB


def counts(one: PictureRow, name: str) -> bool:
    """Whether the score `name` of a picture counts in a mean.

    A target of one value everywhere asks nothing of a network: none of its scores counts. PSNR of equal pictures is
    infinite, and PSNR_CEILING_DB stands for it: to average that number with others would say nothing.
    """
    value = getattr(one, name)
    infinite = value is not None and name.startswith("psnr") and value >= PSNR_CEILING_DB
    return value is not None and not one.flat and not infinite


def mean_scores(scores: Sequence[PictureRow], names: Sequence[str] = MEAN_NAMES) -> dict[str, float | None]:
    """The mean of each score over the photographs in which it counts, each the mean of its tiles; None where there is
    none.
    """
    photographs: dict[str, list[PictureRow]] = {}
    for one in scores:
        photographs.setdefault(one.photograph, []).append(one)
    means: dict[str, float] = {}
    for name in names:
        of_each = ([getattr(tile, name) for tile in tiles if counts(tile, name)] for tiles in photographs.values())
        means[name] = _mean([_mean(known) for known in of_each if known])
    # One score that is no number makes the mean none, instead of one of the others alone.
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def tally(scores: Sequence[PictureRow]) -> dict[str, int]:
    """How many pictures are left out of every mean, and how many others are left out of the means of PSNR."""
    return {"flat_targets": sum(one.flat for one in scores), "at_ceiling": sum(map(is_at_ceiling, scores))}


def summary(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """A validation in numbers: its means, and how many pictures do not count in them."""
    return {**mean_scores(scores), **tally(scores)}


def _mean(values: list[float]) -> float:
    """No number where one of the values is none, or where there is no value."""
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan


def to_uint8(sr: torch.Tensor) -> UInt8[np.ndarray, "h w"]:
    """A [1, 1, h, w] picture in [0, 1] as 8-bit pixels."""
    return (sr[0, 0] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
