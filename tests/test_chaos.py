"""A comparison whose processes are killed, stopped and starved, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raysr.ledger import Entry, Ledger

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.ray]


def begin(pairs: str, out: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "jobs/compare.py", "paper", "--data", pairs, "--out", str(out), "--seeds", "1"]
    command += ["--batch-size", "2", "--patch-px", "16", "--tolerance", "0.5", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)


def entries_of(out: Path, name: str) -> list[Entry]:
    return [entry for run in out.glob("*") for entry in Ledger(str(run), name).read()]


def await_checkpoint(job: "subprocess.Popen[str]", out: Path, name: str) -> Entry:
    """The first checkpoint of a trial after steps were taken."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert job.poll() is None, job.communicate()
        for entry in entries_of(out, name):
            if entry.event == "checkpoint" and entry.step > 0:
                return entry
        time.sleep(0.1)
    pytest.fail("no checkpoint")


def memory() -> tuple[int, int]:
    """Bytes of this machine in all, and those that are used."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return found["MemTotal"], found["MemTotal"] - found["MemAvailable"]


@pytest.fixture
def ballast() -> "Iterator[list[subprocess.Popen[str]]]":
    """Processes that take memory; they end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.timeout(1200)
def test_a_worker_that_is_killed_for_memory_goes_on_from_its_checkpoint(
    pairs: str, tmp_path: Path, ballast: "list[subprocess.Popen[str]]"
) -> None:
    total, used = memory()
    room = 6 * 2**30  # the comparison itself needs some 4 GB
    if used + room > 0.9 * total:
        pytest.skip(f"{total - used:,} bytes are free, too few to be taken away")
    words = ["--archs", "espcn", "--budget.samples", "1600", "--evaluate-at", "0.1", "--checkpoint-every-s", "1"]
    job = begin(pairs, tmp_path, *words, RAY_memory_usage_threshold=f"{(used + room) / total:.4f}")
    entry = await_checkpoint(job, tmp_path, "espcn-0")
    take = "import sys, time; kept = b'1' * int(sys.argv[1]); print('taken', flush=True); time.sleep(600)"
    taken = used + room + 2**30 - memory()[1]
    ballast.append(subprocess.Popen([sys.executable, "-c", take, str(taken)], stdout=subprocess.PIPE, text=True))
    deadline = time.monotonic() + 120
    while Path(f"/proc/{entry.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{entry.pid}").exists(), "Ray did not kill the worker"
    ballast[0].kill()
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, out + err
    (run,) = tmp_path.iterdir()
    (row,) = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert (row["status"], row["steps"]) == ("finished", 800)
    assert row["attempts"] >= 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_that_is_stopped_keeps_what_it_reached_and_says_so(
    pairs: str, tmp_path: Path, stop: signal.Signals
) -> None:
    words = ["--archs", "bicubic", "espcn", "srcnn", "--budget.samples", "200000", "--evaluate-at", "0.001"]
    job = begin(pairs, tmp_path, *words, "--checkpoint-every-s", "1")
    with job:
        assert job.stdout is not None
        for line in job.stdout:
            if line.startswith(("espcn seed 0  training", "srcnn seed 0  training")):
                first = line.split()[0]  # trials run in random order
                break
        await_checkpoint(job, tmp_path, f"{first}-0")
        job.send_signal(stop)
        out, err = job.communicate(timeout=180)
    assert job.returncode == 130, err
    assert "error: stopped before the end; what was reached is in the report" in err
    assert "SIGTERM received" not in err  # the stack of Ray's own handler
    assert "report.html" in out
    (run,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["finished", "interrupted", "interrupted"]
    assert (run / "checkpoints" / f"{first}-0.safetensors").is_file()
    assert not list((run / "drivers").iterdir())


def test_a_second_driver_is_refused_at_once(pairs: str, tmp_path: Path) -> None:
    job = begin(pairs, tmp_path, "--archs", "espcn", "--budget.samples", "200000", "--checkpoint-every-s", "1")
    with job:
        await_checkpoint(job, tmp_path, "espcn-0")
        (run,) = tmp_path.iterdir()
        again = [sys.executable, "jobs/compare.py", "paper", "--resume", str(run)]
        second = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert second.returncode == 1
        assert f"error: process {job.pid} on " in second.stderr
        assert {entry.attempt for entry in entries_of(tmp_path, "espcn-0")} == {1}
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=180)
    assert job.returncode == 130
