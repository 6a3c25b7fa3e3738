"""Where photographs come from, and which of them train and which validate."""

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from raysr import storage

Split = Literal["train", "val"]

READ = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff"),
        *(".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".gif"),
    }
)
"""Files in a folder that are taken for pictures; what is inside decides whether they are."""

NOT_READ = frozenset(
    {
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".exr", ".hdr", ".tga"),
        *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
    }
)
"""Pictures that raysr does not open: listed as refused, where other files are only counted."""

SUFFIXES = READ | NOT_READ

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
    location: str
    stamp: str
    """Changes with the file."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The photographs of a source, each with its split."""

    photographs: tuple[Photograph, ...]
    """Sorted by name within a split."""
    roots: tuple[str, ...]
    """The folders that they lie in: every machine that prepares them must see these."""
    passed_over: dict[str, int]
    """Files that are no pictures by their names: how many of each suffix."""


def find_photographs(source: str, *, val: str | None = None, val_share: float, seed: int) -> Source:
    """The photographs of `source` (`bundled`, or a folder, which may be a URI as `s3://bucket/folder`).

    A folder is searched recursively. `val` is another folder, whose photographs validate while those of `source` train,
    or a .txt file that lists those of `source` that validate, a line each. Without it, `train/` and `val/` (or
    `valid/`) in the folder are the splits, and anything else in it is left alone; where it has none, a share of
    `val_share` of the photographs, drawn with `seed`, validates.

    Raises FileNotFoundError for a missing folder, ValueError for one that cannot be split.
    """
    if source == "bundled":
        return _bundled()
    root = storage.absolute(source)
    files = _files(root, f"--source {source}", "give a folder of pictures, or bundled, bsds500 or df2k")
    folders = {PurePosixPath(file.name).parts[0] for file in files if "/" in file.name}
    inside = next((name for name in ("val", "valid") if name in folders), None)
    if val is not None and val.lower().endswith(".txt"):
        split, roots = _split_by_list(files, val), (root,)
    elif val is not None:
        split, roots = _split_by_folder(root, files, val)
    elif inside is not None and "train" in folders:
        split, roots = _split_inside(files, {"train": "train", "val": inside}), (root,)
    else:
        split, roots = _split_by_seed(files, source, val_share, seed), (root,)
    photographs = tuple(
        Photograph(image_id, image_id, name, file.location, file.stamp)
        for name, mine in split.items()
        for image_id, file in mine
        if _suffix(file) in SUFFIXES
    )
    for name in split:
        if not any(photo.split == name for photo in photographs):
            wanted = ", ".join(sorted(READ))
            raise ValueError(f"--source {source}: no pictures for the {name} split (looked for {wanted})")
    others = Counter(_suffix(file) or "no suffix" for mine in split.values() for _, file in mine)
    passed_over = {suffix: count for suffix, count in sorted(others.items()) if suffix not in SUFFIXES}
    return Source(photographs=photographs, roots=roots, passed_over=passed_over)


_Files = list[tuple[str, storage.Found]]
"""Files with the names that they get in the set."""


def _suffix(file: storage.Found) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _files(location: str, what: str, advice: str) -> list[storage.Found]:
    files = storage.walk(location) if storage.is_folder(location) else None
    if files is None:
        raise FileNotFoundError(f"{what}: no such folder; {advice}")
    return files


def _split_inside(files: list[storage.Found], folders: dict[Split, str]) -> dict[Split, _Files]:
    return {
        split: [(file.name, file) for file in files if PurePosixPath(file.name).parts[0] == folder and "/" in file.name]
        for split, folder in folders.items()
    }


def _split_by_folder(root: str, files: list[storage.Found], val: str) -> tuple[dict[Split, _Files], tuple[str, ...]]:
    val_root = storage.absolute(val)
    validating = _files(val_root, f"--val {val}", "give a folder of pictures, or a .txt list of some of --source")
    held_out = {file.location for file in validating}
    split: dict[Split, _Files] = {
        "train": [(f"train/{file.name}", file) for file in files if file.location not in held_out],
        "val": [(f"val/{file.name}", file) for file in validating],
    }
    return split, (root, val_root)


def _split_by_list(files: list[storage.Found], val: str) -> dict[Split, _Files]:
    lines = [line.strip() for line in storage.read_bytes(storage.absolute(val)).decode().splitlines()]
    listed = {line.removeprefix("./") for line in lines if line and not line.startswith("#")}
    missing = sorted(listed - {file.name for file in files})
    if missing:
        raise ValueError(
            f"--val {val} lists {len(missing)} files that --source does not hold, the first is {missing[0]!r}: "
            "give paths below --source, a line each"
        )
    return {
        "train": [(file.name, file) for file in files if file.name not in listed],
        "val": [(file.name, file) for file in files if file.name in listed],
    }


def _split_by_seed(files: list[storage.Found], source: str, val_share: float, seed: int) -> dict[Split, _Files]:
    if not 0 < val_share < 1:
        raise ValueError(f"--val-share must lie between 0 and 1, got {val_share}")
    pictures = [file for file in files if _suffix(file) in SUFFIXES]
    if len(pictures) < 2:
        raise ValueError(
            f"{source} holds {len(pictures)} pictures; at least 2 are needed, one to train and one to judge"
        )
    n_val = min(len(pictures) - 1, max(1, round(val_share * len(pictures))))
    chosen = set(np.random.default_rng(seed).permutation(len(pictures))[:n_val].tolist())
    validating = {pictures[index].name for index in chosen}
    return {
        "train": [(file.name, file) for file in files if file.name not in validating],
        "val": [(file.name, file) for file in files if file.name in validating],
    }


def _bundled() -> Source:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("--source bundled needs the photographs of scikit-image: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    photographs = [
        Photograph(file, photo, split, str(folder / file), "bundled")
        for split in ("train", "val")
        for file, (photo, side) in sorted(BUNDLED.items())
        if side == split
    ]
    return Source(photographs=tuple(photographs), roots=(str(folder),), passed_over={})
