"""Photographs that are in both splits, among all that were prepared."""

from dataclasses import dataclass

from raysr.duplicates import NearDuplicate, near_duplicates
from raysr.shards import PhotographFacts, ShardFacts


@dataclass(frozen=True)
class Leaks:
    """Training photographs that would let a network see what it is judged on."""

    reasons: dict[str, str]
    """Those that are refused: image_id -> why."""
    near: tuple[NearDuplicate, ...]
    """Those that are told of."""


def find_leaks(results: dict[str, ShardFacts], drop_near: bool) -> Leaks:
    """What is in both splits: the same pixels are refused in training, pictures that look alike where `drop_near`."""
    train, val = (
        [one for name, facts in sorted(results.items()) if name.startswith(split) for one in facts.photographs]
        for split in ("train", "val")
    )
    judged = {one.pixels: one.image_id for one in reversed(val) if one.pixels is not None}
    reasons = {
        one.image_id: f"its pixels validate, as {judged[one.pixels]}"
        for one in train
        if one.pixels is not None and one.pixels in judged
    }
    near = near_duplicates(_looks(train, set(reasons)), _looks(val, set()))
    if drop_near:
        reasons |= {one.train: f"looks like {one.val}, which validates ({one.bits} of 144 bits differ)" for one in near}
    return Leaks(reasons, () if drop_near else tuple(near))


def _looks(photographs: list[PhotographFacts], without: set[str]) -> list[tuple[str, str]]:
    return [(one.image_id, one.looks) for one in photographs if one.looks is not None and one.image_id not in without]
