"""The architectures: each maps luminance [n, 1, h, w] in [0, 1] to [n, 1, scale*h, scale*w].

A network of one's own is an nn.Module made by `MyNet(scale, **options)` whose forward takes and gives these.
"""

import ast
import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from raysr import storage
from raysr.errors import text_of
from raysr.models import community
from raysr.models.bicubic import Bicubic
from raysr.models.edsr import EDSR, MDSR
from raysr.models.espcn import ESPCN, KerasESPCN
from raysr.models.inverted_unet import InvertedUNet
from raysr.models.pretrained import Pretrained, title_of
from raysr.models.srcnn import SRCNN
from raysr.models.srresnet import SRResNet
from raysr.models.unet import UNet
from raysr.models.vdsr import VDSR


@dataclass(frozen=True)
class Architecture:
    """A row of the field."""

    title: str
    """As printed in tables."""
    build: Callable[..., nn.Module]
    """From the scale, and options by name, to a freshly initialised network."""
    source: str
    """The paper that defines it."""
    year: int | None
    """Of that paper; None for the user's own."""
    paper_epochs: int | None = None
    """Epochs in Table 1 of the Inverted U-Net paper."""
    paper_lpips: float | None = None
    paper_ms_ssim: float | None = None
    scales: tuple[int, ...] = (2, 3, 4)
    """For which it is defined."""
    pretrained: bool = False
    """Trained elsewhere, for a sum that nobody knows: shown beside the others, and outside their verdict."""


_PAPER = "Lalchandani 2025, Machine Learning for Resolution"

MODELS: dict[str, Architecture] = {
    "bicubic": Architecture("Bicubic", Bicubic, "Keys 1981, anti-aliased as in Pillow", 1981),
    "srcnn": Architecture("SRCNN", partial(SRCNN, middle=1), "Dong et al. 2014, 9-1-5", 2014, 50, 0.0928, 0.9844),
    "srcnn_955": Architecture("SRCNN 9-5-5", partial(SRCNN, middle=5), "Dong et al. 2016, 9-5-5", 2016),
    "espcn": Architecture("ESPCN", ESPCN, "Shi et al. 2016", 2016, 40, 0.0994, 0.9856),
    "espcn_keras": Architecture("ESPCN (Keras)", KerasESPCN, "Long 2020, the Keras tutorial's form", 2020),
    "vdsr": Architecture("VDSR", VDSR, "Kim et al. 2016", 2016),
    "srresnet": Architecture("SRResNet", SRResNet, "Ledig et al. 2017", 2017),
    "edsr_baseline": Architecture("EDSR-baseline", EDSR, "Lim et al. 2017, 16 x 64", 2017),
    "edsr": Architecture(
        "EDSR", partial(EDSR, blocks=32, width=256, residual_scale=0.1), "Lim et al. 2017, 32 x 256", 2017
    ),
    "mdsr": Architecture("MDSR", MDSR, "Lim et al. 2017, one scale's branch", 2017),
    "unet": Architecture("U-Net", UNet, "Ronneberger et al. 2015, after bicubic", 2015),
    "inverted_unet3": Architecture(
        "Inverted U-Net",
        partial(InvertedUNet, ups=3),
        f"{_PAPER}, Algorithm 1",
        2025,
        paper_epochs=10,
        paper_lpips=0.0831,
        paper_ms_ssim=0.9847,
        scales=(2,),
    ),
    "inverted_unet4": Architecture(
        "Inverted U-Net (4 ups)", partial(InvertedUNet, ups=4), f"{_PAPER}, future work", 2025, scales=(2,)
    ),
    "span": Architecture("SPAN", community.span, "Wan et al. 2024", 2024),
    "compact": Architecture("Compact", community.compact, "Wang et al. 2021, SRVGGNetCompact", 2021),
    "swinir_light": Architecture(
        "SwinIR-light",
        partial(community.swinir, width=60, groups=4, upsampler="pixelshuffledirect"),
        "Liang et al. 2021, lightweight",
        2021,
    ),
    "swinir": Architecture("SwinIR", community.swinir, "Liang et al. 2021, classical", 2021),
    "hat": Architecture("HAT", community.hat, "Chen et al. 2023", 2023),
    "plksr_tiny": Architecture("PLKSR-tiny", community.plksr, "Lee et al. 2024, 12 blocks", 2024),
}
"""Every architecture by name; `bicubic` is the one that is not trained."""


CHECKPOINT = "checkpoint"
"""The name of a network that others have trained, with its `file` as an option."""


def build_model(arch: str, scale: int) -> nn.Module:
    """A freshly initialised network; seed torch before the call.

    Raises ValueError as `find_architecture` does, for a scale that the architecture is not defined for, and where what
    was named builds no network.
    """
    row = find_architecture(arch)
    if scale not in row.scales:
        known = " or ".join(map(str, row.scales))
        raise ValueError(f"{arch} is defined for scale {known}, got scale={scale}")
    model = row.build(scale)
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{arch} must build a torch.nn.Module from the scale, and built a {type(model).__name__}")
    return model


