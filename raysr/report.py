"""How a run's findings are shown: the terminal's table, `table.md` (the paper's Table 1 beside ours), `report.html`."""

import base64
from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from raysr import storage
from raysr.cost import format_usd
from raysr.errors import text_of
from raysr.figures import pictures, quality_curve, side_by_side
from raysr.findings import Findings, find, shown_p, with_interval
from raysr.models import label
from raysr.naming import shown
from raysr.plain import add_row, in_markdown, plain, say
from raysr.rows import TrialRow
from raysr.runs import Run
from raysr.standings import QualityAt, Standing, metric_titles, of_survivors
from raysr.statistics import Difference


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _score(row: Standing) -> str:
    return _number(row.perceptual) if row.estimate is None else with_interval(row.estimate)


def _share(row: Standing) -> str:
    return "-" if row.of_budget is None else f"{row.of_budget:.1%}"


def _lost(row: Standing) -> str:
    return f"{row.lost} of {row.ended}" if row.trained else "-"


def _usd(row: Standing) -> str:
    return "unknown" if row.charged_usd is None else format_usd(row.charged_usd).lstrip("$")


def _charged(trial: TrialRow) -> str:
    return "-" if shown(trial.arch).pretrained else format_usd(trial.charged_usd).lstrip("$")


def print_table(run: Run, console: Console) -> None:
    """Print who won, for how much, and what that means in a few sentences; the report has the rest."""
    found = find(run)
    dollars = "notional $" if run.info["notional"] else "$"
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("architecture")
    table.add_column(plain(run.info["perceptual"]["name"]), justify="right", no_wrap=True)
    columns: dict[str, Callable[[Standing], str]] = {
        **({run.info["alex"]["name"]: lambda row: _number(row.lpips_alex)} if run.info["alex"] else {}),
        "MS-SSIM": lambda row: _number(row.ms_ssim),
        "PSNR": lambda row: _number(row.psnr, 2),
        dollars: _usd,
        "of budget": _share,
        "steps": lambda row: f"{row.steps:.0f}",
        "seeds": lambda row: str(row.seeds),
        **({"lost seeds": _lost} if any(row.lost for row in found.standings) else {}),
        "ended": lambda row: row.statuses,
    }
    for column in ("steps", "ended", "PSNR", dollars, "seeds", "MS-SSIM"):
        # A number that is folded cannot be read: on a narrow terminal there are fewer columns.
        if console.width < 62 + sum(3 + max(len(name), 8) for name in columns):
            del columns[column]
    for column in columns:
        table.add_column(plain(column), justify="right", no_wrap=True)
    for row in found.standings:
        add_row(table, [row.title, _score(row), *(cell(row) for cell in columns.values())])
    console.print()
    console.print(table)
    console.print()
    for sentence in [*found.verdict, *(f"! {sentence}" for sentence in found.warnings)]:
        console.print(plain(sentence))
    console.print("Every pair, the bill and notes on prices and schedules stand in the report.", style="dim")


def _difference_cells(run: Run, one: Difference) -> list[str]:
    """Both names, the verdict, the difference with its interval, Holm's p and how often A was better."""
    verdict = "separable" if one.separable else "not separable"
    verdict += "" if one.holds else " with the lost seeds"
    difference = with_interval(one.estimate)
    difference += "" if one.with_lost is None else f"; with the lost seeds {with_interval(one.with_lost)}"
    return [run.titles[one.a], run.titles[one.b], verdict, difference, shown_p(one.p_holm), _wins_in_words(one)]


def _wins_in_words(one: Difference) -> str:
    """`in 3 of 3 cases`, or with enough seeds the chance for new ones: `62% [41%, 80%]`."""
    if one.wins.chance is None:
        return f"in {one.wins.won:g} of {one.wins.cases} cases"
    low, high = one.wins.chance
    return f"{one.a_beats_b:.0%} [{low:.0%}, {high:.0%}]"


