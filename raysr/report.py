"""What a run found: the table in the terminal, `table.md` (the paper's Table 1 with ours beside it), `report.html`."""

import base64
import statistics
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from raysr import storage
from raysr.cost import format_usd
from raysr.models import MODELS, find_architecture
from raysr.runs import Run, TrialFiles, TrialRow

REPORT, TABLE = "report.html", "table.md"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One architecture of a run: means over its seeds that ended with a score."""

    arch: str
    title: str
    statuses: str
    """How its trials ended: `finished`, or several words."""
    seeds: int
    params: int
    epochs: float
    steps: float
    charged_usd: float
    """Of one trial."""
    of_budget: float | None
    """Share of the budget; None where the budget is in epochs, and for what is not trained."""
    usd_per_epoch: float | None
    perceptual: float | None
    perceptual_spread: float | None
    """Standard deviation over the seeds; None for a single one."""
    perceptual_start: float | None
    """Before the first step."""
    of_bicubic: float | None
    """`perceptual` divided by bicubic's: below 1 is better than bicubic."""
    ms_ssim: float | None
    ssim: float | None
    psnr: float | None
    perceptual_content: float | None
    ms_ssim_content: float | None
    lpips_alex: float | None


def standings(run: Run) -> list[Standing]:
    """Every architecture of the run, the best picture first; those without a score at the end."""
    by_arch: dict[str, list[TrialRow]] = {}
    for trial in run.trials:
        by_arch.setdefault(trial.arch, []).append(trial)
    bicubic = _mean([trial.perceptual for trial in by_arch.get("bicubic", [])])
    found = [_standing(arch, trials, bicubic) for arch, trials in by_arch.items()]
    return sorted(found, key=lambda s: (s.perceptual is None, s.perceptual or 0.0))


def _standing(arch: str, trials: list[TrialRow], bicubic: float | None) -> Standing:
    perceptuals = [trial.perceptual for trial in trials if trial.perceptual is not None]
    perceptual = _mean(perceptuals)
    shares = [t.charged_usd / t.budget_usd for t in trials if t.budget_usd and t.steps]
    return Standing(
        arch=arch,
        title=find_architecture(arch).title,
        statuses=", ".join(sorted({trial.status for trial in trials})),
        seeds=len(perceptuals),
        params=trials[0].params,
        epochs=_mean([trial.epochs for trial in trials]) or 0.0,
        steps=_mean([trial.steps for trial in trials]) or 0.0,
        charged_usd=_mean([trial.charged_usd for trial in trials]) or 0.0,
        of_budget=_mean(shares),
        usd_per_epoch=_mean([trial.usd_per_epoch for trial in trials]),
        perceptual=perceptual,
        perceptual_spread=statistics.stdev(perceptuals) if len(perceptuals) > 1 else None,
        perceptual_start=_mean([trial.perceptual_start for trial in trials]) if trials[0].params else None,
        of_bicubic=perceptual / bicubic if perceptual is not None and bicubic else None,
        ms_ssim=_mean([trial.ms_ssim for trial in trials]),
        ssim=_mean([trial.ssim for trial in trials]),
        psnr=_mean([trial.psnr for trial in trials]),
        perceptual_content=_mean([trial.perceptual_content for trial in trials]),
        ms_ssim_content=_mean([trial.ms_ssim_content for trial in trials]),
        lpips_alex=_mean([trial.lpips_alex for trial in trials]),
    )


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def findings(run: Run, rows: list[Standing]) -> list[str]:
    """What the run says and what it does not, in sentences."""
    name, info = run.info["perceptual"]["name"], run.info
    trained = [row for row in rows if row.params and row.perceptual is not None]
    bicubic = next((row for row in rows if row.arch == "bicubic" and row.perceptual is not None), None)
    said: list[str] = []
    if trained:
        best = trained[0]
        money = f"at a budget of {format_usd(info['budget_usd'])} each" if info["budget_usd"] else "after its epochs"
        said.append(
            f"{best.title} gives the best picture of the trained networks {money}: {name} {best.perceptual:.4f}."
        )
    if trained and bicubic is not None:
        said += _against_bicubic(trained, bicubic)
    if trained and max(row.seeds for row in trained) == 1:
        said.append("One seed each: a small difference between two networks may be the luck of their initialisation.")
    if name != "LPIPS (VGG)":
        said.append(
            f"{name} is not LPIPS on the published weights: it ranks the networks of this run, and cannot be compared "
            "with published values."
        )
    price = info["price"]
    said.append(
        f"{'Dollars are notional (no rented accelerator did the work): ' if info['notional'] else 'Price: '}"
        f"${price['usd_per_hour']} an hour of {info['device']}; {price['source']}, {price['date']}."
    )
    said += [f"{trial.arch} seed {trial.seed} {trial.status}: {_first_line(trial)}" for trial in _unfinished(run)]
    return said


