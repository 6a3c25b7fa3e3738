"""The networks that a run has trained, judged again on any test set, without training: means with intervals."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from raysr import storage
from raysr.benchmark import EvaluateConfig, Evaluation, evaluate_sets, load_judges
from raysr.errors import text_of
from raysr.findings import shown_p, with_interval
from raysr.judge import Judge, Targets
from raysr.judging import Judges
from raysr.losses import Perceptual
from raysr.metrics import PSNR_CEILING_DB
from raysr.models import parse_arch
from raysr.models.pretrained import CheckpointError
from raysr.naming import shown
from raysr.plain import add_row, plain, say
from raysr.runs import Run
from raysr.scoresheet import DIGITS, in_words, json_lines, remarks, write_lines
from raysr.standings import METRICS, is_trained, lost_seeds
from raysr.statistics import Difference, differences, estimate, score_table


class Member(NamedTuple):
    """A network of the run."""

    arch: str
    seed: int
    model: str
    """What `--model` would name it by."""


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """What `evaluate_run` found."""

    run: Run
    evaluations: dict[Member, Evaluation]
    not_judged: list[str]
    """Finished trials that could not be judged, each with the reason."""
    left_out: int
    """Networks that had no turn, because the user stopped it."""

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it."""
        return self.left_out > 0

    @property
    def complete(self) -> bool:
        """Whether every set has a picture that could be scored."""
        return all(one.complete for one in self.evaluations.values())


def evaluate_run(config: EvaluateConfig, tell: Callable[[str], None] = lambda _: None) -> RunEvaluation:
    """Score every seed of the run in `config.model` that finished, and bicubic, on each set.

    Without `config.sets` that is the run's own validation set. Ctrl-C ends it with the networks that were judged.
    Raises what evaluate_sets raises, and ValueError for a run of which no network can be judged.
    """
    if config.json is not None:
        storage.check_writable(storage.absolute(config.json))
    run = Run.read(config.model)
    members, lost = _members(run, config.arch)
    without = list(lost)
    if not members:
        raise ValueError(f"{config.model} has no finished network with weights: nothing can be judged")
    config = config if config.sets else replace(config, sets=(run.info["data"]["location"],))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judges, weights = load_judges(config, device)
    if config.colour != "rgb" and isinstance(judges.perceptual, Perceptual):
        # All networks are judged against the same targets.
        judges = Judges(Judge(judges.perceptual, Targets(device)), judges.alex)
    evaluations: dict[Member, Evaluation] = {}
    scale = run.info["data"]["geometry"]["scale"]
    for member in members:
        # A run's folder is no more trusted than a file: code of the user's own needs a word for it.
        one = replace(config, model=member.model, json=None, scale=scale)
        name = f"{run.titles[member.arch]}, seed {member.seed}"
        try:
            found = evaluate_sets(one, lambda word, name=name: tell(f"{name}: {word}"), (judges, weights))
        except CheckpointError as error:
            without.append(f"{name}: {text_of(error)}")
            continue
        if found.interrupted:
            break
        evaluations[member] = found
    left_out = len(members) - len(evaluations) - (len(without) - len(lost))
    if not evaluations and left_out:
        raise KeyboardInterrupt
    if not evaluations:
        raise ValueError(f"{config.model} has no network that can be judged: {without[0]}")
    return RunEvaluation(run=run, evaluations=evaluations, not_judged=without, left_out=left_out)


def _members(run: Run, confirmed: str | None) -> tuple[list[Member], list[str]]:
    members, without = list[Member](), list[str]()
    for trial in run.trials:
        title = run.titles[trial.arch]
        if trial.status != "finished":
            ended = "it has no end yet" if trial.status == "unfinished" else f"it ended as {trial.status}"
            without.append(f"{title}, seed {trial.seed}: {ended}")
        elif trial.params == 0 and ":" in parse_arch(trial.arch)[0] and confirmed != trial.arch:
            without.append(
                f"{title}, seed {trial.seed}: it is code of your own: if that is so, add --arch '{trial.arch}'"
            )
        elif trial.params == 0 or shown(trial.arch).pretrained:
            members.append(Member(trial.arch, trial.seed, trial.arch))
        elif trial.checkpoint and storage.exists(storage.join(run.folder, trial.checkpoint)):
            members.append(Member(trial.arch, trial.seed, storage.join(run.folder, trial.checkpoint)))
        else:
            without.append(f"{title}, seed {trial.seed}: its weights are not in {run.folder}")
    return members, without


def images_of(found: RunEvaluation, index: int) -> pd.DataFrame:
    """The scores on set number `index`, a row for each network, seed and picture."""
    return pd.DataFrame(
        [
            {"arch": member.arch, "seed": member.seed} | asdict(picture)
            for member, evaluation in found.evaluations.items()
            for picture in evaluation.sets[index].scored
        ]
    )


