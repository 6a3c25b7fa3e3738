"""The groups of slow tests, in a project of a few tests with the settings of this one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

def test_fast(): pass

@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.smoke
def test_crash(): pass

@pytest.mark.slow
@pytest.mark.chaos
def test_kill(): pass

@pytest.mark.slow
@pytest.mark.fleet
@pytest.mark.smoke
def test_nodes(): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "groups.py", tmp_path / "tests")
    (tmp_path / "tests" / "conftest.py").write_text("from groups import pytest_collection_modifyitems\n")
    (tmp_path / "tests" / "test_few.py").write_text(TESTS)
    return tmp_path


def called(project: Path, *words: str) -> tuple[int, str]:
    """The exit code and what was printed; without words, of the fast tests."""
    command = [sys.executable, "tests/groups.py", *words] if words else [sys.executable, "-m", "pytest"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def change(project: Path, old: str, new: str) -> None:
    tests = project / "tests" / "test_few.py"
    assert old in tests.read_text()
    tests.write_text(tests.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("fleet\n", "ray\n", "test_few.py::test_nodes is slow and in no group: mark it with one of engine, fleet,"),
        ("fleet\n", "fleet\n@pytest.mark.chaos\n", "test_nodes is slow and in ['fleet', 'chaos']: mark it with one"),
        ("slow\n@pytest.mark.fleet\n", "fleet\n", "test_nodes is in a group of slow tests: mark it slow too"),
        ("fleet\n@pytest.mark.smoke", "fleet", "fleet has no short test: mark one of its tests smoke"),
        ("fleet\n", "flet\n", "'flet' not found in `markers` configuration option"),
    ],
)
def test_a_test_outside_of_the_groups_stops_the_fast_ones(old: str, new: str, complaint: str, project: Path) -> None:
    change(project, old, new)
    code, told = called(project)
    assert code not in (0, 1, 5)
    assert complaint in told


def test_the_fast_tests_run_where_every_slow_one_is_in_its_group(project: Path) -> None:
    code, told = called(project)
    assert code == 0, told
    assert "1 passed, 3 deselected" in told


def test_all_groups_run_and_those_without_tests_fail_nothing(project: Path) -> None:
    code, told = called(project, "engine", "fleet", "chaos", "video")
    assert code == 0, told
    for line in ("== engine: no tests yet", "== video: no tests yet", "== fleet: all 1 tests", "== chaos: all 2 tests"):
        assert line in told
    assert "browser" not in told
    code, told = called(project, "chaos", "fleet", "--smoke")
    assert code == 0, told
    assert told.count("1 passed, 3 deselected") == 2
    code, told = called(project, "browser")
    assert code == 0, told
    code, told = called(project, "chaso")
    assert code == 2
    assert "unknown group chaso; known: engine, fleet, chaos, browser, video" in told


def test_a_group_that_fails_fails_the_call_and_the_others_still_run(project: Path) -> None:
    change(project, "def test_nodes(): pass", "def test_nodes(): raise ValueError")
    code, told = called(project, "fleet", "chaos")
    assert code == 1
    assert "failed: fleet" in told
    assert "2 passed" in told


def test_groups_with_tests_take_turns_by_the_day_and_those_left_out_are_named(project: Path) -> None:
    turns = [called(project, "--today", "--day", f"2026-11-{day}") for day in (26, 27)]
    assert [code for code, _ in turns] == [0, 0]
    lines = {next(line for line in told.splitlines() if "the turn of" in line) for _, told in turns}
    told = {line.partition(": ")[2] for line in lines}
    assert told == {"the turn of fleet; left out: chaos", "the turn of chaos; left out: fleet"}
