"""Whether the photographs of a finished set are still those that it was made of; their names and bytes decide.

A time of change says nothing for sure: copies, checkouts and backups give files new ones.
"""

import hashlib
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raysr import storage
from raysr.manifest import Manifest, ManifestError, Shard
from raysr.pairs import check_shard
from raysr.shards import read_photograph
from raysr.sources import Photograph, Source

READERS = 8
"""Photographs that are read side by side."""

TILE = re.compile(r"#\d{3,}$")
"""What the name of a tile has behind that of its photograph."""


@dataclass(frozen=True)
class Was:
    """A photograph as a set was made of it."""

    split: str
    sha256: str
    """Of the file; empty for one that was not read."""
    reason: str | None
    """Why it was refused."""


Recorded = dict[str, dict[str, Was]]
"""For each shard that is not damaged, its photographs by name."""


def read_recorded(out: str, manifest: Manifest, source: Source) -> Recorded:
    """What the shards of the set in folder `out` say of their photographs; few bytes of each shard are read."""
    now = {photo.image_id: photo.split for photo in source.photographs}
    found = {shard.name: _of_shard(out, manifest, shard, now) for shard in manifest.shards}
    return {name: rows for name, rows in found.items() if rows is not None}


def _of_shard(out: str, manifest: Manifest, shard: Shard, now: dict[str, str]) -> dict[str, Was] | None:
    """The photographs of a shard by name; None where it is damaged."""
    try:
        check_shard(out, shard, verify=False)
    except ManifestError:
        return None
    store, path = storage.filesystem(storage.join(out, shard.name))
    try:
        with pq.ParquetFile(path, filesystem=store) as file:
            rows = file.read(columns=["image_id", "split", "source_sha256", "error"]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        if is_whole(out, shard):
            raise
        return None
    tiles = manifest.geometry.fit == "tiles"
    found = {
        TILE.sub("", row["image_id"]) if tiles and row["error"] is None else row["image_id"]: Was(
            row["split"], row["source_sha256"], row["error"]
        )
        for row in rows
    }
    strange = any(now.get(name) != was.split for name, was in found.items())
    return None if strange and not is_whole(out, shard) else found  # a damaged one may hold any name


def is_whole(out: str, shard: Shard) -> bool:
    """Whether a shard is as it was written, to the last byte."""
    try:
        check_shard(out, shard, verify=True)
    except ManifestError:
        return False
    return True


def other_names(recorded: Recorded, source: Source, unknown: Collection[str]) -> str | None:
    """In which photographs `source` differs from a set, in words; None where their names and splits are the same.

    The `unknown` ones may have been in shards that are damaged.
    """
    then = {name: was for rows in recorded.values() for name, was in rows.items()}
    now = {photo.image_id: photo.split for photo in source.photographs}
    lists = {
        "added": sorted(now.keys() - then.keys() - set(unknown)),
        "no longer among them": sorted(then.keys() - now.keys()),
    }
    if not any(lists.values()):  # of other photographs another split is drawn
        lists["of the other split"] = sorted(name for name, was in then.items() if was.split != now[name])
    told = [f"{len(names)} {what}, the first is {names[0]!r}" for what, names in lists.items() if names]
    return "; ".join(told) or None


def other_bytes(recorded: Recorded, source: Source, on_read: Callable[[int], None]) -> str | None:
    """The first photograph that is not as a set was made of it, in words; None where all are.

    Reads each file; `on_read` hears how many bytes were read so far. Raises OSError where storage fails.
    """
    then = {name: was for rows in recorded.values() for name, was in rows.items()}
    photographs = [photo for photo in source.photographs if photo.image_id in then]
    done, pool = 0, ThreadPoolExecutor(READERS)
    try:
        for photo, now in zip(photographs, pool.map(_as_now, photographs), strict=True):
            was = then[photo.image_id]
            done += now.bytes
            on_read(done)
            if (was.sha256, was.sha256 or was.reason) != (now.sha256, now.sha256 or now.reason):
                unread = f" was left out unread ({was.reason})" if not was.sha256 else " was changed"
                return f"{photo.image_id!r}{unread}"
    finally:
        pool.shutdown(cancel_futures=True)
    return None


@dataclass(frozen=True)
class _Now:
    sha256: str
    reason: str | None
    bytes: int


def _as_now(photo: Photograph) -> _Now:
    if photo.problem is not None:
        return _Now("", photo.problem, 0)
    data, reason = read_photograph(photo.location)
    return _Now("", reason, 0) if data is None else _Now(hashlib.sha256(data).hexdigest(), None, len(data))
