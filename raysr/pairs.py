"""Prepared pairs, read back from the shards that the manifest lists."""

import hashlib
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raysr import storage
from raysr.images import Y_LIMITED, Box, Geometry, YRange
from raysr.manifest import Manifest, ManifestError, Shard
from raysr.sources import Split

Y_WEIGHTS = (0.299, 0.587, 0.114)
"""Luminance of red, green and blue (ITU-R BT.601); MATLAB's 65.481, 128.553 and 24.966 are 219 times these."""


class PairRow(NamedTuple):
    """One pair as it is read back."""

    image_id: str
    photograph: str
    hr: UInt8[np.ndarray, "H W"]
    lr: UInt8[np.ndarray, "h w"]
    content_box: Box
    y_range: YRange

    @property
    def flat(self) -> bool:
        """Whether the target is one value everywhere inside its content box."""
        left, top, right, bottom = self.content_box
        content = self.hr[top:bottom, left:right]
        return bool(content.min() == content.max())


class Group(NamedTuple):
    """The pixels of the pairs of one row group."""

    hr: UInt8[np.ndarray, "n H W"]
    lr: UInt8[np.ndarray, "n h w"]
    content_boxes: list[Box]


class PairSet:
    """The pairs of one split of a prepared set, read by row group from the shards that the manifest lists."""

    def __init__(
        self,
        location: str,
        split: Split,
        *,
        verify: bool = True,
        only: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> None:
        """Open the set in folder `location`; `verify` reads every listed shard once and checks its hash.

        `only` takes the pairs of these photographs, and `without` those of all but these.

        Raises ManifestError, naming the shard, when one is missing, cut, changed or does not hold what it should.
        """
        self.location = location
        self.manifest = Manifest.read(location)
        self.split: Split = split
        self.groups: list[tuple[str, int, int]] = []
        """(shard, row group, rows) of every group of pairs, in the order of the manifest."""
        for shard in self.manifest.shards:
            if shard.name.startswith(f"{split}-"):
                check_shard(location, shard, verify=verify)
                self.groups += [(shard.name, group, rows) for group, rows in enumerate(shard.groups)]
        if len(self) != self.manifest.pairs[split]:
            raise ManifestError(
                f"{location} holds {len(self)} {split} pairs where its manifest says {self.manifest.pairs[split]}"
            )
        self._kept: dict[tuple[str, int], list[int]] = {}
        """Rows of each row group, where not all of them are taken."""
        if only is not None or without:
            self._choose(lambda photograph: (only is None or photograph in only) and photograph not in without)

    def __len__(self) -> int:
        return sum(rows for _, _, rows in self.groups)

    @property
    def geometry(self) -> Geometry:
        """How the pairs were made."""
        return self.manifest.geometry

    @property
    def photographs(self) -> set[str]:
        """Those that the pairs are of."""
        tables = (self._read(shard, group, "photograph") for shard, group, _ in self.groups)
        return {name for table in tables for name in table["photograph"].to_pylist()}

    def _choose(self, wanted: Callable[[str], bool]) -> None:
        every, self.groups = self.groups, []
        for shard, group, _ in every:
            names = self._read(shard, group, "photograph")["photograph"].to_pylist()
            kept = [row for row, name in enumerate(names) if wanted(name)]
            if kept:
                self._kept[shard, group] = kept
                self.groups.append((shard, group, len(kept)))

    def _read(self, shard: str, group: int, *columns: str) -> pa.Table:
        with _open(self.location, shard) as file:
            table = file.read_row_group(group, columns=list(columns))
        return table.take(self._kept[shard, group]) if (shard, group) in self._kept else table

    def read_arrays(self, index: int) -> Group:
        """The pixels of one row group, views of what was read, without a copy."""
        shard, group, _ = self.groups[index]
        table = self._read(shard, group, "hr", "lr", "content_box")
        boxes = [Box(*box) for box in table["content_box"].to_pylist()]
        return Group(_pixels(table, "hr", self.geometry.hr_px), _pixels(table, "lr", self.geometry.lr_px), boxes)

    def read_group(self, index: int) -> list[PairRow]:
        """The pairs of one row group."""
        shard, group, _ = self.groups[index]
        table = self._read(shard, group, "image_id", "photograph", "hr", "lr", "content_box")
        image_ids, photographs = (table[column].to_pylist() for column in ("image_id", "photograph"))
        hr, lr = (_pixels(table, "hr", self.geometry.hr_px), _pixels(table, "lr", self.geometry.lr_px))
        boxes = [Box(*box) for box in table["content_box"].to_pylist()]
        y_range = self.geometry.y_range
        return [PairRow(*row, y_range) for row in zip(image_ids, photographs, hr, lr, boxes, strict=True)]

    def rows(self, rank: int = 0, world_size: int = 1) -> list[PairRow]:
        """A rank's run of all pairs, in stored order: its share of a validation. It reads no other row groups."""
        runs = rank_runs([rows for _, _, rows in self.groups], rank, world_size)
        return [row for group, mine in runs.items() for row in self.read_group(group)[mine.start : mine.stop]]


def rank_runs(group_rows: list[int], rank: int, world_size: int) -> dict[int, range]:
    """A rank's run of all stored rows: the rows of each of its row groups."""
    total = sum(group_rows)
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    runs: dict[int, range] = {}
    before = 0
    for group, rows in enumerate(group_rows):
        low, high = max(first - before, 0), min(last - before, rows)
        if low < high:
            runs[group] = range(low, high)
        before += rows
    return runs


def _open(location: str, shard: str) -> pq.ParquetFile:
    store, path = storage.filesystem(storage.join(location, shard))
    return pq.ParquetFile(path, filesystem=store, memory_map="://" not in location)


def check_shard(location: str, shard: Shard, *, verify: bool) -> None:
    """Raise ManifestError, naming the shard, when it is missing, cut, or (where `verify`) changed."""
    file = storage.join(location, shard.name)
    try:
        found = storage.size(file)
    except FileNotFoundError as error:
        raise ManifestError(f"shard {shard.name} of {location} is missing: prepare the set again") from error
    if found != shard.bytes:
        raise ManifestError(f"shard {shard.name} of {location} has {found} bytes, not {shard.bytes}: prepare again")
    if not verify:
        return
    if hashlib.sha256(storage.read_bytes(file)).hexdigest() != shard.sha256:
        raise ManifestError(f"shard {shard.name} of {location} is not what was written (sha256): prepare again")
    with _open(location, shard.name) as parquet:
        if parquet.metadata.num_rows != shard.rows:
            rows = parquet.metadata.num_rows
            raise ManifestError(f"shard {shard.name} of {location} has {rows} rows, not {shard.rows}: prepare again")


def _pixels(table: pa.Table, column: str, side: int) -> UInt8[np.ndarray, "n side side"]:
    """A column of squares as one array on the buffer that was read."""
    squares = table[column].combine_chunks()
    _, offsets, data = squares.buffers()
    ends = np.frombuffer(offsets, np.int32)[squares.offset : squares.offset + len(squares) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].reshape(len(squares), side, side)


def to_unit(pictures: UInt8[Tensor, "n 1 h w"], y_range: YRange) -> Float[Tensor, "n 1 h w"]:
    """Stored luminance as floats: black is 0 and white is 1."""
    if y_range == "limited":
        black, white = Y_LIMITED
        return (pictures.float() - black) / (white - black)
    return pictures.float() / 255


def to_tensor(pictures: list[UInt8[np.ndarray, "h w"]], y_range: YRange) -> Float[Tensor, "n 1 h w"]:
    """Stored pictures of one size as a float tensor, black 0 and white 1."""
    return to_unit(torch.from_numpy(np.stack(pictures)).unsqueeze(1), y_range)


def to_y(rgb: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Luminance of colours from 0 to 1, in full precision."""
    return torch.einsum("nchw,c->nhw", rgb, torch.tensor(Y_WEIGHTS, device=rgb.device))[:, None]
