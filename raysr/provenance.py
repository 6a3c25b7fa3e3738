"""Where a run's results come from: configuration, commit, versions, device, data, price and weights."""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from raysr import storage
from raysr.device import Device
from raysr.losses import PerceptualInfo
from raysr.manifest import Manifest
from raysr.models import find_architecture, trainable_parameters
from raysr.naming import builds_bicubic
from raysr.spec import TrialSpec

PACKAGES = ("raysr", "ray", "torch", "torchvision", "lpips", "pytorch-msssim", "pillow", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What `run.json` says of a run besides its trials."""

    preset: str
    device: Device
    notional: bool
    """Whether the dollars are a fiction, because no rented accelerator did the work."""
    perceptual: PerceptualInfo
    alex: PerceptualInfo | None
    """The second opinion, where its weights are at hand."""
    specs: Sequence[TrialSpec]
    config: Any
    """The frozen dataclass that the command line gave."""
    resources: dict[str, Any]
    figure_image_id: str
    """The validation picture that the report shows through every network."""

    def write(self) -> None:
        """Write `run.json` into the run's folder."""
        first = self.specs[0]
        manifest = Manifest.read(first.data)
        info = {
            "preset": self.preset,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": now().isoformat(timespec="seconds"),
            "commit": commit(),
            "code_sha256": code_sha256(),
            "config": asdict(self.config),
            "budget": asdict(first.budget),
            "budget_usd": first.budget.limit_usd(first.price),
            "price": asdict(first.price),
            "notional": self.notional,
            "charged_segments": list(first.charged),
            "device": self.device.name,
            "best_precision": self.device.best_precision,
            "resources": self.resources,
            "perceptual": asdict(self.perceptual),
            "alex": asdict(self.alex) if self.alex is not None else None,
            "figure_image_id": self.figure_image_id,
            "data": {
                "location": first.data,
                "source": manifest.source,
                "content_sha256": manifest.content_sha256,
                "geometry": asdict(manifest.geometry),
                "pairs": manifest.pairs,
                "photographs": manifest.photographs,
            },
            "code": {spec.arch: spec.code for spec in self.specs if spec.code is not None},
            "parameters": {
                spec.arch: trainable_parameters(spec.arch, spec.scale)
                for spec in self.specs
                if not find_architecture(spec.arch).pretrained
            },
            "yardstick": next((one.arch for one in self.specs if builds_bicubic(one.arch, one.scale)), None),
            "models": {
                arch: find_architecture(arch).source for arch in dict.fromkeys(spec.arch for spec in self.specs)
            },
            "versions": {"python": platform.python_version(), **_versions()},
        }
        storage.write_text(storage.join(first.run, "run.json"), json.dumps(info, indent=2) + "\n")


def _versions() -> dict[str, str]:
    """Of those packages that are installed: a network alone trains without Ray."""
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def now() -> datetime:
    """The time here, with its zone."""
    return datetime.now(UTC).astimezone()


@cache
def code_sha256() -> str:
    """SHA-256 over the names and contents of this package's own files: it tells code apart where no commit is known."""
    return tree_sha256(Path(__file__).resolve().parent)


def tree_sha256(root: Path) -> str:
    """SHA-256 over the names and contents of the sources and templates in a folder and those below it."""
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2")):
        for part in (file.relative_to(root).as_posix().encode(), file.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside of one, as in a job's extracted copy."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
