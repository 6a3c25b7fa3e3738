"""What architectures are called where they are shown, and which is the yardstick: by what each builds, not by words."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from raysr.models import CHECKPOINT, MODELS, build_model, parse_arch, title_with
from raysr.models.bicubic import Bicubic
from raysr.models.pretrained import title_of


@dataclass(frozen=True)
class Shown:
    """An architecture in a report, which needs nobody's code: a network of the user's own may be gone by then."""

    title: str
    pretrained: bool = False
    paper_epochs: int | None = None
    paper_lpips: float | None = None
    paper_ms_ssim: float | None = None


def shown(arch: str) -> Shown:
    """`arch` as tables print it; raises ValueError for what cannot be read."""
    name, options = parse_arch(arch)
    if name == CHECKPOINT:
        return Shown(title_with(title_of(str(options.get("file"))), options, pretrained=True), pretrained=True)
    row = MODELS.get(name)
    title = title_with(row.title if row else name.rpartition(":")[2], options, pretrained=False)
    if row is None or options:
        return Shown(title)
    return Shown(title, False, row.paper_epochs, row.paper_lpips, row.paper_ms_ssim)


def titles(archs: Iterable[str]) -> dict[str, str]:
    """A title for each architecture, and no two alike.

    Where two classes have one name, the module's name joins it. What has one title all the same is told by its words.
    """
    found = _with_modules(dict.fromkeys(archs))
    often = Counter(found.values())
    return {arch: title if often[title] == 1 else f"{title} = {arch}" for arch, title in found.items()}


def check_titles(archs: Iterable[str]) -> None:
    """Raise ValueError where two architectures would stand in the tables under one title."""
    first: dict[str, str] = {}
    for arch, title in _with_modules(dict.fromkeys(archs)).items():
        other = first.setdefault(title, arch)
        if other != arch:
            raise ValueError(f"{other} and {arch} would both be called {title!r} in the tables: give another title=")


def _with_modules(archs: Iterable[str]) -> dict[str, str]:
    """Titles, with the module's name where another class has the same name or another network the same title."""
    plain = {arch: shown(arch).title for arch in archs}
    often = Counter(plain.values())
    classes = Counter(name.rpartition(":")[2] for name in {parse_arch(arch)[0] for arch in plain})
    found: dict[str, str] = {}
    for arch, title in plain.items():
        name, options = parse_arch(arch)
        meets = often[title] > 1 or classes[name.rpartition(":")[2]] > 1
        own = ":" in name and "title" not in options
        found[arch] = title_with(name, options, pretrained=False) if own and meets else title
    return found


def builds_bicubic(arch: str, scale: int) -> bool:
    """Whether `arch` is bicubic interpolation, whatever it is called; code that is not here builds nothing."""
    name, _ = parse_arch(arch)
    if name in MODELS or name == CHECKPOINT:
        return name in MODELS and MODELS[name].build is Bicubic
    try:
        with torch.random.fork_rng(devices=[]):
            return isinstance(build_model(arch, scale), Bicubic)
    except (ValueError, ImportError):
        return False
