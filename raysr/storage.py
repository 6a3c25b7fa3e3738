"""Whole files on a local disk or an object store, written so that a reader never meets half of one."""

import os
import secrets
from pathlib import Path

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
