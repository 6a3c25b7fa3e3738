"""Photographs that are in both splits: the same pixels, and pictures that look alike."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import dctn

HASH_SIDE = 12
"""Lowest frequencies in each direction that a perceptual hash looks at: 144 bits."""

NEAR_BITS = 28
"""So many bits may differ between near-duplicates. Of 541 photographs, no two differed in fewer than 44, and copies
that were recompressed, shrunk, brightened or trimmed by 2 % on each side differed in 28 at most (docs/log.md)."""


def pixel_hash(y: Image.Image) -> str:
    """SHA-256 over the size and the samples of a luminance picture."""
    return hashlib.sha256(f"{y.width} {y.height} ".encode() + y.tobytes()).hexdigest()


def perceptual_hash(y: Image.Image) -> str:
    """The signs of the lowest frequencies about their median, in hexadecimal (pHash; Zauner 2010)."""
    side = 4 * HASH_SIDE
    small = np.asarray(y.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0), np.float32)
    low = np.asarray(dctn(small, norm="ortho"))[:HASH_SIDE, :HASH_SIDE]
    return np.packbits(low > np.median(low)).tobytes().hex()


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """A training photograph that looks like one that validates."""

    train: str
    val: str
    bits: int
    """In how many of the 144 bits of their perceptual hashes they differ."""


def near_duplicates(train: Sequence[tuple[str, str]], val: Sequence[tuple[str, str]]) -> list[NearDuplicate]:
    """For every (name, perceptual hash) in `train` that is within NEAR_BITS of one in `val`, the nearest of these."""
    if not train or not val:
        return []
    seen = _bits(val)
    found: list[NearDuplicate] = []
    for start in range(0, len(train), 256):
        some = train[start : start + 256]
        distances = np.bitwise_count(_bits(some)[:, None] ^ seen[None]).sum(-1, dtype=np.int64)
        for row, nearest in enumerate(distances.argmin(1)):
            bits = int(distances[row, nearest])
            if bits <= NEAR_BITS:
                found.append(NearDuplicate(train=some[row][0], val=val[int(nearest)][0], bits=bits))
    return found


def _bits(photographs: Sequence[tuple[str, str]]) -> np.ndarray:
    return np.array([np.frombuffer(bytes.fromhex(value), np.uint8) for _, value in photographs])
