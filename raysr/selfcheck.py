"""Does this installation, with these files, find the published values of bicubic? And if not, what is wrong?"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raysr.benchmark import EvaluateConfig
from raysr.checkpoints import load_upscaler
from raysr.images import PictureError
from raysr.judging import compare_picture
from raysr.metrics import on_scale_of, psnr
from raysr.protocol import LITERATURE, Kernel, Protocol, changed, differences, resize_bytes
from raysr.testsets import KNOWN_SIZES, PictureSet, find_set, open_picture, recognise

TITLES = {"set5": "Set5", "set14": "Set14"}
PUBLISHED = {"set5": 33.66, "set14": 30.24}
"""Bicubic x2, dB on luminance, as papers print it (Dong et al. 2014; Kim et al. 2016)."""
DISTRIBUTED = {"set5": 33.68, "set14": 30.33}
"""The same on SelfExSR's files (Huang et al. 2015), with luminance in full precision."""
TOLERANCE_DB = 0.02

KERNEL_WORDS = {
    "matlab": "by MATLAB's imresize",
    "pillow": "by Pillow's bicubic",
    "opencv": "without anti-aliasing (as OpenCV's bicubic)",
}

Change = dict[str, Any]
"""Fields of a protocol, and `inputs` for those that are made here instead of given."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the check found of one set."""

    right: bool
    measured: float
    """In dB."""
    message: str


