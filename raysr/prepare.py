"""Prepare pairs with Ray Data: photographs in, checksummed Parquet shards and a manifest out."""

import errno
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray.data
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raysr import storage
from raysr.archives import ARCHIVES, OnFetch, fetch_set
from raysr.cluster import start_ray
from raysr.duplicates import NearDuplicate, near_duplicates
from raysr.images import Geometry
from raysr.manifest import MANIFEST, SCHEMA_VERSION, Manifest, Refusal, content_digest
from raysr.shards import UNFINISHED, PhotographFacts, ShardFacts, Task, write_shard
from raysr.sheet import CONTACT_SHEET, write_contact_sheet
from raysr.sources import Photograph, Source, Split, find_photographs

PHOTOGRAPHS_PER_SHARD = 16
LINE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn photographs into luminance pairs."""

    source: str | None = None
    """A folder of pictures, searched recursively, on a disk, s3:// or gs://; df2k or bsds500, which are downloaded
    (./df2k is a folder of that name); or bundled, the photographs in the scikit-image wheel. A folder with train/ and
    val/ (or valid/) inside is split by them."""
    out: str | None = None
    """Folder for the Parquet shards and manifest.json; s3://BUCKET/FOLDER works too."""
    describe: str | None = None
    """Print what the set in this folder holds and check every hash; alone, without --source."""
    geometry: Geometry = field(default_factory=Geometry)
    val: str | None = None
    """Another folder, whose photographs validate; or a .txt file that lists those of --source that do, a line each."""
    val_share: float = 0.1
    """Share of the photographs that validate, for a folder without splits of its own."""
    seed: int = 0
    """Draws the photographs that validate."""
    strict: bool = False
    """Stop at the first photograph that cannot be used."""
    drop_near_duplicates: bool = False
    """Leave out training photographs that look like one that validates; otherwise they are only told of."""
    cache: str = "~/.cache/raysr"
    """Where df2k and bsds500 are downloaded and unpacked to. On a cluster: s3://BUCKET/FOLDER or the like."""
    archives: str | None = None
    """Folder of archives of theirs that you have already."""
    mirror: str | None = None
    """Address to download archives from instead of their public homes: MIRROR/NAME."""

    def __post_init__(self) -> None:
        if self.describe is not None and (self.source is not None or self.out is not None):
            raise ValueError("--describe stands alone: it takes neither --source nor --out")
        if self.describe is None and (self.source is None or self.out is None):
            raise ValueError("give --source and --out, or --describe alone")


@dataclass(frozen=True)
class Advance:
    """How far a preparation is."""

    done: int
    """Photographs, refused ones too."""
    total: int
    pairs: int
    refused: int
    nodes: int
    """Machines of the cluster that had a part in it."""


