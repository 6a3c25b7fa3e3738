"""Where photographs come from, and which of them train and which validate."""

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from raysr import storage
from raysr.folders import Found, is_hidden, nfc, walk

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
    """Files that are left alone: how many of each suffix that is no picture's, how many are hidden or the operating
    system's, and how many lie in the wrong place."""
    draw: tuple[float, int] | None = None
    """`val_share` and `seed` of a split that was drawn."""

    @property
    def digest(self) -> str:
        """Changes when a photograph is added, removed, changed or moved to the other split."""
        told = sorted([photo.image_id, photo.split, photo.stamp] for photo in self.photographs)
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def redrawn(self, unusable: Collection[str]) -> "Source":
        """This source, where each split has another photograph than the `unusable` ones or none was drawn; otherwise
        with its split drawn again among the others, by the same seed. The unusable ones are listed with those that
        train.

        What a file is shows when it is opened, and each is opened once, on the machine that prepares it. So the draw
        is by names, and is mended in the rare case that it has to be: the split of every other source stays as it is.
        """
        usable = [photo for photo in self.photographs if photo.problem is None and photo.image_id not in unusable]
        if self.draw is None or len(usable) < 2 or len({photo.split for photo in usable}) == 2:
            return self
        validating = _drawn(sorted(photo.image_id for photo in usable), *self.draw)
        by_name = sorted(self.photographs, key=lambda photo: photo.image_id)
        train = [replace(photo, split="train") for photo in by_name if photo.image_id not in validating]
        val = [replace(photo, split="val") for photo in by_name if photo.image_id in validating]
        return replace(self, photographs=(*train, *val))


def find_photographs(source: str, *, val: str | None = None, val_share: float, seed: int) -> Source:
    """The photographs of `source` (`bundled`, or a folder, which may be a URI as `s3://bucket/folder`).

    A folder is searched recursively; what is hidden or an operating system's and prepared sets in it are left alone.
    `val` is another folder, whose photographs validate while those of `source` train, or a .txt file that lists those
    of `source` that validate, a line each. Without it, `train/` and `val/` (or `valid/`) in the folder, in capitals or
    not, are the splits, and what lies beside them is left alone; where it has none, a share of `val_share` of the
    photographs that can be read by their names, drawn with `seed`, validates.

    Raises OSError for what is no folder, ValueError for one that cannot be split.
    """
    if source == "bundled":
        if val is not None:
            raise ValueError("--source bundled has a validation split of its own: leave out --val")
        return _bundled()
    root = storage.absolute(source)
    files, passed_over = _files(root, f"--source {source}", source)
    inside, draw = _inside(root), None
    if val is not None and val.lower().endswith(".txt"):
        split, roots = _split_by_list(files, val), (root,)
    elif val is not None:
        validating, also = _files(storage.absolute(val), f"--val {val}")
        split, roots = _split_by_folder(files, validating), (root, storage.absolute(val))
        passed_over |= also
    elif inside is not None:
        split, roots = _split_inside(files, inside), (root,)
        inside_them = {file.location for mine in split.values() for _, file in mine}
        passed_over |= {file.location: BESIDE for file in files if file.location not in inside_them}
    else:
        split, roots, draw = _split_by_seed(files, source, passed_over, val_share, seed), (root,), (val_share, seed)
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
    others = count_others(file.name for mine in split.values() for _, file in mine)
    counted = others | dict(sorted(Counter(passed_over.values()).items()))
    return Source(photographs=photographs, roots=roots, passed_over=counted, draw=draw)


def count_others(names: Iterable[str]) -> dict[str, int]:
    """How many files of each suffix that is no picture's are among `names`, and how many have none."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)
    return {suffix: count for suffix, count in sorted(suffixes.items()) if suffix not in SUFFIXES}


def told_passed_over(passed_over: Mapping[str, int]) -> str:
    """A line that tells of the files that are passed over."""
    return "files passed over: " + ", ".join(f"{count:,} {what}" for what, count in passed_over.items())


_Files = list[tuple[str, Found]]
"""Files with the names that they get in the set."""


def _suffix(file: Found) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _not_read(file: Found) -> str | None:
    """Why a picture is refused by its suffix: a camera's raw file is a TIFF by its content, of a thumbnail."""
    suffix = _suffix(file)
    return f"{suffix} is not read: convert it to PNG, TIFF or JPEG" if suffix in NOT_READ else None


