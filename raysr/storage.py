"""Whole files on a local disk or an object store, written so that a reader never meets half of one."""

import os
import secrets
import time
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, unquote

from pyarrow import fs

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
"""Kinds of URI that pyarrow opens."""


def absolute(location: str | Path) -> str:
    """`location` as an absolute path; a URI such as `s3://bucket/key` with its path percent-encoded, once."""
    text = str(location)
    if "://" not in text:
        return str(Path(text).expanduser().absolute())
    scheme, _, rest = text.partition("://")
    host, slash, rest = rest.partition("/")
    path, mark, query = rest.partition("?")
    return f"{scheme}://{host}{slash}{_encoded(unquote(path))}{mark}{query}"


def real(location: str | Path) -> str:
    """The one name of a folder: of a path without links and dots, of a URI without a slash at its end."""
    text = absolute(location)
    return text.rstrip("/") if "://" in text else os.path.realpath(text)


def join(location: str, *names: str) -> str:
    """`names`, plain as in a listing, below `location`, a path or a URI."""
    if "://" not in location:
        return "/".join([location.rstrip("/"), *names])
    path, mark, query = location.partition("?")
    return "/".join([path.rstrip("/"), *map(_encoded, names)]) + mark + query


def _encoded(name: str) -> str:
    """A name as it stands in a URI: what may stand there as it is, stays."""
    return quote(name, safe="/!$&'()*+,;=:@~")


def plain(location: str) -> PurePosixPath:
    """The path in `location` as people write it: of a URI without its query, decoded."""
    return PurePosixPath(unquote(location.partition("?")[0]) if "://" in location else location)


def filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow file system that holds `location`, and the path inside it, decoded; ValueError for no such kind."""
    if "://" not in location:
        return fs.LocalFileSystem(), absolute(location)
    scheme = location.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise ValueError(f"{location}: {scheme}:// cannot be read or written here; known: {known} and plain paths")
    return fs.FileSystem.from_uri(absolute(location))


def printable(text: str) -> str:
    """`text` fit for a terminal: control characters and what is no Unicode are escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def exists(location: str) -> bool:
    """Whether a file or folder is there."""
    store, path = filesystem(location)
    return store.get_file_info(path).type != fs.FileType.NotFound


def is_folder(location: str) -> bool:
    """Whether a folder is there."""
    store, path = filesystem(location)
    return store.get_file_info(path).type == fs.FileType.Directory


def size(location: str) -> int:
    """Bytes of the file at `location`; raises FileNotFoundError when there is none."""
    store, path = filesystem(location)
    info = store.get_file_info(path)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(f"no file at {location}")
    return int(info.size)


def modified(location: str) -> float:
    """Seconds since 1970 of the last change, by the storage's own clock; FileNotFoundError where there is no file."""
    store, path = filesystem(location)
    info = store.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"no file at {location}")
    return info.mtime_ns / 1e9


def read_bytes(location: str) -> bytes:
    """The whole file; raises FileNotFoundError when it is missing."""
    store, path = filesystem(location)
    with store.open_input_stream(path, compression=None) as stream:
        return stream.read()


def write_bytes(location: str, data: bytes) -> None:
    """Write the whole file: a local one appears at once by a rename, an object when its upload is complete."""
    store, path = filesystem(location)
    if not isinstance(store, fs.LocalFileSystem):
        with store.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_writable(location: str) -> None:
    """Write a file beside `location` and take it away again; raises OSError where that cannot be done."""
    beside = f"{location}.{secrets.token_hex(4)}.part"
    write_bytes(beside, b"")
    remove(beside)


def write_text(location: str, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(location, text.encode())


def append_line(location: str, line: str, *, rank: int = 0) -> None:
    """Add a line to a journal, durably.

    A local one is the file `location`, appended to. An object store cannot append: there every line is an object of
    its own below `location`, never changed. Their names order them by `rank` first and by the writer's clock second:
    writers of unlike rank need no common clock.
    """
    store, path = filesystem(location)
    if not isinstance(store, fs.LocalFileSystem) or "://" in location:
        # The letter sorts them after those of older versions, which have the time alone.
        name = f"r{rank:06d}-{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        write_bytes(join(location, name), line.encode())
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab+") as stream:
        if stream.tell() and not _ends_a_line(stream):
            stream.write(b"\r\n")  # a crash cut the last line short: mark it, so that readers leave it out
        stream.write(line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(location: str) -> list[str]:
    """The lines of a journal, oldest first, without those that a crash cut short; none where there is no journal."""
    store, path = filesystem(location)
    info = store.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        return []
    if info.type == fs.FileType.File:
        text = read_bytes(location).decode(errors="replace")
        return [line for line in text.split("\n")[:-1] if not line.endswith("\r")]
    return [read_bytes(join(location, name)).decode() for name in children(location)]


def last_line(location: str) -> str | None:
    """The last whole line of a journal; None where there is none."""
    store, path = filesystem(location)
    if store.get_file_info(path).type != fs.FileType.Directory:
        return next(reversed(read_lines(location)), None)
    names = children(location)
    return read_bytes(join(location, names[-1])).decode() if names else None


def children(location: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; none where there is no folder."""
    if "://" not in location:
        try:
            return sorted(
                path.name for path in Path(absolute(location)).iterdir()
            )  # pyarrow stops at a name that is not UTF-8
        except FileNotFoundError:
            return []
    store, path = filesystem(location)
    found = store.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(entry.base_name for entry in found)


def _ends_a_line(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def remove(location: str) -> None:
    """Remove a file or a folder with all that is in it; nothing happens where there is none."""
    store, path = filesystem(location)
    kind = store.get_file_info(path).type
    if kind == fs.FileType.Directory:
        store.delete_dir(path)
    elif kind != fs.FileType.NotFound:
        store.delete_file(path)
