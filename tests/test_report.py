import re
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from raysr import storage
from raysr.report import findings, print_table, standings, table_markdown, write_report
from raysr.runs import CurvePoint, Run, TrialFiles, TrialRow, write_png

BUDGET = 0.001875


def row(arch: str, perceptual: float | None, seed: int = 0, **changes: Any) -> TrialRow:
    trained = arch != "bicubic"
    made = TrialRow(
        arch=arch,
        seed=seed,
        status="finished",
        params=1000 if trained else 0,
        steps=100 if trained else 0,
        epochs=4.0 if trained else 0.0,
        budget_usd=BUDGET,
        charged_usd=0.99 * BUDGET if trained else 0.0,
        usd_per_epoch=0.99 * BUDGET / 4 if trained else None,
        perceptual=perceptual,
        perceptual_name="LPIPS (random VGG)",
        perceptual_start=0.25 if trained else perceptual,
        ms_ssim=0.98,
        ssim=0.9,
        psnr=30.0,
        perceptual_content=perceptual,
    )
    return replace(made, **changes)


def make_run(folder: Path, *trials: TrialRow, **changes: Any) -> Run:
    info = {
        "preset": "demo",
        "command": ["compare.py", "demo"],
        "started": "2026-11-24T10:00:00+00:00",
        "commit": None,
        "budget_usd": BUDGET,
        "price": {"usd_per_hour": 0.27, "source": "a catalogue", "date": "2026-11-24"},
        "notional": True,
        "charged_segments": ["train", "stall"],
        "device": "a <processor>",
        "perceptual": {"name": "LPIPS (random VGG)", "weights_sha256": "ab" * 32},
        "alex": None,
        "figure_image_id": "camera.png#000",
        "data": {
            "source": "bundled",
            "content_sha256": "cd" * 32,
            "geometry": {"hr_px": 192, "scale": 2, "fit": "tiles"},
            "pairs": {"train": 66, "val": 8},
            "photographs": {"train": 10, "val": 3},
        },
        "versions": {"python": "3.11"},
    }
    names = [field for field in CurvePoint.__dataclass_fields__ if field in TrialRow.__dataclass_fields__]
    curves = pd.DataFrame(
        [
            {name: asdict(trial)[name] for name in names}
            | {"step": trial.steps * share, "charged_usd": trial.charged_usd * share}
            for trial in trials
            for share in ((0, 1) if trial.params else (0,))
        ]
    )
    images = pd.DataFrame(
        [
            {"arch": trial.arch, "seed": trial.seed, "image_id": image, "perceptual": trial.perceptual, "psnr": 31.5}
            for trial in trials
            for image in ("camera.png#000", "camera.png#001")
        ]
    )
    for name in ("hr", "lr"):
        write_png(storage.join(str(folder), "pictures", f"{name}.png"), np.full((8, 8), 90, np.uint8))
    for trial in trials:
        TrialFiles(str(folder), trial.arch, trial.seed).write_picture(np.full((8, 8), 99, np.uint8))
    return Run(folder=str(folder), info=info | changes, trials=list(trials), curves=curves, images=images)


def said(run: Run) -> str:
    return "\n".join(findings(run, standings(run)))


def test_the_best_picture_stands_first_and_a_trial_without_a_score_last(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        row("srcnn", 0.02),
        row("espcn", None, status="failed", error="disk full"),
        row("bicubic", 0.01),
        row("inverted_unet3", 0.008),
    )
    assert [standing.arch for standing in standings(run)] == ["inverted_unet3", "bicubic", "srcnn", "espcn"]


def test_seeds_are_averaged_with_their_spread(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.01, 0), row("srcnn", 0.02, 1), row("srcnn", 0.03, 2), row("bicubic", 0.01))
    srcnn = next(standing for standing in standings(run) if standing.arch == "srcnn")
    assert srcnn.seeds == 3
    assert srcnn.perceptual == pytest.approx(0.02)
    assert srcnn.perceptual_spread == pytest.approx(0.01)
    assert srcnn.of_bicubic == pytest.approx(2.0)
    assert srcnn.of_budget == pytest.approx(0.99)
    assert "One seed each" not in said(run)


def test_a_single_seed_is_said_to_be_one(tmp_path: Path) -> None:
    assert "One seed each" in said(make_run(tmp_path, row("srcnn", 0.01)))


def test_the_report_says_what_it_means_when_bicubic_leads(tmp_path: Path) -> None:
    text = said(make_run(tmp_path, row("srcnn", 0.02), row("espcn", 0.03), row("bicubic", 0.01)))
    assert "SRCNN 2.00 x, ESPCN 3.00 x" in text
    assert "Bicubic still leads: this budget is too small" in text


def test_the_report_names_those_that_are_still_behind_bicubic(tmp_path: Path) -> None:
    text = said(make_run(tmp_path, row("srcnn", 0.02), row("inverted_unet3", 0.005), row("bicubic", 0.01)))
    assert "Inverted U-Net gives the best picture of the trained networks at a budget of $0.00187 each" in text
    assert "Bicubic, which costs nothing, is still ahead of SRCNN." in text


