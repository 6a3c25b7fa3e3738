"""Prepared pairs, read back: rows for validation, batches for training."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raysr import storage
from raysr.images import Box, Geometry
from raysr.manifest import Manifest, ManifestError, Shard
from raysr.sources import Split

WINDOW_ROWS = 512
"""Rows that are shuffled together: the pairs that a training process holds in memory."""

_ORDER, _AUGMENT = 1, 2  # keep the random streams of one seed apart


class PairRow(NamedTuple):
    """One pair as it is read back."""

    image_id: str
    photograph: str
    hr: UInt8[np.ndarray, "H W"]
    lr: UInt8[np.ndarray, "h w"]
    content_box: Box


class Batch(NamedTuple):
    """Luminance in [0, 1]."""

    lr: Float[Tensor, "n 1 h w"]
    hr: Float[Tensor, "n 1 H W"]


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
            if not shard.name.startswith(f"{split}-"):
                continue
            _check(location, shard, verify=verify)
            self.groups += _pair_groups(location, shard)
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

    def read_group(self, index: int) -> list[PairRow]:
        """The pairs of one row group."""
        shard, group, _ = self.groups[index]
        table = self._read(shard, group, "image_id", "photograph", "hr", "lr", "content_box")
        hr_px, lr_px = self.geometry.hr_px, self.geometry.hr_px // self.geometry.scale
        return [
            PairRow(
                row["image_id"],
                row["photograph"],
                np.frombuffer(row["hr"], np.uint8).reshape(hr_px, hr_px),
                np.frombuffer(row["lr"], np.uint8).reshape(lr_px, lr_px),
                Box(*row["content_box"]),
            )
            for row in table.to_pylist()
        ]

    def rows(self, rank: int = 0, world_size: int = 1) -> list[PairRow]:
        """Every `world_size`-th pair from `rank` on, in stored order: a rank's share of a validation."""
        everything = (row for index in range(len(self.groups)) for row in self.read_group(index))
        return [row for i, row in enumerate(everything) if i % world_size == rank]


def _open(location: str, shard: str) -> pq.ParquetFile:
    store, path = storage.filesystem(storage.join(location, shard))
    return pq.ParquetFile(path, filesystem=store, memory_map="://" not in location)


def _check(location: str, shard: Shard, *, verify: bool) -> None:
    file = storage.join(location, shard.name)
    try:
        found = storage.size(file)
    except FileNotFoundError as error:
        raise ManifestError(f"shard {shard.name} of {location} is missing: prepare the set again") from error
    if found != shard.bytes:
        raise ManifestError(f"shard {shard.name} of {location} has {found} bytes, not {shard.bytes}: prepare again")
    if verify and hashlib.sha256(storage.read_bytes(file)).hexdigest() != shard.sha256:
        raise ManifestError(f"shard {shard.name} of {location} is not what was written (sha256): prepare again")


def _pair_groups(location: str, shard: Shard) -> list[tuple[str, int, int]]:
    with _open(location, shard.name) as file:
        if file.metadata.num_rows != shard.rows:
            raise ManifestError(f"shard {shard.name} of {location} has {file.metadata.num_rows} rows, not {shard.rows}")
        groups: list[tuple[str, int, int]] = []
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            # Refused photographs fill a row group of their own: every other group has nothing but nulls here.
            position = next(i for i in range(group.num_columns) if group.column(i).path_in_schema == "error")
            if group.column(position).statistics.null_count == group.num_rows:
                groups.append((shard.name, index, group.num_rows))
        return groups


