"""The groups of slow tests: which there are, what keeps a test in one of them, and the command that runs them.

python tests/groups.py                  every group, one after the other
python tests/groups.py chaos fleet      these
python tests/groups.py --smoke          the short tests of every group
python tests/groups.py --today          the one group whose turn it is
"""

import argparse
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

_SAYS = "slow group: "
"""What the description of a group's marker begins with in pyproject.toml."""


def _groups(markers: Sequence[str]) -> list[str]:
    """The groups among the `NAME: DESCRIPTION` lines of pyproject.toml."""
    parts = (line.partition(": ") for line in markers)
    return [name for name, _, told in parts if told.startswith(_SAYS)]


@pytest.hookimpl(tryfirst=True)  # before tests are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stop where a slow test is in no group or in two, a fast one in any, or a group has no short test."""
    groups = _groups(config.getini("markers"))
    known, problems = ", ".join(groups), list[str]()
    slow, smoke = set[str](), set[str]()
    for item in items:
        mine = [group for group in groups if item.get_closest_marker(group)]
        if item.get_closest_marker("slow") and len(mine) != 1:
            problems.append(f"{item.nodeid} is slow and in {mine or 'no group'}: mark it with one of {known}")
        elif not item.get_closest_marker("slow") and (mine or item.get_closest_marker("smoke")):
            problems.append(f"{item.nodeid} is in a group of slow tests: mark it slow too")
        slow.update(mine)
        smoke.update(mine if item.get_closest_marker("smoke") else ())
    if not config.option.file_or_dir:  # all tests are here, and not those of some files
        problems += [f"{group} has no short test: mark one of its tests smoke" for group in sorted(slow - smoke)]
    if problems:
        raise pytest.UsageError(*problems)


def _count(groups: Sequence[str]) -> Counter[str]:
    """How many tests each group has."""
    counts = Counter[str]()

    class Count:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            for item in session.items:
                counts.update(group for group in groups if item.get_closest_marker(group))

    code = pytest.main(["--collect-only", "-qq", "-m", "slow", "--durations=0"], plugins=[Count()])
    if code:
        raise SystemExit(int(code))
    return counts


def main() -> None:
    markers = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    groups = _groups(markers)
    parser = argparse.ArgumentParser(description="Run the slow tests by groups.")
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(groups)}; all where none is named")
    parser.add_argument("--smoke", action="store_true", help="the short tests of each alone")
    parser.add_argument("--today", action="store_true", help="the one group whose turn it is by the day (UTC)")
    parser.add_argument("--day", type=date.fromisoformat, default=datetime.now(UTC).date(), help="in place of today")
    asked = parser.parse_args()
    if unknown := set(asked.groups) - set(groups):
        parser.error(f"unknown group {', '.join(sorted(unknown))}; known: {', '.join(groups)}")
    counts = _count(groups)
    chosen = [group for group in asked.groups or groups if counts[group]]
    for group in asked.groups or groups:
        if not counts[group]:
            print(f"== {group}: no tests yet")
    if asked.today and chosen:
        turn = chosen[asked.day.toordinal() % len(chosen)]
        left_out = ", ".join(group for group in chosen if group != turn) or "none"
        print(f"== {asked.day}: the turn of {turn}; left out: {left_out}")
        chosen = [turn]
    failed = list[str]()
    for group in chosen:
        tests = f"slow and {group} and smoke" if asked.smoke else f"slow and {group}"
        print(f"== {group}: {'its short tests' if asked.smoke else f'all {counts[group]} tests'}", flush=True)
        if subprocess.run([sys.executable, "-m", "pytest", "-m", tests, "-rs"], cwd=_ROOT, check=False).returncode:
            failed.append(group)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