def _against_bicubic(trained: list[Standing], bicubic: Standing) -> list[str]:
    behind = [row for row in trained if (row.of_bicubic or 0) >= 1]
    ahead = [row for row in trained if row not in behind]
    distances = ", ".join(f"{row.title} {row.of_bicubic:.2f} x" for row in trained)
    said = [f"Against bicubic ({bicubic.perceptual:.4f}, lower is better): {distances}."]
    if not ahead:
        said.append(
            "Bicubic still leads: this budget is too small for any network here to beat a formula that costs nothing. "
            "That is a finding about the budget, not about the architectures; give more with --budget.usd."
        )
    elif behind:
        *most, last = [row.title for row in behind]
        said.append(
            f"Bicubic, which costs nothing, is still ahead of {' and '.join(filter(None, [', '.join(most), last]))}."
        )
    return said


def _unfinished(run: Run) -> list[TrialRow]:
    return [trial for trial in run.trials if trial.status != "finished"]


def _first_line(trial: TrialRow) -> str:
    reasons = {
        "dead": "its picture is constant whatever the input; stopped before it spent its budget",
        "diverged": "its loss is no number any more",
    }
    lines = (trial.error or reasons.get(trial.status, "")).strip().splitlines()
    return lines[-1] if lines else ""


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _score(row: Standing) -> str:
    spread = "" if row.perceptual_spread is None else f" ± {row.perceptual_spread:.4f}"
    return _number(row.perceptual) + spread


def _share(row: Standing) -> str:
    return "-" if row.of_budget is None else f"{row.of_budget:.1%}"


