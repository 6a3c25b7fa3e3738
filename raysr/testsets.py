"""Test sets as they are distributed: which files of a folder are targets, and which are their inputs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raysr.decoding import MAX_PIXELS, decode
from raysr.errors import text_of
from raysr.folders import HIDDEN_FILES, is_hidden, nfc
from raysr.layouts import PictureError
from raysr.protocol import RGB
from raysr.sources import READ, SUFFIXES, count_others

TARGET_FOLDERS = ("HR", "DIV2K_valid_HR", "image_SRF_{scale}", "GTmod{scale}", "GTmod12", "GT", "original")
"""Folders of a set that hold its targets: EDSR's, DIV2K's, SelfExSR's and BasicSR's names for them."""

INPUT_FOLDERS = ("{lr}/X{scale}", "{lr}/x{scale}", "LRbicx{scale}", "LR/X{scale}", "LR/x{scale}", "LR_bicubic/X{scale}")
"""Folders beside the targets' that hold the inputs; {lr} is the targets' own name with LR_bicubic for HR."""

UNUSED = " was not used: "
"""Between a counterpart's name and the reason, in a note."""

Size = tuple[int, int]
"""Width and height in pixels."""

KNOWN_SIZES: dict[str, tuple[Size, ...]] = {
    "set5": ((512, 512), (288, 288), (256, 256), (280, 280), (228, 344)),
    "set14": (
        *((500, 480), (720, 576), (512, 512), (352, 288), (250, 360), (276, 276), (500, 362), (352, 288)),
        *((512, 512), (512, 512), (768, 512), (512, 512), (528, 656), (586, 390)),
    ),
}
"""The targets of Set5 and Set14, in the order of their names (SelfExSR's files)."""


class Listed(NamedTuple):
    """One picture of a set."""

    image_id: str
    """The target's file name."""
    target: Path
    given: Path | None
    """Its low-resolution counterpart, if the set has one."""
    max_pixels: int = MAX_PIXELS
    """Files of more cannot be used."""


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of a folder, sorted by name."""

    name: str
    pictures: tuple[Listed, ...]
    passed_over: dict[str, int]
    """Files of the targets' folder that are left alone: how many of each suffix that is no picture's, and how many are
    hidden or the operating system's."""

    @property
    def inputs(self) -> Path | None:
        """The folder that counterparts were found in."""
        return next((picture.given.parent for picture in self.pictures if picture.given is not None), None)


