"""Command lines made from dataclasses by tyro, with a hint for a wrong word."""

import io
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn, TypeVar

import tyro
from rich.console import Console

from raysr.errors import text_of
from raysr.plain import plain
from raysr.storage import printable

T = TypeVar("T")


def parse_preset(presets: Mapping[str, tuple[str, T]], default: str, args: Sequence[str]) -> T:
    """The preset that `args` begins with (`default` when it begins with none), overridden by the flags after it.

    Ends the program with code 2 and a hint for an unknown preset or a value that cannot be.
    """
    words = list(args)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, default)
    if words[0] not in presets and not words[0].startswith("-"):
        closest = get_close_matches(words[0], presets, n=1, cutoff=0.3)
        hint = f"; did you mean {closest[0]!r}?" if closest else ";"
        fail(f"unknown preset {words[0]!r}{hint} known: {', '.join(presets)}", code=2)
    try:
        return tyro.extras.overridable_config_cli(presets, args=words)
    except ValueError as error:
        fail(error, code=2)


def make_console() -> Console:
    """Standard output; wide enough for the table where it is no terminal, as in a job's log.

    What is printed is printed as it is: there is no [markup] in it, and no :emoji:. From here on SIGTERM, by which
    schedulers stop a job, does what Ctrl-C does; and a character that the output's encoding lacks is written as its
    number.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):  # so shells begin what they begin in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)


@contextmanager
def telling(console: Console) -> Generator[Callable[[str], None]]:
    """A line that a terminal shows while something works; what it is called with replaces the line."""
    with console.status("reading") as status:
        yield lambda word: status.update(plain(word))


@contextmanager
def plainly(stopped: str) -> Generator[None]:
    """End the program with one line: of an error that says what to do, or `stopped` where the user stopped it."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail(stopped, code=130)


def fail(message: str | BaseException, code: int = 1) -> NoReturn:
    """Print `message`, or what an exception says, to standard error and end the program."""
    text = message if isinstance(message, str) else text_of(message)
    shown = "\n".join(map(printable, text.split("\n")))
    print(f"error: {shown}", file=sys.stderr)
    raise SystemExit(code)