def self_check(config: EvaluateConfig, tell: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Measure bicubic x2 on each set, by the literature's protocol or what the configuration makes of it.

    Raises ValueError for a set that is neither Set5 nor Set14.
    """
    if config.model != "bicubic" or config.scale not in (None, 2):
        raise ValueError(f"--self-check measures bicubic x2; leave out --model {config.model} and --scale")
    findings: list[Finding] = []
    for folder, inputs in zip(config.sets, config.inputs or (None,) * len(config.sets), strict=True):
        tell(f"measuring {folder}")
        pictures = find_set(folder, 2, inputs)
        known = recognise(pictures)
        if known is None:
            raise ValueError(
                f"{folder} is neither Set5 nor Set14, by its name or by the number and sizes of its "
                f"{len(pictures.pictures)} pictures: there is no published value to check against"
            )
        protocol = config.protocol_named("literature")
        findings.append(check_pictures(pictures, known, protocol, use_given=not config.remake_inputs))
    return findings


def check_pictures(pictures: PictureSet, known: str, protocol: Protocol, *, use_given: bool = True) -> Finding:
    """Whether bicubic on `pictures`, the set `known`, has the published value, and the reason if it has not."""
    title, expected = TITLES[known], PUBLISHED[known]
    measured, unreadable = measure(pictures, protocol, use_given=use_given)
    found = f"{title}: {measured:.2f}"
    count = len(KNOWN_SIZES[known])
    if unreadable:
        message = f"{found} where {expected} is expected: {len(unreadable)} pictures cannot be used: {unreadable[0]}"
    elif len(pictures.pictures) != count:
        message = f"{found} where {expected} is expected: {len(pictures.pictures)} pictures, and {title} has {count}"
    elif _is_right(measured, known):
        note = f" and {DISTRIBUTED[known]} for SelfExSR's files" if DISTRIBUTED[known] != expected else ""
        return Finding(right=True, measured=measured, message=f"{found} where {expected} is published{note}: right")
    else:
        reason = _reason(pictures, known, protocol, use_given=use_given)
        message = f"{found} where {expected} is expected: {reason}"
    return Finding(right=False, measured=measured, message=message)


def _is_right(value: float, known: str) -> bool:
    return min(abs(value - PUBLISHED[known]), abs(value - DISTRIBUTED[known])) <= TOLERANCE_DB


def measure(pictures: PictureSet, protocol: Protocol, *, use_given: bool = True) -> tuple[float, list[str]]:
    """Mean PSNR of bicubic x2 in dB, and which pictures could not be used and why."""
    bicubic = load_upscaler("bicubic", 2, torch.device("cpu"))
    scores: list[float] = []
    unreadable: list[str] = []
    for picture in pictures.pictures:
        try:
            comparison = compare_picture(bicubic, picture, protocol, use_given=use_given)
        except PictureError as error:
            unreadable.append(f"{picture.image_id}: {error}")
            continue
        y_range = "full" if protocol.colour == "rgb" else protocol.y_range
        sr, hr = (on_scale_of(one, y_range) for one in comparison.cropped())
        scores.append(psnr(sr, hr).item())
    return (math.fsum(scores) / len(scores) if scores else math.nan), unreadable


def _reason(pictures: PictureSet, known: str, protocol: Protocol, *, use_given: bool) -> str:
    given = use_given and pictures.inputs is not None
    for change in _neighbours(protocol, given=given):
        fields = {name: value for name, value in change.items() if name != "inputs"}
        try:
            neighbour = changed(protocol, **fields)
        except ValueError:
            continue  # no such protocol
        value, _ = measure(pictures, neighbour, use_given=use_given and "inputs" not in change)
        if _is_right(value, known):
            words = [_words(name, protocol, pictures) for name in change]
            there = all(value == getattr(LITERATURE, name) for name, value in fields.items())
            # Where the literature's way fails and another one does not, the pictures themselves were changed.
            return (
                ", ".join(words) if there else f"these pictures need {', '.join(f'{k}={v}' for k, v in fields.items())}"
            )
    jpegs = [one.image_id for one in pictures.pictures if one.target.suffix.lower() in (".jpg", ".jpeg")]
    hint = f"; {jpegs[0]} is a JPEG" if jpegs else ""
    return f"unrecognised deviation, no neighbouring protocol gives it: are these the original pictures{hint}?"


def _neighbours(protocol: Protocol, *, given: bool) -> Iterator[Change]:
    """What to change, likely things first: back to the literature in one, two or all fields, then away from it."""
    wrong = differences(LITERATURE, protocol)
    back: Change = {name: value for name, value in wrong.items() if name not in ("perceptual", "padding")}
    if given:
        back["inputs"] = "made"
    for size in sorted({1, 2, len(back)}):
        for names in itertools.combinations(back, size):
            yield {name: back[name] for name in names}
    if "y_range" not in back:
        yield {"y_range": "full"}
    if "border" not in back:
        yield {"border": 0}


def _words(name: str, protocol: Protocol, pictures: PictureSet) -> str:
    """What is wrong where changing the field `name` made it right."""
    return {
        "y_range": lambda: f"{protocol.y_range}-range luminance",
        "y_bits": lambda: "luminance in whole bytes",
        "kernel": lambda: f"pictures made smaller and larger {KERNEL_WORDS[protocol.kernel]}",
        "border": lambda: f"a border of {protocol.border} pixels cut where 2 are",
        "square_px": lambda: f"pictures fitted into a square of {protocol.square_px}",
        "sr_bits": lambda: "pictures not rounded to 8 bits",
        "colour": lambda: "RGB compared where luminance is",
        "inputs": lambda: f"LR counterparts were made {_made(pictures)}",
    }[name]()


def _made(pictures: PictureSet) -> str:
    """How the counterparts were made: by the kernel that gives them up to rounding, if one does."""
    kernels: tuple[Kernel, ...] = ("opencv", "pillow", "matlab")
    errors: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    for picture in pictures.pictures:
        hr, lr, _ = open_picture(picture, 2)
        if lr is not None:
            for kernel in kernels:
                made = resize_bytes(hr, lr.shape[1], lr.shape[0], kernel).astype(float)
                errors[kernel].append(float(np.abs(made - lr).mean()))
    kernel, error = min(((name, max(values)) for name, values in errors.items()), key=lambda pair: pair[1])
    return KERNEL_WORDS[kernel] if error < 0.5 else f"in another way (nearest is {kernel}'s, {error:.1f} of 255 off)"
