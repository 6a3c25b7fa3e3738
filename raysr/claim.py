"""One driver at a time: a claim on the folder of a run, which its driver renews while it lives."""

import json
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from raysr import storage
from raysr.errors import text_of

DRIVERS = "drivers"
"""Folder of a run for the claims of its drivers."""

RENEWED_S = 10.0
"""Seconds between two renewals."""

STALE_S = 60.0
"""Seconds without a renewal after which a driver on another machine counts as gone."""


class RunInUseError(ValueError):
    """A run that another driver is working on."""


@dataclass(frozen=True, kw_only=True)
class _Driver:
    """A process that holds a claim."""

    host: str
    machine: str
    """Tells machines, containers and restarts of one apart."""
    pid: int
    begun: str
    """When the process began, in the machine's own words: a later process may have the same number."""

    def gone(self, silent_s: float) -> bool:
        """Whether it runs no more: on this machine its process tells, elsewhere `silent_s` seconds without a word."""
        if self.machine == _machine() and self.begun:
            return _begun(self.pid) != self.begun
        return silent_s > STALE_S


@contextmanager
def claimed(run: str) -> Generator[None]:
    """Hold the run in folder `run`. Raises RunInUseError where another driver holds it.

    A driver writes its claim first and then looks for others: of two that come at once at least one sees the other. The
    ages of claims are compared by the clock of the storage, never by those of the drivers.
    """
    mine = storage.join(run, DRIVERS, f"{secrets.token_hex(8)}.json")
    me = _Driver(host=socket.gethostname(), machine=_machine(), pid=os.getpid(), begun=_begun(os.getpid()))
    text = json.dumps(asdict(me))
    storage.write_text(mine, text)
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(mine, text, ended, threading.main_thread().ident), name="claim", daemon=True
    )
    try:
        _look_for_others(run, mine)
        renewing.start()
        yield
    finally:
        ended.set()
        if renewing.is_alive():
            renewing.join()
        storage.remove(mine)


def _look_for_others(run: str, mine: str) -> None:
    now = storage.modified(mine)
    for name in storage.children(storage.join(run, DRIVERS)):
        other = storage.join(run, DRIVERS, name)
        if other == mine or not name.endswith(".json"):
            continue
        try:
            driver, age = _Driver(**json.loads(storage.read_bytes(other))), now - storage.modified(other)
        except FileNotFoundError:
            continue  # it has just ended
        if driver.gone(age):
            storage.remove(other)
            continue
        raise RunInUseError(
            f"process {driver.pid} on {driver.host} is working on {run}: wait for its end, or stop it. A driver that "
            f"died on another machine counts as gone after {STALE_S:.0f} s"
        )


def _renew(mine: str, text: str, ended: threading.Event, main: int) -> None:
    """Renew the claim until it has `ended`; stop thread `main` as Ctrl-C does where another driver took it away."""
    told = False
    while not ended.wait(RENEWED_S):
        try:
            if not storage.exists(mine):
                print("error: another driver has taken this run over while this one was silent", file=sys.stderr)
                signal.pthread_kill(main, signal.SIGINT)
                return
            storage.write_text(mine, text)
        except OSError as error:
            if not told:
                print(f"warning: the claim on the run cannot be renewed: {text_of(error)}", file=sys.stderr)
            told = True


def _machine() -> str:
    """The identity of this machine: the name of the host, and on Linux its last start and the container."""
    parts = [socket.gethostname()]
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts += [boot.read_text().strip()] if boot.exists() else []
    parts += [str(space.stat().st_ino)] if space.exists() else []
    return " ".join(parts)


def _begun(pid: int) -> str:
    """When process `pid` of this machine began; nothing where it runs no more, or nobody knows."""
    try:
        # After the name of the program, which may hold anything but ends at the last bracket.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]
