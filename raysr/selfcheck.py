"""Does this installation, with these files, find the published values of bicubic? And if not, what is wrong?"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from raysr.benchmark import EvaluateConfig
from raysr.checkpoints import load_upscaler
from raysr.decoding import pixels_of
from raysr.errors import text_of
from raysr.images import PictureError
from raysr.judging import compare_picture
from raysr.metrics import on_scale_of, psnr
from raysr.plain import say
from raysr.protocol import LITERATURE, Kernel, Protocol, changed, differences, resize_bytes
from raysr.testsets import PictureSet, find_set, open_picture, recognise

TOLERANCE_DB = 0.02


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What bicubic x2 has on a set by the literature's protocol, in dB."""

    title: str
    published: float
    """As papers print it (Dong et al. 2014; Kim et al. 2016)."""
    distributed: float
    """On SelfExSR's files (Huang et al. 2015), with luminance in full precision."""
    count: int
    """Pictures of the set."""

    def has(self, value: float) -> bool:
        """Whether `value` is one of the two."""
        return min(abs(value - self.published), abs(value - self.distributed)) <= TOLERANCE_DB


REFERENCES = {
    "set5": Reference(title="Set5", published=33.66, distributed=33.68, count=5),
    "set14": Reference(title="Set14", published=30.24, distributed=30.33, count=14),
}

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
        pictures = find_set(folder, 2, inputs, pixels_of(config.max_megapixels))
        known = recognise(pictures)
        if known is None:
            raise ValueError(
                f"{folder} is neither Set5 nor Set14, by its name or by the number and sizes of its "
                f"{len(pictures.pictures)} pictures: there is no published value to check against"
            )
        protocol = config.protocol_named("literature")
        findings.append(check_pictures(pictures, REFERENCES[known], protocol, use_given=not config.remake_inputs))
    return findings


def print_findings(findings: list[Finding], console: Console) -> bool:
    """Print what the check found; whether all of it is right."""
    for finding in findings:
        say(console, finding.message)
    return all(finding.right for finding in findings)


def check_pictures(
    pictures: PictureSet, reference: Reference, protocol: Protocol, *, use_given: bool = True
) -> Finding:
    """Whether bicubic on `pictures` has the reference's value, and the reason if it has not."""
    measured, unusable = measure(pictures, protocol, use_given=use_given)
    found, count = f"{reference.title}: {measured:.2f}", len(pictures.pictures)
    if unusable:
        reason = f"{len(unusable)} of {count} pictures cannot be used: {unusable[0]}"
    elif count != reference.count:
        reason = f"{count} pictures, and {reference.title} has {reference.count}"
    elif reference.has(measured):
        own = f" ({reference.distributed} for SelfExSR's files)"
        return Finding(
            right=True, measured=measured, message=f"{found} where {reference.published} is published{own}: right"
        )
    else:
        reason = _reason(pictures, reference, protocol, use_given=use_given)
    message = f"{found} where {reference.published} is expected: {reason}"
    return Finding(right=False, measured=measured, message=message)


def measure(pictures: PictureSet, protocol: Protocol, *, use_given: bool = True) -> tuple[float, list[str]]:
    """Mean PSNR of bicubic x2 in dB, and which pictures could not be used and why."""
    bicubic = load_upscaler("bicubic", 2, torch.device("cpu"))
    scores: list[float] = []
    unreadable: list[str] = []
    for picture in pictures.pictures:
        try:
            comparison = compare_picture(bicubic, picture, protocol, use_given=use_given)
        except PictureError as error:
            unreadable.append(f"{picture.image_id}: {text_of(error)}")
            continue
        y_range = "full" if protocol.colour == "rgb" else protocol.y_range
        sr, hr = (on_scale_of(one, y_range) for one in comparison.cropped())
        scores.append(psnr(sr, hr).item())
    return (math.fsum(scores) / len(scores) if scores else math.nan), unreadable


def _reason(pictures: PictureSet, reference: Reference, protocol: Protocol, *, use_given: bool) -> str:
    given = use_given and pictures.inputs is not None
    for change in _neighbours(protocol, given=given):
        fields = {name: value for name, value in change.items() if name != "inputs"}
        fields |= {"fit": None} if "square_px" in fields else {}
        try:
            neighbour = changed(protocol, **fields)
        except ValueError:
            continue  # no such protocol
        value, _ = measure(pictures, neighbour, use_given=use_given and "inputs" not in change)
        if reference.has(value):
            return ", ".join(_words(name, protocol, pictures) for name in change)
    full = changed(protocol, y_range="full")
    if protocol.y_range == "limited" and reference.has(measure(pictures, full, use_given=use_given)[0]):
        return "only full-range luminance gives it: the levels of these pictures were changed to 16..235 already"
    jpegs = [one.image_id for one in pictures.pictures if one.target.suffix.lower() in (".jpg", ".jpeg")]
    hint = f"; {jpegs[0]} is a JPEG" if jpegs else ""
    return f"unrecognised deviation, no neighbouring protocol gives it: are these the original pictures{hint}?"


def _neighbours(protocol: Protocol, *, given: bool) -> Iterator[Change]:
    """What to change: back to the literature in one field, in two, or in all; then in all and the inputs."""
    wrong = differences(LITERATURE, protocol)
    back: Change = {name: value for name, value in wrong.items() if name not in ("perceptual", "padding", "fit")}
    every = [tuple(back), (*back, "inputs")] if given else [tuple(back)]
    if given:
        back["inputs"] = "made"
    few = [names for size in (1, 2) for names in itertools.combinations(back, size)]
    for names in dict.fromkeys([*few, *every]):
        yield {name: back[name] for name in names}


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
        hr, lr, *_ = open_picture(picture, 2)
        if lr is not None:
            for kernel in kernels:
                made = resize_bytes(hr, lr.shape[1], lr.shape[0], kernel).astype(float)
                errors[kernel].append(float(np.abs(made - lr).mean()))
    kernel, error = min(((name, max(values)) for name, values in errors.items()), key=lambda pair: pair[1])
    return KERNEL_WORDS[kernel] if error < 0.5 else f"in another way (nearest is {kernel}'s, {error:.1f} of 255 off)"
