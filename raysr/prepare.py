"""Prepare pairs with Ray Data: photographs in, checksummed Parquet shards and a manifest out."""

import errno
import re
import secrets
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray.data
import ray.exceptions

from raysr import storage
from raysr.archives import OnFetch, fetch_set
from raysr.catalogue import ARCHIVES
from raysr.changes import Recorded, is_whole, other_bytes, other_names, read_recorded
from raysr.cluster import start_ray
from raysr.decoding import MAX_PIXELS
from raysr.duplicates import NearDuplicate
from raysr.errors import brief, text_of
from raysr.images import Geometry
from raysr.leaks import find_leaks
from raysr.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    Refusal,
    Shard,
    content_digest,
)
from raysr.preparing import Advance, PrepareConfig, check_free, claim, earlier_manifest
from raysr.shards import UNFINISHED, ShardFacts, Task, write_shard
from raysr.sheet import CONTACT_SHEET, write_contact_sheet
from raysr.sources import Photograph, Source, Split, find_photographs

PHOTOGRAPHS_PER_SHARD = 16
OURS = re.compile(r"(train|val)-\d{5,}\.parquet")
"""Names of shards."""

NO_OSERROR = -1

WORKER_TRIES = 3
"""How often the photographs of a shard are tried whose worker dies."""


class PrepareError(RuntimeError):
    """A worker failed in a way that is nobody's file's fault."""


def prepare(
    config: PrepareConfig,
    on_advance: Callable[[Advance], None] = lambda advance: None,
    on_fetch: OnFetch = lambda name, done, total: None,
) -> Manifest:
    """Prepare the set and return its manifest; `on_advance` is called as shards are finished.

    A run that was killed goes on with the same `config`. Of a finished set every shard is checked, and what is missing
    or damaged written anew; photographs with other times of change are compared with the set, by their hashes. A
    picture that cannot be used is listed in the manifest with its reason.

    Raises FileExistsError when `out` holds something else, a set that was asked for differently or one whose source
    has changed; ValueError when no pair is left in a split or, where `config.strict`, a picture cannot be used;
    ArchiveError for a download that fails, OSError for what cannot be read or written, and PrepareError for what should
    not happen.
    """
    assert config.source is not None and config.out is not None  # noqa: PT018, S101
    out = storage.absolute(config.out)
    config.check_apart()
    geometry = config.geometry
    if geometry.fit is None:
        geometry = replace(geometry, fit="tiles" if config.source == "bundled" else "pad")
    there = earlier_manifest(config, out)
    if there is not None:
        return _finished(config, geometry, out, there, on_advance, on_fetch)
    if config.source in ARCHIVES:  # gigabytes come first, and must not be for nothing
        check_free(config, out)
        storage.check_writable(storage.join(out, MANIFEST))
    source = _find(config, on_fetch)
    claim(config, out)
    start_ray()
    results, near = _write_set(config, geometry, out, source, on_advance)
    refused = [one for facts in results for one in facts.photographs if one.reason is not None and not one.dropped]
    redrawn = source.redrawn({one.image_id for one in refused})
    if redrawn is not source:
        source = redrawn
        results, near = _write_set(config, geometry, out, source, on_advance)
    manifest = _manifest(config, geometry, source, results, near)
    empty = [split for split, count in manifest.pairs.items() if count == 0]
    if empty:
        reasons = "; ".join(f"{refusal.image_id}: {refusal.reason}" for refusal in manifest.refused[:5])
        raise ValueError(f"no pair is left in the {' and '.join(empty)} split of {config.source} ({reasons})")
    storage.write_text(storage.join(out, MANIFEST), manifest.to_json())
    _tidy(out, manifest)
    return manifest


def _write_set(
    config: PrepareConfig, geometry: Geometry, out: str, source: Source, on_advance: Callable[[Advance], None]
) -> tuple[list[ShardFacts], tuple[NearDuplicate, ...]]:
    """Write all shards, without what is in both splits; their facts, and the near-duplicates that are told of."""
    tasks = _plan(source, config.max_pixels)
    results = _write_all(tasks, geometry, out, config, on_advance)
    leaks = find_leaks(results, config.drop_near_duplicates)
    again = [replace(task, dropped=found) for task in tasks if (found := _of_task(task, leaks.reasons))]
    if again:
        results |= _write_all(again, geometry, out, config)
    return [results[task.name] for task in tasks], leaks.near


def _find(config: PrepareConfig, on_fetch: OnFetch) -> Source:
    """The photographs, downloaded where they have to be."""
    assert config.source is not None  # noqa: S101
    folder = config.source
    if folder in ARCHIVES:
        folder = fetch_set(
            folder, cache=config.cache, archives=config.archives, mirror=config.mirror, on_fetch=on_fetch
        )
    return find_photographs(folder, val=config.val, val_share=config.val_share, seed=config.seed)


