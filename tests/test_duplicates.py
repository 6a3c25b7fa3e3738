import io

import numpy as np
import pytest
from conftest import synthetic
from PIL import Image

from raysr.duplicates import NEAR_BITS, near_duplicates, perceptual_hash, pixel_hash
from raysr.images import luminance
from raysr.sources import find_photographs


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    """Luminance of the bundled photographs, of the stereo pair only one."""
    found = find_photographs("bundled", val_share=0.1, seed=0).photographs
    return {photo.photograph: luminance(Image.open(photo.location).convert("RGB")) for photo in found}


def recompressed(y: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    y.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


COPIES = {
    "recompressed": lambda y: recompressed(y, 30),
    "shrunk": lambda y: y.resize((y.width // 3, y.height // 3), Image.Resampling.BICUBIC),
    "brightened": lambda y: y.point([min(255, round(v * 1.15 + 8)) for v in range(256)]),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_photograph_is_found_and_no_other(photographs: dict[str, Image.Image], copy: str) -> None:
    copies = [(name, perceptual_hash(COPIES[copy](y))) for name, y in photographs.items()]
    originals = [(name, perceptual_hash(y)) for name, y in photographs.items()]
    found = near_duplicates(copies, originals)
    assert {(one.train, one.val) for one in found} == {(name, name) for name in photographs}
    assert max(one.bits for one in found) <= NEAR_BITS
    others = [near_duplicates([copies[i]], originals[:i] + originals[i + 1 :]) for i in range(len(copies))]
    assert others == [[]] * len(copies)


def test_nothing_is_near_nothing() -> None:
    one = [("a", perceptual_hash(Image.fromarray(synthetic(0, 60, 40, channels=1))))]
    assert near_duplicates([], one) == near_duplicates(one, []) == []


def test_many_are_compared_in_parts_as_at_once() -> None:
    hashes = [(str(i), np.random.default_rng(i % 400).bytes(18).hex()) for i in range(700)]
    found = near_duplicates(hashes, hashes[:400])
    assert [(one.train, one.val, one.bits) for one in found] == [(str(i), str(i % 400), 0) for i in range(700)]


def test_the_hash_of_pixels_is_of_their_size_too() -> None:
    y = Image.fromarray(synthetic(0, 60, 40, channels=1))
    assert pixel_hash(y) == pixel_hash(y.copy())
    changed = np.asarray(y).copy()
    changed[3, 4] ^= 1
    shapes = (Image.frombytes("L", size, y.tobytes()) for size in ((40, 60), (2400, 1)))
    assert len({pixel_hash(one) for one in (y, Image.fromarray(changed), *shapes)}) == 4
