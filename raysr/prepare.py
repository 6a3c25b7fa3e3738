"""Prepare pairs with Ray Data: photographs in, checksummed Parquet shards and a manifest out."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from raysr import storage
from raysr.cluster import start_ray
from raysr.images import Geometry, Pair, PictureError, make_pairs
from raysr.manifest import MANIFEST, SCHEMA, SCHEMA_VERSION, Manifest, Refusal, Shard, content_digest, pair_digest
from raysr.sources import Photograph, Split, find_photographs

PHOTOGRAPHS_PER_SHARD = 16
PAIRS_PER_ROW_GROUP = 16


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn photographs into luminance pairs."""

    source: str
    """A folder of pictures, searched recursively, or `bundled`: the photographs in the scikit-image wheel. A folder
    with train/ and val/ (or valid/) inside is split by them."""
    out: str
    """Folder for the Parquet shards and manifest.json."""
    geometry: Geometry = field(default_factory=Geometry)
    val_share: float = 0.1
    """Share of the photographs that validate, for a folder without splits of its own."""
    seed: int = 0
    """Draws the photographs that validate."""


def prepare(config: PrepareConfig, on_shard: Callable[[int, int], None] = lambda done, total: None) -> Manifest:
    """Prepare the set and return its manifest; `on_shard(done, total)` is called as shards are finished.

    A picture that cannot be used is listed in the manifest with its reason. Raises FileExistsError when `out` already
    holds a set, and ValueError when no pair is left in a split.
    """
    out = storage.absolute(config.out)
    if storage.exists(storage.join(out, MANIFEST)):
        raise FileExistsError(f"--out {config.out} already holds a prepared set; give another folder, or remove it")
    geometry = config.geometry
    if geometry.fit is None:
        geometry = replace(geometry, fit="tiles" if config.source == "bundled" else "pad")
    photographs = find_photographs(config.source, val_share=config.val_share, seed=config.seed)
    tasks = _plan(photographs)
    results: list[dict[str, Any]] = []
    for result in _run(tasks, geometry, out):
        results.append(result)
        on_shard(len(results), len(tasks))
    manifest = _manifest(config.source, geometry, sorted(results, key=lambda r: r["name"]))
    empty = [split for split, count in manifest.pairs.items() if count == 0]
    if empty:
        reasons = "; ".join(f"{refusal.image_id}: {refusal.reason}" for refusal in manifest.refused[:5])
        raise ValueError(f"no pair is left in the {' and '.join(empty)} split of {config.source} ({reasons})")
    storage.write_text(storage.join(out, MANIFEST), manifest.to_json())
    return manifest


def _plan(photographs: list[Photograph]) -> list[tuple[str, list[Photograph]]]:
    """Shard names with their photographs: the same for the same source, whatever the number of workers."""
    tasks: list[tuple[str, list[Photograph]]] = []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        mine = [photo for photo in photographs if photo.split == split]
        for index, start in enumerate(range(0, len(mine), PHOTOGRAPHS_PER_SHARD)):
            tasks.append((f"{split}-{index:05d}.parquet", mine[start : start + PHOTOGRAPHS_PER_SHARD]))
    return tasks


def _run(tasks: list[tuple[str, list[Photograph]]], geometry: Geometry, out: str) -> Any:
    """Ray Data hands each task to a free core of the cluster; results come as they are finished."""
    start_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    def write(row: dict[str, Any]) -> dict[str, Any]:
        name, photographs = tasks[row["task"]]
        return {"result": json.dumps(write_shard(storage.join(out, name), photographs, geometry))}

    rows = [{"task": index} for index in range(len(tasks))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(write)
    return (json.loads(row["result"]) for row in dataset.iter_rows())


def write_shard(location: str, photographs: list[Photograph], geometry: Geometry) -> dict[str, Any]:
    """Read, decode and write the photographs of one shard; returns its facts for the manifest, in JSON types."""
    rows: list[dict[str, Any]] = []
    refusals: list[dict[str, Any]] = []
    digests: list[str] = []
    for photo in photographs:
        data = b""
        try:
            data = Path(photo.path).read_bytes()
            pairs = make_pairs(data, geometry)
        except (PictureError, OSError) as error:
            reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            refusals.append(_row(photo, photo.image_id, data, geometry, None, reason))
            continue
        for index, pair in enumerate(pairs):
            image_id = photo.image_id if geometry.fit != "tiles" else f"{photo.image_id}#{index:03d}"
            rows.append(_row(photo, image_id, data, geometry, pair, None))
            digests.append(pair_digest(image_id, photo.split, pair))
    encoded = _encode(rows, refusals)
    storage.write_bytes(location, encoded)
    return {
        "name": location.rsplit("/", 1)[1],
        "rows": len(rows) + len(refusals),
        "bytes": len(encoded),
        "sha256": hashlib.sha256(encoded).hexdigest(),
        "pairs": len(rows),
        "photographs": sorted({row["photograph"] for row in rows}),
        "digests": digests,
        "refused": [{"image_id": row["image_id"], "reason": row["error"]} for row in refusals],
    }


def _row(
    photo: Photograph, image_id: str, data: bytes, geometry: Geometry, pair: Pair | None, error: str | None
) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "photograph": photo.photograph,
        "split": photo.split,
        "hr": pair.hr.tobytes() if pair else None,
        "lr": pair.lr.tobytes() if pair else None,
        "hr_px": geometry.hr_px,
        "scale": geometry.scale,
        "content_box": list(pair.content_box) if pair else None,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "error": error,
    }


def _encode(rows: list[dict[str, Any]], refusals: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(rows), PAIRS_PER_ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(rows[start : start + PAIRS_PER_ROW_GROUP], schema=SCHEMA))
        if refusals:
            writer.write_table(pa.Table.from_pylist(refusals, schema=SCHEMA))
    return buffer.getvalue()


def _manifest(source: str, geometry: Geometry, results: list[dict[str, Any]]) -> Manifest:
    pairs: Counter[str] = Counter({"train": 0, "val": 0})
    photographs: dict[str, set[str]] = {"train": set(), "val": set()}
    for result in results:
        split = result["name"].split("-", 1)[0]
        pairs[split] += result["pairs"]
        photographs[split].update(result["photographs"])
    return Manifest(
        schema_version=SCHEMA_VERSION,
        geometry=geometry,
        source=source,
        shards=tuple(Shard(**{key: r[key] for key in ("name", "rows", "bytes", "sha256")}) for r in results),
        content_sha256=content_digest([digest for result in results for digest in result["digests"]]),
        pairs=dict(pairs),
        photographs={split: len(names) for split, names in photographs.items()},
        refused=tuple(Refusal(**refusal) for result in results for refusal in result["refused"]),
    )
