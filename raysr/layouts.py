"""How the samples of a picture lie in its file, where Pillow reads a layout wrongly, or not at all."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from raysr.errors import text_of


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason, fit to be shown beside its name."""


MAX_PAGES = 10_000
"""Pages of a TIFF that are looked at."""

SUBFILE, OLD_SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 255, 258, 259, 262, 266
SAMPLES, PLANAR, COLOUR_MAP, INK_SET, DOT_RANGE, SAMPLE_FORMAT, SUBSAMPLING = 277, 284, 320, 332, 336, 339, 530
"""Tags of TIFF."""

_SIZE, _PLACES = (256, 257), (273, 324)
_PAGE_TAGS = (SUBFILE, OLD_SUBFILE)
_SAMPLE_TAGS = (BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, PLANAR, SAMPLE_FORMAT)
_LAYOUT_TAGS = (*_PAGE_TAGS, *_SAMPLE_TAGS, *_SIZE, *_PLACES)
"""Those that are read of pages, and of the first one."""

REDUCED, OLD_REDUCED = 1, 2
"""A page that is another one at fewer pixels: a bit of SUBFILE, and a value of OLD_SUBFILE."""

BLACK_IS_ZERO, PALETTE, CMYK, YCBCR = 1, 3, 5, 6
PHOTOMETRICS = {0: "negative grey", BLACK_IS_ZERO: "grey", 2: "RGB", PALETTE: "palette", 4: "mask", CMYK: "CMYK"} | {
    6: "YCbCr",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "colour filter array",
    34892: "linear raw",
}
SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}

SIGNED, SEPARATE, UNCOMPRESSED = 2, 2, 1

Tags = Mapping[int, Any]


def is_tiff(data: bytes) -> bool:
    """Whether the file begins as a TIFF does."""
    return data.startswith((*PREFIXES, b"MM\0\x2b"))


