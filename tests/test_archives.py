"""Small archives on a real HTTP server of this machine, in every state that a download can be in."""

import getpass
import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raysr import archives, storage
from raysr.archives import ARCHIVES, Archive, ArchiveError, fetch_set
from raysr.folders import walk

TRAIN = {f"Train_HR/{index:04d}.png": bytes([index]) * (3000 + index) for index in range(40)}
VAL = {f"Valid/HR/{index:04d}.png": b"v" * 500 + bytes([index]) for index in range(3)}
OTHERS = {"Valid/LR/0000.png": b"small", "Valid/readme.txt": b"hello"}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return buffer.getvalue()


class Home:
    """A web server with a fault or two: what it was asked for is written down."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        """(path, Range header) of each request."""
        self.cut_after: list[int] = []
        """After so many bytes of a body the connection ends: one for each request, then none."""
        self.ranges = True
        self.refusals: list[int] = []
        """Statuses with which requests are answered: one for each, then none."""
        self.encoding = "identity"
        self.sent = 0
        home = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.answer(self)

            def do_HEAD(self) -> None:
                data = home.files.get(self.path.lstrip("/"))
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        data = self.files.get(request.path.lstrip("/"))
        if data is not None and self.refusals:
            request.send_error(self.refusals.pop(0))
            return
        if data is None:
            request.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if start >= len(data) and start:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start:]
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Encoding", self.encoding)
        request.end_headers()
        body = body[: self.cut_after.pop(0)] if self.cut_after else body
        self.sent += len(body)
        request.wfile.write(body)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(archives, "PAUSE_S", 0.0)
    monkeypatch.setattr(archives, "CHUNK_BYTES", 1000)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    home = Home()
    thread = threading.Thread(target=home.server.serve_forever, args=(0.01,))
    thread.start()
    yield home
    home.server.shutdown()
    home.server.server_close()
    thread.join()


@pytest.fixture
def publish(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the set `df2k` of two archives, on the server and in the table."""

    def make(train: bytes | None = None, val: bytes | None = None, **wrong: object) -> None:
        train = zipped(TRAIN) if train is None else train
        val = tarred(VAL | OTHERS) if val is None else val
        home.files = {"train.zip": train, "val.tar.gz": val}
        settings = {"size": len(train), "sha256": hashlib.sha256(train).hexdigest()} | wrong
        first = Archive(
            name="train.zip",
            url=f"{home.url}/train.zip",
            members="Train_HR/*.png",
            folder="train/A",
            count=40,
            **settings,
        )
        second = Archive(
            name="val.tar.gz",
            url=f"{home.url}/val.tar.gz",
            md5=hashlib.md5(val).hexdigest(),  # noqa: S324
            members="Valid/HR/*.png",
            folder="val",
            count=3,
        )
        monkeypatch.setitem(ARCHIVES, "df2k", (first, second))

    make()
    return make


def held(folder: str | Path) -> dict[str, bytes]:
    return {found.name: storage.read_bytes(found.location) for found in walk(str(folder)).files}


WHOLE = {f"train/A/{Path(name).name}": data for name, data in TRAIN.items()} | {
    f"val/{Path(name).name}": data for name, data in VAL.items()
}


