"""Public data sets: downloaded from their homes, checked, and unpacked into train/ and val/."""

import getpass
import gzip
import hashlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

import requests
import urllib3
from filelock import FileLock

from raysr import storage
from raysr.catalogue import ARCHIVES, Archive
from raysr.errors import text_of
from raysr.folders import is_hidden

FRUITLESS_TRIES = 5
"""Connections in a row that bring nothing, after which a download is given up."""

PAUSE_S = 2.0
"""Before the next try; longer after each."""

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may be answered otherwise."""

CHUNK_BYTES = 1 << 20
MAX_MEMBER_BYTES = 1 << 30
"""Largest photograph that an archive may hold."""


class ArchiveError(RuntimeError):
    """An archive that cannot be had, is not what it should be, or would write where it must not."""


OnFetch = Callable[[str, int, int | None], None]
"""Called with the name of an archive, the bytes that are there, and of how many where that is known."""


def fetch_set(
    name: str,
    *,
    cache: str,
    archives: str | None = None,
    mirror: str | None = None,
    on_fetch: OnFetch = lambda name, done, total: None,
) -> str:
    """The folder below `cache` that holds train/ and val/ of the set `name`, downloaded and unpacked where it is not.

    `archives` is a folder of archives that are there already: taken by their names, checked, never changed. `mirror`
    replaces the public homes. What was interrupted goes on; an archive of our own is removed when it is unpacked.

    Raises ArchiveError for what cannot be had or is not right, OSError for a disk without room and for an archive that
    `archives` does not have.
    """
    folder = storage.join(storage.absolute(cache), name)
    if all(_is_unpacked(folder, archive) for archive in ARCHIVES[name]):
        return folder
    downloads = _private_folder() if "://" in folder else Path(folder).parent
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / ".raysr.lock"):  # another preparation may be downloading the same
        _fetch(name, folder, downloads, archives, mirror, on_fetch)
    return folder


def _private_folder() -> Path:
    """A folder for downloads that go on into a bucket, in which nobody else can lay anything."""
    folder = Path(tempfile.gettempdir(), f"raysr-archives-{getpass.getuser()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ArchiveError(f"{folder} is not a folder that only you can write to: remove it, or set TMPDIR to another")
    return folder


def _fetch(
    name: str, folder: str, downloads: Path, archives: str | None, mirror: str | None, on_fetch: OnFetch
) -> None:
    wanted = [archive for archive in ARCHIVES[name] if not _is_unpacked(folder, archive)]
    mine = _mine(wanted, archives)
    _check_room_for_all(name, wanted, downloads, mirror, remote="://" in folder, mine=mine)
    for index, archive in enumerate(wanted):
        own = mine.get(archive.name)
        path = own or downloads / archive.name
        if own is None and not path.exists():
            _download(archive, path, mirror, on_fetch)
        _check(archive, path, ours=path is not own)
        _unpack(archive, path, folder)
        needed_later = any(later.name == archive.name for later in wanted[index + 1 :])
        if path is not own and not needed_later:
            path.unlink()


def _is_unpacked(folder: str, archive: Archive) -> bool:
    """Whether every photograph of the archive is where its marker says; raises ArchiveError where there are others."""
    marker, home = _marker(folder, archive), storage.join(folder, archive.folder)
    if not storage.exists(marker):
        return False
    names = set(json.loads(storage.read_bytes(marker)).get("photographs", ()))
    there = {child for child in storage.children(home) if not is_hidden(child)}
    if names and there - names:
        raise ArchiveError(f"{home} holds {min(there - names)!r}, which is not of {archive.name}: take it away")
    return bool(names) and names <= there


def _mine(wanted: list[Archive], archives: str | None) -> dict[str, Path]:
    """Where the user has each archive; none where no folder is named."""
    if archives is None:
        return {}
    folder = Path(archives).expanduser()
    if not folder.is_dir():
        raise NotADirectoryError(f"--archives {archives}: no such folder")
    mine = {archive.name: folder / archive.name for archive in wanted}
    for path in mine.values():
        if not path.is_file():
            raise FileNotFoundError(f"--archives {archives} has no {path}: put it there, or leave out --archives")
    return mine


def _check_room_for_all(
    name: str, wanted: list[Archive], downloads: Path, mirror: str | None, *, remote: bool, mine: dict[str, Path]
) -> None:
    """Add up, before the first byte, what the downloads and the photographs in them will take at their worst.

    An archive is taken to hold as many bytes of photographs as it has itself; each is removed when it is unpacked.
    """
    held = worst = 0
    for archive in {archive.name: archive for archive in wanted if archive.name not in mine}.values():
        path = downloads / archive.name
        there = next((one.stat().st_size for one in (path, path.with_name(f"{path.name}.part")) if one.exists()), 0)
        size = archive.size or _size(archive, mirror)
        worst = max(worst, held + max(0, size - there) + (0 if remote else size))
        held += 0 if remote else size
    if worst:
        downloads.mkdir(parents=True, exist_ok=True)
        _check_room(downloads, worst, f"download and unpack {name}")


def _url(archive: Archive, mirror: str | None) -> str:
    return archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.name}"


def _size(archive: Archive, mirror: str | None) -> int:
    """Bytes of an archive by its server's word; 0 where it does not say, and the download itself will look again."""
    try:
        answer = requests.head(_url(archive, mirror), allow_redirects=True, timeout=10)
    except requests.RequestException:
        return 0
    return int(answer.headers.get("Content-Length", 0)) if answer.ok else 0


