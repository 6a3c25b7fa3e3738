"""The field: what each architecture is, and what it costs to enlarge a picture with it on this machine."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, cast

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from raysr.flops import count_forward
from raysr.models import MODELS, build_model, count_parameters, find_architecture, label
from raysr.models.pretrained import Pretrained
from raysr.plain import add_row
from raysr.presets import expand_archs

COUNTED_PX = 256
"""Side of the picture whose operations are counted."""

TIMED_PX = 64
"""Side of the picture that is timed."""

TIMED_RUNS = 7
"""Runs of which the time is the median, or as many as there are in TIMED_S seconds."""

TIMED_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Print the architectures with what they cost: parameters, operations, and time on this machine's CPU."""

    archs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which ones, as --archs of a comparison takes them; all that have a name where none is given."""
    asked: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="list")] = False
    """The word that asks for this table instead of a training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "archs", tuple(name for word in self.archs for name in expand_archs(word)))
        for arch in self.archs:
            find_architecture(arch)


@dataclass(frozen=True)
class FieldRow:
    """One architecture in the table."""

    arch: str
    year: int | None
    scale: int
    """2, or the first that it is defined for; of a network that others have trained, its own."""
    parameters: int
    """Trainable ones; of a network that others have trained, all."""
    gmac: float
    """Thousand million multiply-adds from COUNTED_PX to `scale` times that."""
    ms: float
    """From TIMED_PX to `scale` times that, one picture, float32, on the CPU."""
    source: str


def field_row(arch: str) -> FieldRow:
    """Build the network, count it and time it."""
    row = find_architecture(arch)
    if row.pretrained:
        model = cast(Pretrained, row.build(None)).eval()
        scale = model.scale
    else:
        scale = 2 if 2 in row.scales else row.scales[0]
        with torch.random.fork_rng(devices=[]):
            model = build_model(arch, scale).eval()
    parameters = count_parameters(model, trainable_only=not row.pretrained)
    gmac = count_forward(model, COUNTED_PX) / 1e9
    return FieldRow(arch, row.year, scale, parameters, gmac, forward_ms(model), row.source)


def forward_ms(model: nn.Module) -> float:
    """Milliseconds to enlarge a square of TIMED_PX pixels: the median after a first run."""
    lr = torch.zeros(1, 1, TIMED_PX, TIMED_PX)
    seconds: list[float] = []
    with torch.no_grad():
        model(lr)
        while not seconds or (len(seconds) < TIMED_RUNS and sum(seconds) < TIMED_S):
            start = time.perf_counter()
            model(lr)
            seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)


def print_field(config: ListConfig, console: Console) -> None:
    """A row an architecture."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    for heading in ("year", "parameters", f"GMAC {COUNTED_PX}→{2 * COUNTED_PX}", f"ms {TIMED_PX}→{2 * TIMED_PX}"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("paper")
    for arch in config.archs or MODELS:
        row = field_row(arch)
        cells = (
            label(row.arch) if row.scale == 2 else f"{label(row.arch)} (x{row.scale})",
            str(row.year or "-"),
            f"{row.parameters:,}",
            f"{row.gmac:,.1f}",
            f"{row.ms:,.1f}",
            row.source,
        )
        add_row(table, cells)
    console.print(table, highlight=False)
