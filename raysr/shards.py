"""One shard of a prepared set: photographs in, a checksummed Parquet file and its facts out; pure Python, no Ray.

Beside each shard its facts are kept until the set is finished, so that a run that was killed goes on where it was.
"""

import errno
import hashlib
import io
import json
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysr import storage
from raysr.decoding import MAX_PIXELS
from raysr.duplicates import perceptual_hash, pixel_hash
from raysr.errors import text_of
from raysr.folders import PASSING
from raysr.images import Geometry, Pair, PictureError, Prepared, make_pairs
from raysr.manifest import SCHEMA, Shard, pair_digest
from raysr.sources import Photograph, Split

PAIRS_PER_ROW_GROUP = 16
READ_AHEAD = 2
"""Photographs that are read while another one is decoded."""

READ_TRIES, READ_PAUSE_S = 4, 1.0
"""How often a photograph is tried where storage fails, and the first pause; each is longer than the one before."""

UNFINISHED = ".unfinished"
"""Folder of the facts of each shard, in a set that is being prepared."""

RECIPE = 5
"""Changes when the same photograph gives other rows than before: facts of another recipe are not taken over."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What goes into one shard."""

    name: str
    """File name of the shard."""
    split: Split
    photographs: tuple[Photograph, ...]
    roots: tuple[str, ...]
    """Folders that must be there where this is done."""
    dropped: dict[str, str]
    """Photographs that are refused whatever is in them: image_id -> reason."""
    max_pixels: int = MAX_PIXELS
    """A photograph of more is refused."""

    def to_json(self) -> str:
        """As it travels to a worker."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Task":
        """The task that `to_json` wrote."""
        raw: Any = json.loads(text)
        photographs = tuple(Photograph(**photo) for photo in raw["photographs"])
        return Task(**raw | {"photographs": photographs, "roots": tuple(raw["roots"])})


@dataclass(frozen=True, kw_only=True)
class PhotographFacts:
    """What became of one photograph."""

    image_id: str
    photograph: str
    reason: str | None
    """Why it was refused."""
    dropped: bool
    """Whether that is not for what is in it, but because the task said so."""
    digests: tuple[str, ...]
    """Hashes of its pairs."""
    pixels: str | None
    """Hash of its luminance."""
    looks: str | None
    """Its perceptual hash."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What was written into one shard."""

    key: str
    """Hash of the task, the geometry and RECIPE."""
    shard: Shard
    photographs: tuple[PhotographFacts, ...]
    host: str

    def to_json(self) -> str:
        """As it is kept beside the shard, and travels to the driver."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> "ShardFacts":
        """The facts that `to_json` wrote."""
        raw: Any = json.loads(text)
        shard = Shard(**raw["shard"] | {"groups": tuple(raw["shard"]["groups"])})
        photographs = tuple(
            PhotographFacts(**one | {"digests": tuple(one["digests"]), "notes": tuple(one["notes"])})
            for one in raw["photographs"]
        )
        return ShardFacts(key=raw["key"], shard=shard, photographs=photographs, host=raw["host"])


def facts_file(out: str, name: str) -> str:
    """Where the facts of a shard are kept until the set is finished."""
    return storage.join(out, UNFINISHED, f"{name}.json")


def write_shard(out: str, task: Task, geometry: Geometry) -> ShardFacts:
    """Read, decode and write the photographs of one shard, unless that was done already; safe to be done twice.

    A photograph that cannot be used becomes a row with its reason. Raises OSError where the folder of the photographs
    is not to be seen, and where the shard cannot be written.
    """
    key = hashlib.sha256(json.dumps([RECIPE, asdict(geometry), task.to_json()]).encode()).hexdigest()
    kept = _kept(out, task.name, key)
    if kept is not None:
        return kept
    for root in task.roots:
        if not storage.is_folder(root):
            raise FileNotFoundError(
                f"{socket.gethostname()} does not see {root}: photographs must lie where every machine of the cluster "
                "sees them, for example in s3://BUCKET/FOLDER"
            )
    rows: list[dict[str, Any]] = []
    refusals: list[dict[str, Any]] = []
    facts: list[PhotographFacts] = []
    for photo, data, outcome in _open_all(task, geometry):
        prepared = outcome if isinstance(outcome, Prepared) else None
        reason = None if isinstance(outcome, Prepared) else outcome
        pairs = {_image_id(photo, geometry, i): pair for i, pair in enumerate(prepared.pairs if prepared else ())}
        notes = prepared.notes if prepared else ()
        rows += [_row(photo, image_id, data, geometry, pair, notes) for image_id, pair in pairs.items()]
        if reason is not None:
            refusals.append(_row(photo, photo.image_id, data, geometry, None, notes, reason))
        facts.append(
            PhotographFacts(
                image_id=photo.image_id,
                photograph=photo.photograph,
                reason=reason,
                dropped=photo.image_id in task.dropped,
                digests=tuple(pair_digest(image_id, photo.split, pair) for image_id, pair in pairs.items()),
                pixels=pixel_hash(prepared.y) if prepared else None,
                looks=perceptual_hash(prepared.y) if prepared else None,
                notes=notes,
            )
        )
    encoded, groups = _encode(rows, refusals)
    shard = Shard(
        name=task.name,
        rows=len(rows) + len(refusals),
        bytes=len(encoded),
        sha256=hashlib.sha256(encoded).hexdigest(),
        groups=groups,
    )
    storage.write_bytes(storage.join(out, task.name), encoded)
    written = ShardFacts(key=key, shard=shard, photographs=tuple(facts), host=socket.gethostname())
    storage.write_text(facts_file(out, task.name), written.to_json())
    return written


def _kept(out: str, name: str, key: str) -> ShardFacts | None:
    """The facts of a shard that was finished by an earlier run; None when there is none, or it is not what it was."""
    file, location = facts_file(out, name), storage.join(out, name)
    if not storage.exists(file) or not storage.exists(location):
        return None
    try:
        facts = ShardFacts.from_json(storage.read_bytes(file))
    except (ValueError, TypeError, KeyError):
        return None  # damaged, or of another raysr
    same = facts.key == key and hashlib.sha256(storage.read_bytes(location)).hexdigest() == facts.shard.sha256
    return facts if same else None


def _open_all(task: Task, geometry: Geometry) -> Iterable[tuple[Photograph, bytes | None, Prepared | str]]:
    """Each photograph with its bytes, if they were read, and its pairs, or the reason why there are none.

    The next ones are read ahead.
    """

    def read(photo: Photograph) -> tuple[bytes | None, str | None]:
        if photo.image_id in task.dropped:  # read for its hash
            return read_photograph(photo.location)[0], task.dropped[photo.image_id]
        if photo.problem is not None:
            return None, photo.problem
        return read_photograph(photo.location)

    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(read, photo) for photo in task.photographs[:READ_AHEAD]]
        for index, photo in enumerate(task.photographs):
            data, reason = waiting.pop(0).result()
            waiting += [reader.submit(read, later) for later in task.photographs[index + READ_AHEAD :][:1]]
            if data is None or reason is not None:
                yield photo, data, reason or ""
                continue
            try:
                yield photo, data, make_pairs(data, geometry, task.max_pixels)
            except PictureError as error:
                yield photo, data, text_of(error)


def read_photograph(location: str) -> tuple[bytes | None, str | None]:
    """The file's bytes, or the reason why it has none that will be there the next time either.

    Raises OSError where the storage, not the file, is at fault, also after READ_TRIES: such a photograph must not be
    left out of the set for good.
    """
    for attempt in range(1, READ_TRIES + 1):
        try:
            return storage.read_bytes(location), None
        except OSError as error:
            reason = _lasting(error, remote="://" in location)
            if reason is not None:
                return None, f"cannot be read: {reason}"
            if attempt == READ_TRIES:
                raise OSError(error.errno or errno.EIO, f"{location} cannot be read: {text_of(error)}") from error
            time.sleep(READ_PAUSE_S * attempt)
    raise AssertionError


def _lasting(error: OSError, *, remote: bool) -> str | None:
    """What is wrong with the file itself, in words that are the same each time; None where trying again may help."""
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    if remote:
        return "access denied" if "ACCESS_DENIED" in text_of(error) or isinstance(error, PermissionError) else None
    return None if error.errno in PASSING else error.strerror or text_of(error)


def _image_id(photo: Photograph, geometry: Geometry, index: int) -> str:
    return f"{photo.image_id}#{index:03d}" if geometry.fit == "tiles" else photo.image_id


def _row(
    photo: Photograph,
    image_id: str,
    data: bytes | None,
    geometry: Geometry,
    pair: Pair | None,
    notes: tuple[str, ...],
    error: str | None = None,
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
        "source_sha256": "" if data is None else hashlib.sha256(data).hexdigest(),
        "notes": ", ".join(notes),
        "error": error,
    }


def _encode(rows: list[dict[str, Any]], refusals: list[dict[str, Any]]) -> tuple[bytes, tuple[int, ...]]:
    """The Parquet file, and the rows of each of its row groups of pairs."""
    buffer = io.BytesIO()
    parts = [rows[start : start + PAIRS_PER_ROW_GROUP] for start in range(0, len(rows), PAIRS_PER_ROW_GROUP)]
    # LZ4 is read twice as fast as zstd and takes a third more room; dictionaries of pictures only cost time.
    with pq.ParquetWriter(buffer, SCHEMA, compression="lz4", use_dictionary=False) as writer:
        for part in [*parts, refusals] if refusals else parts:
            writer.write_table(pa.Table.from_pylist(part, schema=SCHEMA))
    return buffer.getvalue(), tuple(map(len, parts))