def find_set(
    folder: str | Path, scale: int, inputs: str | Path | None = None, max_pixels: int = MAX_PIXELS
) -> PictureSet:
    """The targets in `folder`, and their counterparts for `scale` if it has them, or those of the folder `inputs`.

    Known are plain folders, `HR/` with `LR_bicubic/X2/` (EDSR), `image_SRF_2/` or a folder with `*_HR` and `*_LR`
    (SelfExSR), `DIV2K_valid_HR` with `DIV2K_valid_LR_bicubic/X2/` beside it, and `GTmod12/` with `LRbicx2/` (BasicSR).
    Raises ValueError for a folder without pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"--sets takes folders of pictures or a prepared set, and {folder} is no folder")
    within = (folder / name.format(scale=scale) for name in TARGET_FOLDERS)
    home = next((place for place in within if place.is_dir()), folder)
    every = sorted(file for file in home.iterdir() if file.is_file())
    shown = [file for file in every if not is_hidden(file.name)]
    files = _targets([file for file in shown if file.suffix.lower() in SUFFIXES], scale)
    if not files:
        below = sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))
        hint = f"; its folders are {', '.join(below)}: give those that are sets" if below else ""
        raise ValueError(f"{folder} has no pictures{hint}")
    places = [Path(inputs), Path(inputs, f"X{scale}")] if inputs is not None else _input_folders(home, scale)
    inside = {place: _by_name(place) for place in places}
    pictures = tuple(Listed(file.name, file, _counterpart(file, home, inside, scale), max_pixels) for file in files)
    if inputs is not None and not any(picture.given for picture in pictures):
        raise ValueError(
            f"no file in {inputs} is a counterpart of one in {home}: expected names such as {_hint(files[0], scale)}"
        )
    generic = re.fullmatch(r"HR|GT|GTmod\d+|original|image_SRF_\d", folder.name)
    name = folder.absolute().parent.name if generic else folder.absolute().name
    hidden = len(every) - len(shown)
    passed_over = count_others(file.name for file in shown) | ({HIDDEN_FILES: hidden} if hidden else {})
    return PictureSet(name=name, pictures=pictures, passed_over=passed_over)


def _targets(files: list[Path], scale: int) -> list[Path]:
    # SelfExSR's folders hold results of several methods, and inputs, beside the targets.
    named = [file for file in files if file.stem.endswith("_HR")]
    if named:
        mine = [file for file in named if f"_SRF_{scale}_" in file.name]
        return mine or named
    stems = {nfc(file.stem) for file in files}
    return [file for file in files if re.sub(r"(x[2348]|_LR)$", "", nfc(file.stem)) not in stems - {nfc(file.stem)}]


def _input_folders(home: Path, scale: int) -> list[Path]:
    beside = home.absolute().parent
    if "HR" not in home.name and not home.name.startswith(("GT", "original")):
        return [home]
    names = [name.format(lr=home.name.replace("HR", "LR_bicubic"), scale=scale) for name in INPUT_FOLDERS]
    return [home, *(beside / name for name in names)]


_ByName = dict[tuple[str, str], Path]
"""Files by their stems in composed Unicode and their suffixes in lower case."""


def _by_name(place: Path) -> _ByName:
    files = sorted(place.iterdir()) if place.is_dir() else []
    return {(nfc(file.stem), file.suffix.lower()): file for file in files if file.is_file()}


def _counterpart(target: Path, home: Path, places: dict[Path, _ByName], scale: int) -> Path | None:
    base = target.stem.removesuffix("_HR")
    for place, files in places.items():
        stems = [f"{base}x{scale}", f"{base}_LR"] + ([] if place == home else [base, target.stem])
        for stem in stems:
            if (exact := place / f"{stem}{target.suffix}").is_file():
                return exact
            for suffix in (target.suffix.lower(), *sorted(READ)):
                if (file := files.get((nfc(stem), suffix))) is not None:
                    return file
    return None


def _hint(target: Path, scale: int) -> str:
    base = target.stem.removesuffix("_HR")
    return f"{base}x{scale}{target.suffix}, {base}_LR{target.suffix} or {base}{target.suffix}"


class Opened(NamedTuple):
    """A target, cut on the right and at the bottom to a multiple of the scale, as the literature does."""

    hr: RGB
    lr: RGB | None
    """The counterpart; None where there is none that fits."""
    note: str | None
    """Why a counterpart was not used."""
    changes: tuple[str, ...] = ()
    """What was changed as the two were read, as `jobs/prepare.py` says it: `target: alpha laid on black`."""


def open_picture(picture: Listed, scale: int, *, use_given: bool = True) -> Opened:
    """Read a target and its counterpart; raises PictureError with the reason where the target cannot be used."""
    hr, notes = _read(picture.target, picture.max_pixels)
    changes = changes_of("target", notes)
    height, width = (side // scale * scale for side in hr.shape[:2])
    if min(height, width) == 0:
        raise PictureError(f"{hr.shape[1]} x {hr.shape[0]} pixels are too few for x{scale}")
    hr = hr[:height, :width]
    if picture.given is None or not use_given:
        return Opened(hr, None, None, changes)
    try:
        lr, notes = _read(picture.given, picture.max_pixels)
    except PictureError as error:
        return Opened(hr, None, f"{picture.given.name}{UNUSED}{text_of(error)}", changes)
    expected = f"{width // scale} x {height // scale}"
    if lr.shape[:2] != (height // scale, width // scale):
        reason = f"it has {lr.shape[1]} x {lr.shape[0]} pixels where {expected} are expected"
        return Opened(hr, None, f"{picture.given.name}{UNUSED}{reason}", changes)
    return Opened(hr, lr, None, changes + changes_of("input", notes))


def changes_of(what: str, notes: tuple[str, ...]) -> tuple[str, ...]:
    """The notes of `decode` with the name of what they are about."""
    return tuple(f"{what}: {note}" for note in notes)


def _read(file: Path, max_pixels: int) -> tuple[RGB, tuple[str, ...]]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or text_of(error)}") from error
    photo = decode(data, max_pixels=max_pixels)
    return np.asarray(photo.image.convert("RGB")), photo.notes


def recognise(pictures: PictureSet) -> str | None:
    """`set5` or `set14`, by the name of the folder, or by the number and sizes of its targets; None for others."""
    name = re.sub(r"[^a-z0-9]", "", pictures.name.lower())
    if name in KNOWN_SIZES:
        return name
    sizes: list[Size] = []
    for picture in pictures.pictures:
        try:
            sizes.append(decode(picture.target.read_bytes()).full_size)
        except (PictureError, OSError):
            return None
    for known, expected in KNOWN_SIZES.items():
        # The copies that go round are cut to multiples of up to 12, from originals that may be a pixel larger.
        pairs = zip(sorted(sizes), sorted(expected), strict=False)
        if len(sizes) == len(expected) and all(
            -1 <= e - s <= 12 for one, two in pairs for s, e in zip(one, two, strict=True)
        ):
            return known
    return None
