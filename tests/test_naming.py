"""What users and files name is shown as it is, each under a title of its own, and is what it builds."""

import ast
import html
import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_report import make_run, row

from raysr.benchmark import EvaluateConfig, evaluate_sets
from raysr.checkpoints import load_upscaler
from raysr.cli import make_console, telling
from raysr.field import ListConfig, print_field
from raysr.findings import find
from raysr.models import MODELS, file_name, find_architecture, write_arch
from raysr.naming import builds_bicubic, check_titles, titles
from raysr.plain import in_markdown
from raysr.presets import PRESETS, CompareConfig
from raysr.progress import Board, ProgressDisplay
from raysr.report import print_places, print_table, table_markdown, write_report
from raysr.scoresheet import print_evaluation

ROOT = Path(__file__).parents[1]

HOSTILE = ["a [/b] c", "[small]", "<b>x</b>", "a|b", ":cat:", "`code`", "*bold* _it_", "&lt;i&gt;", "# [x](y)", "a\\"]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_hostile_names_are_printed_as_they_are_in_every_place_of_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "runs [old] :cat:"
    folder.mkdir()
    archs = [write_arch("espcn", {"title": title}) for title in HOSTILE]
    trials = [row(arch, 0.01 + place / 1000, seconds={"train": 1.0}) for place, arch in enumerate(archs)]
    archs.append(write_arch("srcnn", {"title": "[gone]"}))
    lost = row(archs[-1], None, status="failed", error="what [/i] broke | `it`")
    name = "LPIPS [red](VGG a|b)"
    run = make_run(folder, *trials, lost, row("bicubic", 0.03), perceptual={"name": name, "weights_sha256": "ab"})
    out = StringIO()
    console = Console(file=out, width=250)
    print_table(run, console)
    location = write_report(run)
    print_places(run, location, console)
    shown = out.getvalue()
    page, table = Path(location).read_text(), table_markdown(find(run))
    for title in HOSTILE:
        assert re.search(rf"^{re.escape(title)} +0\.0", shown, re.MULTILINE)
        assert f"<td>{html.escape(title)}</td>" in page
        assert f"\n| {in_markdown(title)} | " in table
    assert name in shown
    assert "what [/i] broke | `it`" in shown
    assert f"report: {location}" in shown
    assert Path(location).is_file()
    # Markdown: as many cells as the header has, and nothing that is markup of any kind.
    blocks = [[line for line in block.splitlines() if line.startswith("|")] for block in table.split("\n\n")]
    for lines in blocks:
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*(<b>|`|\[small|&lt;)", table)
    # Plotly takes tags and entities in its texts: what it is given has none but ours.
    script = page[page.rindex("Plotly.newPlot(") :]
    data = json.loads(re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*(\[.*?\]),\s*\{\"template\"", script, re.DOTALL)[1])  # pyright: ignore[reportOptionalSubscript]
    assert [html.unescape(line["name"]) for line in data] == [find_architecture(arch).title for arch in archs]
    assert not any(re.search(r"<|&(?!lt;|gt;|amp;)", line["name"]) for line in data)


def test_a_line_for_markdown_is_one_line_and_keeps_its_letters() -> None:
    assert in_markdown("a\n| b") == r"a \| b"
    assert in_markdown("2x_good.pth, _it_ (4 ups)") == r"2x_good.pth, \_it\_ (4 ups)"


def progress(arch: str) -> dict[str, Any]:
    return {
        "arch": arch,
        "seed": 0,
        "phase": "ended",
        "fraction": 1.0,
        "charged_usd": 0.1,
        "budget_usd": 0.1,
        "epochs": 1.0,
        "loss": None,
        "perceptual": 0.5,
        "seconds_left": None,
        "validations": 1,
        "status": "finished",
        "equalisation_error_pct": None,
    }


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_of_trials_shows_names_as_they_are(terminal: bool) -> None:
    board, out = Board(), StringIO()
    archs = [write_arch("espcn", {"title": title}) for title in HOSTILE]
    for arch in archs:
        board.update(progress(arch))
    console = Console(file=out, width=200, height=50, force_terminal=terminal, color_system=None)
    with ProgressDisplay(board.snapshot, console, len(archs), "LPIPS [/x]"):
        pass
    for arch in archs:
        assert f"{arch} seed 0" in out.getvalue()
    assert "LPIPS [/x]" in out.getvalue()


def test_an_evaluation_and_the_field_show_names_as_they_are(tmp_path: Path, bundled_set: str) -> None:
    folder = tmp_path / "set [small] :cat: a|b"
    folder.symlink_to(bundled_set)
    out = StringIO()
    console = Console(file=out, width=200)
    with telling(console) as tell:
        tell("[/b] is read")
        config = EvaluateConfig(model="bicubic(title='[/x]')", sets=(str(folder),), perceptual="none")
        print_evaluation(evaluate_sets(config, tell), console)
    assert "set [small] :cat: a|b" in flat(out.getvalue())
    assert "[/x]" in out.getvalue()
    print_field(ListConfig(archs=("bicubic(title='[/x]')",)), console)
    assert "bicubic(title='[/x]')" in flat(out.getvalue())


def test_what_a_job_prints_has_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("runs [old]/x :cat: [/b]")
    assert capsys.readouterr().out == "runs [old]/x :cat: [/b]\n"


def prints(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "print":
            yield node


@pytest.mark.parametrize("file", [*sorted((ROOT / "raysr").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))])
def test_no_line_with_a_name_in_it_is_printed_as_markup(file: Path) -> None:
    for call in prints(file):
        given = call.args[0] if call.args else ast.Constant("")
        words = isinstance(given, ast.Constant) or ast.unparse(given).startswith(("plain(", "table"))
        assert words, f"{file.name}, line {call.lineno}: {ast.unparse(call)}: print it with raysr.plain.say"
    cells = [node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]
    assert "add_row" not in cells or file.name == "plain.py", f"{file.name}: rows are added with raysr.plain.add_row"


@pytest.mark.parametrize("title", [*HOSTILE, "a/b", "../../x", "x\ny", "\x1b[31m", "ä" * 300, "."])
def test_a_name_of_files_is_one_plain_name_that_disks_take(title: str, tmp_path: Path) -> None:
    for arch in (write_arch("espcn", {"title": title}), write_arch("checkpoint", {"file": "/x.pth", "title": title})):
        place = tmp_path / f"{file_name(arch)}-0.safetensors.0123456789.part"
        place.write_text("")
        assert place.parent.resolve() == tmp_path.resolve()
        assert [place] == list(tmp_path.iterdir())
        place.unlink()
    assert file_name(write_arch("espcn", {"title": "ä" * 300})) != file_name(write_arch("espcn", {"title": "ä" * 301}))


def test_a_title_is_one_line_that_prints_something() -> None:
    assert find_architecture("espcn(title=' two\\n  lines\\x1b[31m')").title == r"two lines\x1b[31m"
    with pytest.raises(ValueError, match="title=' ' prints nothing: expected words"):
        find_architecture("espcn(title=' ')")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from raysr.models.bicubic import Bicubic\nfrom torch import nn\n"
    code += "class MyNet(nn.Conv2d):\n    def __init__(self, scale, width=1):\n        super().__init__(1, width, 3)\n"
    code += "def interpolate(scale):\n    return Bicubic(scale)\n"
    code += (
        "class Nearest(nn.Upsample):\n    def __init__(self, scale):\n        super().__init__(scale_factor=scale)\n"
    )
    for name in ("names_one", "names_two"):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_modules_name_joins_where_two_networks_have_one_class_name(modules: None, tmp_path: Path) -> None:
    archs = ("names_one:MyNet", "names_two:MyNet", "names_two:MyNet(width=2)")
    assert list(titles(archs).values()) == ["names_one:MyNet", "names_two:MyNet", "names_two:MyNet (width=2)"]
    assert titles(archs[:1]) == {"names_one:MyNet": "MyNet"}
    assert list(titles(["espcn", "names_one:ESPCN"]).values()) == ["ESPCN", "names_one:ESPCN"]
    assert CompareConfig(preset="demo", archs=archs).archs == archs
    run = make_run(tmp_path, row("espcn", 0.01), *(row(arch, 0.02) for arch in archs))
    (verdict, *_) = find(run).verdict
    assert "names_one:MyNet, names_two:MyNet or names_two:MyNet (width=2) could be ahead" in verdict


@pytest.mark.parametrize(
    "archs",
    [
        ("espcn(title='X')", "srcnn(title='X')"),
        ("espcn(title='SRCNN')", "srcnn"),
        ("espcn(title='X ')", "edsr(title=' X')"),
    ],
)
def test_equal_titles_are_refused_and_told_apart_in_a_run_that_has_them(archs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"would both be called '(X|SRCNN)' in the tables: give another title="):
        CompareConfig(preset="demo", archs=archs)
    assert len(set(titles(archs).values())) == len(archs)


def test_every_preset_and_every_architecture_has_a_title_of_its_own() -> None:
    check_titles(MODELS)
    for _, config in PRESETS.values():
        check_titles(config.archs)


@pytest.mark.parametrize("arch", ["bicubic(title='X')", ' bicubic( title = "X" )', "names_one:interpolate(title='X')"])
def test_bicubic_is_the_yardstick_whatever_it_is_called(modules: None, arch: str, tmp_path: Path) -> None:
    if ":" in arch:
        arch = "names_one:interpolate"
    untrained = {"params": 0, "steps": 0, "epochs": 0.0, "charged_usd": 0.0, "usd_per_epoch": None}
    trials = [row("espcn", 0.02, seed) for seed in range(3)]
    # What a run keeps of its beginning: code of the user's own is not run for a table.
    kept = {"yardstick": arch} if ":" in arch and builds_bicubic(arch, 2) else {}
    run = make_run(tmp_path, *trials, row(arch, 0.01, 2, **untrained), **kept)
    assert run.yardstick == arch
    found = find(run)
    espcn = next(one for one in found.standings if one.arch == "espcn")
    assert espcn.of_bicubic == pytest.approx(2.0)
    assert not next(one for one in found.standings if one.arch == arch).trained
    assert any("Bicubic interpolation, which costs nothing" in line for line in found.verdict)
    page = Path(write_report(run)).read_text()
    assert "before and after" in page  # bicubic's picture is there, whatever its seed
    assert load_upscaler(arch, 2, next(MODELS["espcn"].build(2).parameters()).device).bicubic


def test_what_is_no_bicubic_is_no_yardstick_whatever_it_is_called(modules: None, tmp_path: Path) -> None:
    assert not builds_bicubic("espcn(title='Bicubic')", 2)
    assert not builds_bicubic("names_one:Nearest(title='bicubic')", 2)
    assert not builds_bicubic("not_here:bicubic", 2)
    nearest = row("names_one:Nearest", 0.01, params=0)
    run = make_run(tmp_path, row("espcn", 0.02), nearest)
    assert run.yardstick is None
    assert not any("Bicubic interpolation" in line for line in find(run).sentences)
