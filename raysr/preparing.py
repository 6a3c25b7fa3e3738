"""What is asked for when photographs are prepared, and how far it is."""

import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raysr import storage
from raysr.decoding import MAX_MEGAPIXELS, pixels_of
from raysr.errors import text_of
from raysr.folders import is_hidden
from raysr.images import Geometry
from raysr.manifest import MANIFEST, Manifest, ManifestError, OtherVersionError
from raysr.plain import say
from raysr.shards import UNFINISHED
from raysr.sources import KNOWN

LINE_S = 10.0

BEGUN = "begun"
"""In UNFINISHED from the first moment: says that a folder without a manifest is a set in the making."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn photographs into luminance pairs."""

    source: str | None = None
    """A folder of pictures, searched recursively, on a disk, s3:// or gs://; df2k or bsds500, which are downloaded
    (./df2k is a folder of that name); or bundled, the photographs in the scikit-image wheel. A folder with train/ and
    val/ (or valid/) inside is split by them."""
    out: str | None = None
    """Folder for the Parquet shards and manifest.json, empty or new; s3://BUCKET/FOLDER works too. A finished set in it
    is checked, and mended where it is damaged."""
    describe: str | None = None
    """Print what the set in this folder holds and check every hash; alone, without --source."""
    geometry: Geometry = field(default_factory=Geometry)
    val: str | None = None
    """Another folder, whose photographs validate; or a .txt file (UTF-8) that lists those of --source that do, a line
    each."""
    val_share: float = 0.1
    """Share of the photographs that validate, for a folder without splits of its own."""
    seed: int = 0
    """Draws the photographs that validate."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Photographs of more are refused: a small file can claim to be huge. A worker needs 10 to 20 MB for each."""
    strict: bool = False
    """Stop at the first photograph that cannot be used."""
    drop_near_duplicates: bool = False
    """Leave out training photographs that look like one that validates; otherwise they are only told of."""
    cache: str = "~/.cache/raysr"
    """Where df2k and bsds500 are downloaded and unpacked to. On a cluster: s3://BUCKET/FOLDER or the like."""
    archives: str | None = None
    """Folder that has all of their archives: none is downloaded then."""
    mirror: str | None = None
    """Address to download archives from instead of their public homes: MIRROR/NAME."""

    def __post_init__(self) -> None:
        if self.describe is not None:
            others = [one.name for one in fields(self) if one.name not in ("describe", "geometry")]
            asked = [name for name in others if getattr(self, name) != _DEFAULTS[name]]
            asked += ["geometry"] if self.geometry != Geometry() else []
            if asked:
                raise ValueError(f"--describe stands alone: it does not go with {', '.join(map(_flag, asked))}")
        elif self.source is None or self.out is None:
            raise ValueError("give --source and --out, or --describe alone")
        if self.seed < 0:
            raise ValueError(f"--seed must be 0 or more, got {self.seed}")
        pixels_of(self.max_megapixels)  # raises ValueError for what is no size
        if self.mirror is not None and not self.mirror.startswith(("http://", "https://")):
            raise ValueError(f"--mirror must be an address that begins with http:// or https://, got {self.mirror!r}")

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest photograph that is taken."""
        return pixels_of(self.max_megapixels)

    @property
    def request(self) -> dict[str, Any]:
        """What makes a set another one, beside its geometry."""
        names = ("source", "val", "val_share", "seed", "max_megapixels", "strict", "drop_near_duplicates")
        return {name: getattr(self, name) for name in names}

    def differences(self, request: dict[str, Any], geometry: Geometry, wanted: Geometry) -> list[str]:
        """In what a set that was made by `request` and `geometry` is not the one that is asked for."""
        asked = {"max_megapixels": MAX_MEGAPIXELS} | request  # the limit of sets that were made before it could be set
        then, now = ({**asked, **_flat(shape)} for asked, shape in ((asked, geometry), (self.request, wanted)))
        return [
            f"{_flag(name)} {then.get(name)!s} then, {now[name]!s} now"
            for name in now
            if _place(name, then.get(name)) != _place(name, now[name])
        ]

    def check_apart(self) -> None:
        """Raise ValueError where the set would lie among the photographs that it is made of."""
        assert self.out is not None  # noqa: S101
        out = _real(self.out)
        for flag, folder in (("--source", self.source), ("--val", self.val)):
            if folder is None or (flag == "--source" and folder in KNOWN):
                continue
            if f"{out}/".startswith(f"{_real(folder).rstrip('/')}/"):
                raise ValueError(
                    f"--out {self.out} lies inside {flag} {folder}, where a later run would search it for photographs: "
                    "give a folder outside of it"
                )


_DEFAULTS = {one.name: one.default for one in fields(PrepareConfig)}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _place(name: str, value: Any) -> Any:
    """The value of a setting, a folder's or file's spelled in one way."""
    if name not in ("source", "val") or value is None or value in KNOWN:
        return value
    return storage.absolute(value).rstrip("/")


def _flat(geometry: Geometry) -> dict[str, Any]:
    return {name if name == "fast_jpeg" else f"geometry.{name}": value for name, value in asdict(geometry).items()}


def _real(folder: str) -> str:
    return storage.absolute(folder) if "://" in folder else os.path.realpath(Path(folder).expanduser())


def earlier_manifest(config: PrepareConfig, out: str) -> Manifest | None:
    """That of a finished set; None where there is none, or a damaged one: then nothing in the folder is trusted."""
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    try:
        return Manifest.read(out)
    except OtherVersionError as error:
        raise FileExistsError(f"{text_of(error)}: remove it, or give another folder than --out {config.out}") from error
    except ManifestError:
        return None


def check_free(config: PrepareConfig, out: str) -> None:
    """Raise FileExistsError where something else than a set of ours is in the folder."""
    names = storage.children(out)
    others = [name for name in names if not is_hidden(name)]
    if others and UNFINISHED not in names and MANIFEST not in names:
        raise FileExistsError(
            f"--out {config.out} holds {others[0]!r} and no prepared set, begun or finished: give an empty folder, or "
            "one that is not there yet"
        )


def claim(config: PrepareConfig, out: str) -> None:
    """Make the folder ours; raises FileExistsError where something else is in it."""
    check_free(config, out)
    storage.write_text(storage.join(out, UNFINISHED, BEGUN), "")


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
            TextColumn("{task.fields[news]}", markup=False),
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
        """Show how far a download or a comparison is."""
        of = f" of {total / 1e6:,.0f}" if total else ""
        self._bar.update(self._task, news=f"{name}: {done / 1e6:,.0f}{of} MB")
        if not self.console.is_terminal and time.monotonic() - self._printed > LINE_S:
            self._printed = time.monotonic()
            say(self.console, f"{name}: {done / 1e6:,.0f}{of} MB")

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
            say(self.console, line)
