"""Where photographs come from, and which of them train and which validate."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Split = Literal["train", "val"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif", ".mpo"})
"""Files in a folder that are taken for pictures; what is inside decides whether they are."""

BUNDLED: dict[str, tuple[str, Split]] = {
    "astronaut.png": ("astronaut", "train"),
    "brick.png": ("brick", "train"),
    "camera.png": ("camera", "val"),
    "chelsea.png": ("chelsea", "val"),
    "clock_motion.png": ("clock_motion", "train"),
    "coffee.png": ("coffee", "train"),
    "coins.png": ("coins", "val"),
    "grass.png": ("grass", "train"),
    "gravel.png": ("gravel", "train"),
    "hubble_deep_field.jpg": ("hubble_deep_field", "train"),
    "moon.png": ("moon", "train"),
    "motorcycle_left.png": ("motorcycle", "train"),
    "motorcycle_right.png": ("motorcycle", "train"),
    "rocket.jpg": ("rocket", "train"),
}
"""The real photographs in the scikit-image wheel: file -> (photograph, split). The stereo pair is one photograph.
Left out: scans of text, drawings, and microscope and retina pictures."""


@dataclass(frozen=True)
class Photograph:
    """One file to be prepared."""

    image_id: str
    """Path below the source, with forward slashes."""
    photograph: str
    """What must stay on one side of the split: two files of one scene share it."""
    split: Split
    path: str


def find_photographs(source: str, *, val_share: float, seed: int) -> list[Photograph]:
    """The photographs of `source` (`bundled`, or a folder), sorted by name, each with its split.

    A folder is searched recursively. When it has `train/` and `val/` or `valid/`, these are the splits and anything
    else in it is left alone; otherwise a share of `val_share` of the photographs, drawn with `seed`, validates.

    Raises FileNotFoundError for a missing folder, ValueError for one that cannot be split.
    """
    if source == "bundled":
        return _bundled()
    root = Path(source).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"--source {source}: no such folder; give a folder of pictures, or 'bundled'")
    val = next((root / name for name in ("val", "valid") if (root / name).is_dir()), None)
    if val is not None and (root / "train").is_dir():
        found = [_photograph(p, root, "train") for p in _pictures(root / "train")]
        found += [_photograph(p, root, "val") for p in _pictures(val)]
    else:
        found = _seeded_split(_pictures(root), root, val_share, seed)
    for split in ("train", "val"):
        if not any(photo.split == split for photo in found):
            wanted = ", ".join(sorted(SUFFIXES))
            raise ValueError(f"--source {source}: no pictures for the {split} split (looked for {wanted})")
    return found


def _photograph(path: Path, root: Path, split: Split) -> Photograph:
    image_id = path.relative_to(root).as_posix()
    return Photograph(image_id, image_id, split, str(path.absolute()))


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _seeded_split(pictures: list[Path], root: Path, val_share: float, seed: int) -> list[Photograph]:
    if not 0 < val_share < 1:
        raise ValueError(f"--val-share must lie between 0 and 1, got {val_share}")
    if len(pictures) < 2:
        raise ValueError(f"{root} holds {len(pictures)} pictures; at least 2 are needed, one to train and one to judge")
    n_val = min(len(pictures) - 1, max(1, round(val_share * len(pictures))))
    chosen = set(np.random.default_rng(seed).permutation(len(pictures))[:n_val].tolist())
    return [_photograph(p, root, "val" if i in chosen else "train") for i, p in enumerate(pictures)]


def _bundled() -> list[Photograph]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("--source bundled needs the photographs of scikit-image: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    return [Photograph(file, photo, split, str(folder / file)) for file, (photo, split) in sorted(BUNDLED.items())]