def tags_of(image: Image.Image) -> Tags:
    """The tags of a TIFF's first page; none for other formats."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def layout_name(tags: Tags) -> str:
    """How the samples of a TIFF lie, in words."""
    samples = int(tags.get(SAMPLES, 1))
    bits = "/".join(str(bits) for bits in sorted(set(_several(tags.get(BITS, 1)))))
    formats = "/".join(SAMPLE_FORMATS.get(one, "unknown") for one in sorted(set(_several(tags.get(SAMPLE_FORMAT, 1)))))
    kind = tags.get(PHOTOMETRIC, 0)
    name = f"{bits}-bit {formats} {PHOTOMETRICS.get(kind, f'photometric {kind}')}"
    name += f", {samples} samples a pixel" * (samples > 1)
    name += ", in separate planes" * (samples > 1 and tags.get(PLANAR, 1) == SEPARATE)
    name += f", compression {tags.get(COMPRESSION, 1)}" * (tags.get(COMPRESSION, 1) != UNCOMPRESSED)
    return name + ", bits from the lowest" * (tags.get(FILL_ORDER, 1) == 2)


def unread_tiff(data: bytes) -> str:
    """Why Pillow knows nothing of a file that begins as a TIFF does."""
    if data.startswith(b"MM\0\x2b"):
        return "TIFF layout that raysr does not read: BigTIFF of big-endian byte order; save it as a plain TIFF"
    try:
        (first, *_) = _pages(data)
        name = layout_name(first)
    except Exception as error:
        raise PictureError(f"damaged: its TIFF directory cannot be read ({text_of(error)})") from error
    if not (all(tag in first for tag in _SIZE) and any(tag in first for tag in _PLACES)):
        return "damaged: its TIFF directory lacks the size or the place of the picture"
    return f"TIFF layout that raysr does not read: {name}; save it with 8-bit samples, unsigned and interleaved"


def check_tiff(image: Image.Image, data: bytes) -> None:
    """Raise PictureError for an opened TIFF of which Pillow would give other pixels than are in it, or another page.

    tests/test_layouts.py sweeps over the layouts that Pillow opens.
    """
    tags = tags_of(image)
    if _is_reduced(tags):
        raise PictureError("its first picture is a thumbnail of another one, as in a camera's raw file")
    pages = _pages(data)
    if not all(map(_is_reduced, pages[1:])):
        raise PictureError(f"animated or multi-page ({sum(not _is_reduced(page) for page in pages)} frames)")
    reason = _misread(tags, image.mode)
    if reason is not None:
        raise PictureError(f"TIFF layout that raysr does not read: {reason} ({layout_name(tags)})")


def _misread(tags: Tags, mode: str) -> str | None:
    """What Pillow does not heed, or takes for something else."""
    plain = tags.get(COMPRESSION, 1) == UNCOMPRESSED
    separate = tags.get(PLANAR, 1) == SEPARATE and int(tags.get(SAMPLES, 1)) > 1
    bits, kind = set(_several(tags.get(BITS, 1))), tags.get(PHOTOMETRIC, 0)
    rules = {
        "signed samples": SIGNED in _several(tags.get(SAMPLE_FORMAT, 1)) and max(bits) <= 16,
        "uncompressed planes of more than 8 bits": separate and plain and max(bits) > 8,
        "uncompressed planes of reversed bits": separate and plain and tags.get(FILL_ORDER, 1) == 2,
        "alpha in a plane of its own beside grey or a palette": separate and mode in ("LA", "La", "PA"),
        "uncompressed colour of fewer samples than luminance": (
            kind == YCBCR and plain and mode != "L" and _several(tags.get(SUBSAMPLING, (2, 2))) != (1, 1)
        ),
        "a palette of 8 bits where 16 are due": kind == PALETTE and 0 < max(_several(tags.get(COLOUR_MAP, 0))) < 256,
        "inks that are not cyan, magenta, yellow and black": kind == CMYK and tags.get(INK_SET, 1) != 1,
        "inks of which 0 is the most": kind == CMYK and _is_falling(_several(tags.get(DOT_RANGE, (0, 255)))),
    }
    return next((reason for reason, true in rules.items() if true), None)


def _is_falling(dots: tuple[int, ...]) -> bool:
    return len(dots) > 1 and dots[0] > dots[1]


def _several(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_reduced(tags: Tags) -> bool:
    return bool(int(tags.get(SUBFILE, 0)) & REDUCED) or tags.get(OLD_SUBFILE) == OLD_REDUCED


def _pages(data: bytes) -> list[Tags]:
    """The tags of each page, in order."""
    file, directory = io.BytesIO(data), ImageFileDirectory_v2(data[:16] if data[2] == 43 else data[:8])
    pages: list[Tags] = []
    seen: set[int] = set()
    while directory.next and directory.next not in seen and len(seen) < MAX_PAGES:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        if pages and not all(tag in directory for tag in _SIZE):
            break  # the last page refers to what is none
        pages.append({tag: directory[tag] for tag in (_PAGE_TAGS if pages else _LAYOUT_TAGS) if tag in directory})
    return pages


class Grey(NamedTuple):
    """What the samples of a grey picture of more than 8 bits mean."""

    peak: int
    """The largest."""
    negative: bool
    """Whether that is black."""


def grey_of(image: Image.Image) -> Grey:
    """How to read grey samples; raises PictureError for more than 16 bits."""
    tags = tags_of(image)
    bits = max(_several(tags.get(BITS, 16)))
    if image.mode.startswith("I") and bits > 16:
        raise PictureError(f"samples of {bits} bits, expected 8 or 16")
    return Grey(2**bits - 1 if bits > 8 else 65535, negative=tags.get(PHOTOMETRIC) == 0)


def is_cut(image: Image.Image) -> bool:
    """Whether Pillow, without a mode for 16 bits of colour or with alpha, will take each sample's high byte alone."""
    tiles = getattr(image, "tile", ()) if image.format in ("PNG", "TIFF") else ()
    return any(";16" in str(tile[3]) for tile in tiles)


def is_rounded(image: Image.Image) -> bool:
    """Whether more than 8 bits are rounded to 8: grey here, and the colours of a PPM by Pillow."""
    if image.format != "PPM":
        return image.mode.startswith("I")
    peaks: list[Any] = [tile[3][-1] for tile in getattr(image, "tile", ()) if isinstance(tile[3], tuple)]
    return image.mode.startswith("I") or any(isinstance(peak, int) and peak > 255 for peak in peaks)


PNG_DEPTH_AT, PNG_COLOUR_AT = 24, 25
"""Offsets in a PNG."""


def mend_transparent_colour(image: Image.Image, data: bytes) -> None:
    """Have the colour that a PNG names as transparent in the samples that Pillow gives, not in those of the file."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and isinstance(clear, int) and image.mode == "L" and data[PNG_COLOUR_AT] == 0:
        peak = 2 ** data[PNG_DEPTH_AT] - 1
        image.info["transparency"] = (clear & peak) * (255 // peak)  # higher bits are to be ignored
    elif image.format == "PNG" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(sample >> 8 if is_cut(image) else sample & 255 for sample in clear)
