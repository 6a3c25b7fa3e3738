"""What lies in a folder of pictures: files that can be read, and what an operating system keeps beside them."""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import fs

from raysr import storage
from raysr.errors import text_of

MAX_FILE_BYTES = 1 << 30
"""Largest file of a source that is read."""

PASSING = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),
    }
)
"""What a local disk, or one that is mounted from elsewhere, may say today and not tomorrow."""

SYSTEM = frozenset(
    {
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
        *("__macosx", "network trash folder"),  # macOS
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"),  # network storage
        "lost+found",  # every ext4 disk has one, which nobody else may look into
    }
)
"""Names, in lower case, of what systems keep among a user's files: bins, thumbnails, earlier states, indexes. Their
other such names begin with a dot."""

HIDDEN_FILES, HIDDEN_FOLDERS = "hidden or system files", "hidden or system folders"
"""Why files and folders are passed over, as it is told."""


@dataclass(frozen=True)
class Found:
    """A file in a folder."""

    name: str
    """Path below the folder, with forward slashes."""
    location: str
    stamp: str
    """Changes with the file: its size and its time of change."""
    problem: str | None = None
    """Why it must not be opened."""


@dataclass(frozen=True)
class Contents:
    """What a folder holds."""

    files: list[Found] = field(default_factory=list[Found])
    """Sorted by name."""
    passed_over: dict[str, str] = field(default_factory=dict[str, str])
    """Location of each file that is passed over, and of each folder, with all that is in it: why."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name (no path) is hidden, or an operating system's own: no user's picture."""
    return name.startswith(".") or name.lower() in SYSTEM


def nfc(name: str) -> str:
    """The name in Unicode's composed form: some systems write an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def walk(location: str) -> Contents:
    """Every file in a folder and in the folders below it; nothing where there is no folder.

    Hidden files and folders and those of operating systems are passed over; the folder itself may have any name.
    Symbolic links are followed, each folder once, also into such a folder. A link that leads nowhere is listed, and so
    is what is no plain file (a pipe, a device), is too large or has a name that is not UTF-8: with its `problem`, so
    that it can be told of.
    """
    store, root = storage.filesystem(location)
    if not storage.is_folder(location):
        return Contents()
    passed_over: dict[str, str] = {}
    if isinstance(store, fs.LocalFileSystem):
        files = _walk_disk(root, passed_over)
    else:
        entries = store.get_file_info(fs.FileSelector(root, recursive=True))
        files = _walk_objects(entries, root, location, passed_over)
    return Contents(sorted(files, key=lambda found: found.name), passed_over)


def _walk_objects(
    entries: Iterable[fs.FileInfo], root: str, location: str, passed_over: dict[str, str]
) -> Iterator[Found]:
    for entry in entries:
        if entry.type != fs.FileType.File:
            continue
        name = entry.path[len(root.rstrip("/")) + 1 :]
        parts = name.split("/")
        hidden = next((depth for depth, part in enumerate(parts, 1) if is_hidden(part)), None)
        if hidden is None:
            yield Found(name, storage.join(location, name), f"{entry.size}-{entry.mtime_ns}", _too_large(entry.size))
        else:
            kind = HIDDEN_FILES if hidden == len(parts) else HIDDEN_FOLDERS
            passed_over[storage.join(location, *parts[:hidden])] = kind


def _walk_disk(root: str, passed_over: dict[str, str]) -> Iterator[Found]:
    seen: set[str] = set()
    waiting = [root]  # links come last: a folder is found under its own name, if it has one here
    while waiting:
        for folder, folders, files in os.walk(waiting.pop(0), onerror=_raise):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            # What is in a hidden folder is not even counted: earlier states of a large disk may lie there.
            passed_over |= {str(Path(folder, name)): HIDDEN_FOLDERS for name in folders if is_hidden(name)}
            passed_over |= {str(Path(folder, name)): HIDDEN_FILES for name in files if is_hidden(name)}
            shown = sorted(name for name in folders if not is_hidden(name))
            waiting += [str(path) for name in shown if (path := Path(folder, name)).is_symlink()]
            folders[:] = [name for name in shown if not Path(folder, name).is_symlink()]
            for file in files:
                if not is_hidden(file):
                    yield _on_disk(Path(folder, file), root)


def _on_disk(path: Path, root: str) -> Found:
    name, location, problem = path.relative_to(root).as_posix(), str(path), None
    try:
        status = path.stat()
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        problem = _too_large(status.st_size) if stat.S_ISREG(status.st_mode) else "no plain file: a pipe or a device"
    except OSError as error:
        stamp = f"unreadable-{error.errno}"
        problem = None if error.errno in PASSING else f"cannot be read: {error.strerror or text_of(error)}"
    plain = os.fsencode(name).decode("utf-8", "backslashreplace")
    if plain != name:  # bytes that are no text can stand neither in a manifest nor in a Parquet file
        name, location, problem = plain, storage.join(root, plain), "its name is not UTF-8: rename it"
    return Found(name, location, stamp, problem)


def _too_large(size: int) -> str | None:
    return f"{size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read" if size > MAX_FILE_BYTES else None


def _raise(error: OSError) -> None:
    raise OSError(
        error.errno or errno.EIO,
        f"cannot look into {error.filename} ({error.strerror}): make it readable, or move it away",
    ) from error
