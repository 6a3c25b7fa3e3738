"""What trains: an accelerator or a processor, by its name and by what it is fast in."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from raysr.precision import Precision, best_precision

_GENERATION = {
    "cpu family": "family",
    "model": "model",
    "stepping": "stepping",
    "CPU implementer": "implementer",
    "CPU part": "part",
    "CPU variant": "variant",
}
"""What x86 and ARM processors are numbered by."""


@dataclass(frozen=True)
class Device:
    """What trains: its name, and what it computes in where nothing is said."""

    name: str
    best_precision: Precision
    """What `--precision auto` comes to on it."""


def this_device(kind: str) -> Device:
    """The accelerator of this machine (`cuda`), or its processor (`cpu`)."""
    return Device(device_name(kind), best_precision(torch.device(kind)))


def device_name(kind: str) -> str:
    """Of this machine's accelerator (`cuda`), or of its processor, with the number of its cores (`cpu`)."""
    if kind == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    processor = _processor(cpuinfo.read_text()) if cpuinfo.exists() else ""
    return f"{processor or platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def _processor(cpuinfo: str) -> str:
    """The name in /proc/cpuinfo, and the numbers that tell its generation.

    Clouds give their virtual machines names such as `AMD EPYC`, or none on ARM, which processors with and without
    bfloat16 instructions share.
    """
    facts = dict(re.findall(r"^(.+?)\s*: (.*)$", cpuinfo.split("\n\n", 1)[0], re.MULTILINE))
    numbers = " ".join(f"{word} {facts[name]}" for name, word in _GENERATION.items() if name in facts)
    return ", ".join(filter(None, [facts.get("model name"), numbers]))
