"""Files and journals, on a disk and on a real S3 server."""

import os
from pathlib import Path

import numpy as np
import pytest

from raysr import storage
from raysr.folders import walk
from raysr.ledger import Ledger
from raysr.manifest import ManifestError
from raysr.pairs import PairSet
from raysr.runs import new_run_folder


def test_a_file_is_read_as_it_was_written_last(place: str) -> None:
    location = storage.join(place, "a", "b.bin")
    assert not storage.exists(location)
    for data in (b"first", bytes(range(256)) * 9000, b""):
        storage.write_bytes(location, data)
        assert storage.read_bytes(location) == data
        assert storage.size(location) == len(data)
    assert storage.exists(location)
    assert storage.exists(storage.join(place, "a"))
    assert storage.children(place) == ["a"]


def test_a_file_is_never_seen_half_written_and_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    target, opened = tmp_path / "state.pt", tmp_path / "as a reader has it open"
    storage.write_bytes(str(target), b"old" * 1000)
    os.link(target, opened)
    storage.write_bytes(str(target), b"new")
    assert (target.read_bytes(), opened.read_bytes()) == (b"new", b"old" * 1000)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        storage.write_bytes(str(tmp_path / "folder"), b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [opened.name, "folder", "state.pt"]


def test_a_file_that_is_not_there_is_an_error_and_a_folder_that_is_not_there_has_no_children(place: str) -> None:
    missing = storage.join(place, "nothing.txt")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(missing)
    with pytest.raises(FileNotFoundError, match=r"no file at .*nothing\.txt"):
        storage.size(missing)
    assert storage.children(storage.join(place, "nowhere")) == []


def test_a_journal_keeps_its_lines_in_the_order_of_writing(place: str) -> None:
    journal = storage.join(place, "ledger", "espcn-0.jsonl")
    assert (storage.read_lines(journal), storage.last_line(journal)) == ([], None)
    lines = [f'{{"line": {number}}}' for number in range(30)]
    for number, line in enumerate(lines):
        storage.append_line(journal, line, rank=1)
        assert storage.last_line(journal) == line
        if number % 10 == 0:
            assert storage.read_lines(journal) == lines[: number + 1]
    assert storage.read_lines(journal) == lines
    assert storage.children(storage.join(place, "ledger")) == ["espcn-0.jsonl"]


def test_a_ledger_tells_the_next_attempt_what_was_lost(place: str) -> None:
    first = Ledger(place, "espcn-0")
    assert first.begin({"train": 0.0}) == 0
    for event, seconds in (("start", 1.0), ("checkpoint", 5.0), ("heartbeat", 8.5)):
        first.write(
            event,
            step=int(seconds),
            seconds={"train": seconds},
            charged_usd=seconds,
            billed_usd=seconds,
            unaccounted_share=0.0,
        )
    second = Ledger(place, "espcn-0")
    assert second.begin({"train": 5.0}) == pytest.approx(3.5)
    assert second.attempt == 2
    second.write(
        "start", step=5, seconds={"train": 5.0, "lost": 3.5}, charged_usd=5.0, billed_usd=8.5, unaccounted_share=0.0
    )
    with pytest.raises(RuntimeError, match="attempt 1 is over: attempt 2 has begun"):
        first.check()
    assert [entry.attempt for entry in second.read()] == [1, 1, 1, 2]


def test_a_new_run_never_takes_a_folder_that_is_there(place: str) -> None:
    one = new_run_folder(place, "demo", "20261124")
    storage.write_text(storage.join(one, "run.json"), "{}")
    another = new_run_folder(place, "demo", "20261124")
    assert another != one
    if "://" not in place:
        assert another == f"{one}-2"
    assert one.rpartition("/")[2].startswith("demo-20261124")


def test_a_set_is_read_from_a_bucket_as_from_a_disk(small_set: str, s3: str, tmp_path: Path) -> None:
    remote = storage.join(s3, tmp_path.name, "set")
    for file in Path(small_set).iterdir():
        storage.write_bytes(storage.join(remote, file.name), file.read_bytes())
    here, there = PairSet(small_set, "train").rows(), PairSet(remote, "train").rows()
    assert [row.image_id for row in there] == [row.image_id for row in here]
    assert all(np.array_equal(one.hr, two.hr) for one, two in zip(here, there, strict=True))
    shard = next(name for name in storage.children(remote) if name.startswith("train-"))
    storage.write_bytes(storage.join(remote, shard), storage.read_bytes(storage.join(remote, shard))[:-1])
    with pytest.raises(ManifestError, match=shard):
        PairSet(remote, "train")


ODD = [
    "my photo.jpg",
    "übung.jpg",
    "a#b.jpg",
    "a?b.jpg",
    "a%20b.jpg",
    "100%.jpg",
    "a+b&c.jpg",
    "[1] it's, (2)!;=@~$:.jpg",
]


def test_any_name_is_found_and_read_as_it_was_written(place: str) -> None:
    for name in ODD:
        storage.write_bytes(storage.join(place, "my pics", name), name.encode())
    assert storage.children(storage.join(place, "my pics")) == sorted(ODD)
    for root in (place, storage.join(place, "my pics")):
        found = walk(root).files
        assert sorted(Path(one.name).name for one in found) == sorted(ODD)
        assert all(storage.read_bytes(one.location).decode() == Path(one.name).name for one in found)
        assert all(storage.size(one.location) == len(Path(one.name).name.encode()) for one in found)


def test_a_uri_may_be_given_plain_or_encoded_and_keeps_its_query() -> None:
    encoded = "s3://bucket/my%20pics/%C3%BC"
    assert storage.absolute("s3://bucket/my pics/ü") == storage.absolute(encoded) == encoded
    assert storage.join("s3://bucket/a?region=x", "b c") == "s3://bucket/a/b%20c?region=x"


def test_an_address_of_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"^http://x/y: http:// cannot be read or written here; known: s3://, gs://"):
        storage.exists("http://x/y")


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert storage.printable("\x1b[31mü\n\udcff.jpg") == r"\x1b[31mü\n\udcff.jpg"
