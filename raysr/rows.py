"""How a trial went, in rows: its validations on the way, and its end."""

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar

Status = Literal["finished", "invalid", "dead", "diverged", "failed", "interrupted", "unfinished"]
"""How a trial stands. unfinished: it has no end, because it still runs, has not begun or lost its driver."""

Cause = Literal["network", "machine"]
"""network: an exception in training, which another machine would meet too. machine: a process or a node that died, a
disk, an accelerator that did not come."""

T = TypeVar("T")


def decode(kind: type[T], raw: Any, where: str) -> T:
    """A `kind`, a dataclass, of what JSON says in the file `where`, without the fields that this version does not know.

    Raises ValueError, which names the fields that are missing.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{where} should hold a record with named fields, and holds {str(raw)[:40]!r}")
    given: dict[str, Any] = raw
    known = fields(kind)  # pyright: ignore[reportArgumentType]
    missing = [one.name for one in known if one.default is MISSING and one.name not in given]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: it is damaged, or of another version of raysr")
    return kind(**{one.name: given[one.name] for one in known if one.name in given})


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Validation after so much money."""

    arch: str
    seed: int
    step: int
    epochs: float
    fraction: float
    """Share of the budget that is spent, 0 before the first step."""
    charged_usd: float
    loss: float | None
    """Mean training loss since the last point."""
    perceptual: float | None
    ms_ssim: float | None
    ssim: float | None
    psnr: float | None
    lpips_alex: float | None
    perceptual_content: float | None
    ms_ssim_content: float | None
    ssim_content: float | None
    psnr_content: float | None
    lpips_alex_content: float | None
    flat_targets: int | None = None
    """Validation pictures whose target is one value everywhere. None in curves of older runs, as is `at_ceiling`."""
    at_ceiling: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """How one trial ended; a line of `trials.jsonl`."""

    arch: str
    seed: int
    status: Status
    params: int
    steps: int = 0
    epochs: float = 0.0
    budget_usd: float | None = None
    """None for a budget in epochs."""
    charged_usd: float = 0.0
    """What counts against the budget: by the clock, or in calibrated mode the frozen cost of the steps."""
    metered_usd: float | None = None
    """The clock's own figure: the same in metered mode."""
    billed_usd: float = 0.0
    """Every measured second: charged ones, set-up, validation, checkpoints, waiting for Ray, and what crashes undid."""
    attempts: int = 1
    """How often a worker began on it: more than 1 after a crash."""
    seconds: dict[str, float] | None = None
    """Of one accelerator, by segment of the meter, over all attempts."""
    unaccounted_share: float | None = None
    """Share of the last attempt's wall time that lies in no segment."""
    equalisation_error_pct: float | None = None
    """How far `charged_usd` lies from the budget, in per cent of it; None for epochs, and for what is not trained."""
    usd_per_epoch: float | None = None
    samples_per_s: float | None = None
    """Training squares (or crops) for each charged second of one accelerator."""
    stall_share: float | None = None
    """Share of the charged seconds spent waiting for data."""
    perceptual: float | None = None
    perceptual_name: str
    perceptual_start: float | None = None
    """`perceptual` before the first step."""
    ms_ssim: float | None = None
    ssim: float | None = None
    psnr: float | None = None
    lpips_alex: float | None = None
    perceptual_content: float | None = None
    ms_ssim_content: float | None = None
    ssim_content: float | None = None
    psnr_content: float | None = None
    lpips_alex_content: float | None = None
    flat_targets: int | None = None
    """Validation pictures whose target is one value everywhere: they count in no mean. None in rows of older runs."""
    at_ceiling: int | None = None
    """Others that the network restored exactly: they do not count in the means of PSNR."""
    inference_ms: float | None = None
    """Milliseconds of one validation picture on the device that trained, without loading and scoring."""
    step_flops: float | None = None
    """Floating-point operations of a training step over all workers, loss included, as torch counts them."""
    network_flops: float | None = None
    """The network's own share of them."""
    uncounted_operations: str | None = None
    """Operations of a step that torch's counter takes for free."""
    precision: str | None = None
    micro_batch: int | None = None
    """Pairs that each worker took through the network at a time."""
    threads: int | None = None
    """CPU threads that each worker computed with."""
    device: str | None = None
    checkpoint: str | None = None
    """Weights below the run's folder."""
    error: str | None = None
    cause: Cause | None = None
    """What made a failed trial fail: an exception in training, or want of a machine. Unknown (None) counts as the
    network."""

    @property
    def lost(self) -> bool:
        """Whether the network itself kept the trial from a valid end: that is an outcome of the architecture."""
        return self.status in ("dead", "diverged", "invalid") or (self.status == "failed" and self.cause != "machine")

    @property
    def missing(self) -> bool:
        """Whether the trial says nothing of its network: it was stopped, still runs, or had no machine."""
        return self.status != "finished" and not self.lost
