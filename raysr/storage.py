"""Whole files on a local disk or an object store, written so that a reader never meets half of one."""

import os
import secrets
import time
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
