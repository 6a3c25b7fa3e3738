"""The report's figures: quality against dollars, and one validation picture through every network."""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont

from raysr import storage
from raysr.findings import Findings
from raysr.plain import in_plotly
from raysr.runs import Run
from raysr.standings import is_trained
from raysr.trial_files import TrialFiles

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe & Ito's, safe for colour blindness."""


def quality_curve(run: Run) -> str:
    """Quality against charged dollars as HTML: a line a trial, and what is not trained as a level.

    Plotly's script stands inside.
    """
    figure = go.Figure()
    name = run.info["perceptual"]["name"]
    levels = {arch for arch in run.titles if not is_trained(run, arch)}
    archs = [arch for arch in dict.fromkeys(trial.arch for trial in run.trials) if arch not in levels]
    shown: set[str] = set()
    groups: Any = run.curves.groupby(["arch", "seed"], sort=False)
    for (arch, _), points in groups:
        if arch in levels:
            level = float(points["perceptual"].iloc[-1])
            words = f"{in_plotly(run.titles[arch])} {level:.4f}"
            figure.add_hline(level, line_dash="dash", line_color="#555", annotation_text=words)
            continue
        figure.add_scatter(
            x=points["charged_usd"],
            y=points["perceptual"],
            mode="lines+markers",
            name=in_plotly(run.titles[arch]),
            legendgroup=str(archs.index(arch)),
            showlegend=arch not in shown,
            line_color=COLOURS[archs.index(arch) % len(COLOURS)],
            customdata=points[["step", "epochs", "seed"]],
            hovertemplate="seed %{customdata[2]}, $%{x:.3g}, step %{customdata[0]} (%{customdata[1]:.1f}): %{y:.4f}",
        )
        shown.add(arch)
    figure.update_layout(
        template="plotly_white",
        height=460,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title="notional dollars charged" if run.info["notional"] else "dollars charged",
        yaxis={"title": f"{in_plotly(name)}, lower is better", "type": "log"},
    )
    return figure.to_html(full_html=False, include_plotlyjs=True)


@dataclass(frozen=True)
class Picture:
    """One picture of the report's Figure 5."""

    title: str
    source: str
    """A data: address."""
    caption: str


def pictures(found: Findings) -> list[Picture]:
    """The first validation picture through every network, best first, with its own score; its first seed's."""
    run = found.run
    image_id = run.info["figure_image_id"]
    folder = storage.join(run.folder, "pictures")
    given = [("Target", "hr.png", image_id), ("Input", "lr.png", "enlarged without smoothing")]
    places = [(title, storage.join(folder, file), caption) for title, file, caption in given]
    shown = [Picture(title, _data_address(place), words) for title, place, words in places if storage.exists(place)]
    images: Any = run.images
    scores = images[images["image_id"] == image_id]
    for row in found.standings:
        for seed in sorted(trial.seed for trial in run.trials if trial.arch == row.arch):
            location = _picture(run, row.arch, seed)
            if storage.exists(location):
                mine = scores[(scores["arch"] == row.arch) & (scores["seed"] == seed)].to_dict("records")
                caption = _caption(run, mine[0]) if mine else "its score is not here"
                shown.append(Picture(row.title, _data_address(location), caption))
                break
    return shown


def _caption(run: Run, score: dict[str, Any]) -> str:
    known = {"perceptual": f"{run.info['perceptual']['name']} {{:.4f}}", "psnr": "PSNR {:.2f} dB"}
    return ", ".join(words.format(score[name]) for name, words in known.items() if score[name] is not None)


SHOWN_PX = 512
"""Least side of a picture of `side_by_side`: smaller ones are enlarged by whole pixels."""


def side_by_side(found: Findings) -> bytes | None:
    """PNG of the first validation picture by bicubic, by the best network, and as it is; None where one is missing.

    The best network is the trained one of the best score, also where bicubic wins, by its seed of median score.
    """
    run = found.run
    best = next((row for row in found.standings if row.trained and row.finished), None)
    yardstick = [trial for trial in run.trials if trial.arch == run.yardstick]
    if best is None or not yardstick:
        return None
    finished = [trial for trial in run.trials if trial.arch == best.arch and trial.status == "finished"]
    ranked = sorted(finished, key=lambda trial: (trial.perceptual or math.inf, trial.seed))
    seed = ranked[(len(ranked) - 1) // 2].seed
    places = [
        *((run.titles[trial.arch], _picture(run, trial.arch, trial.seed)) for trial in yardstick[:1]),
        (f"{best.title}, seed {seed}", _picture(run, best.arch, seed)),
        ("original", storage.join(run.folder, "pictures", "hr.png")),
    ]
    if not all(storage.exists(location) for _, location in places):
        return None
    panels = [_panel(title, Image.open(io.BytesIO(storage.read_bytes(location)))) for title, location in places]
    whole = Image.new("L", (sum(one.width for one in panels) + 8 * (len(panels) - 1), panels[0].height), 255)
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width + 8
    out = io.BytesIO()
    whole.save(out, "PNG")
    return out.getvalue()


def _picture(run: Run, arch: str, seed: int) -> str:
    return storage.join(TrialFiles(run.folder, arch, seed).folder, "picture.png")


def _panel(title: str, picture: Image.Image) -> Image.Image:
    """The picture under its title."""
    times = max(1, -(-SHOWN_PX // max(picture.size)))
    large = picture.convert("L").resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    panel = Image.new("L", (large.width, large.height + 28), 255)
    ImageDraw.Draw(panel).text((4, 4), title, fill=0, font=ImageFont.load_default(18))
    panel.paste(large, (0, 28))
    return panel


def _data_address(location: str) -> str:
    return "data:image/png;base64," + base64.b64encode(storage.read_bytes(location)).decode()
