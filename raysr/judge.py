"""LPIPS for validation: the package's numbers, with the features of each target computed once for all networks."""

import hashlib
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raysr.losses import Perceptual
from raysr.perceptual import PerceptualLoss

DEFAULT_GB = 4.0
"""Bound of the kept features: 80 pictures of 320 pixels, or 31 of 512."""

TARGETS = "targets"
"""Folder of a run for the features of its validation targets, until the run ends."""

DISK_MARGIN = 2e9
"""Bytes that stay free on a disk: checkpoints and scores must be written, these files need not."""

LAYERS = ((64, 0), (128, 1), (256, 2), (512, 3), (512, 4))
"""Channels of VGG16's five compared layers, and how often the picture has been halved before each."""


def features_bytes(height: int, width: int) -> int:
    """What the features of one picture take, in float32."""
    return 4 * sum(channels * (height >> halvings) * (width >> halvings) for channels, halvings in LAYERS)


class Targets:
    """Features of target pictures, kept on the device or in files, up to a bound.

    A picture of 512 pixels has 129 MB of VGG16 features in float32. A GPU keeps them in its memory until the process
    ends. A CPU keeps them in files of `folder`, which other processes read too; without a folder it keeps them in
    memory. Features beyond the bound are computed each time.
    """

    def __init__(self, device: torch.device, limit_gb: float = DEFAULT_GB, folder: str | None = None) -> None:
        """`folder` is made when it is first needed; for an address of an object store it is one on this machine."""
        self.device = device
        self.limit = limit_gb * 1e9
        self.folder: Path | None = None
        if folder is not None and device.type == "cpu":
            self.folder = Path(folder) if "://" not in folder else self._temporary()
        self._kept: dict[str, list[Tensor]] = {}

    def _temporary(self) -> Path:
        """A folder on a disk of this machine, until this object is gone."""
        made = tempfile.TemporaryDirectory(prefix="raysr-targets-")
        weakref.finalize(self, made.cleanup)
        return Path(made.name)

    def _room_for(self, size: int) -> bool:
        """Whether so many bytes more stay within the bound, with what other processes have kept."""
        if self.folder is None:
            return sum(map(_bytes, self._kept.values())) + size <= self.limit
        if not self.folder.is_dir():
            return size <= self.limit
        kept = 0
        with os.scandir(self.folder) as files:
            for file in files:
                with suppress(FileNotFoundError):  # another process has just renamed it
                    kept += file.stat().st_size
        return kept + size <= self.limit and size + DISK_MARGIN <= shutil.disk_usage(self.folder).free

    def get(self, name: str, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The kept features called `name`, or what `make` gives: each [1, c, h, w], float32, channels last."""
        if name in self._kept:
            return self._kept[name]
        found = self._read(name) if self.folder is not None else None
        if found is not None:
            self._kept[name] = found
            return found
        made = make()
        if self._room_for(_bytes(made)):
            self._kept[name] = made if self.folder is None else self._write(name, made)
        return made

    def _read(self, name: str) -> list[Tensor] | None:
        """Mapped from the file: its pages are shared with other processes, and leave memory when it is short."""
        assert self.folder is not None  # noqa: S101
        file = self.folder / f"{name}.npy"
        try:
            flat = np.load(file, mmap_mode="c")
        except (FileNotFoundError, EOFError, ValueError):
            return None  # not kept yet, or cut off when the machine went down
        height, width = (int(side) for side in name.rsplit("-", 1)[1].split("x"))
        if flat.nbytes != features_bytes(height, width):
            return None
        features: list[Tensor] = []
        start = 0
        for channels, halvings in LAYERS:
            h, w = height >> halvings, width >> halvings
            end = start + channels * h * w
            features.append(torch.from_numpy(flat[start:end]).view(1, h, w, channels).permute(0, 3, 1, 2))
            start = end
        return features

    def _write(self, name: str, features: list[Tensor]) -> list[Tensor]:
        """Written whole under another name first: another process never reads half a file."""
        assert self.folder is not None  # noqa: S101
        flat = np.concatenate([one.permute(0, 2, 3, 1).reshape(-1).numpy() for one in features])
        part = self.folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.save(file, flat)
            part.replace(self.folder / f"{name}.npy")
        except OSError:
            # A full disk is told of by what must be written. These files only save time: without them it takes longer.
            part.unlink(missing_ok=True)
            self.limit = 0.0
            return features
        return self._read(name) or features


def _bytes(features: list[Tensor]) -> int:
    return sum(one.nbytes for one in features)


class Judge:
    """LPIPS (Zhang et al. 2018) of luminance pictures on VGG16, in float32, as the lpips package gives it.

    It differs from the package by less than 1e-6. A call whose target was seen before costs one pass of the trunk; the
    package makes two.
    """

    def __init__(self, perceptual: Perceptual, targets: Targets) -> None:
        """Take the weights of `perceptual` to the device of `targets`."""
        self.info = perceptual.info
        self.loss = PerceptualLoss(perceptual, "float32").to(targets.device)
        self.targets = targets

    def __call__(self, sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair, 0 for equal pictures; values in [0, 1], sides of at least 16 pixels; no gradient."""
        with torch.no_grad(), torch.autocast(sr.device.type, enabled=False):
            features = self.loss.features(sr)
            return torch.cat([self._distance(features, hr[i : i + 1], i) for i in range(len(hr))])

    def once(self, sr: Float[Tensor, "n 1 h w"], hr: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
        """The same numbers; nothing is kept of targets that are seldom asked for."""
        with torch.no_grad(), torch.autocast(sr.device.type, enabled=False):
            return self.loss.between(self.loss.features(sr), self.loss.features(hr))

    def _distance(self, features: list[Tensor], hr: Float[Tensor, "1 1 h w"], index: int) -> Float[Tensor, " 1"]:
        known = self.targets.get(self._name(hr), lambda: self.loss.features(hr))
        return self.loss.between([one[index : index + 1] for one in features], known)

    def _name(self, hr: Float[Tensor, "1 1 h w"]) -> str:
        """By content: of the same pixels and weights there is one."""
        pixels = hashlib.sha256(hr.contiguous().cpu().numpy().tobytes()).hexdigest()[:32]
        return f"{self.info.weights_sha256[:16]}-{pixels}-{hr.shape[2]}x{hr.shape[3]}"


def drop_targets(folder: str | None) -> None:
    """Delete what `Targets` kept in `folder`, if that is on a disk."""
    if folder is not None and "://" not in folder:
        shutil.rmtree(folder, ignore_errors=True)