def _marker(folder: str, archive: Archive) -> str:
    return storage.join(folder, f".{archive.folder.replace('/', '-')}.json")


def _download(archive: Archive, path: Path, mirror: str | None, on_fetch: OnFetch) -> None:
    """Download to PATH.part, from where an earlier try ended, and give it its name when every byte is there."""
    url = _url(archive, mirror)
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    fruitless, problem, total = 0, "", archive.size
    while fruitless < FRUITLESS_TRIES:
        before = part.stat().st_size
        try:
            total = _go_on(archive, url, part, on_fetch)
            part.replace(path)
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            problem = text_of(error)
        fruitless = 0 if part.stat().st_size > before else fruitless + 1
        time.sleep(PAUSE_S * fruitless)
    raise ArchiveError(
        f"{url}: {part.stat().st_size:,} of {total or 'unknown'} bytes came, then no more ({problem}); the same "
        "command goes on from there, --mirror takes another address, and --archives a folder that has it"
    )


def _go_on(archive: Archive, url: str, part: Path, on_fetch: OnFetch) -> int:
    """One connection: append what is missing; returns the size of the whole."""
    have = part.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(30, 60)) as answer:
        if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
            return have
        if answer.status_code in BUSY:
            raise requests.ConnectionError(f"the server answered {answer.status_code} {answer.reason}")
        if answer.status_code == 416 or (have and answer.status_code in (200, 206) and not _continues(answer, have)):
            part.write_bytes(b"")  # what is there is no beginning of what the server has: begin again
            if answer.status_code != 200:
                raise requests.ConnectionError(f"the server would not go on from byte {have:,}")
            have = 0
        if answer.status_code not in (200, 206):
            raise ArchiveError(
                f"{url}: the server answered {answer.status_code} {answer.reason}; give another address with --mirror, "
                "or a folder that has it with --archives"
            )
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else archive.size
        if total is not None:
            _check_room(part.parent, 2 * total - have, f"download and unpack {archive.name}")
        with part.open("ab") as stream:
            # As it is sent: a server that calls a .tgz gzip-encoded would have it unpacked on the way.
            for chunk in answer.raw.stream(CHUNK_BYTES, decode_content=False):
                stream.write(chunk)
                have += len(chunk)
                on_fetch(archive.name, have, total)
    if total is not None and have < total:
        raise requests.ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")
    return have


