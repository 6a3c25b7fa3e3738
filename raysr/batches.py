"""Batches for training, a pure function of (seed, step, rank, world size): streamed from the shards, or held."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from raysr.images import Box, YRange
from raysr.pairs import Group, PairSet, rank_runs, to_unit

WINDOW_ROWS = 512
"""Rows that are shuffled together: the pairs that a training process holds in memory."""

HELD_SHARE = 0.5
"""Share of an accelerator's free memory that held pairs may take."""

_ORDER, _AUGMENT = 1, 2  # keep the random streams of one seed apart


class Held(NamedTuple):
    """The same, in the memory of a device."""

    hr: UInt8[Tensor, "n H W"]
    lr: UInt8[Tensor, "n h w"]
    content_boxes: list[Box]


Picture = np.ndarray | Tensor
"""uint8 [h, w], read from a disk or held on a device."""


class Batch(NamedTuple):
    """Luminance as it is stored, a byte a pixel; `to_unit` makes it [0, 1] on the device that trains."""

    lr: UInt8[Tensor, "n 1 h w"]
    hr: UInt8[Tensor, "n 1 H W"]

    def on(
        self, device: torch.device, layout: torch.memory_format, y_range: YRange
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 H W"]]:
        """`lr` and `hr` on the device that trains, black 0 and white 1."""
        lr, hr = (to_unit(one.to(device, memory_format=layout, non_blocking=True), y_range) for one in self)
        return lr, hr


def epoch_order(
    group_rows: list[int], *, seed: int, epoch: int, rank: int, world_size: int
) -> Int32[np.ndarray, "n 2"]:
    """This rank's pairs of one epoch, as (row group, row in it): a pure function of its arguments.

    Each rank has an equal run of the stored rows, so that it reads its own shards alone. It shuffles its row groups,
    lays them end to end and shuffles that in windows of WINDOW_ROWS, so that few groups are open at a time. Up to
    `world_size` - 1 pairs are left out of an epoch, others in each, and no pair comes twice in one, on any rank.
    """
    mine = rank_runs(group_rows, rank, world_size)
    groups = np.random.default_rng([_ORDER, seed, epoch]).permutation(sorted(mine))
    order = np.empty((sum(map(len, mine.values())), 2), np.int32)
    end = 0
    for group in map(int, groups):
        start, end = end, end + len(mine[group])
        order[start:end, 0] = group
        order[start:end, 1] = mine[group]
    rng = np.random.default_rng([_ORDER, seed, epoch, 1 + rank])
    for start in range(0, len(order), WINDOW_ROWS):
        window = order[start : start + WINDOW_ROWS]
        order[start : start + WINDOW_ROWS] = window[rng.permutation(len(window))]
    return order[: sum(group_rows) // world_size]


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
        hold_on: torch.device | None = None,
        hold_if_it_fits: bool = False,
    ) -> None:
        """`batch_size` is over all ranks; `patch_px` gives random crops of that many target pixels, flipped and turned.

        With `hold_on` this rank's pairs are kept in the memory of that device, as bytes, and batches are made there;
        with `hold_if_it_fits` they are read as ever where the device has too little room.

        Raises ValueError when the set is smaller than a batch, a size does not fit, or the device has too little room.
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
        self._order: tuple[int, Int32[np.ndarray, "n 2"]] = (-1, np.empty((0, 2), np.int32))
        self._groups: OrderedDict[int, Group] = OrderedDict()
        self._max_rows = WINDOW_ROWS + 2 * max(rows for _, _, rows in pairs.groups)
        self._held = None if hold_on is None else self._hold(hold_on, must=not hold_if_it_fits)

    @property
    def held(self) -> bool:
        """Whether the pairs are in the memory of a device."""
        return self._held is not None

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rows = [rows for _, _, rows in self.pairs.groups]
            order = epoch_order(rows, seed=self.seed, epoch=epoch, rank=self.rank, world_size=self.world_size)
            self._order = (epoch, order)
        share = self.batch_size // self.world_size
        chosen = self._order[1][position * share : (position + 1) * share].tolist()
        rng = np.random.default_rng([_AUGMENT, self.seed, step, self.rank])
        lr, hr = zip(*(self._example(group, row, rng) for group, row in chosen), strict=True)
        return Batch(_stack(lr), _stack(hr))

    def _hold(self, device: torch.device, *, must: bool) -> dict[int, Held] | None:
        """This rank's row groups, on the device; None where they do not fit and need not."""
        rows = [rows for _, _, rows in self.pairs.groups]
        mine = rank_runs(rows, self.rank, self.world_size)
        geometry = self.pairs.geometry
        needed = sum(rows[group] for group in mine) * (geometry.hr_px**2 + geometry.lr_px**2)
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
        if free is not None and needed > HELD_SHARE * free:
            if not must:
                return None
            raise ValueError(
                f"--hold-data always: the pairs take {needed / 1e9:.1f} GB, and of the {free / 1e9:.1f} GB that "
                f"{device} has free, {HELD_SHARE:.0%} may hold data: leave it out"
            )
        held: dict[int, Held] = {}
        for group in sorted(mine):
            pixels = self.pairs.read_arrays(group)
            hr, lr = (torch.from_numpy(array.copy()).to(device) for array in (pixels.hr, pixels.lr))
            held[group] = Held(hr, lr, pixels.content_boxes)
        return held

    def _group(self, index: int) -> Group | Held:
        if self._held is not None:
            return self._held[index]
        if index not in self._groups:
            self._groups[index] = self.pairs.read_arrays(index)
            while sum(len(group.hr) for group in self._groups.values()) > self._max_rows:
                self._groups.popitem(last=False)
        self._groups.move_to_end(index)
        return self._groups[index]

    def _example(self, index: int, row: int, rng: np.random.Generator) -> tuple[Picture, Picture]:
        group, geometry = self._group(index), self.pairs.geometry
        lr, hr = group.lr[row], group.hr[row]
        if self.patch_px is None:
            return lr, hr
        patch = draw_patch(group.content_boxes[row], geometry.hr_px, self.patch_px, geometry.scale, rng)
        return patch.cut(lr), patch.times(geometry.scale).cut(hr)


class ReadAhead:
    """Batches that a thread prepares while the steps before them are computed."""

    def __init__(self, batches: TrainingBatches, ahead: int = 3, *, pin: bool = False) -> None:
        """`ahead` batches are prepared beyond the one that is asked for; `pin` puts them where a GPU can fetch them."""
        self.batches, self.ahead, self.pin = batches, ahead, pin
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._waiting: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """`TrainingBatches.batch(step)`, the same whatever was asked for before."""
        if step not in self._waiting:
            for late in self._waiting.values():
                late.cancel()
            self._waiting.clear()
        for later in range(step, step + 1 + self.ahead):
            if later not in self._waiting:
                self._waiting[later] = self._thread.submit(self._make, later)
        return self._waiting.pop(step).result()

    def _make(self, step: int) -> Batch:
        batch = self.batches.batch(step)
        return Batch(batch.lr.pin_memory(), batch.hr.pin_memory()) if self.pin else batch

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


def _stack(pictures: Sequence[Picture]) -> UInt8[Tensor, "n 1 h w"]:
    tensors = [one for one in pictures if isinstance(one, Tensor)]
    return (torch.stack(tensors) if tensors else torch.from_numpy(np.stack(pictures))).unsqueeze(1)


class Patch(NamedTuple):
    """A square of a picture, in one of 8 orientations."""

    y: int
    x: int
    side: int
    turns: int
    """Quarter turns, counterclockwise."""
    flip: bool
    """Left and right, after the turns."""

    def times(self, scale: int) -> "Patch":
        """The same patch of a picture that is `scale` times as large."""
        return self._replace(y=self.y * scale, x=self.x * scale, side=self.side * scale)

    def cut(self, picture: Picture) -> Picture:
        """The patch of `picture`."""
        square = picture[self.y : self.y + self.side, self.x : self.x + self.side]
        if isinstance(square, Tensor):
            square = torch.rot90(square, self.turns)
            return square.flip(1) if self.flip else square
        square = np.rot90(square, self.turns)
        return square[:, ::-1] if self.flip else square


def draw_patch(box: Box, hr_px: int, patch_px: int, scale: int, rng: np.random.Generator) -> Patch:
    """A random patch of the input whose target is `patch_px`: inside the content box, or around a thinner one."""
    origin: list[int] = []
    for low, high in ((box.top, box.bottom), (box.left, box.right)):
        first, last = -(-low // scale), (high - patch_px) // scale
        if last < first:  # the content is thinner than the patch: take all of it, with as much of the bars as it needs
            first, last = max(0, last), min(low // scale, (hr_px - patch_px) // scale)
        origin.append(int(rng.integers(first, last + 1)))
    y, x = origin
    return Patch(y, x, patch_px // scale, int(rng.integers(4)), bool(rng.integers(2)))