def table_markdown(found: Findings) -> str:
    """The paper's Table 1 with this run's columns beside it, every pair, and quality at each share of the budget."""
    run = found.run
    name = in_markdown(run.info["perceptual"]["name"])
    ours = [name, "at step 0", "of bicubic", f"{name}, content", "MS-SSIM", "MS-SSIM, content", "SSIM", "SSIM, content"]
    ours += ["PSNR (dB)", "PSNR, content"]
    ours += [
        "epochs",
        "charged $",
        "of budget",
        "$ / epoch",
        "inference ms",
        "parameters",
        "seeds",
        "lost seeds",
        "ended",
    ]
    second = [in_markdown(run.info["alex"]["name"])] if run.info["alex"] else []
    paper = ["paper: epochs", "paper: LPIPS", "paper: MS-SSIM"]
    lines: list[list[str]] = []
    for row in found.standings:
        known = shown(row.arch)
        cells = [in_markdown(row.title), "-" if known.paper_epochs is None else str(known.paper_epochs)]
        cells += [_number(known.paper_lpips), _number(known.paper_ms_ssim), _score(row), _number(row.perceptual_start)]
        cells += [_number(row.of_bicubic, 2), _number(row.perceptual_content), _number(row.ms_ssim)]
        cells += [_number(row.ms_ssim_content), _number(row.ssim), _number(row.ssim_content)]
        cells += [_number(row.psnr, 2), _number(row.psnr_content, 2), f"{row.epochs:.2f}", _usd(row), _share(row)]
        cells += ["-" if row.usd_per_epoch is None else f"{row.usd_per_epoch:.3g}", _number(row.inference_ms, 1)]
        cells += [
            parameters(row),
            str(row.seeds),
            _lost(row),
            row.statuses,
            *([_number(row.lpips_alex)] if second else []),
        ]
        lines.append(cells)
    notes = "".join(f"- {in_markdown(sentence)}\n" for sentence in found.sentences)
    parts = [_table(["Architecture", *paper, *ours, *second], lines), notes, _difference_table(found)]
    return "\n".join([*parts, _quality_table(found), _bill_table(found)]).rstrip("\n") + "\n"


def _difference_table(found: Findings) -> str:
    rows = [
        [*map(in_markdown, (metric, a, b)), *others]
        for metric, a, b, *others in ([title, *_difference_cells(found.run, one)] for title, one in _titled(found))
    ]
    if not rows:
        return ""
    header = ["metric (PSNR in dB)", "A", "B", "verdict", "A - B", "p (Holm)", "A beats B"]
    return _table(header, rows)


def _titled(found: Findings) -> list[tuple[str, Difference]]:
    titles = metric_titles(found.run)
    return [(titles[metric], one) for metric, pairs in found.differences.items() for one in pairs]


def _quality_table(found: Findings) -> str:
    rows = quality_rows(found)
    if not rows:
        return ""
    shares = [f"{point.share:.0%} of the budget" for point in rows[0][1]]
    header = [f"{in_markdown(found.run.info['perceptual']['name'])} (rank; * on the front)", *shares]
    return _table(header, [[in_markdown(title), *map(quality_cell, points)] for title, points in rows])


def parameters(row: Standing) -> str:
    """How many the network has; `unknown` where its code is not here."""
    return f"{row.params:,}" if row.params >= 0 else "unknown"


def quality_rows(found: Findings) -> list[tuple[str, list[QualityAt]]]:
    """Each architecture's quality at every share of the budget, in the order of the standings."""
    rows = [
        (row.title + of_survivors(row), [point for point in found.quality if point.arch == row.arch])
        for row in found.standings
    ]
    return [(title, points) for title, points in rows if points]


def quality_cell(point: QualityAt) -> str:
    """`0.0123 [0.0110, 0.0136] (2)*`: the score with its interval, its rank, and a star for what lies on the front."""
    score = _number(point.perceptual) if point.estimate is None else with_interval(point.estimate)
    return f"{score} ({point.rank}){'*' if point.on_front else ''}"


