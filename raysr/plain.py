"""What users and files name, shown as it is: no letter of it is taken for markup of a terminal, Markdown or HTML."""

import html
import re
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raysr.storage import printable


def plain(text: str) -> Text:
    """A line for rich: no [markup], no :emoji:, and control characters escaped."""
    return Text(printable(text))


def say(console: Console, line: str) -> None:
    """Print a line that a terminal may wrap, and that a file has in one piece."""
    console.print(plain(line), soft_wrap=True)


def add_row(table: Table, cells: Iterable[str]) -> None:
    """Add a row of plain cells."""
    table.add_row(*map(plain, cells))


def in_markdown(text: str) -> str:
    """A line for Markdown, also for a cell of a table."""
    escaped = re.sub(r"([\\`*|<>\[\]~#&])", r"\\\1", printable(" ".join(text.split())))
    # An underscore inside a word emphasises nothing, and names have many.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)


def in_plotly(text: str) -> str:
    """A line for a figure of Plotly, which takes a few HTML tags and entities in its texts."""
    return html.escape(printable(text), quote=False)
