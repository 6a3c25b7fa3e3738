"""Writes TIFFs of every layout, which no library here does."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

BYTE, ASCII, SHORT, LONG = 1, 2, 3, 4
CODES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I"}
Entry = tuple[int, Sequence[int]]


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples, each filled up to whole bytes."""
    if bits % 8 == 0:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    rows = samples.reshape(len(samples), -1, 1) >> np.arange(bits)[::-1] & 1
    return b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in rows)


def directory(entries: dict[int, Entry], at: int, order: str, following: bool = False) -> bytes:
    """One directory of tags, to stand at byte `at`, and what its tags refer to; another may follow right behind."""
    start, told, behind = at + 2 + 12 * len(entries) + 4, struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", start + len(behind))
        behind += value + bytes(len(value) % 2) if len(value) > 4 else b""
        told += struct.pack(order + "HHI", tag, kind, len(values)) + place
    return told + struct.pack(order + "I", start + len(behind) if following else 0) + behind


def tiff_pages(*pages: tuple[bytes, dict[int, Entry]], order: str = "<") -> bytes:
    """A TIFF of the pages, each its one strip and its tags; those that say where the strip lies are added."""
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        order + "I", 8 + sum(len(strip) for strip, _ in pages)
    )
    strips = 8
    for strip, _ in pages:
        data += strip
    for index, (strip, tags) in enumerate(pages):
        place = {273: (LONG, [strips]), 279: (LONG, [len(strip)])}
        data += directory(tags | place, len(data), order, following=index + 1 < len(pages))
        strips += len(strip)
    return data


def write_tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int = 1,
    *,
    order: str = "<",
    planar: int = 1,
    compression: int = 1,
    predictor: int = 1,
    sample_format: int = 1,
    fill_order: int = 1,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    extra: Sequence[int] = (),
    tags: dict[int, Entry] | None = None,
) -> bytes:
    """A TIFF of whole numbers [h, w, samples], none above `bits` bits, compressed by nothing (1) or deflate (8)."""
    height, width, count = samples.shape
    rows_per_strip = rows_per_strip or height

    def chunk(part: np.ndarray) -> bytes:
        if predictor == 2:
            part = part.copy()
            part[:, 1:] = part[:, 1:] - part[:, :-1] & (1 << bits) - 1
        data = packed(part, bits, order)
        data = zlib.compress(data) if compression == 8 else data
        if fill_order == 2:
            data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")).tobytes()
        return data + bytes(len(data) % 2)

    parts = [samples] if planar == 1 else [samples[..., [one]] for one in range(count)]
    chunks: list[bytes] = []
    for part in parts:
        if tile is None:
            chunks += [chunk(part[y : y + rows_per_strip]) for y in range(0, height, rows_per_strip)]
            continue
        fitting = ((0, -height % tile), (0, -width % tile), (0, 0))
        whole = np.pad(part, fitting)
        places = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
        chunks += [chunk(whole[y : y + tile, x : x + tile]) for y, x in places]
    starts = np.cumsum([8, *map(len, chunks)]).tolist()
    entries: dict[int, Entry] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * count),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        266: (SHORT, [fill_order]),
        277: (SHORT, [count]),
        284: (SHORT, [planar]),
        317: (SHORT, [predictor]),
        339: (SHORT, [sample_format] * count),
    }
    entries |= {338: (SHORT, extra)} if extra else {}
    sizes = list(map(len, chunks))
    if tile is None:
        entries |= {273: (LONG, starts[:-1]), 278: (LONG, [rows_per_strip]), 279: (LONG, sizes)}
    else:
        entries |= {322: (LONG, [tile]), 323: (LONG, [tile]), 324: (LONG, starts[:-1]), 325: (LONG, sizes)}
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", starts[-1])
    return head + b"".join(chunks) + directory(entries | (tags or {}), starts[-1], order)
