import math
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
from raysr.cost import Price
from raysr.evaluate import ImageScore
from raysr.findings import find
from raysr.judge_run import _leads
from raysr.report import print_table, table_markdown, write_report
from raysr.reprice import repriced
from raysr.rows import CurvePoint, TrialRow
from raysr.runs import Run
from raysr.statistics import score_table
from raysr.trial_files import TrialFiles, write_png

BUDGET = 0.001875
HARDER = 1e-4
"""How much a photograph's score differs from the next one's, in every trial."""


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
        "config": {"train": {"evaluate_at": [0.5]}},
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
            | {"step": trial.steps * share, "charged_usd": trial.charged_usd * share, "fraction": share}
            for trial in trials
            for share in ((0, 1) if trial.params else (0,))
        ]
    )
    images = pd.DataFrame(
        [
            asdict(trial)
            | {
                "step": trial.steps,
                "image_id": f"{photograph}.png#000",
                "photograph": photograph,
                "perceptual": score + bonus,
            }
            for trial in trials
            if (score := trial.perceptual) is not None
            for photograph, bonus in (("camera", -HARDER), ("cat", 0.0), ("dog", HARDER))
        ],
        columns=pd.Index(["arch", "seed", "step", *ImageScore.__dataclass_fields__]),
    )
    for name in ("hr", "lr"):
        write_png(storage.join(str(folder), "pictures", f"{name}.png"), np.full((8, 8), 90, np.uint8))
    for trial in trials:
        TrialFiles(str(folder), trial.arch, trial.seed).write_picture(np.full((8, 8), 99, np.uint8))
    return Run(
        folder=str(folder), info=info | changes, trials=list(trials), curves=curves, images=images, history=images
    )


def said(run: Run) -> str:
    return "\n".join(find(run).sentences)


def test_the_best_picture_stands_first_and_a_trial_without_a_score_last(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        row("srcnn", 0.02),
        row("espcn", None, status="failed", error="disk full"),
        row("bicubic", 0.01),
        row("inverted_unet3", 0.008),
    )
    assert [standing.arch for standing in find(run).standings] == ["inverted_unet3", "bicubic", "srcnn", "espcn"]


def test_seeds_are_averaged_with_their_spread(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.01, 0), row("srcnn", 0.02, 1), row("srcnn", 0.03, 2), row("bicubic", 0.01))
    srcnn = next(standing for standing in find(run).standings if standing.arch == "srcnn")
    assert srcnn.seeds == 3
    assert srcnn.perceptual == pytest.approx(0.02)
    assert srcnn.estimate is not None
    assert srcnn.estimate.mean == pytest.approx(0.02)
    assert (srcnn.estimate.seeds, srcnn.estimate.photographs) == (3, 3)
    assert srcnn.of_bicubic == pytest.approx(2.0)
    assert srcnn.of_budget == pytest.approx(0.99)
    assert "they are over 3 seeds and 3 photographs." in said(run)


def test_a_single_seed_is_said_to_be_one(tmp_path: Path) -> None:
    assert "Each network was trained once" in said(make_run(tmp_path, row("srcnn", 0.01), row("bicubic", 0.02)))
    two = [row("srcnn", 0.01, seed) for seed in range(2)]
    assert "Each network was trained twice" in said(make_run(tmp_path, *two, row("bicubic", 0.02)))


def test_the_report_says_what_it_means_when_bicubic_leads(tmp_path: Path) -> None:
    text = said(make_run(tmp_path, row("srcnn", 0.02), row("espcn", 0.03), row("bicubic", 0.01)))
    assert "costs nothing, has LPIPS (random VGG) 0.0100: SRCNN is 100% worse and ESPCN is 200% worse." in text
    assert "This budget is too small for any network here to beat it" in text


def test_the_report_names_those_that_are_still_behind_bicubic(tmp_path: Path) -> None:
    text = said(make_run(tmp_path, row("srcnn", 0.02), row("inverted_unet3", 0.005), row("bicubic", 0.01)))
    assert "Not decided: Inverted U-Net is ahead at a budget of $0.00187 each" in text
    assert "Inverted U-Net is 50% better and SRCNN is 100% worse." in text
    assert "too small" not in text


def test_a_network_that_beats_bicubic_needs_no_excuse(tmp_path: Path) -> None:
    text = said(make_run(tmp_path, row("srcnn", 0.005), row("bicubic", 0.01)))
    assert "0.0100: SRCNN is 50% better." in text
    assert "too small" not in text
    assert "SRCNN is 0.3% better." in said(make_run(tmp_path, row("srcnn", 0.00997), row("bicubic", 0.01)))


def test_random_weights_are_never_taken_for_lpips(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.005), row("bicubic", 0.01))
    out = StringIO()
    print_table(run, Console(file=out, width=200))
    page = Path(write_report(run)).read_text()
    shown = page[page.index("<h1>") : page.index("<h2>Quality")] + out.getvalue() + table_markdown(find(run))
    for found in re.finditer(r"LPIPS", re.sub(r"(paper:(<br>| )|its Table 1.*)LPIPS|is not LPIPS", "", shown)):
        assert re.sub(r"(paper:(<br>| )|its Table 1.*)LPIPS|is not LPIPS", "", shown)[found.end() :].startswith(
            " (random VGG)"
        )
    assert "is not LPIPS on the published weights" in said(run)