def print_run_evaluation(found: RunEvaluation, console: Console) -> None:
    """A table for each set: means over seeds and photographs with intervals, and which leads are more than chance."""
    first = next(iter(found.evaluations.values()))
    titles = {"perceptual": _name(first.judges.perceptual), "lpips_alex": _name(first.judges.alex)}
    titles |= {"ms_ssim": "MS-SSIM", "ssim": "SSIM", "psnr": "PSNR (dB)"}
    for index, result in enumerate(first.sets):
        images: Any = images_of(found, index)
        if images.empty:
            say(console, f"{result.name}: no picture of it could be scored")
            continue
        archs = list(dict.fromkeys(member.arch for member in found.evaluations))
        metrics = [metric for metric in METRICS if titles[metric] and images[metric].count()]
        tables = {metric: {arch: score_table(images, arch, metric) for arch in archs} for metric in metrics}
        deciding = metrics[0]
        archs.sort(key=lambda arch: _rank(tables[deciding][arch], lower_is_better=not METRICS[deciding]))
        title = f"{result.name}, {images['image_id'].nunique()} pictures"
        table = Table(box=None, pad_edge=False, title=plain(title), title_justify="left")
        table.add_column("network")
        for column in ("seeds", *(str(titles[metric]) for metric in metrics)):
            table.add_column(plain(column), justify="right", no_wrap=True)
        for arch in archs:
            first_cell, *others = (_cell(tables[metric][arch], metric, whole=metric == deciding) for metric in metrics)
            add_row(table, [found.run.titles[arch], str(len(tables[deciding][arch])), first_cell, *others])
        console.print(table)
        leads = _leads(found.run, tables[deciding], archs, str(titles[deciding]), lower_is_better=not METRICS[deciding])
        for line in (*leads, *_exact(result.name, images), in_words(result.protocol)):
            say(console, line)
    for line in (*_remarks(found), *(f"left out: {reason}" for reason in found.not_judged)):
        say(console, line)
    if found.left_out:
        say(console, f"stopped: {found.left_out} more networks had no turn")


def _exact(name: str, images: pd.DataFrame) -> Iterator[str]:
    """On how many pictures PSNR is compared, where that is not all of them (statistics.score_table)."""
    rows: Any = images
    exact = rows[~rows["flat"] & (rows["psnr"] >= PSNR_CEILING_DB)]["image_id"].nunique()
    if exact:
        yield f"{name}: PSNR is over the pictures that no network restores exactly; {exact} are restored by one or more"


def _remarks(found: RunEvaluation) -> Iterator[str]:
    """What holds for every network once, and the rest with the network's name."""
    lines: dict[str, list[Member]] = {}
    for member, evaluation in found.evaluations.items():
        for line in remarks(evaluation):
            lines.setdefault(line, []).append(member)
    for line, members in lines.items():
        if len(members) == len(found.evaluations):
            yield line
        else:
            yield from (f"{found.run.titles[one.arch]}, seed {one.seed}: {line}" for one in members)


def _name(judge: Perceptual | Judge | None) -> str | None:
    return None if judge is None else judge.info.name


def _rank(table: pd.DataFrame, *, lower_is_better: bool) -> tuple[bool, float]:
    """The best first, and what has no score last."""
    mean = float(table.to_numpy().mean()) if table.size else 0.0
    return not table.size, mean if lower_is_better else -mean


def _cell(table: pd.DataFrame, metric: str, *, whole: bool) -> str:
    """The mean, and its interval for the metric that decides: five of them do not fit a page."""
    if not table.size:
        return "-"
    found = estimate(table.to_numpy())
    return with_interval(found, DIGITS[metric]) if whole else f"{found.mean:.{DIGITS[metric]}f}"


def _leads(
    run: Run, tables: dict[str, pd.DataFrame], archs: list[str], title: str, *, lower_is_better: bool
) -> Iterator[str]:
    """The first network against each other one."""
    seedless = frozenset(arch for arch in archs if not is_trained(run, arch))
    present = {arch: tables[arch] for arch in archs if tables[arch].size}
    for one in differences(present, lower_is_better=lower_is_better, seedless=seedless, lost=lost_seeds(run)):
        if one.a == archs[0]:
            yield _lead(one, run.titles[one.a], run.titles[one.b], title, lower_is_better=lower_is_better)


def _lead(one: Difference, a: str, b: str, title: str, *, lower_is_better: bool) -> str:
    ahead = a if (one.estimate.mean < 0) == lower_is_better else b
    verdict = "more than chance explains" if one.separable else "not certain"
    verdict += "" if one.holds else f" (not with the lost seeds of {ahead} counted as the worst)"
    return f"{title}: {a} - {b} = {with_interval(one.estimate)}, p {shown_p(one.p_holm)} (Holm): {verdict}"


def write_run_json(found: RunEvaluation, location: str) -> None:
    """The JSON lines of each network, one network after the other, with its `arch` and `seed`; raises OSError."""
    lines = [
        line | {"arch": member.arch, "seed": member.seed}
        for member, evaluation in found.evaluations.items()
        for line in json_lines(evaluation)
    ]
    write_lines(lines, location)
