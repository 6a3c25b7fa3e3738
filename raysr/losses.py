"""Perceptual distance on VGG16 features: the loss that is trained on, and the metric that is reported.

lpips and torchvision are imported where a network is built: that takes seconds, and most of a comparison's processes
build none.
"""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

PerceptualWeights = Literal["vgg", "vgg-random"]


class WeightsError(RuntimeError):
    """Pretrained weights that are not at hand or do not fit; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class PerceptualInfo:
    """What a perceptual score was computed with; it stands beside every such score."""

    name: str
    """`LPIPS (VGG)`, or a name that says why it is not that."""
    weights_sha256: str
    """Of the trunk's tensors, in the order of their names."""


class Perceptual(nn.Module):
    """Distance between luminance pictures by the `lpips` package: frozen trunk, learned linear heads v0.1.

    Luminance is copied to three channels and taken from [0, 1] to the [-1, 1] that LPIPS expects (Zhang et al. 2018).
    `network` is an `lpips.LPIPS`.
    """

    def __init__(self, network: Any, info: PerceptualInfo) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.info = info

    def forward(self, sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair, 0 for equal pictures; values in [0, 1], sides of at least 16 pixels."""
        return self.network(_three_channels(sr), _three_channels(hr)).flatten()


def _three_channels(y: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 3 h w"]:
    return y.expand(-1, 3, -1, -1) * 2 - 1


def load_perceptual(weights: PerceptualWeights, vgg_weights: str | None = None) -> Perceptual:
    """VGG16 distance with ImageNet weights (`vgg`), or with a seeded random trunk (`vgg-random`).

    `vgg` takes `vgg_weights`, a torchvision VGG16 state dict in .pth or .safetensors, or else torchvision's own file
    from the torch hub cache or the network. Raises WeightsError with both ways out when neither works.
    """
    if weights == "vgg-random":
        if vgg_weights is not None:
            raise WeightsError(f"--vgg-weights {vgg_weights} contradicts --perceptual vgg-random; leave one out")
        network = _untrained("vgg")
        # Scores of a random trunk are never called LPIPS alone: its features were not learned from anything.
        return Perceptual(network, PerceptualInfo(name="LPIPS (random VGG)", weights_sha256=_digest(network.net)))
    return _pretrained("vgg", vgg_weights)


def load_alex(alex_weights: str | None = None) -> Perceptual | None:
    """LPIPS on AlexNet as a second opinion, from `alex_weights` or the torch hub cache; None when neither is there.

    Nothing is downloaded for it. Raises WeightsError for a file that is given and is not torchvision's AlexNet.
    """
    if alex_weights is None and not cached_weights("alex").is_file():
        return None
    return _pretrained("alex", alex_weights)


def perceptual_infos(
    weights: PerceptualWeights, vgg_weights: str | None, alex_weights: str | None
) -> tuple[PerceptualInfo, PerceptualInfo | None]:
    """What a run with these settings will score with: the loss, and the second opinion if there is one."""
    alex = load_alex(alex_weights)
    return load_perceptual(weights, vgg_weights).info, alex.info if alex is not None else None


def _untrained(trunk: Literal["vgg", "alex"]) -> Any:
    """An `lpips.LPIPS` with its learned heads and a trunk drawn from a fixed seed."""
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        # lpips 0.1.4 still calls torchvision with the old name of the parameter.
        warnings.filterwarnings("ignore", message="The parameter 'pretrained' is deprecated", category=UserWarning)
        warnings.filterwarnings("ignore", message="Arguments other than a weight enum", category=UserWarning)
        return lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)


def _pretrained(trunk: Literal["vgg", "alex"], file: str | None) -> Perceptual:
    """The distance on a pretrained trunk, named for its file unless its hash says that it is torchvision's own."""
    path = Path(file) if file is not None else _download(trunk)
    state = _read_state(path)
    network = _untrained(trunk)
    wanted = network.net.state_dict()
    # lpips cuts torchvision's `features` into slices but keeps the index of each layer: slice3.12.bias.
    given = {key: state.get(f"features.{key.split('.', 1)[1]}") for key in wanted}
    wrong = [key for key, tensor in given.items() if tensor is None or tensor.shape != wanted[key].shape]
    if wrong:
        raise WeightsError(f"{path} is no torchvision {trunk} state dict: {len(wrong)} tensors are missing or differ")
    network.net.load_state_dict(given)
    digest, title = _digest(network.net), {"vgg": "VGG", "alex": "Alex"}[trunk]
    official = hashlib.sha256(path.read_bytes()).hexdigest().startswith(_hash_in_name(_url(trunk)))
    name = f"LPIPS ({title})" if official else f"LPIPS ({title} weights {digest[:8]} from {path.name})"
    return Perceptual(network, PerceptualInfo(name=name, weights_sha256=digest))


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"no weights file at {path}") from error
    except Exception as error:
        raise WeightsError(f"{path} cannot be read as a state dict: {error}") from error


def _download(trunk: Literal["vgg", "alex"]) -> Path:
    path = cached_weights(trunk)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(_url(trunk), str(path), hash_prefix=_hash_in_name(_url(trunk)), progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"the pretrained VGG16 could not be downloaded ({error}). Either give the file {_url(trunk)} with "
            "--vgg-weights FILE, or train and score with a random trunk: --perceptual vgg-random"
        ) from error
    return path


def _url(trunk: Literal["vgg", "alex"]) -> str:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    return str((VGG16_Weights if trunk == "vgg" else AlexNet_Weights).IMAGENET1K_V1.url)


def _hash_in_name(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[1]


def cached_weights(trunk: Literal["vgg", "alex"]) -> Path:
    """Where torch's cache has torchvision's pretrained weights, or would have them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_url(trunk)).name


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