def test_the_terminal_has_the_verdict_in_few_sentences_and_what_most_runs_say_stands_below(tmp_path: Path) -> None:
    trials = [
        row(arch, 0.01 + place / 100 + seed / 1e5, seed)
        for place, arch in enumerate(("espcn", "srcnn", "vdsr", "edsr_baseline", "inverted_unet3"))
        for seed in range(3)
    ]
    config = {"train": {"evaluate_at": [0.5], "schedule": "cosine"}}
    run = make_run(tmp_path, *trials, row("bicubic", 0.2), config=config)
    out = StringIO()
    print_table(run, Console(file=out, width=160))
    shown = out.getvalue()
    found = find(run)
    assert len(found.verdict) == 3
    assert found.warnings == [
        "LPIPS (random VGG) is not LPIPS on the published weights: it ranks the networks of this "
        "run, and cannot be compared with published values."
    ]
    assert [note.split()[0] for note in found.notes] == ["The", "Dollars"]  # the schedule, the price
    assert "Dollars are notional" not in shown
    assert "learning rate falls" not in shown
    # A head, six networks, the verdict: nothing else.
    assert len([line for line in shown.splitlines() if line.strip()]) < 16
    page = Path(write_report(run)).read_text()
    assert page.index("gives the best picture") < page.index("Dollars are notional")


def test_a_calibrated_run_of_padded_squares_has_no_more_sentences_in_its_verdict(tmp_path: Path) -> None:
    trials = [
        row(
            arch,
            0.01 + place / 100 + seed / 1e5,
            seed,
            psnr=30.0 + place,
            ssim=0.9 - place / 10,
            ssim_content=0.5 + place / 9,
        )
        for place, arch in enumerate(("espcn", "srcnn", "vdsr"))
        for seed in range(3)
    ]
    config = {"train": {"evaluate_at": [0.5], "schedule": "cosine"}, "mode": "calibrated"}
    run = make_run(tmp_path, *trials, row("bicubic", 0.2), config=config, timing_seconds=1.0)
    padded = replace(run, info=run.info | {"data": {**run.info["data"], "geometry": {"fit": "pad"}}})
    found = find(padded)
    assert len(found.verdict) == 4
    assert found.warnings[0].startswith("LPIPS (random VGG) is not")
    assert len(found.warnings) == 1
    notes = [note.split()[0] for note in found.notes]
    assert notes == [
        "The",
        "Calibrated:",
        "The",
        "Dollars",
    ]  # the black bars, the cost of a step, the schedule, the price


def test_a_network_that_did_not_finish_stands_outside_the_verdicts_distances(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.02), row("espcn", 0.001, status="invalid"), row("bicubic", 0.01))
    (distances,) = [line for line in find(run).verdict if line.startswith("Bicubic interpolation")]
    assert "ESPCN" not in distances
    assert "too small for any network here" in distances


def test_networks_with_fewer_seeds_than_others_are_named(tmp_path: Path) -> None:
    trials = [row("srcnn", 0.02 + seed / 1e4, seed) for seed in range(3)] + [row("espcn", 0.03, 0)]
    assert "ESPCN was trained once: the 95% intervals leave out" in said(make_run(tmp_path, *trials))


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_no_number_is_folded_on_a_narrow_terminal(width: int, tmp_path: Path) -> None:
    long = "inverted_unet3(blocks=4, skip=True)"
    trials = [row(long, 0.02, lpips_alex=0.0456), row("bicubic", 0.01, lpips_alex=0.0123)]
    run = make_run(tmp_path, *trials, alex={"name": "LPIPS (Alex)", "weights_sha256": "ef"})
    out = StringIO()
    print_table(run, Console(file=out, width=width))
    table = out.getvalue().split("Not decided")[0].split("gives the best")[0]
    assert "0.0200 [0.0198, 0.0202]" in table
    assert "0.0456" in table
    assert "…" not in table
    if width == 160:
        assert "finished" in table


def test_a_run_on_weights_of_a_file_has_columns_that_can_be_read(tmp_path: Path) -> None:
    name = "LPIPS (VGG 0a1b2c3d)"
    perceptual = {"name": name, "weights_sha256": "0a1b2c3d" * 8}
    run = make_run(tmp_path, row("inverted_unet3", 0.02), row("bicubic", 0.01), perceptual=perceptual)
    out = StringIO()
    print_table(run, Console(file=out, width=160))
    head = next(line for line in out.getvalue().splitlines() if line.startswith("architecture"))
    for column in (name, "MS-SSIM", "PSNR", "notional $", "of budget", "steps", "seeds", "ended"):
        assert column in head


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
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table_markdown(find(run)).splitlines()[:6]
    ]
    assert lines[0][:5] == ["Architecture", "paper: epochs", "paper: LPIPS", "paper: MS-SSIM", "LPIPS (random VGG)"]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[2][:5] == ["Inverted U-Net", "10", "0.0831", "0.9847", "0.0100 [0.0098, 0.0102]"]
    assert lines[3][:5] == ["SRCNN", "50", "0.0928", "0.9844", "0.0200 [0.0198, 0.0202]"]
    assert lines[4][:5] == ["ESPCN", "40", "0.0994", "0.9856", "0.0300 [0.0298, 0.0302]"]
    assert lines[5][:5] == ["Bicubic", "-", "-", "-", "0.0400 [0.0398, 0.0402]"]
    assert lines[5][lines[0].index("charged $")] == "0.00"
    assert lines[2][lines[0].index("of budget")] == "99.0%"


