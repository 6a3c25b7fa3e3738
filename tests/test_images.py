import io
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import synthetic
from PIL import Image
from tiffs import write_tiff

from raysr.decoding import decode, pixels_of
from raysr.images import (
    LEAST_PX,
    Box,
    Geometry,
    degrade,
    fit_into_square,
    imresize,
    luminance,
    make_pairs,
)
from raysr.layouts import PictureError
from raysr.metadata import ORIENTATION
from raysr.metrics import SSIM_MIN_PX

BICUBIC = Image.Resampling.BICUBIC
SET14 = Path(__file__).parents[2] / "shared" / "data" / "set14"

UPRIGHT_TO_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),  # to be shown turned clockwise, so it is stored turned the other way
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of which Pillow cannot write the like."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey_png(picture: np.ndarray) -> bytes:
    return encoded(Image.fromarray(picture))


PHOTO = Image.fromarray(synthetic(0, 48, 32))
LARGE = Image.fromarray(synthetic(1, 300, 200))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("file_format", "tolerance"), [("PNG", 0), ("WEBP", 0), ("JPEG", 3), ("TIFF", 0)])
def test_every_exif_orientation_gives_the_upright_picture(file_format: str, tolerance: int, orientation: int) -> None:
    blocks = np.random.default_rng(1).integers(0, 256, (4, 6), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    stored = Image.fromarray(np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](blocks))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(file_format, {})
    photo = decode(encoded(stored, file_format, exif=exif, **options))
    picture = np.asarray(photo.image)
    assert picture.shape == (32, 48, 3)
    assert photo.full_size == (48, 32)
    assert abs(picture.astype(int) - blocks[..., None]).max() <= tolerance


def tiff(width: int, height: int, bits: int, data: bytes, **tags: int) -> bytes:
    """A grey little-endian TIFF in one strip; `tags` as t262=0."""
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data


def test_a_tiff_that_only_its_xmp_turns_keeps_its_proportions() -> None:
    stored = np.random.default_rng(2).integers(0, 256, (48, 32), np.uint8)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(Image.fromarray(stored), "TIFF", tiffinfo={700: xmp})
    photo = decode(data)
    assert photo.full_size == photo.image.size == (48, 32)
    (pair,) = make_pairs(data, Geometry(hr_px=48, fit="pad")).pairs
    assert pair.content_box == (0, 8, 48, 40)
    assert np.array_equal(pair.hr[8:40], np.rot90(stored, -1))


def test_twelve_bits_are_scaled_to_eight() -> None:
    samples = [0, 4095, 2048, 16]
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(samples[::2], samples[1::2], strict=True)
    )
    assert np.asarray(decode(tiff(4, 1, 12, packed)).image).tolist() == [[0, 255, 128, 1]]


def test_a_sixteen_bit_negative_is_read_as_the_picture_that_it_is() -> None:
    data = struct.pack("<4H", 65535, 0, 257, 65535 - 257)
    assert np.asarray(decode(tiff(4, 1, 16, data, t262=0)).image).tolist() == [[0, 255, 254, 1]]
    assert np.asarray(decode(tiff(4, 1, 16, data)).image).tolist() == [[255, 0, 1, 254]]
    assert np.asarray(decode(tiff(2, 1, 8, b"\0\x0a", t262=0)).image).tolist() == [[255, 245]]


def test_the_thumbnail_at_the_beginning_of_a_raw_file_is_refused() -> None:
    with pytest.raises(PictureError, match="its first picture is a thumbnail of another one"):
        decode(tiff(4, 1, 8, bytes(4), t254=1))


def test_luminance_is_pillows_full_range_y() -> None:
    colours = Image.new("RGB", (5, 1))
    colours.putdata([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert np.asarray(luminance(colours)).tolist() == [[255, 0, 76, 149, 29]]
    assert np.array_equal(luminance(PHOTO), np.asarray(PHOTO.convert("YCbCr"))[..., 0])


def test_a_grey_picture_is_its_own_luminance() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(luminance(decode(grey_png(grey)).image), grey)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(file_format: str) -> None:
    deep = (257 * np.arange(256)).astype(np.uint16).reshape(16, 16)
    assert deep.max() == 65535
    picture = decode(encoded(Image.fromarray(deep), file_format)).image
    assert picture.mode == "L"
    assert np.array_equal(picture, np.arange(256).reshape(16, 16))


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight() -> None:
    deep = np.array([[128, 129, 257 + 128, 257 + 129, 65535 - 128, 65535 - 129]], np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(deep))).image).tolist() == [[0, 1, 1, 2, 255, 254]]


