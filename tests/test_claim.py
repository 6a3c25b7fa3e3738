"""One driver at a time works on a run."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raysr import claim, storage
from raysr.claim import DRIVERS, STALE_S, RunInUseError, claimed


def left_behind(run: str, **changes: object) -> str:
    """The claim of a driver that is not this process."""
    driver = {"host": "other", "machine": "another boot", "pid": 7, "begun": "1"} | changes
    place = storage.join(run, DRIVERS, "0.json")
    storage.write_text(place, json.dumps(driver))
    return place


def test_a_run_has_one_driver_and_is_free_again_at_its_end(tmp_path: Path) -> None:
    with claimed(str(tmp_path)):
        with pytest.raises(RunInUseError, match=rf"process {os.getpid()} on .* is working on {tmp_path}: wait"):
            claimed(str(tmp_path)).__enter__()
        assert len(list((tmp_path / DRIVERS).iterdir())) == 1
    with claimed(str(tmp_path)):
        pass
    assert not list((tmp_path / DRIVERS).iterdir())


def test_of_drivers_that_come_at_once_one_at_most_gets_the_run(tmp_path: Path) -> None:
    for attempt in range(10):
        run, at_once, inside = str(tmp_path / str(attempt)), threading.Barrier(4), threading.Semaphore(1)
        clashes: list[str] = []

        def drive(run: str = run, at_once: threading.Barrier = at_once, inside: threading.Semaphore = inside) -> None:
            at_once.wait()
            try:
                with claimed(run):
                    if not inside.acquire(blocking=False):
                        clashes.append(run)  # noqa: B023
                    else:
                        inside.release()
            except RunInUseError:
                pass

        drivers = [threading.Thread(target=drive) for _ in range(4)]
        for one in drivers:
            one.start()
        for one in drivers:
            one.join()
        assert clashes == []


def test_a_driver_of_this_machine_that_was_killed_is_nobody_to_wait_for(tmp_path: Path) -> None:
    script = (
        "import sys, time; from raysr.claim import claimed\n"
        "with claimed(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        with pytest.raises(RunInUseError, match=f"process {driver.pid}"):
            claimed(str(tmp_path)).__enter__()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        with claimed(str(tmp_path)):
            assert len(list((tmp_path / DRIVERS).iterdir())) == 1


def test_a_later_process_with_the_number_of_a_dead_driver_is_not_that_driver(tmp_path: Path) -> None:
    left_behind(str(tmp_path), machine=claim._machine(), pid=os.getpid(), begun="long ago")
    with claimed(str(tmp_path)):
        pass


def test_a_driver_elsewhere_counts_as_gone_when_it_has_been_silent(tmp_path: Path) -> None:
    place = left_behind(str(tmp_path))
    with pytest.raises(RunInUseError, match="process 7 on other"):
        claimed(str(tmp_path)).__enter__()
    silent = storage.modified(place) - STALE_S - 5
    os.utime(place, (silent, silent))
    with claimed(str(tmp_path)):
        assert not Path(place).exists()


def test_a_driver_of_this_machine_that_only_sleeps_keeps_its_run(tmp_path: Path) -> None:
    with claimed(str(tmp_path)):
        (mine,) = (tmp_path / DRIVERS).iterdir()
        os.utime(mine, (0, 0))  # stopped by Ctrl-Z, or on a disk that is full
        with pytest.raises(RunInUseError, match=f"process {os.getpid()}"):
            claimed(str(tmp_path)).__enter__()


def test_a_driver_whose_run_was_taken_over_stops(tmp_path: Path) -> None:
    script = (
        "import sys, time; from raysr import claim; claim.RENEWED_S = 0.05\n"
        "try:\n"
        "    with claim.claimed(sys.argv[1]): print('held', flush=True); time.sleep(600)\n"
        "except KeyboardInterrupt: print('stopped')"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        (mine,) = (tmp_path / DRIVERS).iterdir()
        mine.unlink()
        out, err = driver.communicate(timeout=60)
    assert out == "stopped\n"
    assert "another driver has taken this run over" in err


def test_a_claim_is_renewed_while_its_driver_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RENEWED_S", 0.02)
    renewed = threading.Event()
    write = storage.write_text
    with claimed(str(tmp_path)):
        (mine,) = (tmp_path / DRIVERS).iterdir()
        os.utime(mine, (0, 0))
        monkeypatch.setattr(storage, "write_text", lambda *words: (write(*words), renewed.set()))
        assert renewed.wait(10)
        assert mine.stat().st_mtime > 0


def test_a_run_in_a_bucket_has_one_driver_too(s3: str, tmp_path: Path) -> None:
    run = storage.join(s3, tmp_path.name)
    with claimed(run), pytest.raises(RunInUseError):
        claimed(run).__enter__()
    with claimed(run):
        pass
    left_behind(run)
    with pytest.raises(RunInUseError, match="process 7 on other"):
        claimed(run).__enter__()
