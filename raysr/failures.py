"""What went wrong with a trial, and whether its network or its machine is to blame."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray.exceptions
import ray.tune
from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    RayTrainError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2.api.exceptions import PreemptionError
from ray.tune.error import TuneError

from raysr.errors import brief, text_of
from raysr.manifest import ManifestError
from raysr.own_code import CodeChangedError
from raysr.rows import Cause
from raysr.weights import WeightsError

Kind = Literal["exception", "process", "node", "absence"]

LIMITS: dict[Kind, int] = {"exception": 3, "process": 3, "node": 100, "absence": 0}
"""How often a trial goes on from its last checkpoint: after an exception in a worker, after a process that died (killed
for memory, for example), after a node that went away, as spot instances do, and after accelerators that never came."""

_NEVER_CAME = (WorkerGroupStartupTimeoutError, InsufficientClusterResourcesError)

OF_RAY = (ray.exceptions.RayError, TrainingFailedError, TuneError)
"""What Ray raises; none of these is a RuntimeError."""


class RayFailedError(RuntimeError):
    """Ray itself failed, or a trial could not be scheduled; the message is Ray's own."""


OF_THE_MACHINE = (OSError, ManifestError, WeightsError, RayFailedError, CodeChangedError)
"""Exceptions that every network would have met in its place."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial has no row of its own."""

    text: str
    cause: Cause


def kind_of(error: BaseException) -> Kind:
    """What an error that ended an attempt at training says of it."""
    if isinstance(error, PreemptionError):
        return "node"
    if isinstance(getattr(error, "controller_failure", None), _NEVER_CAME):
        return "absence"
    failures = _failures(error)
    # Where one worker dies, the others fail with exceptions of the connection that broke.
    if any(_lost_its_node(one) for one in failures):
        return "node"
    return "exception" if all(_raised(one) is not None for one in failures) else "process"


def cause_of(error: BaseException) -> Cause:
    """Who is to blame for an error that ended a trial."""
    raised = [_raised(one) for one in _failures(error)]
    return "machine" if any(one is None or isinstance(one, OF_THE_MACHINE) for one in raised) else "network"


def _failures(error: BaseException) -> list[Any]:
    """Those of the workers, where `error` is theirs; of a dead worker what its health check met."""
    each: list[Any] = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    return [getattr(one, "health_check_failure", one) for one in each]


def failure_of(error: BaseException) -> Failure:
    """`error` as it stands in a trial's row."""
    return Failure(text=text_of(error), cause=cause_of(error))


def _lost_its_node(failure: Any) -> bool:
    told = isinstance(failure, ray.exceptions.RayError) and "node has died" in str(failure)
    return told or getattr(failure, "preempted", False) or isinstance(failure, ray.exceptions.NodeDiedError)


def _raised(failure: Any) -> BaseException | None:
    """The exception that a worker raised; None of a worker that died without one."""
    if isinstance(failure, ray.exceptions.RayTaskError):
        return failure.cause
    return None if isinstance(failure, (*OF_RAY, RayTrainError)) else failure


def fit(tuner: ray.tune.Tuner) -> ray.tune.ResultGrid:
    """`tuner.fit()`. Raises RayFailedError where Tune itself ends, as it does when a driver is killed for memory."""
    try:
        return tuner.fit()
    except (*OF_RAY, RuntimeError) as error:
        raise RayFailedError(f"Ray Tune failed: {text_of(error)}") from error


@contextmanager
def told_plainly() -> Generator[None]:
    """Turn whatever Ray raises into a RayFailedError, which programs report without a traceback."""
    try:
        yield
    except OF_RAY as error:
        raise RayFailedError(f"Ray failed: {brief(error)}") from error
