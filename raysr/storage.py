"""Whole files on a local disk or an object store, written so that a reader never meets half of one."""

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyarrow import fs


def absolute(location: str | Path) -> str:
    """`location` as an absolute path, or unchanged when it is a URI such as `s3://bucket/key`."""
    text = str(location)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def join(location: str, *names: str) -> str:
    """`names` below `location`, a path or a URI."""
    return "/".join([location.rstrip("/"), *names])


def filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow file system that holds `location`, and the path inside it."""
    if "://" in location:
        return fs.FileSystem.from_uri(location)
    return fs.LocalFileSystem(), absolute(location)


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


def write_text(location: str, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(location, text.encode())


def append_line(location: str, line: str) -> None:
    """Add a line to a journal, durably.

    A local one is the file `location`, appended to. An object store cannot append: there every line is an object of
    its own below `location`, never changed, named so that their order is that of writing by one writer.
    """
    store, path = filesystem(location)
    if not isinstance(store, fs.LocalFileSystem) or "://" in location:
        write_bytes(join(location, f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"), line.encode())
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
    store, path = filesystem(location)
    found = store.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(entry.base_name for entry in found)


def _ends_a_line(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


@dataclass(frozen=True)
class Found:
    """A file in a folder."""

    name: str
    """Path below the folder, with forward slashes."""
    location: str
    stamp: str
    """Changes with the file: its size and its time of change."""


def walk(location: str) -> list[Found]:
    """Every file in a folder and in the folders below it, sorted by name; none where there is no folder.

    Symbolic links are followed, each folder once; one that leads nowhere is listed, so that it can be told of.
    """
    store, root = filesystem(location)
    if not is_folder(location):
        return []
    if isinstance(store, fs.LocalFileSystem):
        return sorted(_walk_disk(root), key=lambda found: found.name)
    entries = store.get_file_info(fs.FileSelector(root, recursive=True))
    base = location.rstrip("/")
    return sorted(
        (
            Found(name, f"{base}/{name}", f"{entry.size}-{entry.mtime_ns}")
            for entry in entries
            if entry.type == fs.FileType.File
            for name in [entry.path[len(root.rstrip("/")) + 1 :]]
        ),
        key=lambda found: found.name,
    )


def _walk_disk(root: str) -> Iterator[Found]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in files:
            path = Path(folder, file)
            try:
                status = path.stat()
                stamp = f"{status.st_size}-{status.st_mtime_ns}"
            except OSError as error:
                stamp = f"unreadable-{error.errno}"
            yield Found(path.relative_to(root).as_posix(), str(path), stamp)


def _raise(error: OSError) -> None:
    raise error


def remove(location: str) -> None:
    """Remove a file or a folder with all that is in it; nothing happens where there is none."""
    store, path = filesystem(location)
    kind = store.get_file_info(path).type
    if kind == fs.FileType.Directory:
        store.delete_dir(path)
    elif kind != fs.FileType.NotFound:
        store.delete_file(path)