def _files(location: str, what: str, word: str = "") -> tuple[list[Found], dict[str, str]]:
    """The files in a folder, and the locations of those that are passed over with the reason."""
    if not storage.is_folder(location):
        if storage.exists(location):
            raise NotADirectoryError(f"{what}: is a file, give the folder that it lies in")
        close = get_close_matches(word, KNOWN, n=1)
        hint = f"did you mean {close[0]}?" if close else f"give a folder of pictures, or {', '.join(KNOWN)}"
        raise FileNotFoundError(f"{what}: no such folder; {hint}")
    found = walk(location)
    names = {file.name for file in found.files}
    sets = tuple(
        str(PurePosixPath(name).parent / "_").removesuffix("_")
        for name in names
        if PurePosixPath(name).name == "manifest.json"
        and str(PurePosixPath(name).with_name("train-00000.parquet")) in names
    )
    prepared = {file.location: PREPARED for file in found.files if file.name.startswith(sets)}
    return [file for file in found.files if file.location not in prepared], found.passed_over | prepared


def _inside(root: str) -> dict[Split, str] | None:
    """The folders of the splits, in lower case; None where not both are there."""
    likely = [name for name in storage.children(root) if name.lower() in ("train", "val", "valid")]
    names = {name.lower() for name in likely if storage.is_folder(storage.join(root, name))}
    val = next((name for name in ("val", "valid") if name in names), None)
    return {"train": "train", "val": val} if val is not None and "train" in names else None


def _split_inside(files: list[Found], folders: dict[Split, str]) -> dict[Split, _Files]:
    return {
        split: [(file.name, file) for file in files if file.name.lower().startswith(f"{folder}/")]
        for split, folder in folders.items()
    }


def _split_by_folder(files: list[Found], validating: list[Found]) -> dict[Split, _Files]:
    held_out = {file.location for file in validating}
    return {
        "train": [(f"train/{file.name}", file) for file in files if file.location not in held_out],
        "val": [(f"val/{file.name}", file) for file in validating],
    }


def _split_by_list(files: list[Found], val: str) -> dict[Split, _Files]:
    wanted = "give a text file in UTF-8 with the paths, below --source, of the photographs that validate, a line each"
    try:
        text = storage.read_bytes(storage.absolute(val)).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--val {val}: no such file; {wanted}, or a folder") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--val {val} is not UTF-8 ({error.reason} at byte {error.start}); {wanted}") from error
    names = {file.name for file in files}
    alike: dict[str, set[str]] = {}
    for name in names:
        alike.setdefault(nfc(name), set()).add(name)
    # Not splitlines: it also cuts at characters that a name may hold.
    lines = {line.removeprefix("./") for line in re.split(r"\r\n|\n|\r", text) if line.strip()}
    found = {line: {line} if line in names else alike.get(nfc(line), set()) for line in lines}
    # A line that begins with # is a comment, unless it is the name of a file.
    missing = sorted(line for line, mine in found.items() if not mine and not line.startswith("#"))
    if missing:
        hidden = " (hidden and system files are passed over)" * any(map(is_hidden, missing[0].split("/")))
        raise ValueError(
            f"--val {val} lists {len(missing)} files that --source does not hold, the first is {missing[0]!r}{hidden}: "
            "give paths below --source, a line each"
        )
    listed = set[str]().union(*found.values())
    return {
        "train": [(file.name, file) for file in files if file.name not in listed],
        "val": [(file.name, file) for file in files if file.name in listed],
    }


def _split_by_seed(
    files: list[Found], source: str, passed_over: dict[str, str], val_share: float, seed: int
) -> dict[Split, _Files]:
    """Draw among the files that can be pictures by their names and sizes; the others are listed in training."""
    if not 0 < val_share < 1:
        raise ValueError(f"--val-share must lie between 0 and 1, got {val_share}")
    pictures = [file.name for file in files if _suffix(file) in READ and file.problem is None]
    if len(pictures) < 2:
        refused = sum(_suffix(file) in SUFFIXES for file in files) - len(pictures)
        others = [f"{refused} that cannot be read"] if refused else []
        others += [f"{count} {what}" for what, count in sorted(Counter(passed_over.values()).items())]
        raise ValueError(
            f"{source} holds {len(pictures)} pictures; at least 2 are needed, one to train and one to judge"
            + f" (it also holds {', '.join(others)})" * bool(others)
        )
    validating = _drawn(pictures, val_share, seed)
    return {
        "train": [(file.name, file) for file in files if file.name not in validating],
        "val": [(file.name, file) for file in files if file.name in validating],
    }


def _drawn(names: list[str], val_share: float, seed: int) -> set[str]:
    """Those of two or more sorted `names` that validate: at least one, and not all."""
    n_val = min(len(names) - 1, max(1, round(val_share * len(names))))
    return {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:n_val]}


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
