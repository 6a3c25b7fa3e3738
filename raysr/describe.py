"""What a prepared set holds, checked to the last byte."""

from collections.abc import Iterator

from raysr import storage
from raysr.images import Pair
from raysr.manifest import MANIFEST, Manifest, ManifestError, content_digest, pair_digest
from raysr.pairs import PairSet
from raysr.sources import Split, told_passed_over

LISTED = 20
"""Lines of a kind that a summary shows at most."""


def check_set(location: str) -> Manifest:
    """Read every shard of the set in folder `location` and check every hash in its manifest; returns the manifest.

    Raises ManifestError, naming what is missing, cut or changed.
    """
    location = storage.absolute(location)
    manifest = Manifest.read(location)
    splits: tuple[Split, ...] = ("train", "val")
    found = content_digest([digest for split in splits for digest in _digests(location, split)])
    if found != manifest.content_sha256:
        raise ManifestError(
            f"the pairs of {location} hash to {found}, and its manifest says {manifest.content_sha256}: prepare again"
        )
    return manifest


def _digests(location: str, split: Split) -> Iterator[str]:
    pairs = PairSet(location, split)
    for index in range(len(pairs.groups)):
        for row in pairs.read_group(index):
            yield pair_digest(row.image_id, split, Pair(row.hr, row.lr, row.content_box))


def summary(manifest: Manifest) -> list[str]:
    """The set in lines: what it is made of, how, and what was left out and why."""
    geometry = manifest.geometry
    lines = [
        f"{manifest.source}: {geometry.lr_px} -> {geometry.hr_px} pixels (x{geometry.scale}), {geometry.fit}, "
        f"{geometry.kernel} bicubic, luminance in {geometry.y_range} range" + ", fast JPEG" * geometry.fast_jpeg
    ]
    for split, count in manifest.pairs.items():
        lines.append(f"{split}: {count:,} pairs of {manifest.photographs[split]:,} photographs")
    size = sum(shard.bytes for shard in manifest.shards)
    lines.append(f"{len(manifest.shards)} shards, {size:,} bytes; content sha256 {manifest.content_sha256}")
    lines += [f"{count:,} photographs: {note}" for note, count in manifest.notes.items()]
    if manifest.passed_over:
        lines.append(told_passed_over(manifest.passed_over))
    lines += _first(
        f"{len(manifest.refused):,} photographs refused",
        [f"refused {refusal.image_id}: {refusal.reason}" for refusal in manifest.refused],
    )
    lines += _first(
        f"{len(manifest.near_duplicates):,} near-duplicates; --drop-near-duplicates leaves them out",
        [
            f"near-duplicates: {one.train} trains and {one.val} validates ({one.bits} of 144 bits differ)"
            for one in manifest.near_duplicates
        ],
    )
    return [storage.printable(line) for line in lines]


def _first(what: str, lines: list[str]) -> list[str]:
    """How many there are, and some of them."""
    if not lines:
        return []
    most = f" ({MANIFEST} lists all; the first {LISTED}:)" if len(lines) > LISTED else ""
    return [what + most, *lines[:LISTED]]