def _finished(
    config: PrepareConfig,
    geometry: Geometry,
    out: str,
    manifest: Manifest,
    on_advance: Callable[[Advance], None],
    on_fetch: OnFetch,
) -> Manifest:
    """The set that is there already, if it is what is asked for, with every shard as it was written."""
    differences = config.differences(manifest.request, manifest.geometry, geometry)
    if differences:
        raise FileExistsError(
            f"--out {config.out} already holds a prepared set that was asked for otherwise ({'; '.join(differences)}); "
            "give another folder, or remove it"
        )
    # A downloaded set never changes, and what it was made of may be gone by now.
    refused = {one.image_id for one in manifest.refused if not one.dropped}
    source = None if config.source in ARCHIVES else _find(config, on_fetch).redrawn(refused)
    touched = source if source is not None and source.digest != manifest.source_digest else None
    recorded: Recorded = {}
    if touched is not None:
        recorded = read_recorded(out, manifest, touched)
        unknown = [photo.image_id for task in _plan(touched) if task.name not in recorded for photo in task.photographs]
        _refuse_change(config, other_names(recorded, touched, unknown))
    damaged = {shard.name: shard for shard in manifest.shards if not is_whole(out, shard)}
    if touched is not None:
        whole = {name: rows for name, rows in recorded.items() if name not in damaged}
        told = other_bytes(whole, touched, lambda done: on_fetch("comparing photographs with the set", done, None))
        _refuse_change(config, told)
    if damaged:
        _mend(config, geometry, out, manifest, source or _find(config, on_fetch), damaged, on_advance)
    if touched is not None:
        manifest = replace(manifest, source_digest=touched.digest)
        with suppress(OSError):  # a set that can only be read is as good: it is compared again the next time
            storage.write_text(storage.join(out, MANIFEST), manifest.to_json())
    _tidy(out, manifest)
    return manifest


def _refuse_change(config: PrepareConfig, told: str | None) -> None:
    if told is not None:
        raise FileExistsError(
            f"--source {config.source} has changed since --out {config.out} was prepared from it ({told}): give "
            "another folder, or remove it to prepare all of them"
        )


def _mend(
    config: PrepareConfig,
    geometry: Geometry,
    out: str,
    manifest: Manifest,
    source: Source,
    damaged: dict[str, Shard],
    on_advance: Callable[[Advance], None],
) -> None:
    """Write the damaged shards of a finished set as they were; raises ValueError where that can no longer be done."""
    dropped = {one.image_id: one.reason for one in manifest.refused if one.dropped}
    start_ray()
    tasks = [task for task in _plan(source, config.max_pixels) if task.name in damaged]
    tasks = [replace(task, dropped=_of_task(task, dropped)) for task in tasks]
    mended = _write_all(tasks, geometry, out, config, on_advance)
    other = [name for name, shard in damaged.items() if name not in mended or mended[name].shard != shard]
    if other:
        raise ValueError(
            f"{other[0]} of --out {config.out} is damaged and can no longer be written as it was (other "
            "photographs, or another release of Pillow): remove the folder and prepare the set again"
        )


def _plan(source: Source, max_pixels: int = MAX_PIXELS) -> list[Task]:
    """The shards with their photographs: the same for the same source, whatever the number of workers."""
    tasks: list[Task] = []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        mine = [photo for photo in source.photographs if photo.split == split]
        for index, start in enumerate(range(0, len(mine), PHOTOGRAPHS_PER_SHARD)):
            some: tuple[Photograph, ...] = tuple(mine[start : start + PHOTOGRAPHS_PER_SHARD])
            name = f"{split}-{index:05d}.parquet"
            tasks.append(
                Task(name=name, split=split, photographs=some, roots=source.roots, dropped={}, max_pixels=max_pixels)
            )
    return tasks


def _write_all(
    tasks: list[Task],
    geometry: Geometry,
    out: str,
    config: PrepareConfig,
    on_advance: Callable[[Advance], None] = lambda advance: None,
) -> dict[str, ShardFacts]:
    """Write the shards on all cores of the cluster; the facts of each, by its name."""
    results: dict[str, ShardFacts] = {}
    total = sum(len(task.photographs) for task in tasks)
    done = pairs = refused = 0
    nodes: set[str] = set()
    for facts, node in _run(tasks, geometry, out):
        _check_seen(config, out, facts)
        bad = [one for one in facts.photographs if one.reason is not None]
        unasked = [one for one in bad if not (one.dropped and config.drop_near_duplicates)]
        if config.strict and unasked:
            first = unasked[0]
            raise ValueError(f"{first.image_id}: {first.reason} (without --strict it would be listed, and left out)")
        results[facts.shard.name] = facts
        done, refused = done + len(facts.photographs), refused + len(bad)
        pairs += sum(facts.shard.groups)
        nodes.add(node)
        on_advance(Advance(done, total, pairs, refused, len(nodes)))
    return results


