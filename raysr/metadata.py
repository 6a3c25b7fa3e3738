"""What a file says beside its pixels: the orientation is wanted, and nothing else there may cost the picture.

Pillow refuses a picture for a comment that is too long, a profile or an EXIF tag of the wrong type. So a PNG and a JPEG
are handed to it without such parts, and a TIFF without its resolution.
"""

import re
import zlib
from typing import Any, Literal, NamedTuple

from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each orientation upright."""

MAX_BYTES = 2**20
"""Largest piece of compressed metadata that is unpacked."""

_PNG, _JPEG, _TIFFS = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*")
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
_WHOLE = {1: 1, 3: 2, 4: 4}
"""Types of an EXIF tag that are whole numbers, and their bytes."""

_PNG_KEPT = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Chunks that tell of pixels or frames; those with a capital first letter do too."""

_PNG_EXIF, _PNG_XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
"""Keywords of a PNG's texts that may hold an orientation."""

_JPEG_EXIF, _JPEG_XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_COMMENT, _JPEG_SCAN, _JPEG_APP1, _JPEG_ADOBE, _JPEG_APP15 = 0xFE, 0xDA, 0xE1, 0xEE, 0xEF
"""Markers; of those for applications, 0 (JFIF) and 14 (Adobe) say what the colours mean."""

_JPEG_ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers with nothing behind them."""

_TIFF_RESOLUTION = (282, 283, 296)


class Parts(NamedTuple):
    """A file, taken apart."""

    picture: bytes
    """What Pillow is given."""
    exif: bytes = b""
    xmp: bytes = b""
    broken: bool = False
    """Whether something that may hold an orientation could not be read."""


class Orientation(NamedTuple):
    """How a picture is turned."""

    value: int
    """1 for upright, or a key of UPRIGHT."""
    broken: bool
    """Whether it is 1 because what the file says of it cannot be read."""


def take_apart(data: bytes) -> Parts:
    """The file without what Pillow need not see, and its EXIF and XMP; a damaged rest is left as it is."""
    if data.startswith(_PNG):
        return _take_png_apart(data)
    if data.startswith(_JPEG):
        return _take_jpeg_apart(data)
    return Parts(_without_resolution(data) if data.startswith(_TIFFS) else data)


def read_orientation(image: Image.Image, parts: Parts) -> Orientation:
    """The orientation of an opened picture by its EXIF, or else by its XMP; Pillow sees neither when it loads."""
    exif, xmp = parts.exif or image.info.pop("exif", b""), parts.xmp or image.info.pop("xmp", b"")
    broken = parts.broken
    try:
        value = _of_tiff(image) if image.format == "TIFF" else _of_exif(exif)
    except Exception:  # noqa: BLE001  Pillow's reader of EXIF raises almost anything; the picture is noted
        value, broken = None, True
    if value is None:
        found = re.search(r"tiff:Orientation(?:=[\"']|>)([1-8])", _as_text(xmp))
        value = int(found[1]) if found else None
    return Orientation(1 if value not in UPRIGHT else value, broken and value is None)


def _as_text(xmp: Any) -> str:
    return xmp.decode("latin-1") if isinstance(xmp, bytes) else xmp if isinstance(xmp, str) else ""


def _of_exif(exif: bytes) -> int | None:
    """The orientation, whatever became of the other tags; raises ValueError where it may be in what cannot be read."""
    if not exif:
        return None
    exif = re.sub(b"^(Exif\0\0){1,2}", b"", exif)
    order = _ORDERS.get(exif[:2])
    if order is None:
        raise ValueError(f"EXIF begins with {exif[:4]!r}, expected II or MM")

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], order)

    first = number(4, 4)
    entries = [at for at in range(first + 2, first + 2 + 12 * number(first, 2), 12) if at + 12 <= len(exif)]
    for at in entries:
        if number(at, 2) == ORIENTATION:
            size = _WHOLE.get(number(at + 2, 2))
            if size is None or not 1 <= number(at + 4, 4) <= 4 // size:
                raise ValueError(f"an orientation of type {number(at + 2, 2)}, expected a whole number")
            return number(at + 8, size)
    if first + 2 > len(exif) or len(entries) < number(first, 2):
        raise ValueError("EXIF is cut off")
    return None


def _of_tiff(image: Image.Image) -> int | None:
    seen = image.getexif()
    for tag in list(seen):  # Pillow turns a TIFF as it loads, and reads every directory of its EXIF
        del seen[tag]
    return _whole(getattr(image, "tag_v2", {}).get(ORIENTATION))


def _whole(value: Any) -> int | None:
    if value is not None and not isinstance(value, int):
        raise ValueError(f"the orientation is {value!r}, expected a whole number")
    return value


def _take_png_apart(data: bytes) -> Parts:
    kept, at, exif, profile, xmp, broken = [_PNG], len(_PNG), b"", b"", b"", False
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        name, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if name[:1].isupper() or name in _PNG_KEPT:
            kept.append(data[at:end])
        elif name == b"eXIf" or body.startswith((_PNG_EXIF + b"\0", _PNG_XMP + b"\0")):
            try:
                if zlib.crc32(name + body) != int.from_bytes(data[end - 4 : end], "big"):
                    raise ValueError("a wrong sum")
                text = body if name == b"eXIf" else _text(name, body)
                exif = text if name == b"eXIf" else exif
                profile = _unhex(text) if body.startswith(_PNG_EXIF) else profile
                xmp = text if body.startswith(_PNG_XMP) else xmp
            except (ValueError, zlib.error):
                broken = True
        at = end
    return Parts(b"".join([*kept, data[at:]]), exif or profile, xmp, broken)


def _text(name: bytes, body: bytes) -> bytes:
    """What a text chunk says behind its keyword."""
    rest = body.partition(b"\0")[2]
    packed = name == b"zTXt"
    if name == b"zTXt":
        rest = rest[1:]
    elif name == b"iTXt":
        packed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]  # behind a language and a translated keyword
    if not packed:
        return rest
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(rest, MAX_BYTES)
    if not unpacker.eof:
        raise ValueError(f"more than {MAX_BYTES} bytes, or cut")
    return text


def _unhex(text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: its name and length in lines, and then hexadecimal digits."""
    return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))


def _take_jpeg_apart(data: bytes) -> Parts:
    kept, at, exif, xmp = [data[:2]], 2, b"", b""
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _JPEG_SCAN:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + (0 if marker in _JPEG_ALONE else int.from_bytes(data[at + 2 : at + 4], "big"))
        if end > len(data) or (marker not in _JPEG_ALONE and end < at + 4):
            break
        body = data[at + 4 : end]
        if marker == _JPEG_APP1 and body.startswith(_JPEG_EXIF):
            exif += body[len(_JPEG_EXIF) :]
        elif marker == _JPEG_APP1 and body.startswith(_JPEG_XMP):
            xmp = xmp or body[len(_JPEG_XMP) :]
        if marker != _JPEG_COMMENT and (not _JPEG_APP1 <= marker <= _JPEG_APP15 or marker == _JPEG_ADOBE):
            kept.append(data[at:end])
        at = end
    return Parts(b"".join([*kept, data[at:]]), exif, xmp)


def _without_resolution(data: bytes) -> bytes:
    """A TIFF whose first page has no type for its resolution: readers pass the tags over then."""
    order = _ORDERS[data[:2]]
    start = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[start : start + 2], order)
    changed = bytearray(data)
    for at in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        if int.from_bytes(data[at : at + 2], order) in _TIFF_RESOLUTION:
            changed[at + 2 : at + 4] = b"\0\0"
    return bytes(changed)
