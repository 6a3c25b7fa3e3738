"""Networks to be evaluated: by name, from a run's checkpoint, or from a file that the community's networks come in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from raysr import storage
from raysr.errors import text_of
from raysr.evaluate import kernels_of, lay_channels_last
from raysr.models import CHECKPOINT, build_model, count_parameters, find_architecture, parse_arch
from raysr.models.bicubic import Bicubic
from raysr.models.pretrained import (
    SUFFIXES,
    CheckpointError,
    header_of,
    is_network_file,
    load_community,
    read_network,
    title_of,
)

BICUBIC = "bicubic"
"""The architecture that is interpolation."""


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    """A network ready to be judged."""

    name: str
    """As in tables and JSON."""
    scale: int
    channels: Literal[1, 3]
    """1: it turns luminance into luminance. 3: it turns RGB into RGB."""
    parameters: int
    origin: Literal["untrained", "raysr", "community"]
    cost: str
    """What its training cost, as far as the file says."""
    run: Callable[[Float[Tensor, "1 c h w"]], Float[Tensor, "1 c H W"]]
    """From values in [0, 1] on `device`."""
    device: torch.device
    bicubic: bool = False
    """Whether it is the interpolation, which follows the protocol's kernel."""


def load_upscaler(
    model: str, scale: int | None, device: torch.device, arch: str | None = None, sha256: str | None = None
) -> Upscaler:
    """`model` is a file (.safetensors or .pth), or the name of an architecture that has nothing to train.

    `arch` confirms a checkpoint's architecture where that is code of the user's own. Raises ValueError
    (CheckpointError for files) with what to do, also where `scale` is given and the file is of another, and where its
    hash does not begin with `sha256`.
    """
    if is_network_file(model):
        found = _from_file(model, device, arch, sha256)
        if scale not in (None, found.scale):
            raise CheckpointError(f"{model} is a network for x{found.scale}, and --scale says {scale}")
        return found
    if Path(model).is_file():
        raise CheckpointError(f"{model}: networks are read from {' and '.join(SUFFIXES)} files")
    name, options = parse_arch(model)
    if name == CHECKPOINT and "file" in options:
        found = load_upscaler(options["file"], scale, device, arch, options.get("sha256"))
        return replace(found, name=str(options.get("title", found.name)))
    with torch.random.fork_rng(devices=[]):
        network = build_model(model, scale or 2)
    parameters = count_parameters(network, trainable_only=False)
    if parameters:
        raise ValueError(
            f"{find_architecture(model).title} has {parameters:,} parameters, and a name brings no trained ones: "
            "give a checkpoint (RUN/checkpoints/ARCH-SEED.safetensors, or a community network in .pth or .safetensors)"
        )
    network = network.to(device).eval()
    return Upscaler(
        name=model,
        scale=scale or 2,
        channels=1,
        parameters=0,
        origin="untrained",
        cost="0",
        run=network,
        device=device,
        bicubic=isinstance(network, Bicubic),
    )


def _from_file(model: str, device: torch.device, arch: str | None, sha256: str | None) -> Upscaler:
    if not storage.exists(model):
        raise CheckpointError(f"no file {model}; names of architectures that need none: {BICUBIC}")
    data = read_network(model, sha256)
    if not is_network_file(model, ".safetensors"):
        return _community(model, data, device)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{model} is no safetensors file: {text_of(error)}") from error
    header = header_of(model, data)
    return _ours(model, tensors, header, device, arch) if "arch" in header else _community(model, data, device)


def _ours(
    file: str, tensors: dict[str, Tensor], header: dict[str, str], device: torch.device, arch: str | None
) -> Upscaler:
    """A checkpoint as RUN/checkpoints has them, with architecture and scale in its header."""
    named = header["arch"]
    # A file must not choose which code is imported and called: one that names code outside raysr needs a word for it.
    if ":" in named.partition("(")[0] and arch != named:
        raise CheckpointError(f"{file} is of a network of your own, {named}: if that is so, add --arch '{named}'")
    if named.partition("(")[0].strip() == CHECKPOINT:
        raise CheckpointError(f"{file} names another file, {named}: give that one")
    if arch not in (None, named):
        raise CheckpointError(f"{file} is of {named}, and --arch says {arch}")
    try:
        scale = int(header["scale"])
        with torch.random.fork_rng(devices=[]):
            network = build_model(named, scale)
        network.load_state_dict(tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file} does not fit the architecture that it names, {named}: {text_of(error)}"
        ) from error
    seed = f", seed {header['seed']}" if "seed" in header else ""
    return Upscaler(
        name=f"{named}{seed}",
        scale=scale,
        channels=1,
        parameters=count_parameters(network),
        origin="raysr",
        cost="in its run's trials.jsonl",
        run=_for_inference(network, device),
        device=device,
        bicubic=isinstance(network, Bicubic),
    )


def _for_inference(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` on `device`, laid out as validation lays it out (evaluate.fast_layout)."""
    network = network.to(device).eval()
    for kernel in kernels_of(network) if device.type == "cpu" else ():
        lay_channels_last(kernel)
    return network


def _community(file: str, data: bytes, device: torch.device) -> Upscaler:
    found = load_community(file, data).to(device)
    return Upscaler(
        name=f"{found.architecture.name} ({title_of(file)})",
        scale=found.scale,
        channels=1 if found.input_channels == 1 else 3,
        parameters=count_parameters(found.model, trainable_only=False),
        origin="community",
        cost="unknown",
        run=found,  # it pads to the sizes that the network needs, and clamps
        device=device,
    )
