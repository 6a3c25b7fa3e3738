"""Networks that others have trained, from the files that they come in: judged beside ours, and not trained."""

import hashlib
import io
import json
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from raysr import storage
from raysr.errors import text_of
from raysr.pairs import to_y

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

SUFFIXES = (".safetensors", ".pth")


class CheckpointError(ValueError):
    """A file that holds no network that can be used; the message says what to do."""


class Pretrained(nn.Module):
    """A super-resolution network of the community's on luminance, with nothing left to train.

    A network for colours gets luminance three times, and the luminance of what comes out counts. Pictures are padded to
    the sizes that the network needs, and what it gives is clamped to [0, 1].
    """

    def __init__(self, scale: int | None, file: str, sha256: str | None = None) -> None:
        """From `file` (.pth or .safetensors, on a disk or an object store), whose hash must begin with `sha256`.

        `scale` is the one that is needed; None takes the file's. Raises CheckpointError for a file that is no such
        network, is for another scale, or has changed.
        """
        super().__init__()
        data = read_network(file, sha256)
        named = header_of(file, data).get("arch") if is_network_file(file, ".safetensors") else None
        if named is not None:
            raise CheckpointError(
                f"{file} is a checkpoint of raysr, of {named}: jobs/evaluate.py judges it, and a comparison trains anew"
            )
        self._found = load_community(file, data)
        if scale not in (None, self._found.scale):
            raise CheckpointError(f"{file} is a network for x{self._found.scale}, where one for x{scale} is needed")
        self.scale = self._found.scale
        self.network = self._found.model.requires_grad_(requires_grad=False)

    def forward(self, lr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 H W"]:
        """Enlarge `lr`."""
        # A copy, also of luminance alone: some networks (RCAN) write into what they are given.
        sr = self._found(lr.repeat(1, self._found.input_channels, 1, 1))
        return to_y(sr) if sr.shape[1] == 3 else sr


def is_network_file(location: str, *suffixes: str) -> bool:
    """Whether a path or URI (not an architecture in words) ends like a network's file, or in one of `suffixes`."""
    return not location.endswith(")") and storage.plain(location).suffix.lower() in (suffixes or SUFFIXES)


def title_of(file: str) -> str:
    """As printed in tables: the file's name."""
    return storage.plain(file).name


def file_hash(file: str) -> str:
    """The file's SHA-256. Raises CheckpointError where there is no file."""
    return hashlib.sha256(read_network(file)).hexdigest()


def read_network(file: str, sha256: str | None = None) -> bytes:
    """What `file` holds. Raises CheckpointError where there is none, or its SHA-256 does not begin with `sha256`."""
    if not storage.exists(file):
        raise CheckpointError(f"no file {file}")
    data = storage.read_bytes(file)
    if sha256 is not None and not hashlib.sha256(data).hexdigest().startswith(sha256.lower()):
        raise CheckpointError(f"{file} is another file than the one whose SHA-256 begins with {sha256}")
    return data


def header_of(file: str, data: bytes) -> dict[str, str]:
    """What its writer says in the `data` of a .safetensors file; raises CheckpointError where that is damaged."""
    try:
        return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except ValueError as error:
        raise CheckpointError(f"{file} is no safetensors file: {text_of(error)}") from error


def _is_torchscript(data: bytes) -> bool:
    """Whether torch.jit.save wrote it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # no archive, or a damaged one


def load_community(file: str, data: bytes) -> "ImageModelDescriptor[Any]":
    """Any super-resolution network that spandrel recognises by its tensors, on the CPU, ready to be judged.

    `data` is what `file` holds. Raises CheckpointError for anything else. Of a .pth nothing but tensors and
    dictionaries is unpickled.
    """
    if _is_torchscript(data):
        raise CheckpointError(
            f"{file} is a traced or scripted network (TorchScript), which is code: give its weights, as "
            "torch.save(network.state_dict(), FILE) writes them"
        )
    import spandrel  # here: it brings some forty architectures, and takes a second

    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)  # of SwinIR and its kin
            local = Path(folder, f"network{storage.plain(file).suffix.lower()}")
            local.write_bytes(data)
            found = spandrel.ModelLoader("cpu").load_from_file(local)
    except spandrel.UnsupportedModelError as error:
        raise CheckpointError(
            f"{file} holds no network that spandrel knows; a checkpoint of raysr is known by the architecture in its "
            "header, and jobs/evaluate.py takes it"
        ) from error
    except Exception as error:  # damaged and forbidden files raise almost anything
        raise CheckpointError(f"{file} cannot be read as a network: {text_of(error)}") from error
    name, channels = f"{found.architecture.name} ({title_of(file)})", (found.input_channels, found.output_channels)
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose != "SR" or found.scale < 2:
        raise CheckpointError(f"{file} holds {name}, which does not enlarge pictures (x{found.scale})")
    if channels not in ((1, 1), (3, 3)):
        raise CheckpointError(
            f"{file} holds {name} of {channels[0]} to {channels[1]} channels: expected 1 or 3 of both"
        )
    return found.eval()