def test_a_network_that_beats_bicubic_needs_no_excuse(tmp_path: Path) -> None:
    assert "ahead" not in said(make_run(tmp_path, row("srcnn", 0.005), row("bicubic", 0.01)))


def test_random_weights_are_never_taken_for_lpips(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.005), row("bicubic", 0.01))
    out = StringIO()
    print_table(run, Console(file=out, width=200))
    page = Path(write_report(run)).read_text()
    shown = page[page.index("<h1>") : page.index("<h2>Quality")] + out.getvalue() + table_markdown(run)
    for found in re.finditer(r"LPIPS", re.sub(r"(paper:(<br>| )|its Table 1.*)LPIPS|is not LPIPS", "", shown)):
        assert re.sub(r"(paper:(<br>| )|its Table 1.*)LPIPS|is not LPIPS", "", shown)[found.end() :].startswith(
            " (random VGG)"
        )
    assert "is not LPIPS on the published weights" in said(run)


def test_true_lpips_is_called_by_its_name_and_needs_no_warning(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, row("srcnn", 0.005), perceptual={"name": "LPIPS (VGG)", "weights_sha256": "ab"}, notional=False
    )
    assert "LPIPS (VGG) 0.0050" in said(run)
    assert "is not LPIPS" not in said(run)


def test_dollars_are_notional_only_where_no_accelerator_was_rented(tmp_path: Path) -> None:
    assert "Dollars are notional" in said(make_run(tmp_path, row("srcnn", 0.1)))
    rented = said(make_run(tmp_path, row("srcnn", 0.1), notional=False))
    assert "notional" not in rented
    assert "Price: $0.27 an hour of a <processor>; a catalogue, 2026-11-24." in rented


def test_a_trial_that_did_not_finish_is_named_with_its_reason(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        row("srcnn", 0.1),
        row("espcn", None, status="failed", error="Traceback ...\n  File x\nOSError: disk full"),
        row("inverted_unet3", 0.3, status="dead"),
    )
    assert "espcn seed 0 failed: OSError: disk full" in said(run)
    assert "inverted_unet3 seed 0 dead: its picture is constant" in said(run)


def test_table_md_has_the_papers_table_1_with_ours_beside_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("inverted_unet3", 0.01), row("srcnn", 0.02), row("espcn", 0.03), row("bicubic", 0.04))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table_markdown(run).splitlines()[:6]]
    assert lines[0][:5] == ["Architecture", "paper: epochs", "paper: LPIPS", "paper: MS-SSIM", "LPIPS (random VGG)"]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[2][:5] == ["Inverted U-Net", "10", "0.0831", "0.9847", "0.0100"]
    assert lines[3][:5] == ["SRCNN", "50", "0.0928", "0.9844", "0.0200"]
    assert lines[4][:5] == ["ESPCN", "40", "0.0994", "0.9856", "0.0300"]
    assert lines[5][:5] == ["Bicubic", "-", "-", "-", "0.0400"]
    assert lines[5][lines[0].index("charged $")] == "0.00"
    assert lines[2][lines[0].index("of budget")] == "99.0%"


def test_the_report_needs_no_other_file_and_escapes_what_it_shows(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.02), row("bicubic", 0.01))
    location = Path(write_report(run))
    page = location.read_text()
    assert location == tmp_path / "report.html"
    assert (tmp_path / "table.md").read_text() == table_markdown(run)
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"'](?!data:)", page)
    assert page.count('<img src="data:image/png;base64,') == 4
    assert "a &lt;processor&gt;" in page
    assert "a <processor>" not in page
    assert "bicubic 0.0100" in page


def test_the_second_opinion_stands_beside_the_first_where_there_is_one(tmp_path: Path) -> None:
    trials = row("srcnn", 0.02, lpips_alex=0.0456), row("bicubic", 0.01, lpips_alex=0.0123)
    without, alex = make_run(tmp_path, *trials), {"name": "LPIPS (Alex)", "weights_sha256": "ef"}
    run = make_run(tmp_path, *trials, alex=alex)
    assert "LPIPS (Alex)" not in table_markdown(without)
    assert "| LPIPS (Alex) |" in table_markdown(run).splitlines()[0]
    assert table_markdown(run).splitlines()[2].endswith("| 0.0123 |")
    page = Path(write_report(run)).read_text()
    assert "<th>LPIPS (Alex)</th>" in page
    assert "<td>0.0456</td>" in page


def test_a_run_whose_trials_all_failed_is_still_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", None, status="failed", error="no memory"))
    run = replace(run, images=run.images.iloc[:0])
    Path(TrialFiles(str(tmp_path), "srcnn", 0).folder, "picture.png").unlink()
    write_report(run)
    assert "srcnn seed 0 failed: no memory" in (tmp_path / "table.md").read_text()