def test_the_report_needs_no_other_file_and_escapes_what_it_shows(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.02), row("bicubic", 0.01))
    location = Path(write_report(run))
    page = location.read_text()
    assert location == tmp_path / "report.html"
    assert (tmp_path / "table.md").read_text() == table_markdown(find(run))
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"'](?!data:)", page)
    assert page.count('<img src="data:image/png;base64,') == 5
    assert "a &lt;processor&gt;" in page
    assert "a <processor>" not in page
    assert "Bicubic 0.0100" in page


def test_a_network_trained_elsewhere_stands_in_the_tables_and_outside_the_verdict(tmp_path: Path) -> None:
    arch = "checkpoint(file='/nowhere/2x_good.pth', sha256='0123456789ab')"
    trials = [row("srcnn", 0.02, seed) for seed in range(3)] + [row("bicubic", 0.01)]
    elsewhere = row(arch, 0.001, params=5000, steps=0, epochs=0.0, charged_usd=0.0, usd_per_epoch=None)
    run, alone = make_run(tmp_path, *trials, elsewhere), make_run(tmp_path, *trials)
    found, without = find(run), find(alone)
    best = found.standings[0]
    assert (best.title, best.charged_usd, best.of_budget, best.finished) == ("2x_good.pth", None, None, False)
    assert best.params == 5000
    assert best.estimate is not None
    assert found.winner == without.winner == "bicubic"
    assert (found.differences, found.quality, found.fast_front) == (
        without.differences,
        without.quality,
        without.fast_front,
    )
    assert found.sentences[0] == without.sentences[0]
    told = "2x_good.pth was trained elsewhere, on what and for how much is unknown: it stands in the tables with LPIPS"
    assert told in said(run)
    text = table_markdown(found)
    assert re.search(r"\| 2x_good.pth \|.* 0.0010 .*\| unknown \| - \| - \|.*\| 5,000 \|", text)
    printed = StringIO()
    print_table(run, Console(file=printed, width=300))
    assert re.search(r"2x_good.pth +0.0010 .* unknown +-", printed.getvalue())
    page = Path(write_report(run)).read_text()
    assert "2x_good.pth 0.0010" in page
    assert "<td>unknown</td><td>-</td>" in page


def test_the_second_opinion_stands_beside_the_first_where_there_is_one(tmp_path: Path) -> None:
    trials = row("srcnn", 0.02, lpips_alex=0.0456), row("bicubic", 0.01, lpips_alex=0.0123)
    alex = {"name": "LPIPS (Alex)", "weights_sha256": "ef"}
    without = make_run(tmp_path, *(replace(trial, lpips_alex=None) for trial in trials))
    run = make_run(tmp_path, *trials, alex=alex)
    assert "LPIPS (Alex)" not in table_markdown(find(without))
    assert "| LPIPS (Alex) |" in table_markdown(find(run)).splitlines()[0]
    assert table_markdown(find(run)).splitlines()[2].endswith("| 0.0123 |")
    page = Path(write_report(run)).read_text()
    assert "<th>LPIPS (Alex)</th>" in page
    assert "<td>0.0456</td>" in page


def test_a_run_whose_trials_all_failed_is_still_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", None, status="failed", error="no memory"))
    run = replace(run, images=run.images.iloc[:0])
    Path(TrialFiles(str(tmp_path), "srcnn", 0).folder, "picture.png").unlink()
    write_report(run)
    assert "srcnn seed 0 failed: no memory" in (tmp_path / "table.md").read_text()


def seeded(arch: str, level: float, noise: float, rng: np.random.Generator) -> list[TrialRow]:
    return [row(arch, level + float(rng.normal(0, noise)), seed) for seed in range(5)]


