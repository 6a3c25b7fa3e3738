"""What a file says beside its pixels never costs the picture, and its orientation is obeyed where it can be read."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from conftest import synthetic
from PIL import Image
from tiffs import ASCII, LONG, SHORT, Entry, directory, write_tiff

from raysr.decoding import decode
from raysr.layouts import PictureError
from raysr.metadata import ORIENTATION

PIXELS = np.random.default_rng(4).integers(0, 256, (8, 12), np.uint8)
TURNED = np.rot90(PIXELS, -1)
"""Upright, of a picture that is stored with orientation 6."""

UNREAD = "metadata not readable, not turned"
RESOLUTION_UNIT, MAKE = 296, 271


def exif(**entries: Entry) -> bytes:
    """EXIF of the tags; `entries` as t274=(SHORT, [6])."""
    return b"II*\0\x08\0\0\0" + directory({int(tag[1:]): value for tag, value in entries.items()}, 8, "<")


ODD = {
    "resolution unit in words": exif(t274=(SHORT, [6]), t296=(ASCII, b"inches\0")),
    "resolution that is text": exif(
        t274=(SHORT, [6]), t282=(ASCII, b"many\0"), t283=(ASCII, b"many\0"), t296=(SHORT, [3])
    ),
    "resolution of nothing": exif(t274=(SHORT, [6]), t282=(LONG, []), t296=(SHORT, [3])),
    "a directory that is nowhere": exif(t274=(SHORT, [6]), t34665=(LONG, [10**9]), t34853=(ASCII, b"south\0")),
    "a tag that is cut off": exif(t274=(SHORT, [6]), t271=(ASCII, b"maker of cameras"))[:-8],
}
"""Of which the orientation can be read."""

BROKEN = {
    "as Python prints it": repr(exif(t274=(SHORT, [6]))).encode(),
    "of zeros": bytes(40),
    "cut": exif(t274=(SHORT, [6]))[:15],
    "with an orientation in words": exif(t274=(ASCII, b"turn it\0")),
    "with two orientations": exif(t274=(SHORT, [6, 6, 6])),
}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: bytes, behind: bool = False) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    data = buffer.getvalue()
    at = len(data) - 12 if behind else 33  # before the end, or behind the header
    return data[:at] + b"".join(chunks) + data[at:]


def jpeg(*segments: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", quality=100)
    return b"\xff\xd8" + b"".join(segments) + buffer.getvalue()[2:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def webp(told: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "WEBP", lossless=True, exif=told)
    return buffer.getvalue()


def profile(told: bytes) -> bytes:
    """EXIF as ImageMagick lays it down."""
    return b"Raw profile type exif\0" + f"\nexif\n{len(told) + 6:8}\n{(b'Exif' + bytes(2) + told).hex()}\n".encode()


def itxt(body: bytes) -> bytes:
    return chunk(b"iTXt", body)


CARRIERS = {
    "png": lambda told: png(chunk(b"eXIf", told)),
    "png, at its end": lambda told: png(chunk(b"eXIf", told), behind=True),
    "png, as text": lambda told: png(chunk(b"tEXt", profile(told))),
    "jpeg": lambda told: jpeg(segment(0xE1, b"Exif\0\0" + told)),
    "jpeg, behind a comment": lambda told: jpeg(segment(0xFE, b"hm"), b"\xff", segment(0xE1, b"Exif\0\0" + told)),
    "webp": webp,
}


@pytest.mark.parametrize("oddity", ODD)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_orientation_that_can_be_read_is_obeyed_whatever_stands_beside_it(carrier: str, oddity: str) -> None:
    photo = decode(CARRIERS[carrier](ODD[oddity]))
    assert photo.full_size == photo.image.size == (8, 12)
    assert np.abs(np.asarray(photo.image.convert("L")).astype(int) - TURNED).max() <= 3
    assert photo.notes == ("turned upright",)


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_metadata_that_cannot_be_read_is_noted_and_the_pixels_are_taken(carrier: str, fault: str) -> None:
    photo = decode(CARRIERS[carrier](BROKEN[fault]))
    assert np.abs(np.asarray(photo.image.convert("L")).astype(int) - PIXELS).max() <= 3
    assert photo.notes == (UNREAD,)


@pytest.mark.parametrize(
    "piece",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"zTXt", b"Comment\0\0this is not compressed"),
        chunk(b"tEXt", b"Comment\0" + bytes(3_000_000)),
        itxt(b"Comment\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"iCCP", b"profile"),
        chunk(b"pHYs", b"1"),
        chunk(b"cHRM", b"1"),
        chunk(b"tEXt", b"Author\0me")[:-4] + b"sum?",
    ],
    ids=["3 MB", "damaged", "plain", "international", "profile of 2 MB", "no profile", "pHYs", "cHRM", "sum"],
)
def test_a_piece_of_a_png_that_is_not_of_its_pixels_costs_nothing_and_is_not_worth_a_word(piece: bytes) -> None:
    photo = decode(png(piece))
    assert np.array_equal(photo.image, PIXELS)
    assert photo.notes == ()


@pytest.mark.parametrize(
    "piece",
    [
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  12\nno digits\n"),
        chunk(b"zTXt", b"Raw profile type exif\0\0no stream"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"eXIf", exif(t274=(SHORT, [6])))[:-4] + b"sum?",
    ],
    ids=["digits", "stream", "3 MB", "sum"],
)
def test_a_piece_of_a_png_that_may_have_held_an_orientation_is_noted(piece: bytes) -> None:
    photo = decode(png(piece))
    assert np.array_equal(photo.image, PIXELS)
    assert photo.notes == (UNREAD,)
    # Another one that can be read is obeyed.
    photo = decode(
        png(
            piece,
            chunk(b"zTXt", (told := profile(ODD["resolution unit in words"]))[:22] + b"\0" + zlib.compress(told[22:])),
        )
    )
    assert np.array_equal(photo.image, TURNED)
    assert photo.notes == ("turned upright",)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "data",
    [
        png(itxt(b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        png(itxt(b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(XMP))),
        jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        jpeg(segment(0xE1, b"Exif\0\0" + BROKEN["of zeros"]), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        write_tiff(PIXELS[..., None].astype(int), 8, tags={700: (1, XMP)}),
        write_tiff(PIXELS[..., None].astype(int), 8, tags={700: (ASCII, XMP + b"\0")}),
    ],
    ids=["png", "packed png", "jpeg", "jpeg with bad EXIF", "tiff", "tiff, as text"],
)
def test_an_orientation_in_xmp_alone_is_obeyed(data: bytes) -> None:
    photo = decode(data)
    assert photo.image.size == photo.full_size == (8, 12)
    assert np.abs(np.asarray(photo.image.convert("L")).astype(int) - TURNED).max() <= 3
    assert photo.notes == ("turned upright",)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(
    "tags",
    [
        {RESOLUTION_UNIT: (ASCII, b"inches\0")},
        {282: (ASCII, b"many\0"), 283: (ASCII, b"many\0"), RESOLUTION_UNIT: (SHORT, [3])},
        {282: (SHORT, [3, 4]), 283: (SHORT, [3, 4]), RESOLUTION_UNIT: (SHORT, [3])},
        {34665: (LONG, [10**9])},
        {34665: (ASCII, b"elsewhere\0"), 34853: (ASCII, b"south\0")},
        {MAKE: (LONG, [4, 5, 6])},
        {700: (LONG, [4, 5, 6])},
    ],
    ids=["unit", "text", "several", "nowhere", "GPS", "make", "XMP"],
)
def test_odd_tags_of_a_tiff_cost_nothing(tags: dict[int, Entry], compression: int) -> None:
    samples = PIXELS[..., None].astype(int)
    plain = decode(write_tiff(samples, 8, compression=compression, tags=tags))
    assert np.array_equal(plain.image, PIXELS)
    assert plain.notes == ()
    turned = decode(write_tiff(samples, 8, compression=compression, tags=tags | {ORIENTATION: (SHORT, [6])}))
    assert np.array_equal(turned.image, TURNED)
    assert turned.notes == ("turned upright",)


def test_a_tiff_whose_orientation_is_in_words_is_noted() -> None:
    photo = decode(write_tiff(PIXELS[..., None].astype(int), 8, tags={ORIENTATION: (ASCII, b"turn it\0")}))
    assert np.array_equal(photo.image, PIXELS)
    assert photo.notes == (UNREAD,)


def test_exif_in_two_segments_of_a_jpeg_is_one() -> None:
    told = exif(t271=(ASCII, b"maker of cameras" * 20), t274=(SHORT, [6]))
    first, second = (segment(0xE1, b"Exif\0\0" + part) for part in (told[:100], told[100:]))
    assert decode(jpeg(first, second)).notes == ("turned upright",)


def test_what_says_how_the_colours_of_a_jpeg_are_meant_stays_in_it() -> None:
    picture = Image.fromarray(synthetic(0, 48, 32))
    for options in ({}, {"keep_rgb": True}, {"subsampling": 0}):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=100, icc_profile=bytes(200_000), comment=b"hm", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(Image.open(buffer).convert("RGB"))
        assert np.array_equal(decode(buffer.getvalue()).image, expected)
    inks = io.BytesIO()
    picture.convert("CMYK").save(inks, "JPEG", quality=100)
    assert np.array_equal(decode(inks.getvalue()).image, Image.open(inks).convert("RGB"))


def test_a_jpeg_and_a_png_that_are_cut_within_their_metadata_are_damaged() -> None:
    for data in (jpeg(segment(0xE1, b"Exif\0\0" + bytes(500)))[:300], png(chunk(b"eXIf", bytes(500)))[:300]):
        with pytest.raises(PictureError, match=r"^(damaged: |not a picture in any of )"):
            decode(data)
