"""Where photographs come from, and which of them train and which validate."""

import hashlib
import importlib.util
import json
import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
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

KNOWN = ("bundled", "bsds500", "df2k")
"""Sources that have a name."""

BESIDE, PREPARED = "beside train/ and val/", "in prepared sets"
"""Why files are passed over that may well be pictures."""

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
    problem: str | None = None
    """Why it must not be opened."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The photographs of a source, each with its split."""

    photographs: tuple[Photograph, ...]
    """Sorted by name within a split."""
    roots: tuple[str, ...]
    """The folders that they lie in: every machine that prepares them must see these."""
    passed_over: dict[str, int]
    """Files that are left alone: how many of each suffix that is no picture's, and how many lie in the wrong place."""

    @property
    def digest(self) -> str:
        """Changes when a photograph is added, removed, changed or moved to the other split."""
        told = sorted([photo.image_id, photo.split, photo.stamp] for photo in self.photographs)
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def find_photographs(source: str, *, val: str | None = None, val_share: float, seed: int) -> Source:
    """The photographs of `source` (`bundled`, or a folder, which may be a URI as `s3://bucket/folder`).

    A folder is searched recursively, and prepared sets in it are left alone. `val` is another folder, whose photographs
    validate while those of `source` train, or a .txt file that lists those of `source` that validate, a line each.
    Without it, `train/` and `val/` (or `valid/`) in the folder, in capitals or not, are the splits, and what lies
    beside them is left alone; where it has none, a share of `val_share` of the photographs, drawn with `seed`,
    validates.

    Raises OSError for what is no folder, ValueError for one that cannot be split.
    """
    if source == "bundled":
        if val is not None:
            raise ValueError("--source bundled has a validation split of its own: leave out --val")
        return _bundled()
    root = storage.absolute(source)
    files, passed_over = _files(root, f"--source {source}", source)
    inside = _inside(root)
    if val is not None and val.lower().endswith(".txt"):
        split, roots = _split_by_list(files, val), (root,)
    elif val is not None:
        validating, also = _files(storage.absolute(val), f"--val {val}")
        split, roots = _split_by_folder(files, validating), (root, storage.absolute(val))
        passed_over |= also
    elif inside is not None:
        split, roots = _split_inside(files, inside), (root,)
        beside = len(files) - sum(map(len, split.values()))
        passed_over += Counter({BESIDE: beside} if beside else {})
    else:
        split, roots = _split_by_seed(files, source, val_share, seed), (root,)
    photographs = tuple(
        Photograph(image_id, image_id, name, file.location, file.stamp, file.problem or _not_read(file))
        for name, mine in split.items()
        for image_id, file in mine
        if _suffix(file) in SUFFIXES
    )
    for name in split:
        if not any(photo.split == name for photo in photographs):
            wanted = ", ".join(sorted(READ))
            raise ValueError(f"--source {source}: no pictures for the {name} split (looked for {wanted})")
    suffixes = Counter(_suffix(file) or "no suffix" for mine in split.values() for _, file in mine)
    others = {suffix: count for suffix, count in sorted(suffixes.items()) if suffix not in SUFFIXES}
    return Source(photographs=photographs, roots=roots, passed_over=others | dict(passed_over))


_Files = list[tuple[str, storage.Found]]
"""Files with the names that they get in the set."""


def _suffix(file: storage.Found) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _not_read(file: storage.Found) -> str | None:
    """Why a picture is refused by its suffix: a camera's raw file is a TIFF by its content, of a thumbnail."""
    suffix = _suffix(file)
    return f"{suffix} is not read: convert it to PNG, TIFF or JPEG" if suffix in NOT_READ else None


def _files(location: str, what: str, word: str = "") -> tuple[list[storage.Found], Counter[str]]:
    """The files in a folder, and how many were left alone because they lie in prepared sets."""
    if not storage.is_folder(location):
        if storage.exists(location):
            raise NotADirectoryError(f"{what}: is a file, give the folder that it lies in")
        close = get_close_matches(word, KNOWN, n=1)
        hint = f"did you mean {close[0]}?" if close else f"give a folder of pictures, or {', '.join(KNOWN)}"
        raise FileNotFoundError(f"{what}: no such folder; {hint}")
    files = storage.walk(location)
    names = {file.name for file in files}
    sets = tuple(
        str(PurePosixPath(name).parent / "_").removesuffix("_")
        for name in names
        if PurePosixPath(name).name == "manifest.json"
        and str(PurePosixPath(name).with_name("train-00000.parquet")) in names
    )
    kept = [file for file in files if not file.name.startswith(sets)]
    return kept, Counter({PREPARED: len(files) - len(kept)} if sets else {})


def _inside(root: str) -> dict[Split, str] | None:
    """The folders of the splits, in lower case; None where not both are there."""
    likely = [name for name in storage.children(root) if name.lower() in ("train", "val", "valid")]
    names = {name.lower() for name in likely if storage.is_folder(storage.join(root, name))}
    val = next((name for name in ("val", "valid") if name in names), None)
    return {"train": "train", "val": val} if val is not None and "train" in names else None


def _split_inside(files: list[storage.Found], folders: dict[Split, str]) -> dict[Split, _Files]:
    return {
        split: [(file.name, file) for file in files if file.name.lower().startswith(f"{folder}/")]
        for split, folder in folders.items()
    }


def _split_by_folder(files: list[storage.Found], validating: list[storage.Found]) -> dict[Split, _Files]:
    held_out = {file.location for file in validating}
    return {
        "train": [(f"train/{file.name}", file) for file in files if file.location not in held_out],
        "val": [(f"val/{file.name}", file) for file in validating],
    }


def _split_by_list(files: list[storage.Found], val: str) -> dict[Split, _Files]:
    wanted = "give a text file in UTF-8 with the paths, below --source, of the photographs that validate, a line each"
    try:
        text = storage.read_bytes(storage.absolute(val)).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--val {val}: no such file; {wanted}, or a folder") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--val {val} is not UTF-8 ({error.reason} at byte {error.start}); {wanted}") from error
    # Not splitlines: it also cuts at characters that a name may hold.
    names = {file.name for file in files}
    lines = [line.removeprefix("./") for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    # A line that begins with # is a comment, unless it is the name of a file.
    listed = {line for line in lines if line in names or not line.startswith("#")}
    missing = sorted(listed - names)
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