def test_a_lead_beyond_luck_is_a_win_and_one_within_it_is_not_separable(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    far = make_run(tmp_path, *seeded("espcn", 0.01, 1e-4, rng), *seeded("srcnn", 0.02, 1e-4, rng), row("bicubic", 0.03))
    assert "ESPCN gives the best picture at a budget of $0.00187 each" in said(far)
    assert "Chance does not explain its lead over any other." in said(far)
    near = make_run(tmp_path, *seeded("espcn", 0.01, 5e-3, rng), *seeded("srcnn", 0.011, 5e-3, rng))
    leader, other = (standing.title for standing in find(near).standings)
    assert f"Not decided: {leader} is ahead" in said(near)
    assert f"With other seeds or photographs {other} could be ahead." in said(near)


def test_bicubic_can_win(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    run = make_run(tmp_path, *seeded("espcn", 0.02, 1e-4, rng), row("bicubic", 0.01))
    assert find(run).winner == "bicubic"
    assert "Bicubic gives the best picture at" in said(run)


def test_a_trial_that_did_not_finish_takes_no_part_in_the_verdict(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("espcn", 0.001, status="dead"), row("srcnn", 0.01), row("bicubic", 0.02))
    assert find(run).winner == "srcnn"
    assert {one.a for one in find(run).differences["perceptual"]} == {"srcnn"}
    both = make_run(tmp_path, row("espcn", 0.001, 0, status="invalid"), row("espcn", 0.03, 1), row("srcnn", 0.01))
    espcn = next(standing for standing in find(both).standings if standing.arch == "espcn")
    assert (espcn.perceptual, espcn.seeds, espcn.statuses) == (0.03, 1, "finished, invalid")


def test_a_run_in_which_nothing_finished_has_no_verdict(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.1, status="interrupted"))
    assert find(run).winner is None
    assert "No verdict: no trial finished." in said(run)


@pytest.mark.parametrize("place", range(4))
def test_a_network_that_diverged_does_not_change_who_wins(place: int, tmp_path: Path) -> None:
    trials = [row("bicubic", 0.0087), row("srcnn", 0.0067), row("inverted_unet3", 0.0065)]
    trials.insert(place, row("espcn", math.nan, status="diverged", psnr=math.nan))
    found = find(make_run(tmp_path, *trials))
    assert found.winner == "inverted_unet3"
    assert [one.arch for one in found.standings] == ["inverted_unet3", "srcnn", "bicubic", "espcn"]
    assert (found.standings[-1].perceptual, found.standings[-1].psnr) == (None, None)
    assert "nan" not in table_markdown(found)


def with_lost(tmp_path: Path, status: str, cause: str | None = None) -> Run:
    """ESPCN is far ahead by three seeds, and five others ended otherwise; SRCNN finished with all eight."""
    rng = np.random.default_rng(0)
    espcn = [row("espcn", 0.01 + float(rng.normal(0, 1e-5)), seed) for seed in range(3)]
    srcnn = [row("srcnn", 0.02 + float(rng.normal(0, 1e-5)), seed) for seed in range(8)]
    gone = [row("espcn", None, seed, status=status, error="it broke", cause=cause) for seed in range(3, 8)]
    return make_run(tmp_path, *espcn, *gone, *srcnn, row("bicubic", 0.03))


@pytest.mark.parametrize("status", ["dead", "diverged", "invalid", "failed"])
def test_survivors_alone_decide_no_verdict(status: str, tmp_path: Path) -> None:
    run = with_lost(tmp_path, status)
    found = find(run)
    assert found.verdict[0].startswith("Not decided: ESPCN is ahead")
    assert "photographs SRCNN or Bicubic could be ahead" in found.verdict[0]
    text = said(run)
    assert "ESPCN lost 5 of 8 seeds (dead, diverged, invalid or failed): its scores are of the 3 that finished." in text
    assert "A lost seed counts as the worst: with those, the lead of ESPCN over " in text
    assert "has no result" not in text
    (pair,) = [one for one in found.differences["perceptual"] if {one.a, one.b} == {"espcn", "srcnn"}]
    assert not pair.separable
    # Its share of lost seeds stands in each table.
    out = StringIO()
    print_table(run, Console(file=out, width=100))
    assert re.search(r"ESPCN +0\.0100 .* 5 of 8", out.getvalue())
    table = table_markdown(found)
    head, _, first = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[:3])
    assert (first[0], first[head.index("lost seeds")]) == ("ESPCN", "5 of 8")
    assert "| ESPCN | SRCNN | not separable with the lost seeds |" in table
    if status == "dead":  # a page takes a second
        assert "<td>3</td><td>5 of 8</td>" in Path(write_report(run)).read_text()


@pytest.mark.parametrize(("status", "cause"), [("interrupted", None), ("failed", "machine"), ("unfinished", None)])
def test_a_seed_that_had_no_machine_is_missing_and_no_outcome(status: str, cause: str | None, tmp_path: Path) -> None:
    run = with_lost(tmp_path, status, cause)
    text = said(run)
    assert find(run).verdict[0].startswith("ESPCN gives the best picture")
    assert "ESPCN has no result of seeds 3, 4, 5, 6 and 7 (of 8): no end yet, stopped, or no machine." in text
    assert f"--resume {run.folder} runs the rest" in text
    assert "lost 5" not in text
    assert "| 3 | 0 of 3 |" in table_markdown(find(run))


def test_a_lead_that_holds_with_the_lost_seeds_is_a_win_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    espcn = [row("espcn", 0.01 + float(rng.normal(0, 1e-5)), seed) for seed in range(11)]
    srcnn = [row("srcnn", 0.02 + float(rng.normal(0, 1e-5)), seed) for seed in range(12)]
    run = make_run(tmp_path, *espcn, row("espcn", None, 11, status="dead"), *srcnn)
    assert find(run).verdict[0].startswith("ESPCN gives the best picture")
    assert "Every lead of ESPCN holds with the lost seeds counted as the worst." in said(run)
    # What a dead seed came to is seen: here it is so bad that the mean of all seeds decides nothing.
    bad = make_run(tmp_path, *espcn, row("espcn", 0.9, 11, status="dead"), *srcnn)
    assert find(bad).verdict[0].startswith("Not decided")