def find_architecture(arch: str) -> Architecture:
    """The row of `arch`: a name of MODELS, or `package.module:Class` for a network of the user's own, either with
    options as in `inverted_unet3(width=32)`, or `checkpoint(file="2x.pth")` for one that others have trained, whose
    file is first read when it is built. The option `title` is what tables print.

    Raises ValueError for what cannot be read, an unknown name (with the closest known one) or option, and a module or
    class that is not there.
    """
    name, options = parse_arch(arch)
    if name in MODELS:
        row = MODELS[name]
    elif ":" in name:
        row = _own(name)
    elif name == CHECKPOINT:
        row = Architecture(title_of(str(options.get("file"))), Pretrained, "trained elsewhere", None, pretrained=True)
    else:
        closest = get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"; did you mean {closest[0]!r}?" if closest else ";"
        raise ValueError(
            f"unknown architecture {arch!r}{hint} known: {', '.join(MODELS)}, and package.module:Class for your own"
        )
    title = title_with(row.title, options, pretrained=row.pretrained)
    named = options.pop("title", None) is not None
    _check_options(name, row, options)
    if not named and not options:
        return row
    shown = _in_words(options)
    return Architecture(
        title=title,
        build=partial(row.build, **options),
        source=f"{row.source}; {shown}" if shown else row.source,
        year=row.year,
        scales=row.scales,
        pretrained=row.pretrained,
    )


def title_with(base: str, options: dict[str, Any], *, pretrained: bool) -> str:
    """What tables print: the option `title`, else `base` with the other options of a network that is trained here.

    It is one line. Raises ValueError for a `title` of no letter.
    """
    given = {key: value for key, value in options.items() if key != "title"}
    words = options.get("title")
    if words is None:
        words = base if pretrained or not given else f"{base} ({_in_words(given)})"
    title = storage.printable(" ".join(str(words).split()))
    if not title:
        raise ValueError(f"title={options['title']!r} prints nothing: expected words")
    return title


def _in_words(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


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
            f"cannot read the architecture {arch!r} ({text_of(error)}): expected a name, or one with options such as "
            "'inverted_unet3(width=32)'"
        ) from error


def write_arch(name: str, options: dict[str, Any]) -> str:
    """What `parse_arch` takes apart."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else name


_LONGEST = 160
"""Bytes of a name in `file_name`: disks take 255, and a seed, a suffix and the like come behind it."""


def file_name(arch: str) -> str:
    """`arch` in characters that are safe in the name of a file: `inverted_unet3_width_32`. Of a checkpoint, its file's
    name is enough."""
    name, options = parse_arch(arch)
    if name == CHECKPOINT:
        arch = str(options.get("title", title_of(str(options.get("file")))))
    plain = re.sub(r"[^\w.+-]+", "_", arch).strip("_")
    if len(plain.encode()) <= _LONGEST:
        return plain
    digest = hashlib.sha256(arch.encode()).hexdigest()[:12]
    return f"{plain.encode()[: _LONGEST - 13].decode(errors='ignore')}-{digest}"


def label(arch: str) -> str:
    """As in lines of text: `arch` itself, or the name of the file that others have trained."""
    return find_architecture(arch).title if arch.startswith(f"{CHECKPOINT}(") else arch


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
    return Architecture(attribute, build, f"{name}, the user's own", None)


def _check_options(name: str, row: Architecture, options: dict[str, Any]) -> None:
    fixed: dict[str, Any] = row.build.keywords if isinstance(row.build, partial) else {}
    signature = inspect.signature(row.build)
    known = {key: p for key, p in list(signature.parameters.items())[1:] if key not in fixed}
    has = ", ".join(f"{k} (default {p.default!r})" if p.default is not p.empty else k for k, p in known.items())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key in options:
        if key not in known and not open_ended:
            raise ValueError(f"{name} has no option {key!r}; {f'it has {has}' if has else 'it has none'}")
    if name in MODELS:
        for key, value in options.items():
            _check_value(f"{name}({key}={value!r})", value, known[key].default)
    try:
        signature.bind(2, **options)
    except TypeError as error:
        call = f"{name.rpartition(':')[2]}({', '.join(['scale', *options])})"
        raise ValueError(f"{name} cannot be made as {call}: {text_of(error)}") from error


def _check_value(words: str, value: Any, default: Any) -> None:
    """Whether an option of one of ours is of the kind of its default, and a number that can be."""
    numbers = isinstance(default, int | float) and not isinstance(default, bool)
    if default is None or isinstance(default, tuple):
        kind = f"a list such as {list(default or (2, 3))}"
        right = (
            isinstance(value, list | tuple) and len(value) > 0 and all(type(one) is int and one > 0 for one in value)
        )
    elif not numbers:
        right = isinstance(value, type(default))
        kind = "True or False" if isinstance(default, bool) else "words in quotes"
    else:
        least = 0 if default == 0 or isinstance(default, float) else 1
        whole = isinstance(value, int) and not isinstance(value, bool)
        right = (whole or (isinstance(default, float) and isinstance(value, float))) and value >= least
        kind = f"a {'number' if isinstance(default, float) else 'whole number'} of at least {least}"
    if not right:
        raise ValueError(f"{words}: expected {kind}")


@cache
def trainable_parameters(arch: str, scale: int) -> int:
    """Parameters of a network that would be trained; it is built once, and torch's random numbers stay as they are.

    Raises ValueError as `build_model` does.
    """
    with torch.random.fork_rng(devices=[]):
        return count_parameters(build_model(arch, scale))


def count_parameters(model: nn.Module, *, trainable_only: bool = True) -> int:
    """Parameters that are trained, or all."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