def test_sixteen_bit_colour_is_scaled_to_eight() -> None:
    samples = [0, 65535, 257 * 7, 257 * 128, 257 * 254, 257]
    picture = decode(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", *samples))).image
    assert np.asarray(picture).tolist() == [[[0, 255, 7], [128, 254, 1]]]


def transparent(data: bytes, *samples: int) -> bytes:
    """A PNG of ours with the chunk that names its transparent colour."""
    body = b"tRNS" + struct.pack(f">{len(samples)}H", *samples)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def test_a_transparent_grey_of_sixteen_bits_becomes_black() -> None:
    photo = decode(transparent(png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 0x1234, 0x1235, 0xFFFF)), 0x1234))
    assert np.asarray(photo.image).tolist() == [[0, 18, 255]]
    assert photo.notes == ("alpha laid on black", "16 bits rounded to 8")


def test_sixteen_bit_colour_is_cut_to_its_high_byte_and_says_so() -> None:
    data = png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0x00FF, 0x12FF, 0xFFFF, 0x4000, 0x5000, 0x6000))
    assert np.asarray(decode(data).image).tolist() == [[[0, 0x12, 0xFF], [0x40, 0x50, 0x60]]]
    assert decode(data).notes == ("16 bits cut to 8",)
    clear = decode(transparent(data, 0x4000, 0x5000, 0x6000))
    assert np.asarray(clear.image).tolist() == [[[0, 0x12, 0xFF], [0, 0, 0]]]
    assert clear.notes == ("alpha laid on black", "16 bits cut to 8")


@pytest.mark.parametrize("samples", [[0, 255], [0, 65535], [0, 65536], [-1, 5]])
def test_samples_beyond_sixteen_bits_are_refused(samples: list[int]) -> None:
    with pytest.raises(PictureError, match=r"^samples of 32 bits, expected 8 or 16$"):
        decode(encoded(Image.fromarray(np.array([samples], np.int32)), "TIFF"))


def test_signed_samples_are_refused() -> None:
    with pytest.raises(PictureError, match=r"signed samples \(16-bit signed grey\)$"):
        decode(tiff(2, 1, 16, struct.pack("<2h", -1, 5), t339=2))


def test_floating_point_samples_are_refused() -> None:
    with pytest.raises(PictureError, match="floating-point samples, expected 8 or 16 bits"):
        decode(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    inks = Image.new("CMYK", (64, 16))
    for index, ink in enumerate([(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]):
        inks.paste(ink, (index * 16, 0, index * 16 + 16, 16))
    picture = decode(encoded(inks, "JPEG", quality=100)).image
    assert picture.mode == "RGB"
    expected = [[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0]]
    assert abs(np.asarray(picture)[8, 8::16].astype(int) - expected).max() <= 3


def test_a_palette_png_becomes_its_rgb_form() -> None:
    palette = PHOTO.quantize(16)
    assert np.array_equal(decode(encoded(palette)).image, palette.convert("RGB"))


def test_one_bit_black_and_white_becomes_0_and_255() -> None:
    bits = np.array([[True, False, True]])
    assert np.asarray(luminance(decode(encoded(Image.fromarray(bits))).image)).tolist() == [[255, 0, 255]]


def test_transparent_palette_entries_become_black() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.putdata([0, 1])
    assert np.asarray(decode(encoded(image, transparency=0)).image).tolist() == [[[0, 0, 0], [10, 20, 30]]]


@pytest.mark.parametrize(
    ("mode", "samples", "key", "expected"),
    [
        ("RGB", [(200, 100, 50), (10, 20, 30)], (200, 100, 50), [[0, 0, 0], [10, 20, 30]]),
        ("L", [200, 10], 200, [0, 10]),
    ],
)
def test_a_transparent_colour_becomes_black(mode: str, samples: list, key: object, expected: list) -> None:
    image = Image.new(mode, (2, 1))
    image.putdata(samples)
    assert np.asarray(decode(encoded(image, transparency=key)).image).tolist() == [expected]


def test_alpha_is_laid_on_black() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(200, 100, 50, 255), (200, 100, 50, 128), (200, 100, 50, 0)])
    picture = np.asarray(decode(encoded(image)).image)[0]
    assert picture[[0, 2]].tolist() == [[200, 100, 50], [0, 0, 0]]
    assert abs(picture[1] - np.array([200, 100, 50]) * 128 / 255).max() <= 1


