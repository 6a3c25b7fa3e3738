"""The architectures: each maps luminance [n, 1, h, w] in [0, 1] to [n, 1, scale*h, scale*w].

A network of one's own is an nn.Module made by `MyNet(scale, **options)` whose forward takes and gives these.
"""

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import nn

from raysr.models.bicubic import Bicubic
from raysr.models.espcn import ESPCN
from raysr.models.inverted_unet import InvertedUNet
from raysr.models.srcnn import SRCNN


@dataclass(frozen=True)
class Architecture:
    """A row of the field."""

    title: str
    """As printed in tables."""
    build: Callable[..., nn.Module]
    """From the scale, and options by name, to a freshly initialised network."""
    source: str
    """The paper that defines it."""
    paper_epochs: int | None = None
    """Epochs in Table 1 of the Inverted U-Net paper."""
    paper_lpips: float | None = None
    paper_ms_ssim: float | None = None


_PAPER = "Lalchandani 2025, Machine Learning for Resolution"

MODELS: dict[str, Architecture] = {
    "bicubic": Architecture("Bicubic", Bicubic, "Keys 1981, anti-aliased as in Pillow"),
    "srcnn": Architecture("SRCNN", SRCNN, "Dong et al. 2014, 9-1-5", 50, 0.0928, 0.9844),
    "espcn": Architecture("ESPCN", ESPCN, "Shi et al. 2016", 40, 0.0994, 0.9856),
    "inverted_unet3": Architecture(
        "Inverted U-Net", partial(InvertedUNet, ups=3), f"{_PAPER}, Algorithm 1", 10, 0.0831, 0.9847
    ),
    "inverted_unet4": Architecture("Inverted U-Net (4 ups)", partial(InvertedUNet, ups=4), f"{_PAPER}, future work"),
}
"""Every architecture by name; `bicubic` is the one that is not trained."""


def build_model(arch: str, scale: int) -> nn.Module:
    """A freshly initialised network; seed torch before the call.

    Raises ValueError as `find_architecture` does, and where what was named builds no network.
    """
    model = find_architecture(arch).build(scale)
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{arch} must build a torch.nn.Module from the scale, and built a {type(model).__name__}")
    return model


def find_architecture(arch: str) -> Architecture:
    """The row of `arch`: a name of MODELS, or `package.module:Class` for a network of the user's own, either with
    options as in `inverted_unet3(width=32)`. The option `title` is what tables print.

    Raises ValueError for what cannot be read, an unknown name (with the closest known one) or option, and a module or
    class that is not there.
    """
    name, options = parse_arch(arch)
    if name in MODELS:
        row = MODELS[name]
    elif ":" in name:
        row = _own(name)
    else:
        closest = get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"; did you mean {closest[0]!r}?" if closest else ";"
        raise ValueError(
            f"unknown architecture {arch!r}{hint} known: {', '.join(MODELS)}, and package.module:Class for your own"
        )
    title = options.pop("title", None)
    _check_options(name, row, options)
    if title is None and not options:
        return row
    shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return Architecture(
        title=str(title) if title is not None else f"{row.title} ({shown})",
        build=partial(row.build, **options),
        source=f"{row.source}; {shown}" if shown else row.source,
    )


def parse_arch(arch: str) -> tuple[str, dict[str, Any]]:
    """`name(option=value, ...)` taken apart; raises ValueError for anything else."""
    found = re.fullmatch(r"\s*([\w.]+(?::\w+)?)\s*(?:\((.*)\))?\s*", arch, re.DOTALL)
    try:
        if found is None:
            raise ValueError("no name")
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise ValueError("options need names")
        return found[1], {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"cannot read the architecture {arch!r} ({error}): expected a name, or one with options such as "
            "'inverted_unet3(width=32)'"
        ) from error


def write_arch(name: str, options: dict[str, Any]) -> str:
    """What `parse_arch` takes apart."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else name


def file_name(arch: str) -> str:
    """`arch` in characters that are safe in the name of a file: `inverted_unet3_width_32`."""
    return re.sub(r"[^\w.+-]+", "_", arch).strip("_")


def _own(name: str) -> Architecture:
    """The network at `package.module:Class`, in the current folder or among the installed packages."""
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise ValueError(
            f"{name}: no module {error.name!r} in {os.getcwd()} or among the installed packages"  # noqa: PTH109
        ) from error
    build: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(build):
        raise ValueError(f"{name}: {module_name} has no class or function {attribute!r}")
    return Architecture(attribute, build, f"{name}, the user's own")


def _check_options(name: str, row: Architecture, options: dict[str, Any]) -> None:
    fixed: dict[str, Any] = row.build.keywords if isinstance(row.build, partial) else {}
    signature = inspect.signature(row.build)
    known = {key: p for key, p in list(signature.parameters.items())[1:] if key not in fixed}
    has = ", ".join(f"{k} (default {p.default!r})" if p.default is not p.empty else k for k, p in known.items())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key in options:
        if key not in known and not open_ended:
            raise ValueError(f"{name} has no option {key!r}; {f'it has {has}' if has else 'it has none'}")
    try:
        signature.bind(2, **options)
    except TypeError as error:
        call = f"{name.rpartition(':')[2]}({', '.join(['scale', *options])})"
        raise ValueError(f"{name} cannot be made as {call}: {error}") from error


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