def _check_seen(config: PrepareConfig, out: str, facts: ShardFacts) -> None:
    location = storage.join(out, facts.shard.name)
    if not storage.exists(location) or storage.size(location) != facts.shard.bytes:
        raise FileNotFoundError(
            f"{facts.host} wrote {facts.shard.name} into --out {config.out}, but it is not to be seen here: on a "
            "cluster --out must be storage that all nodes share, for example s3://BUCKET/FOLDER"
        )


def _run(tasks: list[Task], geometry: Geometry, out: str) -> Iterator[tuple[ShardFacts, str]]:
    """Ray Data hands each task to a free core of the cluster; its facts and its node come as it is finished."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    run = secrets.token_hex(8)

    def write(row: dict[str, Any]) -> dict[str, Any]:
        task = Task.from_json(row["task"])
        try:
            # Ray tries for ever what kills its worker, by a decoder's crash or its size.
            if _count_try(out, task, run) > WORKER_TRIES:
                first, last = task.photographs[0].location, task.photographs[-1].location
                told = f"one of {len(task.photographs)} photographs killed its worker, each of {WORKER_TRIES} times: "
                return {"facts": f"{told}from {first} to {last}", "errno": NO_OSERROR, "node": ""}
            facts = write_shard(out, task, geometry)
            return {"facts": facts.to_json(), "errno": 0, "node": ray.get_runtime_context().get_node_id()}
        except OSError as error:  # told to the driver as it is: Ray would wrap its own traceback around it
            return {"facts": text_of(error), "errno": error.errno or errno.EIO, "node": ""}
        except Exception as error:  # noqa: BLE001  the driver raises it
            told = [*traceback.format_exception_only(error), *traceback.format_tb(error.__traceback__)[-3:]]
            return {"facts": "".join(told).rstrip(), "errno": NO_OSERROR, "node": ""}

    items = [{"task": task.to_json()} for task in tasks]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map(write).iter_rows()
    try:
        for row in rows:
            if row["errno"] == NO_OSERROR:
                raise PrepareError(f"a worker failed: {row['facts']}")
            if row["errno"]:
                raise OSError(row["errno"], f"{row['facts']}; the same command goes on from here when that is mended")
            yield ShardFacts.from_json(row["facts"]), row["node"]
    except ray.exceptions.RayError as error:
        raise PrepareError(f"Ray failed: {brief(error)}") from error


def _count_try(out: str, task: Task, run: str) -> int:
    """How often the photographs of `task` have been begun in this `run`, now included; kept in the set's folder."""
    place = storage.join(out, UNFINISHED, f"{task.name}.tries")
    known, count = storage.read_bytes(place).decode().split() if storage.exists(place) else (run, "0")
    tries = 1 + (int(count) if known == run else 0)
    storage.write_text(place, f"{run} {tries}")
    return tries


def _of_task(task: Task, reasons: dict[str, str]) -> dict[str, str]:
    return {photo.image_id: reasons[photo.image_id] for photo in task.photographs if photo.image_id in reasons}


def _manifest(
    config: PrepareConfig,
    geometry: Geometry,
    source: Source,
    results: list[ShardFacts],
    near: tuple[NearDuplicate, ...],
) -> Manifest:
    pairs: Counter[str] = Counter({"train": 0, "val": 0})
    photographs: dict[str, set[str]] = {"train": set(), "val": set()}
    for facts in results:
        split = facts.shard.name.split("-", 1)[0]
        pairs[split] += sum(facts.shard.groups)
        photographs[split].update(one.photograph for one in facts.photographs if one.reason is None)
    everything = [one for facts in results for one in facts.photographs]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        geometry=geometry,
        request=config.request,
        source_digest=None if config.source in ARCHIVES else source.digest,
        shards=tuple(facts.shard for facts in results),
        content_sha256=content_digest([digest for one in everything for digest in one.digests]),
        pairs=dict(pairs),
        photographs={split: len(names) for split, names in photographs.items()},
        refused=tuple(
            Refusal(image_id=one.image_id, reason=one.reason, dropped=one.dropped)
            for one in everything
            if one.reason is not None
        ),
        near_duplicates=near,
        notes=dict(sorted(Counter(note for one in everything for note in one.notes).items())),
        passed_over=source.passed_over,
    )


def _tidy(out: str, manifest: Manifest) -> None:
    """Leave the set alone in its folder, with its contact sheet; done again when a run was killed in between."""
    if not storage.exists(storage.join(out, CONTACT_SHEET)):
        write_contact_sheet(out)
    shards = {shard.name for shard in manifest.shards}
    for name in storage.children(out):
        earlier = OURS.fullmatch(name) and name not in shards  # of an unfinished run with other photographs
        if earlier or (name.startswith(".") and name.endswith(".part")):  # what a killed worker had begun to write
            storage.remove(storage.join(out, name))
    storage.remove(storage.join(out, UNFINISHED))