@pytest.mark.parametrize(("mode", "options"), [("LA", {}), ("L", {"transparency": 0})])
def test_grey_with_transparency_keeps_its_grey(mode: str, options: dict) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = decode(encoded(Image.fromarray(grey).convert(mode), **options)).image
    assert picture.mode == "L"
    assert np.array_equal(picture, grey)


def test_hidden_grey_becomes_black() -> None:
    image = Image.new("LA", (3, 1))
    image.putdata([(200, 255), (200, 128), (200, 0)])
    assert np.asarray(decode(encoded(image)).image).tolist() == [[200, 100, 0]]


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_many_pages_are_refused(file_format: str) -> None:
    frames = [Image.fromarray(synthetic(seed, 16, 16)) for seed in (1, 2, 3)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match=r"^animated or multi-page \(3 frames\)$"):
        decode(data)


def test_a_still_gif_is_taken() -> None:
    still = PHOTO.quantize(32)
    assert np.array_equal(decode(encoded(still, "GIF")).image, still.convert("RGB"))


def test_the_first_view_of_an_mpo_is_taken() -> None:
    data = encoded(PHOTO, "MPO", save_all=True, append_images=[Image.new("RGB", PHOTO.size)])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.array_equal(decode(data).image, decode(encoded(PHOTO, "JPEG")).image)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^the file is empty$"),
        (b"this is no picture at all\n" * 40, r"^not a picture in any of JPEG, PNG, WEBP, TIFF, BMP, PPM, GIF$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^not a picture in any of "),
        (encoded(LARGE, "JPEG")[:-400], "^damaged: image file is truncated"),
        (encoded(LARGE, "PNG")[:-400], "^damaged: image file is truncated"),
        (png(60_000, 60_000, 8, 2, b""), "^more than 89,478,485 pixels"),
        (png(10_000, 9_000, 8, 2, b""), "^more than 89,478,485 pixels"),
    ],
    ids=["empty", "text", "postscript", "cut-jpeg", "cut-png", "bomb", "small-bomb"],
)
def test_what_is_no_whole_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
def test_the_limit_is_ours_and_pillows_own_is_neither_in_the_way_nor_lost(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(PHOTO, file_format)
    for limit in (500, None):  # Pillow warns above its limit, and refuses above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode(data, max_pixels=48 * 32).image.size == (48, 32)
        with pytest.raises(PictureError, match=r"^more than 1,535 pixels \(48 x 32\); --max-megapixels 1 takes it$"):
            decode(data, max_pixels=48 * 32 - 1)
        with pytest.raises(PictureError, match="damaged"):
            decode(data[: len(data) // 2])
        assert limit == Image.MAX_IMAGE_PIXELS


def test_a_photograph_of_ninety_megapixels_is_taken_where_it_is_asked_for() -> None:
    row = bytes(1251)
    data = png(10_000, 9_000, 1, 0, row * 9_000)
    with pytest.raises(PictureError, match="--max-megapixels 90 takes it"):
        make_pairs(data, Geometry(hr_px=32, fit="pad"))
    (pair,) = make_pairs(data, Geometry(hr_px=32, fit="pad"), pixels_of(90)).pairs
    assert pair.content_box == (0, 1, 32, 30)


def test_the_limit_of_pixels_holds_where_pillows_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(
        PictureError, match=r"^more than 89,478,485 pixels \(10000 x 9000\); --max-megapixels 90 takes it$"
    ):
        decode(png(10_000, 9_000, 8, 2, b""))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_hundred_damaged_files_give_a_picture_or_a_reason(file_format: str) -> None:
    rng = np.random.default_rng(7)
    whole = np.frombuffer(encoded(PHOTO, file_format), np.uint8)
    reasons: list[str] = []
    for _ in range(100):
        data = whole.copy()
        where = rng.integers(0, len(data) if rng.integers(2) else 120, rng.integers(1, 20))
        data[where] = rng.integers(0, 256, len(where))
        cut = len(data) if rng.integers(2) else rng.integers(1, len(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as for a user: Pillow warns of odd metadata and goes on
            try:
                (pair,) = make_pairs(data[:cut].tobytes(), Geometry(hr_px=32, fit="pad")).pairs
                assert pair.hr.shape == (32, 32)
            except PictureError as error:
                reasons.append(str(error))
    assert len(reasons) >= 20
    assert all(reasons)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((200, 100), Box(0, 16, 64, 48)),  # landscape
        ((100, 200), Box(16, 0, 48, 64)),  # portrait
        ((97, 33), Box(0, 21, 64, 43)),
        ((1000, 3), Box(0, 31, 64, 32)),  # a thread of less than a pixel keeps one
        ((64, 64), Box(0, 0, 64, 64)),
        ((300, 300), Box(0, 0, 64, 64)),
    ],
)
def test_a_photograph_is_shrunk_to_fit_and_padded_evenly(size: tuple[int, int], box: Box) -> None:
    y = Image.fromarray(synthetic(3, *size, channels=1))
    square, found = fit_into_square(y, 64)
    assert found == box
    assert square.size == (64, 64)
    expected = np.zeros((64, 64), np.uint8)
    shrunk = y.resize((box.right - box.left, box.bottom - box.top), Image.Resampling.BICUBIC)
    expected[box.top : box.bottom, box.left : box.right] = shrunk
    assert np.array_equal(square, expected)


def test_a_smaller_photograph_is_padded_never_enlarged() -> None:
    picture = synthetic(4, 31, 20, channels=1)
    square, box = fit_into_square(Image.fromarray(picture), 64)
    assert box == Box(16, 22, 47, 42)
    assert np.array_equal(np.asarray(square)[22:42, 16:47], picture)
    assert np.count_nonzero(square) == 31 * 20


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("fit", ["pad", "crop", "tiles"])
def test_the_input_is_pillows_bicubic_of_the_target(fit: str, scale: int) -> None:
    for pair in make_pairs(encoded(PHOTO), Geometry(hr_px=24, scale=scale, fit=fit)).pairs:
        assert pair.hr.shape == (24, 24)
        assert pair.lr.dtype == np.uint8
        expected = Image.fromarray(pair.hr).resize((24 // scale, 24 // scale), Image.Resampling.BICUBIC)
        assert np.array_equal(pair.lr, expected)


def test_degrading_a_flat_picture_keeps_its_value() -> None:
    assert np.asarray(degrade(Image.new("L", (12, 12), 77), 3)).tolist() == [[77] * 4] * 4


def test_tiles_are_the_whole_squares_of_the_full_size_photograph() -> None:
    picture = synthetic(5, 55, 37, channels=1)  # 3 x 2 squares of 16 with margins of 3 and 2 before them
    pairs = make_pairs(grey_png(picture), Geometry(hr_px=16, fit="tiles")).pairs
    corners = [(top, left) for top in (2, 18) for left in (3, 19, 35)]
    assert len(pairs) == 6
    for (top, left), pair in zip(corners, pairs, strict=True):
        assert np.array_equal(pair.hr, picture[top : top + 16, left : left + 16])
        assert pair.content_box == Box(0, 0, 16, 16)


def test_a_photograph_without_a_whole_tile_is_refused() -> None:
    with pytest.raises(PictureError, match=r"^48 x 32 pixels hold no whole square of 64$"):
        make_pairs(encoded(PHOTO), Geometry(hr_px=64, fit="tiles"))


@pytest.mark.parametrize(("size", "left", "top"), [((41, 24), 8, 0), ((24, 41), 0, 8)])
def test_crop_takes_the_largest_centred_square(size: tuple[int, int], left: int, top: int) -> None:
    picture = synthetic(6, *size, channels=1)
    (pair,) = make_pairs(grey_png(picture), Geometry(hr_px=12, fit="crop")).pairs
    square = Image.fromarray(picture[top : top + 24, left : left + 24])
    assert np.array_equal(pair.hr, square.resize((12, 12), Image.Resampling.BICUBIC))
    assert pair.content_box == Box(0, 0, 12, 12)


@pytest.mark.parametrize(("hr_px", "scale"), [(0, 2), (-4, 2), (7, 2), (8, 3)])
def test_a_geometry_that_cannot_be_is_refused_by_its_values(hr_px: int, scale: int) -> None:
    with pytest.raises(ValueError, match=rf"hr_px={hr_px}, scale={scale}"):
        Geometry(hr_px=hr_px, scale=scale)


@pytest.mark.parametrize("scale", [0, -2, 1, 5])
def test_a_scale_other_than_2_3_or_4_is_refused_by_its_value(scale: int) -> None:
    geometry = Geometry(hr_px=20)
    object.__setattr__(geometry, "scale", scale)  # Geometry(scale=...) would stop at the type checks of the tests
    with pytest.raises(ValueError, match=rf"scale 2, 3 or 4; got hr_px=20, scale={scale}$"):
        geometry.__post_init__()


def test_an_undecided_fit_is_refused_where_pairs_are_made() -> None:
    with pytest.raises(ValueError, match="must be pad, crop or tiles here, got None"):
        make_pairs(encoded(PHOTO), Geometry(hr_px=16))


@pytest.mark.skipif(not SET14.is_dir(), reason="uses the photographs of ../shared/data, which is missing here")
def test_colour_and_grey_photographs_of_set14_are_padded_where_their_box_says() -> None:
    modes = set()
    for path in sorted(SET14.iterdir()):
        image = Image.open(io.BytesIO(path.read_bytes()))
        modes.add(image.mode)
        (pair,) = make_pairs(path.read_bytes(), Geometry(hr_px=128, fit="pad")).pairs
        box = pair.content_box
        shrunk = luminance(image).resize((box.right - box.left, box.bottom - box.top), Image.Resampling.BICUBIC)
        assert np.array_equal(pair.hr[box.top : box.bottom, box.left : box.right], shrunk)
        assert (box.left + box.right, box.top + box.bottom) in {(128, 128), (127, 128), (128, 127)}
        ratio = max(image.size) / min(image.size)
        assert 128 / min(shrunk.size) == pytest.approx(ratio, rel=0.01)
    assert {"L", "RGB"} <= modes


def matlab_weights(old: int, new: int) -> np.ndarray:
    """Rows of weights of MATLAB's imresize, from its documentation: a second way to the same numbers."""
    scale = new / old
    width = 4 / min(scale, 1)
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 1) / scale + 0.5 * (1 - 1 / scale)  # counted from 1
        left = int(np.floor(centre - width / 2))
        taps = np.arange(left, left + int(np.ceil(width)) + 2)
        x = np.abs((centre - taps) * min(scale, 1))
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        kernel = np.where(x <= 1, near, np.where(x <= 2, far, 0))
        mirror = np.concatenate([np.arange(old), np.arange(old)[::-1]])
        np.add.at(weights[row], mirror[(taps - 1) % (2 * old)], kernel / kernel.sum())
    return weights


@pytest.mark.parametrize(("width", "height"), [(24, 16), (16, 12), (12, 8), (96, 64), (144, 96), (37, 29)])
def test_imresize_is_matlabs(width: int, height: int) -> None:
    y = np.asarray(luminance(PHOTO))
    exact = matlab_weights(32, height) @ y @ matlab_weights(48, width).T
    resized = imresize(y, width, height)
    assert resized.shape == (height, width)
    assert np.abs(resized - exact.clip(0, 255)).max() <= 0.5001
    assert (resized == np.floor(exact + 0.5).clip(0, 255)).mean() > 0.999


def enlarged(channel: np.ndarray, kernel: str) -> np.ndarray:
    """Half the size and back."""
    hr = Image.fromarray(channel)
    lr = degrade(hr, 2, kernel)
    return imresize(np.asarray(lr), *hr.size) if kernel == "matlab" else np.asarray(lr.resize(hr.size, BICUBIC))


def luma(rgb: np.ndarray, y_range: str) -> np.ndarray:
    """Y of BT.601 in full precision for the limited range, and Pillow's for the full one."""
    if y_range == "full":
        return np.asarray(luminance(Image.fromarray(rgb)), float)
    return rgb @ np.array([65.481, 128.553, 24.966]) / 255 + 16


@pytest.mark.skipif(not SET14.is_dir(), reason="uses the photographs of ../shared/data, which is missing here")
@pytest.mark.parametrize(
    ("kernel", "y_range", "set5", "set14"),
    [("matlab", "limited", 33.68, 30.33), ("pillow", "limited", 33.67, 30.32), ("pillow", "full", 32.33, 28.99)],
)
def test_bicubic_scores_are_those_that_are_published(kernel: str, y_range: str, set5: float, set14: float) -> None:
    for folder, published in ((SET14.parent / "set5", set5), (SET14, set14)):
        scores = []
        for file in sorted(folder.glob("*.png")):
            hr = np.asarray(decode(file.read_bytes()).image.convert("RGB"))
            sr = np.stack([enlarged(hr[..., channel], kernel) for channel in range(3)], axis=-1)
            error = (luma(sr, y_range) - luma(hr, y_range))[2:-2, 2:-2]
            scores.append(10 * np.log10(255**2 / np.square(error).mean()))
        assert np.mean(scores) == pytest.approx(published, abs=0.0101)


@pytest.mark.skipif(not SET14.is_dir(), reason="uses the photographs of ../shared/data, which is missing here")
@pytest.mark.parametrize(("kernel", "set5"), [("matlab", 33.66), ("pillow", 33.64)])
def test_whole_bytes_of_luminance_cost_a_few_hundredths_of_a_decibel(kernel: str, set5: float) -> None:
    scores = []
    for file in sorted((SET14.parent / "set5").glob("*.png")):
        hr = np.asarray(luminance(decode(file.read_bytes()).image, "limited"))
        error = (enlarged(hr, kernel).astype(float) - hr)[2:-2, 2:-2]
        scores.append(10 * np.log10(255**2 / np.square(error).mean()))
    assert np.mean(scores) == pytest.approx(set5, abs=0.0101)  # 33.66 is what the literature prints


def test_limited_luminance_is_matlabs_rgb2ycbcr() -> None:
    colours = Image.new("RGB", (5, 1))
    colours.putdata([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert np.asarray(luminance(colours, "limited")).tolist() == [[235, 16, 81, 145, 41]]
    grey = Image.fromarray(np.array([[0, 128, 255]], np.uint8))
    assert np.asarray(luminance(grey, "limited")).tolist() == [[16, 126, 235]]


def test_a_set_of_limited_range_is_padded_with_its_black_and_made_by_its_kernel() -> None:
    (pair,) = make_pairs(encoded(PHOTO), Geometry(hr_px=48, fit="pad", kernel="matlab", y_range="limited")).pairs
    assert (pair.hr[:8] == 16).all()
    assert 16 <= pair.hr.min() < pair.hr.max() <= 235
    assert np.array_equal(pair.lr, imresize(pair.hr, 24, 24))
    (plain,) = make_pairs(encoded(PHOTO), Geometry(hr_px=48, fit="pad")).pairs
    assert np.abs(pair.hr[8:40] - (16 + plain.hr[8:40] * (219 / 255))).max() <= 1.5  # both were rounded


def test_a_crop_has_no_bars_and_a_photograph_too_small_for_it_is_refused() -> None:
    geometry = Geometry(hr_px=32, fit="crop")
    (pair,) = make_pairs(encoded(PHOTO), geometry).pairs
    assert pair.content_box == (0, 0, 32, 32)
    assert np.array_equal(pair.hr, np.asarray(luminance(PHOTO))[:, 8:40])
    with pytest.raises(PictureError, match=r"^48 x 32 pixels hold no whole square of 34$"):
        make_pairs(encoded(PHOTO), Geometry(hr_px=34, fit="crop"))


@pytest.mark.parametrize("fit", ["pad", "crop", "tiles"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_jpeg_keeps_the_geometry_and_nearly_the_pixels(fit: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    smooth = Image.fromarray(synthetic(5, 50, 33)).resize((997, 661), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=92, exif=exif)
    plain, fast = (make_pairs(data, Geometry(hr_px=96, fit=fit, fast_jpeg=flag)) for flag in (False, True))
    assert [pair.content_box for pair in plain.pairs] == [pair.content_box for pair in fast.pairs]
    for one, two in zip(plain.pairs, fast.pairs, strict=True):
        assert np.abs(one.hr.astype(int) - two.hr).mean() < 1
    assert plain.y.size == ((997, 661) if orientation == 1 else (661, 997))
    halved = {"tiles": 1, "crop": 2, "pad": 4}[fit]  # the last that leaves twice of what is needed
    assert fast.y.size == tuple(-(-side // halved) for side in plain.y.size)


def test_what_was_changed_on_opening_is_noted() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    clear = PHOTO.convert("RGBA")
    clear.putalpha(100)
    deep = Image.fromarray(np.full((4, 4), 300, np.uint16))
    cases = {
        "alpha laid on black": encoded(clear),
        "16 bits rounded to 8": encoded(deep),
        "CMYK turned into RGB": encoded(PHOTO.convert("CMYK"), "JPEG"),
        "turned upright": encoded(PHOTO, "JPEG", exif=exif),
    }
    for note, data in cases.items():
        assert decode(data).notes == (note,)
    assert decode(encoded(PHOTO)).notes == ()


CLEAR = Image.new("RGBA", (16, 16), (200, 100, 50, 0))
KEYED = Image.new("P", (16, 16))
KEYED.putpalette([200, 100, 50])


@pytest.mark.parametrize(
    "data",
    [
        *(encoded(CLEAR, kind) for kind in ("PNG", "TIFF")),
        encoded(CLEAR, "WEBP", lossless=True, exact=True),
        encoded(Image.new("LA", (16, 16), (200, 0))),
        encoded(Image.new("RGB", (16, 16), (9, 8, 7)), transparency=(9, 8, 7)),
        encoded(KEYED, transparency=0),
        encoded(KEYED, "GIF", transparency=0),
        encoded(KEYED.crop((0, 0, 1, 1)), "GIF", transparency=0),
        transparent(png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 7, 7)), 7),
        transparent(png(2, 1, 2, 0, b"\0\xf0"), 3),
        write_tiff(np.full((4, 4, 2), [50, 0]), 8, extra=(1,)),
    ],
)
def test_a_picture_of_which_nothing_is_visible_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match=r"^nothing of it is visible: it is transparent everywhere$"):
        decode(data)


def test_a_picture_of_which_one_pixel_is_visible_is_taken() -> None:
    image = CLEAR.copy()
    image.putpixel((3, 4), (200, 100, 50, 1))
    assert np.asarray(decode(encoded(image)).image).any()


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("fit", ["pad", "crop", "tiles"])
def test_a_picture_of_one_value_is_told_of(fit: str, value: int) -> None:
    geometry = Geometry(hr_px=16, fit=fit)
    flat = Image.new("RGB", (32, 32 if fit == "crop" else 24), (value,) * 3)
    assert make_pairs(encoded(flat), geometry).notes == ("one value everywhere",)
    assert make_pairs(encoded(PHOTO), geometry).notes == ()
    flat.putpixel((20, 12), (value ^ 1,) * 3)
    assert make_pairs(encoded(flat), replace(geometry, hr_px=24, fit="tiles")).notes == ()


def test_tiles_of_one_value_in_a_photograph_are_told_of() -> None:
    sky = np.full((32, 48), 255, np.uint8)
    sky[16:] = synthetic(2, 48, 16)[..., 0]
    assert make_pairs(grey_png(sky), Geometry(hr_px=16, fit="tiles")).notes == ("one value everywhere in some tiles",)
    assert make_pairs(grey_png(sky), Geometry(hr_px=16, fit="pad")).notes == ()


def test_a_padded_square_with_next_to_nothing_in_it_is_refused() -> None:
    assert LEAST_PX == SSIM_MIN_PX
    for size, shrunk in (((3000, 9), "512 x 2"), ((16, 10), "16 x 10"), ((1, 1), "1 x 1"), ((9, 3000), "2 x 512")):
        told = f"^{size[0]} x {size[1]} pixels become {shrunk} in a square of 512, and a side of less than 11 cannot"
        with pytest.raises(PictureError, match=told):
            make_pairs(encoded(Image.new("L", size)), Geometry(hr_px=512, fit="pad"))
    for size in ((11, 11), (512, 11), (3000, 65)):
        (pair,) = make_pairs(encoded(Image.new("L", size)), Geometry(hr_px=512, fit="pad")).pairs
        assert min(pair.content_box.right - pair.content_box.left, pair.content_box.bottom - pair.content_box.top) == 11
    assert make_pairs(encoded(Image.new("L", (8, 8))), Geometry(hr_px=8, fit="pad")).pairs