def bill(run: Run) -> tuple[list[str], list[list[str]]]:
    """Where every trial's seconds went: the header and a row a trial; nothing for a run without that record."""
    trials = [trial for trial in run.trials if trial.seconds]
    every = dict.fromkeys(name for trial in trials for name in trial.seconds or {})
    names = [name for name in every if any((trial.seconds or {}).get(name) for trial in trials)]
    charged = run.info["charged_segments"]
    header = ["trial", "attempts", *(f"{name} s{' *' if name in charged else ''}" for name in names)]
    header += ["waiting for data", "unaccounted", "billed $", "charged $", "off budget"]
    rows: list[list[str]] = []
    for trial in trials:
        seconds, error = trial.seconds or {}, trial.equalisation_error_pct
        cells = [
            f"{label(trial.arch)}, seed {trial.seed}",
            str(trial.attempts),
            *(f"{seconds.get(name, 0.0):.1f}" for name in names),
        ]
        cells += ["-" if trial.stall_share is None else f"{trial.stall_share:.2%}"]
        cells += ["-" if trial.unaccounted_share is None else f"{trial.unaccounted_share:.2%}"]
        cells += [format_usd(trial.billed_usd).lstrip("$"), _charged(trial)]
        rows.append([*cells, "-" if error is None else f"{error:+.2f}%"])
    return header, rows


def _bill_table(found: Findings) -> str:
    header, rows = bill(found.run)
    cells = [[in_markdown(trial), *others] for trial, *others in rows]
    return f"Seconds of one accelerator; * is charged.\n\n{_table(header, cells)}" if rows else ""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def show(run: Run, console: Console) -> None:
    """Print the table, then write the report and say where it lies.

    Raises OSError, with what to do, where the run's folder cannot be written: then the table stands there already.
    """
    print_table(run, console)
    try:
        report = write_report(run)
    except OSError as error:
        raise OSError(
            f"the report cannot be written into {run.folder}: {text_of(error)}. Make the folder writable, or room in "
            "it, or copy the run elsewhere, and give it to jobs/report.py"
        ) from error
    print_places(run, report, console)


BEFORE_AFTER = "before_after.png"
"""In the run's folder: the first validation picture by bicubic, by the best network, and as it is."""


def print_places(run: Run, report: str, console: Console) -> None:
    """Print where the report lies, and the picture."""
    places = {"report": report, "before and after": storage.join(run.folder, BEFORE_AFTER)}
    for what, place in places.items():
        if storage.exists(place):
            say(console, f"{what}: {place}")


def write_report(run: Run) -> str:
    """Write `table.md`, the self-contained `report.html` and a picture into the run's folder; returns where it lies.

    Those of a repriced run stand beside them, with the price in their names.
    """
    price = f"-at-{run.info['price']['usd_per_hour']:g}" if "charged_price" in run.info else ""
    found = find(run)
    storage.write_text(storage.join(run.folder, f"table{price}.md"), table_markdown(found))
    picture = side_by_side(found)
    if picture is not None:
        storage.write_bytes(storage.join(run.folder, BEFORE_AFTER), picture)
    environment = Environment(loader=PackageLoader("raysr", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html.j2").render(
        run=run,
        info=run.info,
        found=found,
        number=_number,
        score=_score,
        share=_share,
        usd=_usd,
        lost=_lost,
        architecture=shown,
        parameters=parameters,
        differences=[[title, *_difference_cells(run, one)] for title, one in _titled(found)],
        quality=quality_rows(found),
        quality_cell=quality_cell,
        bill=bill(run),
        curve=quality_curve(run),
        pictures=pictures(found),
        side_by_side=None if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}",
    )
    location = storage.join(run.folder, f"report{price}.html")
    storage.write_text(location, page)
    return location