def test_a_new_test_set_decides_nothing_for_survivors_either(tmp_path: Path) -> None:
    run = with_lost(tmp_path, "dead")
    tables = {arch: score_table(run.images, arch, "perceptual") for arch in ("espcn", "srcnn", "bicubic")}
    against = {line.split(" = ")[0]: line for line in _leads(run, tables, list(tables), "LPIPS", lower_is_better=True)}
    refusal = "(Holm): not certain (not with the lost seeds of ESPCN counted as the worst)"
    assert against["LPIPS: ESPCN - SRCNN"].endswith(refusal)
    whole = replace(run, trials=[trial for trial in run.trials if trial.status == "finished"])
    (line, _) = _leads(whole, tables, list(tables), "LPIPS", lower_is_better=True)
    assert line.endswith("more than chance explains")


def test_bicubic_is_never_lost(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    run = make_run(tmp_path, *seeded("espcn", 0.02, 1e-4, rng), row("bicubic", None, status="failed", error="disk"))
    assert "lost 1" not in said(run)
    assert find(run).standings[-1].lost == 0
    assert "Bicubic has no result" not in said(run)


def test_a_share_of_seen_cases_is_no_chance_for_new_seeds_where_there_are_few(tmp_path: Path) -> None:
    one = make_run(tmp_path, row("espcn", 0.01), row("srcnn", 0.02))
    text, page = table_markdown(find(one)), Path(write_report(one)).read_text()
    assert "| in 3 of 3 cases |" in text
    assert "<td>in 3 of 3 cases</td>" in page
    assert "100%" not in text.split("| metric (PSNR in dB)")[1].split("| LPIPS")[1]
    rng = np.random.default_rng(2)
    five = make_run(tmp_path, *seeded("espcn", 0.01, 1e-4, rng), *seeded("srcnn", 0.02, 1e-4, rng))
    assert "| 100% [44%, 100%] |" in table_markdown(find(five))  # three photographs are the least of the three


def test_a_rival_that_is_better_on_the_seeds_that_both_have_is_not_beaten(tmp_path: Path) -> None:
    # ESPCN leads by a fourth seed that SRCNN does not have; on the common ones SRCNN is better by more than luck.
    espcn = [row("espcn", 0.0100 + seed / 1e6, seed) for seed in range(3)] + [row("espcn", 0.0010, 3)]
    srcnn = [row("srcnn", 0.0090 + seed / 1e6, seed) for seed in range(3)]
    stopped = row("srcnn", 0.02, 3, status="interrupted")
    found = find(make_run(tmp_path, *espcn, *srcnn, stopped))
    assert found.winner == "espcn"
    (pair,) = found.differences["perceptual"]
    assert pair.separable
    assert "Not decided: ESPCN is ahead" in found.sentences[0]
    assert "photographs SRCNN could be ahead." in found.sentences[0]


@pytest.mark.parametrize(
    ("accelerator", "device", "warned"),
    [
        ("A10G", "NVIDIA A10G", False),
        ("L4", "NVIDIA L40S", True),
        ("A10", "NVIDIA A100-SXM4-40GB", True),
        ("A100 40 GB", "NVIDIA A100-SXM4-80GB", True),
        ("A100 80 GB", "NVIDIA A100-SXM4-80GB", False),
        ("RTX A5000", "NVIDIA RTX A5000", False),
        ("H100 SXM", "NVIDIA H100 80GB HBM3", False),
    ],
)
def test_a_price_of_another_card_is_warned_about(accelerator: str, device: str, warned: bool, tmp_path: Path) -> None:
    price = {"usd_per_hour": 1.0, "source": "a list", "date": "2026-11-24", "accelerator": accelerator}
    run = make_run(tmp_path, row("srcnn", 0.1), price=price, notional=False, device=device)
    assert ("is of another card" in said(run)) == warned


def test_metrics_that_disagree_with_the_verdict_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("espcn", 0.01, psnr=28.0), row("srcnn", 0.02, psnr=31.0))
    assert "The metrics disagree: PSNR puts SRCNN first" in said(run)
    two = make_run(tmp_path, row("espcn", 0.01, psnr=28.0, ssim=0.5), row("srcnn", 0.02, psnr=31.0, ssim=0.6))
    assert "The metrics disagree: SSIM and PSNR put SRCNN first (not certain)." in said(two)
    agreeing = make_run(tmp_path, row("espcn", 0.01, psnr=33.0), row("srcnn", 0.02, psnr=31.0))
    assert "disagree" not in said(agreeing)