def test_a_set_is_downloaded_and_unpacked_and_a_second_call_needs_nothing(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = fetch_set("df2k", cache=str(tmp_path), on_fetch=lambda *news: seen.append(news))
    assert folder == str(tmp_path / "df2k")
    assert held(folder) == WHOLE
    assert home.asked == [("/train.zip", None), ("/val.tar.gz", None)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".raysr.lock", "df2k"]  # the archives are gone
    size = len(home.files["train.zip"])
    assert ("train.zip", size, size) in seen
    home.asked.clear()
    assert fetch_set("df2k", cache=str(tmp_path)) == folder
    assert home.asked == []


def test_a_download_that_breaks_off_goes_on_where_it_was(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    home.cut_after = [70_000, 20_000]
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    assert [path for path, _ in home.asked] == ["/train.zip"] * 3 + ["/val.tar.gz"]
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted in home.asked if wanted]
    assert 60_000 < starts[0] <= 70_000 < starts[1] <= 90_000
    assert home.sent < sum(map(len, home.files.values())) + 2 * 10_000  # no more than what was in flight twice


def test_a_server_that_is_busy_is_asked_again_and_nothing_is_thrown_away(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "train.zip.part").write_bytes(home.files["train.zip"][:50_000])
    home.refusals = [503, 429, 500]
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    assert [wanted for path, wanted in home.asked if path == "/train.zip"] == ["bytes=50000-"] * 4


def test_a_server_that_has_it_no_more_leaves_what_came_before(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "train.zip.part").write_bytes(home.files["train.zip"][:50_000])
    home.refusals = [403]
    with pytest.raises(ArchiveError, match="the server answered 403"):
        fetch_set("df2k", cache=str(tmp_path))
    assert (tmp_path / "train.zip.part").stat().st_size == 50_000


def test_an_archive_that_is_called_encoded_is_kept_as_it_is_sent(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    home.encoding = "gzip"
    home.cut_after = [70_000]
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE


def test_a_cache_that_has_lost_a_photograph_is_made_whole_and_a_strange_one_is_named(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    folder = Path(fetch_set("df2k", cache=str(tmp_path)))
    (folder / "train" / "A" / "0007.png").unlink()
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / "val" / name).write_bytes(b"of the system")
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    (folder / "val" / "mine.png").write_bytes(b"mine")
    with pytest.raises(ArchiveError, match=r"val holds 'mine.png', which is not of val.tar.gz: take it away"):
        fetch_set("df2k", cache=str(tmp_path))


def test_two_at_once_share_one_download(home: Home, publish: Callable[..., None], tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch_set, "df2k", cache=str(tmp_path)) for _ in range(2)]
        assert [held(one.result()) for one in both] == [WHOLE, WHOLE]
    assert [path for path, _ in home.asked] == ["/train.zip", "/val.tar.gz"]


def test_downloads_for_a_bucket_are_not_laid_where_others_can_write(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"raysr-archives-{getpass.getuser()}").mkdir()
    (tmp_path / f"raysr-archives-{getpass.getuser()}").chmod(0o777)
    with pytest.raises(ArchiveError, match="is not a folder that only you can write to"):
        fetch_set("df2k", cache=storage.join(s3, tmp_path.name))


def test_a_server_without_ranges_is_asked_for_everything_again(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    home.ranges, home.cut_after = False, [50_000]
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE


def test_a_server_that_sends_no_more_is_given_up_and_the_next_call_goes_on(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    home.cut_after = [30_000] + [0] * archives.FRUITLESS_TRIES
    with pytest.raises(ArchiveError, match=r"train\.zip: [23]\d,\d{3} of [\d,]+ bytes came.*goes on from there"):
        fetch_set("df2k", cache=str(tmp_path))
    assert (tmp_path / "train.zip.part").stat().st_size > 20_000
    home.asked.clear()
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    assert home.asked[0][1] is not None


@pytest.mark.parametrize("left", [b"", b"x" * 10, b"x" * 10_000_000])
def test_what_an_earlier_edition_left_behind_does_no_lasting_harm(
    home: Home, publish: Callable[..., None], tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "train.zip.part").write_bytes(left)
    if 0 < len(left) < 1000:
        with pytest.raises(ArchiveError, match="was removed: try again"):
            fetch_set("df2k", cache=str(tmp_path))
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE


def test_a_part_that_was_whole_is_taken_as_it_is(home: Home, publish: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "train.zip.part").write_bytes(home.files["train.zip"])
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    assert home.sent == len(home.files["val.tar.gz"])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"sha256": "0" * 64}, r"sha256 [0-9a-f]{64}, expected 0{64}"), ({"size": 7}, r"[\d,]+ bytes, expected 7")],
)
def test_a_wrong_download_is_removed_and_says_what_it_was(
    publish: Callable[..., None], tmp_path: Path, wrong: dict, reason: str
) -> None:
    publish(**wrong)
    with pytest.raises(ArchiveError, match=rf"train\.zip was downloaded with {reason}; it was removed"):
        fetch_set("df2k", cache=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_an_address_that_has_it_not_is_named(home: Home, publish: Callable[..., None], tmp_path: Path) -> None:
    del home.files["train.zip"]
    with pytest.raises(ArchiveError, match=r"/train\.zip: the server answered 404 .*--mirror, or .*--archives"):
        fetch_set("df2k", cache=str(tmp_path))


def test_a_mirror_replaces_every_home(home: Home, publish: Callable[..., None], tmp_path: Path) -> None:
    home.files = {f"mirror/{name}": data for name, data in home.files.items()}
    assert held(fetch_set("df2k", cache=str(tmp_path), mirror=f"{home.url}/mirror/")) == WHOLE


def test_archives_that_the_user_has_are_taken_and_left_as_they_are(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, data in home.files.items():
        (mine / name).write_bytes(data)
    assert held(fetch_set("df2k", cache=str(tmp_path / "cache"), archives=str(mine))) == WHOLE
    assert home.asked == []
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == home.files


def test_an_archive_that_the_users_folder_does_not_have_is_named_and_nothing_is_downloaded(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(NotADirectoryError, match=r"--archives .*/mine: no such folder"):
        fetch_set("df2k", cache=str(tmp_path / "cache"), archives=str(tmp_path / "mine"))
    (tmp_path / "train.zip").write_bytes(home.files["train.zip"])
    with pytest.raises(FileNotFoundError, match=r"has no .*/val\.tar\.gz: put it there, or leave out --archives"):
        fetch_set("df2k", cache=str(tmp_path / "cache"), archives=str(tmp_path))
    assert home.asked == []


def test_a_wrong_archive_of_the_user_is_told_of_and_left_alone(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "train.zip").write_bytes(home.files["train.zip"][:-1])
    (tmp_path / "val.tar.gz").write_bytes(home.files["val.tar.gz"])
    with pytest.raises(ArchiveError, match=r"train\.zip has [\d,]+ bytes, expected .*damaged or another edition"):
        fetch_set("df2k", cache=str(tmp_path / "cache"), archives=str(tmp_path))
    assert (tmp_path / "train.zip").exists()
    assert home.asked == []


@pytest.mark.parametrize("own", [True, False])
def test_a_wrong_size_alone_is_noticed_where_no_hash_was_published(
    own: bool, home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    """The archive is whole, and can be unpacked: its size alone says that it is another edition."""
    data = home.files["train.zip"]
    publish(size=len(data) + 1, sha256=None)
    folder = None
    if own:
        folder = str(tmp_path)
        for name, content in home.files.items():
            (tmp_path / name).write_bytes(content)
    else:  # it is there from before: no download counts its bytes
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "train.zip").write_bytes(data)
    problem = rf"{len(data):,} bytes, expected {len(data) + 1:,}"
    with pytest.raises(ArchiveError, match=problem):
        fetch_set("df2k", cache=str(tmp_path / "cache"), archives=folder)


def test_a_member_that_is_shorter_than_it_claims_is_refused(publish: Callable[..., None], tmp_path: Path) -> None:
    """Neither the length nor the checksum of what is read betrays it to zipfile."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in TRAIN.items():
            archive.writestr(name, data)
        archive.infolist()[7].file_size += 1  # in the directory, which is written when the archive is closed
    publish(train=buffer.getvalue())
    with pytest.raises(ArchiveError, match=r"'Train_HR/0007\.png' does not have the 3,008 bytes that it claims"):
        fetch_set("df2k", cache=str(tmp_path))
    assert not (tmp_path / "df2k" / "train" / "A" / "0007.png").exists()


HOSTILE = ["../../evil.png", "/evil.png", "Train_HR/../../evil.png", "Train_HR\\..\\evil.png", "C:/evil.png"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_leads_out_of_the_folder_stops_everything(
    publish: Callable[..., None], tmp_path: Path, name: str, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    publish(train=pack(TRAIN | {name: b"evil"}))
    with pytest.raises(ArchiveError, match="leads out of its folder: nothing was unpacked"):
        fetch_set("df2k", cache=str(tmp_path / "cache"))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"train.zip", ".raysr.lock"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_plain_files_are_taken_for_photographs_from_a_tar(
    publish: Callable[..., None], tmp_path: Path, kind: bytes
) -> None:
    link = tarfile.TarInfo("Train_HR/0000.png")
    link.type, link.linkname = kind, "/etc/passwd"
    files = {name: data for name, data in TRAIN.items() if name != link.name}
    publish(train=tarred(files, link))
    with pytest.raises(ArchiveError, match=r"'Train_HR/0000\.png', which is no plain file"):
        fetch_set("df2k", cache=str(tmp_path))
    assert held(tmp_path / "df2k") == {}


def test_only_plain_files_are_taken_for_photographs_from_a_zip(publish: Callable[..., None], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("Train_HR/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    publish(train=buffer.getvalue())
    with pytest.raises(ArchiveError, match="which is no plain file"):
        fetch_set("df2k", cache=str(tmp_path))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>not found</html>" * 99, "cannot be unpacked"),
        (zipped(TRAIN)[:-3000], "cannot be unpacked"),
        (tarred(TRAIN)[:-200], "cannot be unpacked"),
        (zipped(TRAIN).replace(bytes([7]) * 3007, bytes([7]) * 3006 + b"!"), "cannot be unpacked: Bad CRC-32"),
        (zipped(dict(list(TRAIN.items())[:39])), r"holds 39 files Train_HR/\*\.png of 39 names, expected 40"),
        (zipped({f"Train_HR/{name}/0.png": b"x" for name in range(40)}), "holds 40 files .* of 1 names, expected 40"),
    ],
    ids=["no archive", "cut zip", "cut tar", "damaged zip", "one missing", "one name"],
)
def test_an_archive_that_is_not_what_it_should_be_is_refused(
    publish: Callable[..., None], tmp_path: Path, data: bytes, reason: str
) -> None:
    publish(train=data)
    with pytest.raises(ArchiveError, match=reason):
        fetch_set("df2k", cache=str(tmp_path))
    assert not (tmp_path / "df2k" / ".train-A.json").exists()


def test_a_disk_without_room_is_told_before_anything_is_downloaded(
    home: Home, publish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = (len(home.files[name]) for name in ("train.zip", "val.tar.gz"))
    needed = max(2 * train, train + 2 * val)  # the first archive is removed when it is unpacked
    for free, enough in ((1000, False), (needed - 1, False), (needed, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        if enough:
            assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
            break
        reason = rf"has {free:,} bytes free, and {needed:,} are needed to download and unpack df2k"
        with pytest.raises(OSError, match=reason):
            fetch_set("df2k", cache=str(tmp_path))
        assert home.asked == []


def test_a_process_that_is_killed_while_it_unpacks_goes_on_with_the_rest(
    home: Home, publish: Callable[..., None], tmp_path: Path
) -> None:
    (first, second) = ARCHIVES["df2k"]
    script = (
        "import os, signal, sys\n"
        "from raysr import archives, storage\n"
        "from raysr.archives import Archive\n"
        f"archives.ARCHIVES['df2k'] = ({first!r}, {second!r})\n"
        "written = 0\n"
        "write = storage.write_bytes\n"
        "def kill_after_ten(location, data):\n"
        "    global written\n"
        "    written += 1\n"
        "    if written == 10:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(location, data)\n"
        "storage.write_bytes = kill_after_ten\n"
        "archives.fetch_set('df2k', cache=sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(held(tmp_path / "df2k")) == 9
    home.asked.clear()
    assert held(fetch_set("df2k", cache=str(tmp_path))) == WHOLE
    assert [path for path, _ in home.asked] == ["/val.tar.gz"]  # train.zip was there already


def test_a_set_may_be_unpacked_into_a_bucket(
    publish: Callable[..., None], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = storage.join(s3, tmp_path.name)
    folder = fetch_set("df2k", cache=cache)
    assert folder == storage.join(cache, "df2k")
    assert held(folder) == WHOLE
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_the_table_names_df2k_as_in_the_papers_figure_1() -> None:
    counts: dict[str, int] = {}
    for archive in ARCHIVES["df2k"]:
        split = archive.folder.split("/")[0]
        counts[split] = counts.get(split, 0) + archive.count
        assert archive.sha256 or archive.md5
    assert counts == {"train": 3450, "val": 100}


def test_bsds500_takes_two_folders_from_one_archive(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        f"BSR/BSDS500/data/images/{split}/{index}.jpg": f"{split} {index}".encode()
        for split, count in (("train", 200), ("val", 100), ("test", 200))
        for index in range(count)
    }
    home.files = {"BSR_bsds500.tgz": tarred(files | {"BSR/BSDS500/data/groundTruth/train/1.mat": b"mat"})}
    folder = fetch_set("bsds500", cache=str(tmp_path), mirror=home.url)
    assert len(home.asked) == 1
    found = held(folder)
    assert {name.split("/")[0] for name in found} == {"train", "val"}
    assert len(found) == 300
    assert found["val/7.jpg"] == b"val 7"
    assert json.loads((tmp_path / "bsds500" / ".val.json").read_text())["archive"] == "BSR_bsds500.tgz"
