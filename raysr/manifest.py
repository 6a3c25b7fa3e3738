"""A prepared set's manifest: which shards it has, what is in them, and the hashes that vouch for both."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raysr import storage
from raysr.duplicates import NearDuplicate
from raysr.errors import text_of
from raysr.images import Geometry, Pair

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("photograph", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("hr", pa.binary()),
        pa.field("lr", pa.binary()),
        pa.field("hr_px", pa.int32(), nullable=False),
        pa.field("scale", pa.int32(), nullable=False),
        pa.field("content_box", pa.list_(pa.int32())),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("notes", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""One row a pair: `hr` and `lr` are uint8 luminance, row by row. Refused photographs are rows with `error` and no
pixels, in a row group of their own at the end of a shard."""


class ManifestError(RuntimeError):
    """A prepared set that is missing, damaged, or not what its manifest says."""


class OtherVersionError(ManifestError):
    """A set that another raysr made."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a set."""

    name: str
    rows: int
    bytes: int
    sha256: str
    groups: tuple[int, ...]
    """Rows of each row group of pairs; that of refused photographs, which follows them, is not among these."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A photograph that gave no pair."""

    image_id: str
    reason: str
    dropped: bool
    """Whether it was left out for the sake of the validation set: it can be opened."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared set holds. It is written last: a set without one is not finished."""

    schema_version: int
    geometry: Geometry
    request: dict[str, Any]
    """What was asked for: source, splits, seed and how strictly."""
    source_digest: str | None
    """Over the names, splits, sizes and times of change of the photographs, as they were when they were prepared or
    found to be the same; None for a set that was downloaded."""
    shards: tuple[Shard, ...]
    content_sha256: str
    """Over all pairs, whatever their order and their distribution over shards."""
    pairs: dict[str, int]
    """Number of pairs by split."""
    photographs: dict[str, int]
    """Number of photographs that gave them, by split."""
    refused: tuple[Refusal, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    """Training photographs that look like one that validates, and are in the set all the same."""
    notes: dict[str, int]
    """What was changed on opening, with the number of photographs."""
    passed_over: dict[str, int]
    """Files of the source that were left alone: how many of each suffix that is no picture's, how many are hidden or
    the operating system's, and how many lie beside the splits."""

    @property
    def source(self) -> str:
        """Where the photographs came from."""
        return self.request["source"]

    def to_json(self) -> str:
        """The manifest as it stands in `manifest.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @staticmethod
    def read(location: str) -> "Manifest":
        """The manifest of the set in folder `location`; raises ManifestError when there is none or it is damaged."""
        file = storage.join(location, MANIFEST)
        try:
            loaded: Any = json.loads(storage.read_bytes(file))
        except FileNotFoundError as error:
            raise ManifestError(
                f"{location} holds no prepared set ({MANIFEST} is missing): make one with jobs/prepare.py"
            ) from error
        except ValueError as error:
            raise ManifestError(f"{file} is damaged ({text_of(error)}): prepare the set again") from error
        if not isinstance(loaded, dict):
            raise ManifestError(f"{file} is damaged (it holds {loaded!r:.40}, not an object): prepare the set again")
        raw: dict[str, Any] = loaded
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise OtherVersionError(
                f"{file} has schema version {raw.get('schema_version')!r}, but this raysr reads {SCHEMA_VERSION}: "
                "prepare the set again"
            )
        try:
            parts: dict[str, Any] = {
                "geometry": Geometry(**raw["geometry"]),
                "shards": tuple(Shard(**shard | {"groups": tuple(shard["groups"])}) for shard in raw["shards"]),
                "refused": tuple(Refusal(**refusal) for refusal in raw["refused"]),
                "near_duplicates": tuple(NearDuplicate(**one) for one in raw["near_duplicates"]),
            }
            return Manifest(**(raw | parts))
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{file} is damaged ({error!r}): prepare the set again") from error


def pair_digest(image_id: str, split: str, pair: Pair) -> str:
    """The hash of one pair that `content_digest` combines."""
    digest = hashlib.sha256()
    for part in (image_id.encode(), split.encode(), str(tuple(pair.content_box)).encode(), pair.hr.tobytes()):
        digest.update(len(part).to_bytes(8, "big") + part)
    digest.update(pair.lr.tobytes())
    return digest.hexdigest()


def content_digest(digests: list[str]) -> str:
    """One hash over the pairs' hashes, whatever their order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
