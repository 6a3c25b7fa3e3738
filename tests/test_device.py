"""The name of what trains."""

import os
import platform

import pytest
import torch

from raysr.device import _processor, device_name, this_device
from raysr.precision import best_precision

VIRTUAL = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: {model}
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu vme

processor\t: 1
model name\t: AMD EPYC
"""
"""What a cloud's virtual machine says of its processor."""

ARM = """processor\t: 0
BogoMIPS\t: 243.75
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
"""


def test_processors_of_one_name_are_told_apart_by_family_and_model() -> None:
    milan, genoa = (_processor(VIRTUAL.format(model=model)) for model in (1, 17))
    assert milan == "AMD EPYC, family 25 model 1 stepping 1"
    assert genoa == "AMD EPYC, family 25 model 17 stepping 1"
    assert _processor("model name\t: Some Processor\n") == "Some Processor"
    assert _processor(ARM) == "implementer 0x41 part 0xd0c variant 0x3"
    assert _processor("Hardware\t: a board\n") == ""


def test_this_machine_has_a_name_its_cores_and_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_device("cpu")
    assert here.name.endswith(f" ({os.cpu_count()} cores)")
    assert here.best_precision == best_precision(torch.device("cpu"))
    monkeypatch.setattr("raysr.device.os.cpu_count", lambda: 64)
    monkeypatch.setattr("raysr.device.Path.exists", lambda path: False)
    assert device_name("cpu") == f"{platform.processor() or platform.machine()} (64 cores)"
