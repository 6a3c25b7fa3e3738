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
from raysr.findings import shown_p, with_interval
from raysr.judge import Judge, Targets
from raysr.judging import Judges
from raysr.losses import Perceptual
from raysr.models import find_architecture
from raysr.runs import Run
from raysr.scoresheet import DIGITS, in_words, json_lines, remarks, write_lines
from raysr.standings import METRICS
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
    without_weights: list[str]
    """Finished trials whose weights are not in the run's folder, by name."""
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


def is_run(model: str) -> bool:
    """Whether `model` is the folder of a run."""
    return storage.exists(storage.join(model, "run.json"))


def evaluate_run(config: EvaluateConfig, tell: Callable[[str], None] = lambda _: None) -> RunEvaluation:
    """Score every seed of the run in `config.model` that finished, and bicubic, on each set.

    Without `config.sets` that is the run's own validation set. Ctrl-C ends it with the networks that were judged.
    Raises what evaluate_sets raises, and ValueError for a run of which no network can be judged.
    """
    if config.json is not None:
        storage.check_writable(storage.absolute(config.json))
    run = Run.read(config.model)
    members, without = _members(run)
    if not members:
        raise ValueError(f"{config.model} has no finished network with weights: nothing can be judged")
    config = config if config.sets else replace(config, sets=(run.info["data"]["location"],))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judges, weights = load_judges(config, device)
    if config.colour != "rgb" and isinstance(judges.perceptual, Perceptual):
        # All networks are judged against the same targets.
        judges = Judges(Judge(judges.perceptual, Targets(device)), judges.alex)
    evaluations: dict[Member, Evaluation] = {}
    for member in members:
        one = replace(config, model=member.model, json=None, arch=member.arch if ":" in member.arch else None)
        name = f"{find_architecture(member.arch).title}, seed {member.seed}"
        found = evaluate_sets(one, lambda word, name=name: tell(f"{name}: {word}"), (judges, weights))
        if found.interrupted:
            break
        evaluations[member] = found
    if not evaluations:
        raise KeyboardInterrupt
    left_out = len(members) - len(evaluations)
    return RunEvaluation(run=run, evaluations=evaluations, without_weights=without, left_out=left_out)


def _members(run: Run) -> tuple[list[Member], list[str]]:
    members, without = list[Member](), list[str]()
    for trial in run.trials:
        if trial.status != "finished":
            continue
        if trial.params == 0 or find_architecture(trial.arch).pretrained:
            members.append(Member(trial.arch, trial.seed, trial.arch))
        elif trial.checkpoint and storage.exists(storage.join(run.folder, trial.checkpoint)):
            members.append(Member(trial.arch, trial.seed, storage.join(run.folder, trial.checkpoint)))
        else:
            without.append(f"{find_architecture(trial.arch).title}, seed {trial.seed}")
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
        archs = list(dict.fromkeys(member.arch for member in found.evaluations))
        metrics = [metric for metric in METRICS if titles[metric] and images[metric].count()]
        tables = {metric: {arch: score_table(images, arch, metric) for arch in archs} for metric in metrics}
        deciding = metrics[0]
        archs.sort(key=lambda arch: _mean(tables[deciding][arch]) * (-1 if METRICS[deciding] else 1))
        title = f"{result.name}, {len(result.scored)} pictures"
        table = Table(box=None, pad_edge=False, title=title, title_justify="left")
        table.add_column("network")
        for title in ("seeds", *(titles[metric] for metric in metrics)):
            table.add_column(str(title), justify="right", no_wrap=True)
        for arch in archs:
            cells = [_cell(tables[metric][arch], DIGITS[metric]) for metric in metrics]
            table.add_row(find_architecture(arch).title, str(len(tables[deciding][arch])), *cells)
        console.print(table)
        for line in _leads(tables[deciding], archs, str(titles[deciding]), lower_is_better=not METRICS[deciding]):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        console.print(in_words(result.protocol), soft_wrap=True, markup=False, highlight=False)
    for line in remarks(first):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for name in found.without_weights:
        console.print(f"{name} left out: its weights are not in {found.run.folder}", soft_wrap=True, markup=False)


def _name(judge: Perceptual | Judge | None) -> str | None:
    return None if judge is None else judge.info.name


def _mean(table: pd.DataFrame) -> float:
    return float(table.to_numpy().mean()) if table.size else float("inf")


def _cell(table: pd.DataFrame, digits: int) -> str:
    return with_interval(estimate(table.to_numpy()), digits) if table.size else "-"


def _leads(tables: dict[str, pd.DataFrame], archs: list[str], title: str, *, lower_is_better: bool) -> Iterator[str]:
    """The first network against each other one."""
    seedless = frozenset(arch for arch in archs if find_architecture(arch).pretrained or arch == "bicubic")
    present = {arch: tables[arch] for arch in archs if tables[arch].size}
    for one in differences(present, lower_is_better=lower_is_better, seedless=seedless):
        if one.a == archs[0]:
            yield _lead(one, title)


def _lead(one: Difference, title: str) -> str:
    a, b = find_architecture(one.a).title, find_architecture(one.b).title
    verdict = "more than chance explains" if one.separable else "not certain"
    return f"{title}: {a} - {b} = {with_interval(one.estimate)}, p {shown_p(one.p_holm)} (Holm): {verdict}"


def write_run_json(found: RunEvaluation, location: str) -> None:
    """The JSON lines of each network, one network after the other, with its `arch` and `seed`; raises OSError."""
    lines = [
        line | {"arch": member.arch, "seed": member.seed}
        for member, evaluation in found.evaluations.items()
        for line in json_lines(evaluation)
    ]
    write_lines(lines, location)
