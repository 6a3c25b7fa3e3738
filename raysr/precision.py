"""Arithmetic of the networks: float32, or bfloat16 where the processor has instructions for it."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def best_precision(device: torch.device) -> Precision:
    """bfloat16 where it is faster than float32 on this device, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = torch.cpu.get_capabilities()
        fast = bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))
    return "bfloat16" if fast else "float32"


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """`auto` becomes the best one for `device`."""
    return best_precision(device) if wanted == "auto" else wanted


def exact_float32() -> None:
    """Let float32 convolutions be that on NVIDIA GPUs too, from now on in this process.

    Torch's default rounds what they take to ten bits of mantissa (TF32), which moves LPIPS and SSIM, and is no float32.
    """
    # Not the newer cudnn.conv.fp32_precision: torch 2.15's own code fails on it where it reads this older flag.
    torch.backends.cudnn.allow_tf32 = False


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run the operations inside in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def memory_format(precision: Precision) -> torch.memory_format:
    """bfloat16 convolutions are fastest channels-last, on CPUs and GPUs alike."""
    return torch.channels_last if precision == "bfloat16" else torch.contiguous_format
