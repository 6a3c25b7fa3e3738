"""Every layout of samples gives the pixels that are in the file, or a reason that names it."""

import io
import itertools
import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tiffs import LONG, SHORT, Entry, packed, tiff_pages, write_tiff

from raysr.decoding import decode
from raysr.layouts import PictureError

WIDTH, HEIGHT = 21, 18
NAMED = re.compile(r"^TIFF layout that raysr does not read: |^damaged: .* \(TIFF of |^samples of |^floating-point ")


def waves(samples: int) -> np.ndarray:
    """A picture from 0 to 1, each sample another one."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([0.5 + 0.45 * np.sin(x / (5 + i) + i + y / (7 - i)) for i in range(samples)], axis=-1)


class Kind(NamedTuple):
    photometric: int
    colours: int
    extra: tuple[int, ...] = ()

    def seen(self, values: np.ndarray) -> np.ndarray:
        """What is to be seen of samples from 0 to 1, on black."""
        colour = 1 - values[..., : self.colours] if self.photometric in (0, 5) else values[..., : self.colours]
        if self.photometric == 5:
            colour = colour[..., :3] * colour[..., 3:]
        alpha = values[..., [self.colours]] if 2 in self.extra else 1  # an alpha of 1 has been multiplied already
        return np.broadcast_to(colour * alpha, (HEIGHT, WIDTH, 3))


KINDS = {
    "grey": Kind(1, 1),
    "negative": Kind(0, 1),
    "grey and alpha": Kind(1, 1, (2,)),
    "grey times alpha": Kind(1, 1, (1,)),
    "grey and more": Kind(1, 1, (0,)),
    "RGB": Kind(2, 3),
    "RGB and alpha": Kind(2, 3, (2,)),
    "RGB times alpha": Kind(2, 3, (1,)),
    "RGB and more": Kind(2, 3, (0,)),
    "RGB, alpha and more": Kind(2, 3, (2, 0)),
    "CMYK": Kind(5, 4),
    "CMYK and more": Kind(5, 4, (0,)),
}
SHAPES: dict[str, dict[str, int]] = {"strip": {}, "strips": {"rows_per_strip": 4}, "tiles": {"tile": 16}}
PLAIN = {("strip", 1, 1), ("strips", 1, 1), ("tiles", 1, 1), ("strip", 2, 1), ("strip", 1, 2), ("strip", 1, 4)}
"""Ways to lay out the samples, how the bits are filled in, and their format: one is changed at a time."""


@pytest.mark.parametrize("name", KINDS)
def test_each_tiff_gives_its_own_pixels_or_the_name_of_its_layout(name: str) -> None:
    kind = KINDS[name]
    count = kind.colours + len(kind.extra)
    plans = itertools.product((1, 8, 12, 16, 32), "<>", (1, 2) if count > 1 else (1,), (1, 8), (1, 2), PLAIN)
    right: set[tuple[int, int]] = set()
    reasons: dict[str, object] = {}
    for bits, order, planar, compression, predictor, (shape, fill_order, sample_format) in plans:
        if predictor == 2 and (compression == 1 or bits not in (8, 16, 32)):
            continue
        peak = 2 ** (bits - (sample_format == 2)) - 1
        values = waves(count)
        if 1 in kind.extra:
            values[..., : kind.colours] *= values[..., [kind.colours]]
        samples = np.rint(values * peak).astype(np.int64)
        options = {"predictor": predictor, "sample_format": sample_format, "fill_order": fill_order, **SHAPES[shape]}
        layout = {"order": order, "planar": planar, "compression": compression, **options}
        data = write_tiff(samples, bits, kind.photometric, extra=kind.extra, **layout)
        try:
            picture = np.asarray(decode(data).image.convert("RGB")) / 255
        except PictureError as refused:
            reasons[str(refused)] = (bits, layout)
            continue
        wrong = np.abs(picture - kind.seen(samples / peak)).max()
        assert wrong < (0.03 if count > kind.colours or kind.photometric == 5 else 0.012), (bits, layout)
        right.add((bits, planar))
    assert (8, 1) in right
    assert [(reason, layout) for reason, layout in reasons.items() if not NAMED.search(reason)] == []


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("name", "bits"), [("grey", 16), ("RGB", 8), ("RGB", 16), ("RGB and alpha", 16)])
def test_what_cameras_and_editors_write_is_read(name: str, bits: int, compression: int, order: str) -> None:
    kind, peak = KINDS[name], 2**bits - 1
    samples = np.rint(waves(kind.colours + len(kind.extra)) * peak).astype(np.int64)
    data = write_tiff(samples, bits, kind.photometric, extra=kind.extra, compression=compression, order=order)
    assert np.abs(np.asarray(decode(data).image.convert("RGB")) / 255 - kind.seen(samples / peak)).max() < 0.012


def test_a_tiff_that_is_misread_is_refused_by_the_name_of_its_layout() -> None:
    rgb, grey = np.rint(waves(3) * 255).astype(np.int64), np.rint(waves(1) * 255).astype(np.int64)
    inks, palette = np.rint(waves(4) * 255).astype(np.int64), [*range(256)] * 3
    cases = {
        "uncompressed planes of more than 8 bits (16-bit unsigned RGB, 3 samples": write_tiff(
            257 * rgb, 16, 2, planar=2
        ),
        "uncompressed planes of reversed bits": write_tiff(rgb, 8, 2, planar=2, fill_order=2),
        "signed samples (16-bit signed grey)": write_tiff(128 * grey, 16, sample_format=2),
        "signed samples (8-bit signed grey)": write_tiff(grey // 2, 8, sample_format=2),
        "alpha in a plane of its own": write_tiff(rgb[..., :2], 8, planar=2, compression=8, extra=(2,)),
        "uncompressed colour of fewer samples than luminance": write_tiff(rgb, 8, 6, tags={530: (SHORT, [2, 2])}),
        "a palette of 8 bits where 16 are due": write_tiff(grey, 8, 3, tags={320: (SHORT, palette)}),
        "inks that are not cyan": write_tiff(inks, 8, 5, tags={332: (SHORT, [2])}),
        "inks of which 0 is the most": write_tiff(inks, 8, 5, tags={336: (SHORT, [255, 0])}),
    }
    for reason, data in cases.items():
        with pytest.raises(PictureError, match=r"^TIFF layout that raysr does not read: " + re.escape(reason)):
            decode(data)


@pytest.mark.parametrize(
    ("samples", "bits", "photometric", "name"),
    [
        (1, 10, 1, "10-bit unsigned grey"),
        (3, 12, 2, "12-bit unsigned RGB, 3 samples a pixel"),
        (1, 16, 3, "16-bit unsigned palette"),
        (1, 8, 32803, "8-bit unsigned colour filter array"),
        (1, 8, 40000, "8-bit unsigned photometric 40000"),
    ],
)
def test_a_tiff_that_pillow_does_not_know_is_no_stranger(samples: int, bits: int, photometric: int, name: str) -> None:
    data = write_tiff(np.zeros((4, 4, samples), np.int64), bits, photometric)
    with pytest.raises(PictureError, match=rf"^TIFF layout that raysr does not read: {name}; save it with"):
        decode(data)


def test_a_big_tiff_of_the_other_byte_order_is_named_and_a_cut_one_damaged() -> None:
    with pytest.raises(PictureError, match=r"^TIFF layout that raysr does not read: BigTIFF of big-endian byte order"):
        decode(b"MM\0\x2b" + bytes(60))
    with pytest.raises(PictureError, match=r"^damaged: "):
        decode(write_tiff(np.zeros((4, 4, 1), np.int64), 8)[:9])
    with pytest.raises(PictureError, match=r"^damaged: its TIFF directory lacks the size or the place of the picture$"):
        decode(tiff_pages((b"ab", {258: (SHORT, [8])})))


def test_cielab_is_turned_into_rgb_and_says_so() -> None:
    lab = np.array([[[255, 0, 0], [0, 0, 0], [136, 208, 195]]])  # L of 53, a of -48 and b of -61 modulo 256 is a blue
    photo = decode(write_tiff(lab, 8, 8))
    white, black, blue = np.asarray(photo.image).astype(int)[0]
    assert min(white) > 250
    assert max(black) < 5
    assert blue[2] > blue[1] > blue[0]
    assert photo.notes == ("CIELAB turned into RGB",)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_palette_tiff_gives_its_colours(bits: int, order: str) -> None:
    colours = np.random.default_rng(3).integers(0, 256, (3, 2**bits))
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 2**bits
    data = write_tiff(indices, bits, 3, order=order, tags={320: (SHORT, (257 * colours).ravel().tolist())})
    assert np.array_equal(np.asarray(decode(data).image), colours.T[indices[..., 0]])


def page(grey: int, side: int = 4, **tags: int) -> tuple[bytes, dict[int, Entry]]:
    """A grey page; `tags` as t254=1."""
    entries: dict[int, Entry] = {256: (LONG, [side]), 257: (LONG, [side]), 258: (SHORT, [8]), 259: (SHORT, [1])}
    entries |= {262: (SHORT, [1]), 277: (SHORT, [1]), 278: (LONG, [side])}
    return bytes([grey]) * side**2, entries | {int(name[1:]): (LONG, [value]) for name, value in tags.items()}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tag", [{"t254": 1}, {"t255": 2}])
def test_overviews_and_thumbnails_behind_a_picture_are_passed_over(order: str, tag: dict[str, int]) -> None:
    first, *smaller = page(70), page(50, 2, **tag), page(60, 1, **tag)
    photo = decode(tiff_pages(first, *smaller, order=order))
    assert np.array_equal(np.asarray(photo.image), np.full((4, 4), 70))
    with pytest.raises(PictureError, match=r"^its first picture is a thumbnail of another one"):
        decode(tiff_pages(smaller[0], first, order=order))


def test_an_overview_of_a_layout_that_is_not_read_costs_nothing() -> None:
    strip, tags = page(50, 2, t254=1)
    assert np.asarray(decode(tiff_pages(page(70), (strip, tags | {258: (SHORT, [10])}))).image).max() == 70


def test_pages_masks_and_overviews_among_them_are_refused() -> None:
    for pages, count in (
        ([page(70), page(71)], 2),
        ([page(70), page(50, 2, t254=1), page(71)], 2),
        ([page(70), page(255, t254=4)], 2),
        ([page(70, t254=2), page(71, t254=2), page(72, t254=2)], 3),
    ):
        with pytest.raises(PictureError, match=rf"^animated or multi-page \({count} frames\)$"):
            decode(tiff_pages(*pages))


@pytest.mark.parametrize("following", [8 + 16, 10, 10**9], ids=["itself", "pixels", "nowhere"])
def test_a_page_behind_the_last_one_that_is_none_costs_nothing(following: int) -> None:
    data = bytearray(tiff_pages(page(70)))
    data[-4:] = struct.pack("<I", following)
    assert np.asarray(decode(bytes(data)).image).max() == 70


def png(samples: np.ndarray, depth: int, colour: int, clear: np.ndarray | None) -> bytes:
    """A PNG [h, w, samples] of any depth, with its transparent colour."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + packed(row[None], depth, ">") for row in samples)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour, 0, 0, 0)
    key = b"" if clear is None else chunk(b"tRNS", clear.astype(">u2").tobytes())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