def print_table(run: Run, console: Console) -> None:
    """Print who won, for how much, and what that means."""
    rows = standings(run)
    dollars = "notional $" if run.info["notional"] else "$"
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    columns = (
        run.info["perceptual"]["name"],
        "at step 0",
        "of bicubic",
        "MS-SSIM",
        "PSNR",
        dollars,
        "of budget",
        "steps",
    )
    for column in (*columns, "epochs", "ended"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [_score(row), _number(row.perceptual_start), _number(row.of_bicubic, 2), _number(row.ms_ssim)]
        cells += [_number(row.psnr, 2), format_usd(row.charged_usd).lstrip("$"), _share(row), f"{row.steps:.0f}"]
        table.add_row(row.title, *cells, f"{row.epochs:.1f}", row.statuses)
    console.print()
    console.print(table)
    console.print()
    for sentence in findings(run, rows):
        console.print(sentence, highlight=False, markup=False)


def table_markdown(run: Run) -> str:
    """The paper's Table 1 with this run's columns beside it."""
    name = run.info["perceptual"]["name"]
    ours = [name, "at step 0", "of bicubic", f"{name}, content", "MS-SSIM", "MS-SSIM, content", "SSIM", "PSNR (dB)"]
    ours += ["epochs", "charged $", "of budget", "$ / epoch", "parameters", "seeds", "ended"]
    second = [run.info["alex"]["name"]] if run.info["alex"] else []
    ours += second
    paper = ["paper: epochs", "paper: LPIPS", "paper: MS-SSIM"]
    lines = [_line(["Architecture", *paper, *ours]), _line(["---"] * (1 + len(paper) + len(ours)))]
    for row in standings(run):
        known = MODELS[row.arch]
        cells = [row.title, "-" if known.paper_epochs is None else str(known.paper_epochs)]
        cells += [_number(known.paper_lpips), _number(known.paper_ms_ssim)]
        cells += [
            _score(row),
            _number(row.perceptual_start),
            _number(row.of_bicubic, 2),
            _number(row.perceptual_content),
        ]
        cells += [_number(row.ms_ssim), _number(row.ms_ssim_content), _number(row.ssim), _number(row.psnr, 2)]
        cells += [f"{row.epochs:.2f}", format_usd(row.charged_usd).lstrip("$"), _share(row)]
        cells += ["-" if row.usd_per_epoch is None else f"{row.usd_per_epoch:.3g}", f"{row.params:,}"]
        cells += [str(row.seeds), row.statuses, *([_number(row.lpips_alex)] if second else [])]
        lines.append(_line(cells))
    notes = "\n".join(f"- {sentence}" for sentence in findings(run, standings(run)))
    return "\n".join(lines) + f"\n\n{notes}\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_report(run: Run) -> str:
    """Write `table.md` and the self-contained `report.html` into the run's folder; returns the report's path."""
    storage.write_text(storage.join(run.folder, TABLE), table_markdown(run))
    environment = Environment(loader=PackageLoader("raysr", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html.j2").render(
        run=run,
        info=run.info,
        rows=standings(run),
        findings=findings(run, standings(run)),
        number=_number,
        score=_score,
        share=_share,
        usd=format_usd,
        models=MODELS,
        curve=_curve(run),
        pictures=_pictures(run),
    )
    location = storage.join(run.folder, REPORT)
    storage.write_text(location, page)
    return location


def _curve(run: Run) -> str:
    """Quality against charged dollars, a line a trial, bicubic as a level; plotly's script stands inside."""
    figure = go.Figure()
    name = run.info["perceptual"]["name"]
    colours = (
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
    )  # Okabe & Ito: safe for colour blindness
    archs = [arch for arch in dict.fromkeys(trial.arch for trial in run.trials) if arch != "bicubic"]
    groups: Any = run.curves.groupby(["arch", "seed"], sort=False)
    for (arch, seed), points in groups:
        if arch == "bicubic":
            level = float(points["perceptual"].iloc[-1])
            figure.add_hline(level, line_dash="dash", line_color="#555", annotation_text=f"bicubic {level:.4f}")
            continue
        figure.add_scatter(
            x=points["charged_usd"],
            y=points["perceptual"],
            mode="lines+markers",
            name=find_architecture(arch).title,
            legendgroup=arch,
            showlegend=bool(seed == 0),
            line_color=colours[archs.index(arch) % len(colours)],
            customdata=points[["step", "epochs"]],
            hovertemplate="$%{x:.3g}, step %{customdata[0]}, epoch %{customdata[1]:.1f}: %{y:.4f}",
        )
    figure.update_layout(
        template="plotly_white",
        height=460,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title="notional dollars charged" if run.info["notional"] else "dollars charged",
        yaxis={"title": f"{name}, lower is better", "type": "log"},
    )
    return figure.to_html(full_html=False, include_plotlyjs=True)


@dataclass(frozen=True)
class Picture:
    """One picture of the report's Figure 5."""

    title: str
    source: str
    """A data: address."""
    caption: str


def _pictures(run: Run) -> list[Picture]:
    """The first validation picture through every network of seed 0, best first, with its own score."""
    image_id = run.info["figure_image_id"]
    folder = storage.join(run.folder, "pictures")
    found = [
        Picture("Target", _data_address(storage.join(folder, "hr.png")), image_id),
        Picture("Input", _data_address(storage.join(folder, "lr.png")), "enlarged without smoothing"),
    ]
    scores = run.images[(run.images["image_id"] == image_id) & (run.images["seed"] == 0)].set_index("arch")
    for row in standings(run):
        location = storage.join(TrialFiles(run.folder, row.arch, 0).folder, "picture.png")
        if storage.exists(location):
            score = scores.loc[row.arch]
            caption = f"{run.info['perceptual']['name']} {score['perceptual']:.4f}, PSNR {score['psnr']:.2f} dB"
            found.append(Picture(row.title, _data_address(location), caption))
    return found


def _data_address(location: str) -> str:
    return "data:image/png;base64," + base64.b64encode(storage.read_bytes(location)).decode()
