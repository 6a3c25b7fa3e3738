import time
from pathlib import Path

import pytest

from raysr import storage
from raysr.ledger import Ledger

NOTHING = {"train": 0.0, "eval": 0.0}


@pytest.fixture(params=["local", "object store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that can be appended to, and one where only whole objects can be written."""
    return str(tmp_path) if request.param == "local" else tmp_path.as_uri()


def write(ledger: Ledger, step: int, train: float) -> None:
    seconds = {"train": train, "eval": 1.0}
    ledger.write(
        "heartbeat", step=step, seconds=seconds, charged_usd=train, billed_usd=train + 1, unaccounted_share=0.0
    )


def test_every_line_is_kept_in_order_with_its_attempt(run: str) -> None:
    for attempt in (1, 2):
        ledger = Ledger(run, "espcn-0")
        ledger.begin(NOTHING)
        for step in range(12):
            write(ledger, step, float(step))
        assert ledger.attempt == attempt
    found = Ledger(run, "espcn-0").read()
    assert [(entry.attempt, entry.step) for entry in found] == [(a, s) for a in (1, 2) for s in range(12)]
    assert found[3].seconds == {"train": 3.0, "eval": 1.0}
    assert found[3].billed_usd == 4.0
    assert Ledger(run, "srcnn-0").read() == []


def test_what_an_attempt_spent_after_its_checkpoint_is_lost(run: str) -> None:
    first = Ledger(run, "espcn-0")
    assert first.begin(NOTHING) == 0
    write(first, 5, 10.0)
    write(first, 9, 17.5)
    assert Ledger(run, "espcn-0").begin({"train": 10.0, "eval": 1.0}) == pytest.approx(7.5)
    assert Ledger(run, "espcn-0").begin(NOTHING) == pytest.approx(18.5)  # no checkpoint at all
    # A worker that dies after its checkpoint, and before the line that tells of it, has lost nothing.
    assert Ledger(run, "espcn-0").begin({"train": 20.0, "eval": 1.0}) == 0


def test_attempts_that_crash_one_after_the_other_lose_everything_between(run: str) -> None:
    first, second, third = (Ledger(run, "espcn-0") for _ in range(3))
    first.begin(NOTHING)
    write(first, 9, 20.0)
    assert second.begin(NOTHING) == pytest.approx(21)
    second.write(
        "heartbeat", step=3, seconds={"train": 6.0, "lost": 21.0}, charged_usd=6, billed_usd=27, unaccounted_share=0.0
    )
    assert third.begin(NOTHING) == pytest.approx(27)


def test_a_worker_that_writes_after_it_was_given_up_for_dead_hides_no_later_attempt(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (Ledger(run, "espcn-0") for _ in range(3))
    first.begin(NOTHING)
    write(first, 5, 10.0)
    second.begin(NOTHING)
    write(second, 2, 4.0)
    real = time.time_ns
    # On an object store the writer's clock is the only one: here that of the first worker goes an hour ahead.
    monkeypatch.setattr("time.time_ns", lambda: real() + 3_600_000_000_000)
    write(first, 9, 17.0)
    monkeypatch.undo()
    for over in (first, Ledger(run, "espcn-0")):
        last = over.last()
        assert last is not None
        assert (last.attempt, last.step) == (2, 2)
    with pytest.raises(RuntimeError, match="attempt 1 is over: attempt 2 has begun on"):
        first.check()
    second.check()
    assert third.begin(NOTHING) == pytest.approx(5)
    assert third.attempt == 3
    third.check()
    assert sorted(entry.step for entry in third.read()) == [2, 5, 9]


def test_a_line_cut_short_by_a_crash_is_left_out_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "espcn-0")
    ledger.begin(NOTHING)
    write(ledger, 1, 1.0)
    with Path(ledger.location).open("a") as stream:
        stream.write('{"attempt": 1, "eve')
    assert [entry.step for entry in ledger.read()] == [1]
    Path(ledger.location).write_text("no ledger\n")
    with pytest.raises(ValueError, match=r"espcn-0.jsonl is damaged"):
        ledger.read()


def test_a_line_after_one_that_was_cut_short_is_not_lost(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal.jsonl")
    storage.append_line(journal, "one", rank=1)
    with Path(journal).open("a") as stream:
        stream.write("tw")
    storage.append_line(journal, "three", rank=1)
    assert storage.read_lines(journal) == ["one", "three"]


def test_a_journal_in_an_object_store_is_immutable_objects(tmp_path: Path) -> None:
    journal = (tmp_path / "journal.jsonl").as_uri()
    for line in ("a", "b", "c"):
        storage.append_line(journal, line, rank=1)
    files = sorted((tmp_path / "journal.jsonl").iterdir())
    assert [file.read_text() for file in files] == ["a", "b", "c"]
    assert storage.read_lines(journal) == ["a", "b", "c"]


def test_clocks_of_two_writers_do_not_decide_whose_attempt_is_the_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path.as_uri()
    first, second, third = (Ledger(run, "espcn-0") for _ in range(3))
    monkeypatch.setattr("raysr.storage.time.time_ns", lambda: 100 * 10**9)
    first.begin(NOTHING)
    write(first, 1, 10.0)
    monkeypatch.setattr("raysr.storage.time.time_ns", lambda: 95 * 10**9)  # a host that is 5 s behind
    assert second.begin(NOTHING) == pytest.approx(11)
    write(second, 1, 20.0)
    with pytest.raises(RuntimeError, match="attempt 1 is over: attempt 2 has begun"):
        first.check()
    assert third.begin(NOTHING) == pytest.approx(21)
    assert third.attempt == 3
    assert [entry.attempt for entry in third.read()] == [1, 2]


def test_a_journal_of_before_turns_were_counted_goes_on(tmp_path: Path) -> None:
    journal = (tmp_path / "journal.jsonl").as_uri()
    for number in (2, 1):
        storage.write_text(storage.join(journal, f"{number:020d}-{number:08x}.json"), f"old {number}")
    storage.append_line(journal, "new", rank=3)
    assert storage.read_lines(journal) == ["old 1", "old 2", "new"]
    assert storage.last_line(journal) == "new"