@pytest.mark.parametrize("stray", [0, 1])
def test_the_transparent_colour_of_a_png_is_black_at_every_depth(colour: int, depth: int, stray: int) -> None:
    peak = 2**depth - 1
    samples = np.rint(waves({0: 1, 2: 3}[colour]) * peak).astype(np.int64)
    key = samples[3, 5]
    hidden = (samples == key).all(axis=-1, keepdims=True)
    data = png(samples, depth, colour, key + stray * (peak + 1) % 65536)  # bits above the depth are to be ignored
    expected = np.broadcast_to(np.where(hidden, 0, samples / peak), (HEIGHT, WIDTH, 3))
    assert np.abs(np.asarray(decode(data).image.convert("RGB")) / 255 - expected).max() < 0.004


@pytest.mark.parametrize(("magic", "channels"), [(b"P2", 1), (b"P3", 3), (b"P5", 1), (b"P6", 3)])
@pytest.mark.parametrize("peak", [1, 100, 255, 256, 4095, 65535])
def test_a_ppm_of_every_depth_is_scaled_to_eight_bits_and_says_so(magic: bytes, channels: int, peak: int) -> None:
    samples = np.rint(waves(channels) * peak).astype(np.int64)
    plain = b" ".join(b"%d" % value for value in samples.ravel())
    body = plain if magic in (b"P2", b"P3") else samples.astype(">u2" if peak > 255 else "u1").tobytes()
    photo = decode(magic + b"\n%d %d\n%d\n" % (WIDTH, HEIGHT, peak) + body)
    assert np.abs(np.asarray(photo.image.convert("RGB")) / 255 - samples / peak).max() < 0.0021
    assert photo.notes == (("16 bits rounded to 8",) if peak > 255 else ())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpegs_in_the_tiles_of_a_tiff_are_read_whatever_their_chroma(subsampling: int) -> None:
    y, x = np.mgrid[:32, :48] / 48
    rgb = np.rint(255 * np.stack([x, y, (x + y) / 2], axis=-1)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "JPEG", quality=100, subsampling=subsampling)
    fine = {0: (1, 1), 1: (2, 1), 2: (2, 2)}[subsampling]
    tags: dict[int, Entry] = {256: (LONG, [48]), 257: (LONG, [32]), 258: (SHORT, [8, 8, 8]), 259: (SHORT, [7])}
    tags |= {262: (SHORT, [6]), 277: (SHORT, [3]), 278: (LONG, [32]), 284: (SHORT, [1]), 530: (SHORT, fine)}
    strip = data.getvalue() + bytes(len(data.getvalue()) % 2)
    assert np.abs(np.asarray(decode(tiff_pages((strip, tags))).image).astype(int) - rgb).max() <= 8
