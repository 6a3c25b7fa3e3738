"""What a reader must know besides the verdict: where clocks, devices, waiting and added seeds weaken it."""

import re
from collections.abc import Sequence

from raysr.cost import Price, format_usd
from raysr.models import label
from raysr.runs import Run

CLOCK_SLACK = 0.1
"""So far may the clock lie from the frozen cost of a calibrated trial without a warning."""

STALL_SLACK = 0.02
"""So much of what a trial pays may go into waiting for data without a warning."""


def caveats(run: Run) -> list[str]:
    """Sentences, of which a run that went as it should has none."""
    clocks = _off_the_clock(run) + _several_devices(run) + _several_shares(run) + _stalls(run)
    return _seeds_added(run) + _other_code(run) + _uncounted(run) + clocks


def _other_code(run: Run) -> list[str]:
    """Where the run went on with other code of raysr than it began with."""
    parts = [run.info, *run.info.get("resumed", [])]
    known = {part.get("code_sha256") or part.get("commit") for part in parts}
    if len(known) < 2:
        return []
    return [
        f"The run went on with other code of raysr ({len(known)} versions): networks, losses and metrics may not be "
        "the same in all trials."
    ]


def _seeds_added(run: Run) -> list[str]:
    """A warning about seeds that came after others could be looked at."""
    added = [" to ".join(map(str, one["seeds"])) for one in run.info.get("extended", [])]
    if not added:
        return []
    return [
        f"Seeds were added later, from {listed(added)}: who adds them until a verdict comes finds one too often, and "
        "no interval here allows for that."
    ]


def _uncounted(run: Run) -> list[str]:
    """Validation pictures that do not count in every mean; rows of older runs do not say."""
    many = run.images["image_id"].nunique()
    flat = max((trial.flat_targets or 0 for trial in run.trials), default=0)
    exact = [f"{label(trial.arch)} seed {trial.seed} {trial.at_ceiling}" for trial in run.trials if trial.at_ceiling]
    sentences: list[str] = []
    if flat:
        sentences.append(
            f"{flat} of {many} validation targets are one value everywhere, as a black frame is: any network restores "
            "these, and no mean counts them."
        )
    if exact:
        sentences.append(
            f"Of {many} validation pictures some were restored exactly, which makes PSNR infinite ({listed(exact)}): "
            "the means of PSNR do not count these."
        )
    return sentences


def calibrated_notes(run: Run) -> list[str]:
    """In calibrated mode: how the charge was made."""
    if not _calibrated(run):
        return []
    timing = format_usd(Price(**run.info["price"]).usd(run.info["timing_seconds"]))
    return [
        "Calibrated: every seed took the steps that its architecture's frozen cost of a step gave it. The timing cost "
        f"{timing}, which no trial pays."
    ]


def _off_the_clock(run: Run) -> list[str]:
    """In calibrated mode: where the clock does not agree with the charge."""
    off = [
        f"{label(trial.arch)} seed {trial.seed} {trial.metered_usd / trial.charged_usd - 1:+.0%}"
        for trial in run.trials
        if trial.metered_usd and trial.charged_usd and abs(trial.metered_usd / trial.charged_usd - 1) > CLOCK_SLACK
    ]
    if not off or not _calibrated(run):
        return []
    return [
        f"The clock disagrees with the frozen cost by more than {CLOCK_SLACK:.0%} for {listed(off)}: the machine was "
        "busier, freer or another one than when the steps were timed, and in seconds the trials were not equal."
    ]


def _several_devices(run: Run) -> list[str]:
    """Where the run has been, if on more than one device."""
    devices = _devices(run)
    if len(devices) < 2:
        return []
    several = f"on several devices ({'; '.join(devices)})"
    if _calibrated(run):
        return [
            f"The run was {several}: what is charged is the frozen cost of its steps; milliseconds a picture and the "
            "clock's seconds are of whatever device a trial had."
        ]
    return [f"The run was {several}, and trials were charged by their own clocks: seconds do not compare."]


def _several_shares(run: Run) -> list[str]:
    """Where trials had more or less of a processor, which a calibrated run may change when it is taken up again."""
    threads = sorted({trial.threads for trial in run.trials if trial.steps and trial.threads})
    if not run.info["notional"] or len(threads) < 2:
        return []
    return [
        f"Trials had {listed([str(count) for count in threads])} threads of the processor: milliseconds a picture and "
        "the clock's seconds are of the share that a trial had."
    ]


def _devices(run: Run) -> list[str]:
    """All that the run was begun, taken up again and trained on, by name."""
    taken_up = [one.get("device") for one in run.info.get("resumed", [])]
    trained = [trial.device for trial in run.trials if trial.steps and trial.device != "cpu"]  # older rows say no more
    # What a processor was called before its family was told is no device of its own.
    named = {name for name in (run.info["device"], *taken_up, *trained) if name}
    return sorted(name for name in named if not any(_is_older_name(name, other) for other in named))


def _is_older_name(name: str, other: str) -> bool:
    """Whether `name` is what `other` was called before names had a processor's family."""
    return other != name and name == re.sub(r", family .*(?= \()", "", other)


def _stalls(run: Run) -> list[str]:
    """Trials that paid for waiting."""
    slow = [
        f"{label(trial.arch)} seed {trial.seed} {trial.stall_share:.0%}"
        for trial in run.trials
        if trial.stall_share is not None and trial.stall_share > STALL_SLACK
    ]
    if not slow:
        return []
    return [
        f"More than {STALL_SLACK:.0%} of what was paid went into waiting for data, for {listed(slow)}: the "
        "storage was slow or the processor busy. --hold-data keeps the pairs on the accelerator."
    ]


def _calibrated(run: Run) -> bool:
    config = run.info["config"]
    return config.get("mode") == "calibrated" or config.get("calibration") is not None


def listed(names: Sequence[str], word: str = "and") -> str:
    """`a, b and c`."""
    *most, last = names
    return f" {word} ".join(filter(None, [", ".join(most), last]))