def test_black_bars_that_change_the_order_are_named_and_every_pair_is_compared_inside_them(tmp_path: Path) -> None:
    trials = [
        row(arch, score + seed / 1e4, seed, ssim=whole + seed / 1e4, ssim_content=inside + seed / 1e4)
        for arch, score, whole, inside in (("espcn", 0.01, 0.6, 0.87), ("srcnn", 0.02, 0.9, 0.84))
        for seed in range(3)
    ]
    tiles = make_run(tmp_path, *trials)
    padded = replace(tiles, info=tiles.info | {"data": {**tiles.info["data"], "geometry": {"fit": "pad"}}})
    text = said(padded)
    assert "The metrics disagree: SSIM puts SRCNN first." in text
    assert "change the order: SSIM puts ESPCN first inside them, SRCNN on whole squares." in text
    table = table_markdown(find(padded))
    assert re.search(r"\| SSIM, content \| ESPCN \| SRCNN \| separable \| 0\.0300 ", table)
    assert re.search(r"\| SSIM \| ESPCN \| SRCNN \| separable \| -0\.3000 ", table)
    assert "change the order" not in said(tiles)
    assert "SSIM, content |" not in table_markdown(find(tiles)).split("| metric (PSNR in dB)")[1]


def test_quality_at_a_share_is_the_last_that_it_had_paid_for_and_not_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("espcn", 0.01), row("srcnn", 0.02), row("bicubic", 0.03))
    run.curves.loc[(run.curves["arch"] == "espcn") & (run.curves["fraction"] == 0), "perceptual"] = 0.004
    extra = run.curves[run.curves["arch"] == "espcn"].tail(1).assign(fraction=0.56, step=56, perceptual=0.001)
    found = find(replace(run, curves=pd.concat([run.curves, extra])))
    ranks = {(point.arch, point.share): (point.rank, point.perceptual) for point in found.quality}
    assert ranks["espcn", 0.5] == (1, 0.004)  # 56 % is more than this share had paid for
    assert ranks["espcn", 1.0] == (1, 0.01)
    assert ranks["bicubic", 1.0] == (3, 0.03)
    late = extra.assign(fraction=0.52)  # a slow step at the boundary still stands for its share
    ranks = {(p.arch, p.share): p.perceptual for p in find(replace(run, curves=pd.concat([run.curves, late]))).quality}
    assert ranks["espcn", 0.5] == 0.001
    # The end is not of a share just before it.
    near = replace(run, info=run.info | {"config": {"train": {"evaluate_at": [0.95]}}})
    ranks = {(point.arch, point.share): point.perceptual for point in find(near).quality}
    assert (ranks["espcn", 0.95], ranks["espcn", 1.0]) == (0.004, 0.01)
    over = run.curves.assign(fraction=run.curves["fraction"] * 1.01)  # a valid trial may end a little over its budget
    ends = {p.arch: p.perceptual for p in find(replace(run, curves=over)).quality if p.share == 1}
    assert ends["espcn"] == 0.01
    front = {(point.arch, point.share) for point in found.quality if point.on_front}
    assert ("srcnn", 1.0) not in front


def test_the_curve_of_a_trial_that_did_not_finish_ranks_nobody(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("espcn", 0.001, status="invalid"), row("srcnn", 0.02), row("bicubic", 0.03))
    assert {point.arch for point in find(run).quality} == {"srcnn", "bicubic"}


def test_the_front_of_speed_leaves_out_what_is_slower_and_worse(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        row("espcn", 0.01, inference_ms=5.0),
        row("srcnn", 0.02, inference_ms=9.0),
        row("bicubic", 0.03, inference_ms=0.2),
    )
    assert find(run).fast_front == {"espcn", "bicubic"}


def test_every_pair_stands_in_the_report_with_its_chance_to_win(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    run = make_run(tmp_path, *seeded("espcn", 0.01, 1e-4, rng), *seeded("srcnn", 0.02, 1e-4, rng), row("bicubic", 0.03))
    text, page = table_markdown(find(run)), Path(write_report(run)).read_text()
    out = StringIO()
    print_table(run, Console(file=out, width=200))
    for a, b in (("ESPCN", "SRCNN"), ("ESPCN", "Bicubic"), ("SRCNN", "Bicubic")):
        assert f"| LPIPS (random VGG) | {a} | {b} | separable | -0.0" in text
        assert f"<td>{a}</td><td>{b}</td><td>separable</td>" in page
    assert "separable" not in out.getvalue()  # the terminal has the table and the verdict
    assert re.search(r"<details>.*<td>ESPCN</td><td>SRCNN</td>.*</details>", page, re.DOTALL)
    assert "50% of the budget" in text


def test_pictures_that_count_in_no_mean_are_told_of_and_older_runs_say_nothing(tmp_path: Path) -> None:
    old = make_run(tmp_path, row("srcnn", 0.02), row("bicubic", 0.01))
    assert "one value everywhere" not in said(old) + table_markdown(find(old))
    counted = {"flat_targets": 1, "at_ceiling": 0}
    run = make_run(tmp_path, row("srcnn", 0.02, **counted | {"at_ceiling": 2}), row("bicubic", 0.01, **counted))
    for text in (said(run), Path(write_report(run)).read_text()):
        assert "1 of 3 validation targets are one value everywhere, as a black frame is" in text
        assert "which makes PSNR infinite (srcnn seed 0 2): the means of PSNR do not count these" in text
        assert "bicubic seed 0 0" not in text


def test_a_run_at_another_price_is_a_counterfactual_beside_its_own_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.02, billed_usd=0.004), row("bicubic", 0.01))
    own = write_report(run)
    other = repriced(run, Price(usd_per_hour=2.7, source="a quote", date="2026-11-24"))
    location = write_report(other)
    assert own != location
    assert Path(location).name == "report-at-2.7.html"
    assert other.trials[0].charged_usd == pytest.approx(10 * run.trials[0].charged_usd)
    assert other.trials[0].billed_usd == pytest.approx(0.04)
    assert other.trials[0].steps == run.trials[0].steps
    assert list(other.curves["charged_usd"]) == pytest.approx(list(10 * run.curves["charged_usd"]))
    assert find(other).standings[1].of_budget == find(run).standings[1].of_budget
    assert "Counterfactual: the run was charged at $0.27 an hour" in said(other)
    assert "$2.7 an hour of a <processor>; a quote" in said(other)
    assert "Counterfactual" not in said(run)
    assert (tmp_path / "table-at-2.7.md").is_file()