def epoch_order(group_rows: list[int], *, seed: int, epoch: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    """This rank's pairs of one epoch, as (row group, row in it): a pure function of its arguments.

    Row groups are shuffled and laid end to end; each rank takes an equal run of them (up to `world_size` - 1 pairs are
    left out of an epoch) and shuffles it in windows of WINDOW_ROWS, so that few groups are open at a time. No pair
    comes twice in an epoch, on any rank.
    """
    groups = np.random.default_rng([_ORDER, seed, epoch]).permutation(len(group_rows))
    everything = [(int(g), row) for g in groups for row in range(group_rows[g])]
    share = len(everything) // world_size
    mine = everything[rank * share : (rank + 1) * share]
    rng = np.random.default_rng([_ORDER, seed, epoch, 1 + rank])
    order: list[tuple[int, int]] = []
    for start in range(0, share, WINDOW_ROWS):
        window = mine[start : start + WINDOW_ROWS]
        order += [window[i] for i in rng.permutation(len(window))]
    return order


class TrainingBatches:
    """The batch of each step, for one rank: a pure function of (seed, step, rank, world size)."""

    def __init__(
        self,
        pairs: PairSet,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        patch_px: int | None = None,
    ) -> None:
        """`batch_size` is over all ranks; `patch_px` gives random crops of that many target pixels, flipped and turned.

        Raises ValueError when the set is smaller than a batch, or a size does not fit.
        """
        scale, hr_px = pairs.geometry.scale, pairs.geometry.hr_px
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch size {batch_size} must be a positive multiple of the {world_size} workers")
        if patch_px is not None and (patch_px % scale or not scale <= patch_px <= hr_px):
            raise ValueError(f"--patch-px {patch_px} must be a multiple of the scale {scale} and at most {hr_px}")
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.patch_px = patch_px
        self.steps_per_epoch = len(pairs) // world_size // (batch_size // world_size)
        if self.steps_per_epoch == 0:
            raise ValueError(f"{pairs.location} has {len(pairs)} training pairs, fewer than a batch of {batch_size}")
        self._order: tuple[int, list[tuple[int, int]]] = (-1, [])
        self._groups: OrderedDict[int, list[PairRow]] = OrderedDict()
        self._max_rows = WINDOW_ROWS + 2 * max(rows for _, _, rows in pairs.groups)

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rows = [rows for _, _, rows in self.pairs.groups]
            order = epoch_order(rows, seed=self.seed, epoch=epoch, rank=self.rank, world_size=self.world_size)
            self._order = (epoch, order)
        share = self.batch_size // self.world_size
        chosen = self._order[1][position * share : (position + 1) * share]
        rng = np.random.default_rng([_AUGMENT, self.seed, step, self.rank])
        examples = [self._example(self._group(group)[row], rng) for group, row in chosen]
        return Batch(to_tensor([lr for lr, _ in examples]), to_tensor([hr for _, hr in examples]))

    def _group(self, index: int) -> list[PairRow]:
        if index not in self._groups:
            self._groups[index] = self.pairs.read_group(index)
            while sum(map(len, self._groups.values())) > self._max_rows:
                self._groups.popitem(last=False)
        self._groups.move_to_end(index)
        return self._groups[index]

    def _example(self, row: PairRow, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self.patch_px is None:
            return row.lr, row.hr
        return random_patch(row, self.patch_px, self.pairs.geometry.scale, rng)


def random_patch(row: PairRow, patch_px: int, scale: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random aligned crop of (lr, hr) in one of 8 orientations: inside the content box, or around a thinner one."""
    origin: list[int] = []
    for low, high in ((row.content_box.top, row.content_box.bottom), (row.content_box.left, row.content_box.right)):
        first, last = -(-low // scale), (high - patch_px) // scale
        if last < first:  # the content is thinner than the patch: take all of it, with as much of the bars as it needs
            first, last = max(0, last), min(low // scale, (row.hr.shape[0] - patch_px) // scale)
        origin.append(int(rng.integers(first, last + 1)))
    (y, x), side = origin, patch_px // scale
    lr = row.lr[y : y + side, x : x + side]
    hr = row.hr[y * scale : y * scale + patch_px, x * scale : x * scale + patch_px]
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    lr, hr = np.rot90(lr, turns), np.rot90(hr, turns)
    return (lr[:, ::-1], hr[:, ::-1]) if flip else (lr, hr)


def to_tensor(pictures: list[UInt8[np.ndarray, "h w"]]) -> Float[Tensor, "n 1 h w"]:
    """uint8 pictures of one size as a float tensor in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).unsqueeze(1).float() / 255
