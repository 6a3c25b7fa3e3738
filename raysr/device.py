"""What trains: an accelerator or a processor, by its name and by what it is fast in."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from raysr.precision import Precision, best_precision


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
    """The name in /proc/cpuinfo and, where they are there, its family and model: clouds give a virtual machine names
    such as `AMD EPYC`, which processors with and without bfloat16 instructions share."""
    facts = dict(re.findall(r"^(.+?)\s*: (.*)$", cpuinfo.split("\n\n", 1)[0], re.MULTILINE))
    if "cpu family" in facts and "model" in facts:
        return f"{facts['model name']}, family {facts['cpu family']} model {facts['model']}"
    return facts.get("model name", "")