def _continues(answer: requests.Response, have: int) -> bool:
    return answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _check_room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder} has {free:,} bytes free, and {needed:,} are needed to {what}: free some, or give another --cache"
        )


def _check(archive: Archive, path: Path, *, ours: bool) -> None:
    """Compare size and hash with what was published."""
    problem: str | None = None
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        problem = f"{size:,} bytes, expected {archive.size:,}"
    for name, expected in (("sha256", archive.sha256), ("md5", archive.md5)):
        if problem is None and expected is not None:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, name).hexdigest()
            problem = None if found == expected else f"{name} {found}, expected {expected}"
    if problem is None:
        return
    if ours:
        path.unlink()
        raise ArchiveError(f"{archive.name} was downloaded with {problem}; it was removed: try again, or --mirror")
    raise ArchiveError(f"{path} has {problem}: it is damaged or another edition; download it again")


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    regular: bool
    open: Callable[[], IO[bytes]]


@contextmanager
def _members(path: Path) -> Generator[list[_Member]]:
    """What is in an archive, in its order."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield [_zip_member(archive, info) for info in archive.infolist() if not info.is_dir()]
    else:
        with tarfile.open(path) as archive:
            yield [_tar_member(archive, info) for info in archive.getmembers() if not info.isdir()]


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    regular = kind in (0, stat.S_IFREG) and not info.flag_bits & 1  # 1: encrypted
    # orig_filename: zipfile itself cuts a name at a null byte.
    return _Member(info.orig_filename, info.file_size, regular, lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def opened() -> IO[bytes]:
        stream = archive.extractfile(info)
        assert stream is not None  # noqa: S101
        return stream

    return _Member(info.name, info.size, info.isreg(), opened)


def _unpack(archive: Archive, path: Path, folder: str) -> None:
    """Write the photographs, one by one, and then the marker that says that all are there."""
    names: list[str] = []
    try:
        with _members(path) as members:
            wanted = _choose(archive, path, members)
            if "://" not in folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
                _check_room(Path(folder), sum(member.size for member in wanted), f"unpack {archive.name}")
            for member in wanted:
                name = PurePosixPath(member.name).name
                _write(member, storage.join(folder, archive.folder, name), path)
                names.append(name)
    except (gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(
            f"{path} cannot be unpacked: {text_of(error)}; remove it and give the command again"
        ) from error
    storage.write_text(_marker(folder, archive), json.dumps({"archive": archive.name, "photographs": names}))


def _choose(archive: Archive, path: Path, members: list[_Member]) -> list[_Member]:
    """The photographs among `members`; raises ArchiveError unless they are as many as there should be, and harmless."""
    for member in members:
        parts = member.name.split("/")
        if "\\" in member.name or "\0" in member.name or ":" in parts[0] or not parts[0] or ".." in parts:
            raise ArchiveError(f"{path} holds {member.name!r}, which leads out of its folder: nothing was unpacked")
    wanted = [member for member in members if fnmatchcase(member.name.removeprefix("./"), archive.members)]
    for member in wanted:
        if not member.regular or member.size > MAX_MEMBER_BYTES:
            raise ArchiveError(
                f"{path} holds {member.name!r}, which is no plain file of at most {MAX_MEMBER_BYTES:,} bytes: nothing "
                "was unpacked"
            )
    names = {PurePosixPath(member.name).name for member in wanted}
    if len(names) != archive.count or len(wanted) != archive.count:
        raise ArchiveError(
            f"{path} holds {len(wanted)} files {archive.members} of {len(names)} names, expected {archive.count}"
        )
    return wanted


def _write(member: _Member, location: str, path: Path) -> None:
    if storage.exists(location) and storage.size(location) == member.size:
        return  # an earlier run that was interrupted wrote it
    with member.open() as stream:
        data = stream.read(member.size + 1)
    if len(data) != member.size:
        raise ArchiveError(f"{path}: {member.name!r} does not have the {member.size:,} bytes that it claims")
    storage.write_bytes(location, data)
