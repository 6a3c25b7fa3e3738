"""What is found in a folder of pictures, on a disk and on a real S3 server, and what is passed over."""

import os
from collections import Counter
from pathlib import Path

import pytest

from raysr import folders, storage
from raysr.folders import HIDDEN_FILES, HIDDEN_FOLDERS, walk


def test_every_file_below_a_folder_is_found_in_order_with_a_stamp_that_changes(place: str) -> None:
    assert walk(place).files == []
    for name in ("b.png", "a/z.png", "a/c/d.png"):
        storage.write_bytes(storage.join(place, name), name.encode())
    found = walk(place).files
    assert [one.name for one in found] == ["a/c/d.png", "a/z.png", "b.png"]
    assert [storage.read_bytes(one.location) for one in found] == [one.name.encode() for one in found]
    storage.write_bytes(storage.join(place, "b.png"), b"something else")
    assert [one.stamp == two.stamp for one, two in zip(found, walk(place).files, strict=True)] == [True, True, False]
    storage.remove(storage.join(place, "a"))
    storage.remove(storage.join(place, "nowhere"))
    assert [one.name for one in walk(place).files] == ["b.png"]


def test_a_folder_is_found_under_its_own_name_where_a_link_sorts_before_it(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "x.png").touch()
    (tmp_path / "latest").symlink_to(tmp_path / "train")
    (tmp_path / "also").symlink_to(tmp_path / "val" / "sub")
    assert [one.name for one in walk(str(tmp_path)).files] == ["train/sub/x.png", "val/sub/x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(OSError, match=r"cannot look into .*closed .*make it readable, or move it away"):
        walk(str(tmp_path))


FOLDERS = (
    *(".Trash-1000/files", ".Trashes/501", "$RECYCLE.BIN/S-1-5", "#recycle", "@Recycle", ".thumbnails", "@eaDir/a.png"),
    *("__MACOSX", ".ipynb_checkpoints", "System Volume Information", ".Spotlight-V100", ".fseventsd", "lost+found"),
    *("deep/er/@eaDir", "#snapshot/daily", ".git/annex"),
)
FILES = ("._a.png", ".hidden.jpg", "Thumbs.db", "deep/._b.png", "deep/desktop.ini", ".DS_Store", ".png")
GOOD = ("a.png", "deep/b.png", "deep/er/c.png", "recycle/d.png", "a.trash/e.png", "thumbs.png", "x@eaDir/f.png")


def test_what_systems_keep_beside_pictures_is_passed_over_and_counted(place: str) -> None:
    for name in (*GOOD, *FILES, *(f"{folder}/{name}" for folder in FOLDERS for name in ("x.png", "y.png"))):
        storage.write_bytes(storage.join(place, name), b"x")
    found = walk(place)
    assert [one.name for one in found.files] == sorted(GOOD)
    assert Counter(found.passed_over.values()) == {HIDDEN_FILES: len(FILES), HIDDEN_FOLDERS: len(FOLDERS)}


def test_a_folder_that_is_named_by_the_user_may_be_hidden(place: str) -> None:
    storage.write_bytes(storage.join(place, ".mine", "a.png"), b"x")
    assert [one.name for one in walk(storage.join(place, ".mine")).files] == ["a.png"]


def test_a_link_into_a_hidden_folder_is_followed_once_and_a_hidden_link_is_not(tmp_path: Path) -> None:
    bin_of_user = tmp_path / "inside" / ".Trash-1000" / "files"
    bin_of_user.mkdir(parents=True)
    for name in ("x.png", "._x.png"):
        (bin_of_user / name).touch()
    for link in ("again", "linked", ".hidden"):
        (tmp_path / "inside" / link).symlink_to(bin_of_user)
    (tmp_path / "inside" / "file.png").symlink_to(bin_of_user / "x.png")
    found = walk(str(tmp_path / "inside"))
    assert [one.name for one in found.files] == ["again/x.png", "file.png"]
    assert Counter(found.passed_over.values()) == {HIDDEN_FILES: 1, HIDDEN_FOLDERS: 2}


def test_links_are_followed_once_and_one_that_leads_nowhere_is_listed(tmp_path: Path) -> None:
    inside, elsewhere = tmp_path / "inside", tmp_path / "elsewhere"
    inside.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x.png").touch()
    (inside / "linked").symlink_to(elsewhere)
    (inside / "loop").symlink_to(inside)
    (inside / "lost.png").symlink_to(tmp_path / "nothing")
    assert {one.name: one.problem for one in walk(str(inside)).files} == {
        "linked/x.png": None,
        "lost.png": "cannot be read: No such file or directory",
    }


def test_what_is_no_plain_file_or_has_no_name_in_utf_8_is_listed_with_its_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_FILE_BYTES", 10)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "large.jpg").write_bytes(bytes(11))
    (tmp_path / "good.jpg").write_bytes(bytes(10))
    Path(os.fsdecode(bytes(tmp_path) + b"/bad\xff.jpg")).write_bytes(b"x")
    assert {one.name: one.problem for one in walk(str(tmp_path)).files} == {
        "bad\\xff.jpg": "its name is not UTF-8: rename it",
        "endless.jpg": "no plain file: a pipe or a device",
        "good.jpg": None,
        "large.jpg": "11 bytes, more than the 10 that are read",
        "pipe.jpg": "no plain file: a pipe or a device",
    }