class PrepareDisplay:
    """A progress bar with photographs a second and the time left; lines every LINE_S seconds where it is no terminal.

    A shard's photographs are counted when it is written.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("photographs"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, news="")
        self._begun: tuple[float, int] | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> "PrepareDisplay":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def fetched(self, name: str, done: int, total: int | None) -> None:
        """Show how far a download is."""
        of = f" of {total / 1e6:,.0f}" if total else ""
        self._bar.update(self._task, news=f"{name}: {done / 1e6:,.0f}{of} MB")
        if not self.console.is_terminal and time.monotonic() - self._printed > LINE_S:
            self._printed = time.monotonic()
            self.console.print(f"{name}: {done / 1e6:,.0f}{of} MB", highlight=False)

    def update(self, advance: Advance) -> None:
        """Show how far it is."""
        now = time.monotonic()
        begun, before = self._begun = self._begun or (now, advance.done)
        speed = (advance.done - before) / (now - begun) if now > begun else 0.0
        news = f"{speed:.1f}/s, {advance.pairs:,} pairs, {advance.refused:,} refused"
        news += f", on {advance.nodes} nodes" * (advance.nodes > 1)
        self._bar.update(self._task, completed=advance.done, total=advance.total, news=news)
        if not self.console.is_terminal and now - self._printed > LINE_S:
            self._printed = now
            left = f", {(advance.total - advance.done) / speed:.0f} s left" if speed else ""
            line = f"{advance.done:,} of {advance.total:,} photographs, {news}{left}"
            self.console.print(line, soft_wrap=True, highlight=False)


def prepare(
    config: PrepareConfig,
    on_advance: Callable[[Advance], None] = lambda advance: None,
    on_fetch: OnFetch = lambda name, done, total: None,
) -> Manifest:
    """Prepare the set and return its manifest; `on_advance` is called as shards are finished.

    A run that was killed goes on with the same `config`; a finished one is left alone. A picture that cannot be used is
    listed in the manifest with its reason.

    Raises FileExistsError when `out` holds a set that was asked for differently, ValueError when no pair is left in a
    split or, where `config.strict`, a picture cannot be used, ArchiveError for a download that fails, and OSError for
    what cannot be read or written.
    """
    assert config.source is not None and config.out is not None  # noqa: PT018, S101
    out = storage.absolute(config.out)
    geometry = config.geometry
    if geometry.fit is None:
        geometry = replace(geometry, fit="tiles" if config.source == "bundled" else "pad")
    if storage.exists(storage.join(out, MANIFEST)):
        return _finished(config, geometry, out)
    folder = config.source
    if folder in ARCHIVES:
        folder = fetch_set(
            folder, cache=config.cache, archives=config.archives, mirror=config.mirror, on_fetch=on_fetch
        )
    source = find_photographs(folder, val=config.val, val_share=config.val_share, seed=config.seed)
    start_ray()
    tasks = _plan(source)
    results = _write_all(tasks, geometry, out, config, on_advance)
    leaks = _leaks(results, config.drop_near_duplicates)
    again = [replace(task, dropped=found) for task in tasks if (found := _of_task(task, leaks.reasons))]
    if again:
        results |= _write_all(again, geometry, out, config)
    manifest = _manifest(config, geometry, source, [results[task.name] for task in tasks], leaks.near)
    empty = [split for split, count in manifest.pairs.items() if count == 0]
    if empty:
        reasons = "; ".join(f"{refusal.image_id}: {refusal.reason}" for refusal in manifest.refused[:5])
        raise ValueError(f"no pair is left in the {' and '.join(empty)} split of {config.source} ({reasons})")
    storage.write_text(storage.join(out, MANIFEST), manifest.to_json())
    _tidy(out, manifest)
    return manifest


def _finished(config: PrepareConfig, geometry: Geometry, out: str) -> Manifest:
    """The set that is there already, if it is what is asked for."""
    manifest = Manifest.read(out)
    if (manifest.request, manifest.geometry) != (_request(config), geometry):
        raise FileExistsError(
            f"--out {config.out} already holds a prepared set that was asked for otherwise "
            f"({manifest.request}, {manifest.geometry}); give another folder, or remove it"
        )
    _tidy(out, manifest)
    return manifest


def _request(config: PrepareConfig) -> dict[str, Any]:
    names = ("source", "val", "val_share", "seed", "strict", "drop_near_duplicates")
    return {name: getattr(config, name) for name in names}


def _plan(source: Source) -> list[Task]:
    """The shards with their photographs: the same for the same source, whatever the number of workers."""
    tasks: list[Task] = []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        mine = [photo for photo in source.photographs if photo.split == split]
        for index, start in enumerate(range(0, len(mine), PHOTOGRAPHS_PER_SHARD)):
            some: tuple[Photograph, ...] = tuple(mine[start : start + PHOTOGRAPHS_PER_SHARD])
            name = f"{split}-{index:05d}.parquet"
            tasks.append(Task(name=name, split=split, photographs=some, roots=source.roots, dropped={}))
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
        if config.strict and bad:
            raise ValueError(f"{bad[0].image_id}: {bad[0].reason} (without --strict it would be listed, and left out)")
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

    def write(row: dict[str, Any]) -> dict[str, Any]:
        try:
            facts = write_shard(out, Task.from_json(row["task"]), geometry)
            return {"facts": facts.to_json(), "errno": 0, "node": ray.get_runtime_context().get_node_id()}
        except OSError as error:  # told to the driver as it is: Ray would wrap its own traceback around it
            return {"facts": str(error), "errno": error.errno or errno.EIO, "node": ""}

    rows = [{"task": task.to_json()} for task in tasks]
    for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(write).iter_rows():
        if row["errno"]:
            raise OSError(row["errno"], f"{row['facts']}; the same command goes on from here when that is mended")
        yield ShardFacts.from_json(row["facts"]), row["node"]


@dataclass(frozen=True)
class _Leaks:
    """Training photographs that would let a network see what it is judged on."""

    reasons: dict[str, str]
    """Those that are refused: image_id -> why."""
    near: tuple[NearDuplicate, ...]
    """Those that are told of."""


def _leaks(results: dict[str, ShardFacts], drop_near: bool) -> _Leaks:
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
    return _Leaks(reasons, () if drop_near else tuple(near))


def _looks(photographs: list[PhotographFacts], without: set[str]) -> list[tuple[str, str]]:
    return [(one.image_id, one.looks) for one in photographs if one.looks is not None and one.image_id not in without]


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
        request=_request(config),
        shards=tuple(facts.shard for facts in results),
        content_sha256=content_digest([digest for one in everything for digest in one.digests]),
        pairs=dict(pairs),
        photographs={split: len(names) for split, names in photographs.items()},
        refused=tuple(
            Refusal(image_id=one.image_id, reason=one.reason) for one in everything if one.reason is not None
        ),
        near_duplicates=near,
        notes=dict(sorted(Counter(note for one in everything for note in one.notes).items())),
        passed_over=source.passed_over,
    )


def _tidy(out: str, manifest: Manifest) -> None:
    """Leave the set alone in its folder, with its contact sheet; done again when a run was killed in between."""
    if not storage.exists(storage.join(out, CONTACT_SHEET)):
        write_contact_sheet(out)
    unfinished = storage.join(out, UNFINISHED)
    ours = {name.removesuffix(".json") for name in storage.children(unfinished)}
    for name in ours - {shard.name for shard in manifest.shards}:
        storage.remove(storage.join(out, name))  # a shard of an earlier, unfinished run with other photographs
    for name in storage.children(out):
        if name.startswith(".") and name.endswith(".part"):
            storage.remove(storage.join(out, name))  # what a killed worker had begun to write
    storage.remove(unfinished)