def test_the_bill_shows_where_every_trials_seconds_went(tmp_path: Path) -> None:
    seconds = {"setup": 4.0, "compile": 0.0, "train": 20.0, "stall": 5.0, "lost": 2.5}
    run = make_run(
        tmp_path,
        row(
            "srcnn",
            0.02,
            seconds=seconds,
            attempts=2,
            stall_share=0.2,
            unaccounted_share=0.004,
            equalisation_error_pct=-0.3,
        ),
        row("bicubic", 0.01, seconds=dict.fromkeys(seconds, 0.0), unaccounted_share=0.0),
    )
    text, page = table_markdown(find(run)), Path(write_report(run)).read_text()
    assert "| trial | attempts | setup s | train s * | stall s * | lost s | waiting for data | unaccounted |" in text
    assert "| srcnn, seed 0 | 2 | 4.0 | 20.0 | 5.0 | 2.5 | 20.00% | 0.40% | 0.00 | 0.00186 | -0.30% |" in text
    assert "<td>srcnn, seed 0</td><td>2</td><td>4.0</td><td>20.0</td>" in page
    assert "More than 2% of what was paid went into waiting for data, for srcnn seed 0 20%: the storage" in said(run)
    old = make_run(tmp_path, row("srcnn", 0.02), row("bicubic", 0.01))
    assert "attempts" not in table_markdown(find(old))


def test_a_budget_in_samples_is_called_by_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.02, budget_usd=None), budget_usd=None, budget={"usd": None, "samples": 400})
    assert "SRCNN alone finished at a budget of 400 samples each" in said(run)


def test_a_price_of_another_card_is_pointed_out(tmp_path: Path) -> None:
    price = {"usd_per_hour": 0.27, "source": "a catalogue", "date": "2026-11-24", "accelerator": "RTX A5000"}
    other = make_run(tmp_path, row("srcnn", 0.1), notional=False, device="NVIDIA H100 80GB HBM3", price=price)
    assert "That price is of another card (RTX A5000)" in said(other)
    right = make_run(
        tmp_path, row("srcnn", 0.1), notional=False, device="NVIDIA H100", price=price | {"accelerator": "H100 SXM"}
    )
    assert "another card" not in said(right)


def test_a_clock_that_disagrees_with_the_frozen_cost_is_warned_about(tmp_path: Path) -> None:
    config = {"train": {"evaluate_at": [0.5]}, "mode": "calibrated"}
    near, far = row("srcnn", 0.02, metered_usd=1.05 * BUDGET), row("espcn", 0.01, metered_usd=1.3 * BUDGET)
    run = make_run(tmp_path, near, far, row("bicubic", 0.03, metered_usd=0.0), config=config, timing_seconds=40.0)
    assert "The timing cost $0.00300, which no trial pays." in said(run)
    assert "Calibrated: every seed took the steps that its architecture's frozen cost" in said(run)
    assert "more than 10% for espcn seed 0 +31%: the machine was busier" in said(run)
    fine = make_run(tmp_path, near, row("bicubic", 0.03), config=config, timing_seconds=40.0)
    assert "The clock disagrees" not in said(fine)
    assert "Calibrated" not in said(make_run(tmp_path, near, far))


def test_seeds_that_were_added_later_are_warned_about(tmp_path: Path) -> None:
    rows = [row(arch, level, seed) for arch, level in (("srcnn", 0.02), ("espcn", 0.03)) for seed in range(3)]
    grown = [{"at": "now", "seeds": [1, 2]}, {"at": "later", "seeds": [2, 3]}]
    assert "Seeds were added later, from 1 to 2 and 2 to 3: " in said(make_run(tmp_path, *rows, extended=grown))
    assert "Seeds were added" not in said(make_run(tmp_path, *rows))


