"""Who is to blame for a trial that failed."""

import pytest
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2.api.exceptions import PreemptionError
from ray.tune.error import TuneError

from raysr.failures import RayFailedError, cause_of, failure_of, kind_of, told_plainly
from raysr.own_code import CodeChangedError


def handed_over(*errors: Exception) -> WorkerGroupError:
    """As Ray Train's controller makes it of what its workers' health checks gave."""
    statuses = {rank: WorkerStatus(running=False, error=error) for rank, error in enumerate(errors)}
    return WorkerGroupPollStatus(statuses, worker_rank_to_replica_group_rank=None).get_worker_group_error()


def raised(error: Exception) -> Exception:
    """As a worker hands it over."""
    return UserExceptionWithTraceback(error, "Traceback ...")


def dead(error: Exception) -> Exception:
    """As the check of a worker's health puts it."""
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=error)


def node_died() -> Exception:
    return dead(RayActorError(None, "The actor died because its node has died. Node Id: 1"))


def killed() -> Exception:
    return dead(RayActorError(None, "The actor died unexpectedly before finishing this task."))


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (handed_over(raised(ValueError("shapes"))), "exception", "network"),
        (handed_over(raised(RuntimeError("CUDA error")), raised(RuntimeError("CUDA error"))), "exception", "network"),
        (handed_over(raised(OSError(28, "No space left"))), "exception", "machine"),
        (handed_over(killed()), "process", "machine"),
        (
            handed_over(raised(RuntimeError("connection reset")), killed()),
            "process",
            "machine",
        ),
        (handed_over(raised(RuntimeError("connection reset")), node_died()), "node", "machine"),
        (handed_over(dead(ActorUnavailableError("gone", None))), "process", "machine"),
        (handed_over(WorkerHealthCheckTimeoutError("no answer")), "process", "machine"),
        (handed_over(raised(CodeChangedError("edited"))), "exception", "machine"),
        (ControllerError(OutOfMemoryError("killed for memory")), "process", "machine"),
        (ControllerError(WorkerGroupStartupTimeoutError(1)), "absence", "machine"),
        (NodeDiedError("The node has died"), "node", "machine"),
        (RayTaskError("work", "Traceback ...", ValueError("shapes")), "exception", "network"),
        (RayTaskError("work", "Traceback ...", FileNotFoundError("gone")), "exception", "machine"),
        (OutOfMemoryError("killed for memory"), "process", "machine"),
        (TuneError("incomplete"), "process", "machine"),
        (RayFailedError("Ray failed"), "exception", "machine"),
        (RuntimeError("no configuration gave a score"), "exception", "network"),
    ],
)
def test_an_error_tells_what_ended_the_attempt_and_who_is_to_blame(error: Exception, kind: str, cause: str) -> None:
    assert (kind_of(error), cause_of(error)) == (kind, cause)
    assert failure_of(error).cause == cause
    assert failure_of(error).text


def test_a_preempted_node_is_a_node() -> None:
    assert kind_of(PreemptionError.__new__(PreemptionError)) == "node"


@pytest.mark.parametrize(
    "error", [TuneError("Trials did not complete"), NodeDiedError("gone"), handed_over(node_died())]
)
def test_whatever_ray_raises_is_told_without_a_traceback(error: Exception) -> None:
    with pytest.raises(RayFailedError, match="Ray failed: "), told_plainly():
        raise error
    with pytest.raises(KeyError), told_plainly():
        raise KeyError("a fault of our own stays what it is")
