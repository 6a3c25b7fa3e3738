"""A run's folder is read as it stands: under way, after its driver was killed, or written by another version."""

import json
import runpy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_report import make_run, row

from raysr.evaluate import ImageScore
from raysr.findings import find
from raysr.ledger import Ledger
from raysr.report import table_markdown, write_report
from raysr.rows import CurvePoint, TrialRow, decode
from raysr.runs import Run, gather
from raysr.trial_files import TrialFiles

ROOT = Path(__file__).parents[1]
ARCHS = ["bicubic", "espcn", "srcnn"]


def score(value: float) -> ImageScore:
    empty: dict[str, Any] = dict.fromkeys(ImageScore.__dataclass_fields__)
    return ImageScore(
        **empty | {"image_id": "camera.png#000", "photograph": "camera", "perceptual": value, "psnr": 30.0}
    )


def point(trial: TrialRow, step: int) -> CurvePoint:
    known = asdict(trial)
    names = [name for name in CurvePoint.__dataclass_fields__ if name in known]
    return CurvePoint(**{name: known[name] for name in names} | {"step": step, "fraction": step / 100, "loss": None})


def write_files(folder: Path, trial: TrialRow, *, ended: bool) -> None:
    """What a worker leaves: two validations, and the row at its end."""
    files = TrialFiles(str(folder), trial.arch, trial.seed)
    steps = (0, 50, 100) if ended else (0, 50)
    for step in steps:
        files.write_images(step, [score(trial.perceptual or 0.0)])
    files.write_curve([point(trial, step) for step in steps])
    ledger = Ledger(str(folder), files.name)
    ledger.begin({})
    ledger.write("heartbeat", step=60, seconds={"train": 5.0}, charged_usd=0.1, billed_usd=0.2, unaccounted_share=0.0)
    if ended:
        files.write_row(trial)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run of three architectures and two seeds, of which no trial has left anything yet."""
    run = make_run(tmp_path, row("bicubic", 0.03))
    config = {"train": {"evaluate_at": [0.5]}, "archs": ARCHS, "seeds": 2}
    (tmp_path / "run.json").write_text(json.dumps(run.info | {"config": config}))
    return tmp_path


class Done(NamedTuple):
    """How a job ended."""

    returncode: int
    stdout: str
    stderr: str


Report = Callable[[Path], Done]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """jobs/report.py, in this process: another one takes ten seconds to import everything."""
    main = runpy.run_path(str(ROOT / "jobs" / "report.py"))["main"]

    def call(folder: Path) -> Done:
        code = 0
        try:
            main(str(folder))
        except SystemExit as end:
            code = int(str(end.code))
        return Done(code, *capsys.readouterr())

    return call


def test_a_run_that_is_under_way_is_reported_with_what_is_there(begun: Path, report: Report) -> None:
    write_files(begun, row("bicubic", 0.03), ended=True)
    write_files(begun, row("espcn", 0.01), ended=True)
    write_files(begun, row("espcn", 0.02, 1), ended=False)
    done = report(begun)
    assert (done.returncode, done.stderr) == (0, "")
    run = Run.read(str(begun))
    found = {(trial.arch, trial.seed): trial for trial in run.trials}
    assert {key: trial.status for key, trial in found.items()} == {
        ("bicubic", 0): "finished",
        ("espcn", 0): "finished",
        ("espcn", 1): "unfinished",
        ("srcnn", 0): "unfinished",
        ("srcnn", 1): "unfinished",
    }
    going = found["espcn", 1]
    assert (going.perceptual, going.steps, going.billed_usd, going.seconds) == (0.02, 50, 0.2, {"train": 5.0})
    assert "it still runs, or was stopped" in str(going.error)
    assert (found["srcnn", 0].error, found["srcnn", 0].params > 0) == ("it has not begun", True)
    assert set(zip(run.curves["arch"], run.curves["step"], strict=True)) == {
        *((arch, step) for arch in ("bicubic", "espcn") for step in (0, 50, 100))
    }
    assert run.images.groupby(["arch", "seed"])["step"].unique().explode().to_dict() == {
        ("bicubic", 0): 100,
        ("espcn", 0): 100,
        ("espcn", 1): 50,
    }
    assert "espcn seed 1 unfinished: it has no end" in done.stdout
    assert "SRCNN has no result of seeds 0 and 1 (of 2)" in " ".join(done.stdout.split())
    assert (begun / "report.html").is_file()


def test_a_run_of_which_no_trial_has_begun_is_reported(begun: Path) -> None:
    run = Run.read(str(begun))
    assert [trial.status for trial in run.trials] == ["unfinished"] * 5
    assert find(run).verdict == ["No verdict: no trial finished."]
    write_report(run)


def test_a_run_that_was_resumed_and_killed_is_read_from_the_newest_that_each_trial_left(begun: Path) -> None:
    rows = [row("bicubic", 0.03), row("espcn", 0.01), row("srcnn", None, status="failed", error="a node died")]
    for trial in rows[:2]:
        write_files(begun, trial, ended=True)
    gather(str(begun), rows)
    assert [trial.status for trial in Run.read(str(begun)).trials[:3]] == ["finished", "finished", "failed"]
    # The resumed part ended the failed one and one that was added, and was killed before it could gather them.
    write_files(begun, row("srcnn", 0.02), ended=True)
    write_files(begun, row("srcnn", 0.04, 1), ended=True)
    run = Run.read(str(begun))
    statuses = {(trial.arch, trial.seed): trial.status for trial in run.trials}
    assert (statuses["srcnn", 0], statuses["srcnn", 1], statuses["espcn", 1]) == ("finished", "finished", "unfinished")
    assert ("srcnn", 1) in set(zip(run.images["arch"], run.images["seed"], strict=True))


def test_a_failed_trial_that_is_under_way_again_is_no_more_said_to_have_failed(begun: Path) -> None:
    gather(str(begun), [row("bicubic", None, status="failed"), row("espcn", None, status="failed", attempts=1)])
    files = TrialFiles(str(begun), "espcn", 0)
    for _ in range(2):
        ledger = Ledger(str(begun), files.name)
        ledger.begin({})
        ledger.write("start", step=0, seconds={}, charged_usd=0.0, billed_usd=0.0, unaccounted_share=0.0)
    statuses = {(trial.arch, trial.seed): trial.status for trial in Run.read(str(begun)).trials}
    assert (statuses["bicubic", 0], statuses["espcn", 0]) == ("failed", "unfinished")


def test_fields_that_this_version_does_not_know_are_passed_over(begun: Path, report: Report) -> None:
    rows = [row("bicubic", 0.03), row("espcn", 0.01), row("espcn", 0.011, 1), row("srcnn", 0.02), row("srcnn", 0.02, 1)]
    for trial in rows:
        write_files(begun, trial, ended=True)
    gather(str(begun), rows)
    lines = [json.loads(line) | {"colour": "red"} for line in (begun / "trials.jsonl").read_text().splitlines()]
    (begun / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Run.read(str(begun)).trials == rows
    done = report(begun)
    assert (done.returncode, done.stderr) == (0, "")
    (begun / "trials.jsonl").unlink()
    for file in begun.rglob("*.json"):  # in each file that a report reads
        raw = json.loads(file.read_text())
        new = [one | {"colour": "red"} for one in raw] if isinstance(raw, list) else raw | {"colour": "red"}
        file.write_text(json.dumps(new))
    run = Run.read(str(begun))
    assert (sorted(run.trials, key=lambda one: (one.arch, one.seed)), run.problems) == (rows, [])


def test_what_is_damaged_or_lacks_a_field_is_named_and_the_rest_is_reported(begun: Path, report: Report) -> None:
    rows = [row("bicubic", 0.03), row("espcn", 0.01), row("espcn", 0.011, 1), row("srcnn", 0.02), row("srcnn", 0.02, 1)]
    for trial in rows:
        write_files(begun, trial, ended=True)
    gather(str(begun), rows)
    bad = asdict(rows[1])
    del bad["status"], bad["params"]
    lines = [json.dumps(asdict(rows[0])), json.dumps(bad), '{"arch": "espc', "[1]"]
    (begun / "trials.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("espcn-0", "espcn-1"):
        (begun / "trials" / name / "row.json").unlink()
    (begun / "trials" / "espcn-1" / "curve.json").write_text('[{"arch": "espcn"}]')
    done = report(begun)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    assert "trials.jsonl, line 2, lacks status, params: it is damaged, or of another version of raysr." in shown
    assert "trials.jsonl, line 3, is damaged" in shown
    assert "line 4, should hold a record with named fields, and holds '[1]'" in shown
    assert "espcn-1/curve.json lacks seed, step" in shown
    assert "SRCNN" in shown


def test_a_run_json_that_lacks_what_a_report_needs_is_refused_by_name(begun: Path, report: Report) -> None:
    info = json.loads((begun / "run.json").read_text())
    del info["price"], info["device"]
    (begun / "run.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"run\.json lacks device, price: it is damaged, or of another version"):
        Run.read(str(begun))
    (begun / "run.json").write_text("{")
    done = report(begun)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "run.json is damaged" in done.stderr


def test_a_run_of_a_network_whose_code_is_gone_is_still_reported(begun: Path) -> None:
    own = "gone_from_here:MyNet(width=3)"
    info = json.loads((begun / "run.json").read_text())
    info["config"]["archs"] = [*ARCHS, own]
    (begun / "run.json").write_text(json.dumps(info))
    write_files(begun, row(own, 0.01), ended=True)
    write_files(begun, row("bicubic", 0.03), ended=True)
    found = find(Run.read(str(begun)))
    assert found.standings[0].title == "MyNet (width=3)"
    assert "no module" not in " ".join(found.warnings)
    write_report(found.run)


def test_a_report_that_cannot_be_written_is_an_error_in_one_line_after_the_table(begun: Path, report: Report) -> None:
    write_files(begun, row("bicubic", 0.03), ended=True)
    (begun / "table.md").mkdir()  # a file cannot take its place: as little as on a disk that is read-only
    done = report(begun)
    assert done.returncode == 1
    assert "Bicubic" in done.stdout
    assert done.stderr.startswith(f"error: the report cannot be written into {begun}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_record_is_made_of_the_fields_that_are_known() -> None:
    trial = row("espcn", 0.01)
    assert decode(TrialRow, asdict(trial) | {"later": 1}, "here") == trial
    assert decode(TrialRow, {k: v for k, v in asdict(trial).items() if k != "cause"}, "here") == replace(
        trial, cause=None
    )
    with pytest.raises(ValueError, match="here lacks arch, seed, status, params, perceptual_name"):
        decode(TrialRow, {}, "here")


RECORDS = sorted(file.parent for file in (Path(__file__).parents[1] / "docs" / "results").rglob("run.json"))


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_every_record_that_is_kept_of_a_run_can_still_be_reported(folder: Path) -> None:
    run = Run.read(str(folder))
    assert run.trials
    assert table_markdown(find(run))