def test_trials_on_several_devices_are_pointed_out(tmp_path: Path) -> None:
    here, there = "AMD EPYC, family 25 model 17 (2 cores)", "AMD EPYC, family 25 model 1 (2 cores)"
    one, other = row("srcnn", 0.02, device=here), row("espcn", 0.01, device=there)
    bicubic = row("bicubic", 0.03, device="a third")
    frozen = {"train": {"evaluate_at": [0.5]}, "mode": "calibrated"}

    def with_trials(*trials: TrialRow, **changes: Any) -> str:
        return said(make_run(tmp_path, *trials, bicubic, **({"device": here, "timing_seconds": 1.0} | changes)))

    several = f"he run was on several devices ({there}; {here})"
    assert f"T{several}, and trials were charged by their own clocks" in with_trials(one, other)
    assert f"T{several}: what is charged is the frozen cost" in with_trials(one, other, config=frozen)
    assert several in with_trials(one, resumed=[{"at": "now", "device": there}])
    for older in ("cpu", "AMD EPYC (2 cores)"):
        assert "several devices" not in with_trials(one, row("espcn", 0.01, device=older))
    assert "several devices" not in with_trials(one, device="AMD EPYC (2 cores)", resumed=[{"at": "then"}])


def test_trials_with_other_shares_of_the_processor_are_pointed_out(tmp_path: Path) -> None:
    frozen = {"train": {"evaluate_at": [0.5]}, "mode": "calibrated"}

    def with_threads(*threads: int) -> str:
        rows = [row(arch, 0.02, threads=count) for arch, count in zip(("srcnn", "espcn"), threads, strict=True)]
        rows.append(row("bicubic", 0.03, threads=8, steps=0))
        return said(make_run(tmp_path, *rows, config=frozen, notional=True, timing_seconds=1.0))

    assert "Trials had 1 and 2 threads of the processor: milliseconds a picture and" in with_threads(2, 1)
    assert "threads of the processor" not in with_threads(2, 2)


def test_a_search_is_reported_apart_with_what_it_found(tmp_path: Path) -> None:
    config = {"train": {"evaluate_at": [0.5]}, "search": {"usd": 0.5}}
    settings = {"learning_rate": 0.0003, "batch_size": 8, "schedule": "cosine"}
    found = {"settings": settings, "tried": [{}] * 11, "judged_on": 3, "charged_usd": 0.499, "billed_usd": 0.61}
    run = make_run(tmp_path, row("srcnn", 0.02), config=config, search={"srcnn": found})
    assert "SRCNN, before these runs and apart from their budget, had $0.500 to search" in said(run)
    assert "the best of 11 configurations on 3 training photographs set apart ($0.499 charged, $0.610 with" in said(run)
    assert "The learning rate falls to 0 at the end" in said(run)


def test_the_quality_at_every_share_has_its_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path, row("srcnn", 0.02), row("espcn", 0.01))
    earlier = run.history.assign(step=50, perceptual=run.history["perceptual"] * 3)
    halves = run.curves[run.curves["fraction"] == 1].assign(fraction=0.5, step=50)
    curves = pd.concat([run.curves, halves.assign(perceptual=halves["perceptual"] * 3)])
    run = replace(run, curves=curves, history=pd.concat([run.history, earlier]))
    points = {(point.arch, point.share): point for point in find(run).quality}
    half, whole = points["srcnn", 0.5].estimate, points["srcnn", 1.0].estimate
    assert half is not None
    assert whole is not None
    assert (half.mean, whole.mean) == (pytest.approx(0.06), pytest.approx(0.02))
    assert half.high is not None
    assert whole.high is not None
    assert half.high - half.mean == pytest.approx(3 * (whole.high - whole.mean))
    assert f"0.0600 [{half.low:.4f}, {half.high:.4f}] (2)" in table_markdown(find(run))


def test_seeds_of_unlike_networks_are_never_averaged(tmp_path: Path) -> None:
    mine = [row("espcn", 0.04, seed=0, params=996), row("espcn", 0.24, seed=1, params=188)]
    run = make_run(tmp_path, *mine, row("srcnn", 0.1, seed=0), row("srcnn", 0.1, seed=1), row("bicubic", 0.3))
    found = find(run)
    espcn = next(one for one in found.standings if one.arch == "espcn")
    assert (espcn.perceptual, espcn.seeds, espcn.estimate, espcn.finished) == (0.04, 1, None, False)
    assert found.winner == "srcnn"
    assert all("espcn" not in (one.a, one.b) for pairs in found.differences.values() for one in pairs)
    assert {point.arch for point in found.quality} <= {"srcnn", "bicubic"}
    assert "ESPCN is several networks, of 996 and 188 parameters: its code was changed between seeds" in said(run)


def test_shares_of_an_older_run_stand_in_their_own_columns_in_whatever_order_they_were_given(tmp_path: Path) -> None:
    trials = [row("espcn", 0.04), row("srcnn", 0.1), row("bicubic", 0.3)]
    runs = [
        make_run(tmp_path, *trials, config={"train": {"evaluate_at": shares}}) for shares in ([0.5, 0.1], [0.1, 0.5])
    ]
    unsorted, in_order = (find(run).quality for run in runs)
    assert [point.share for point in unsorted] == sorted(point.share for point in unsorted)
    assert unsorted == in_order
