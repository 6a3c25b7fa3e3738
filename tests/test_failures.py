"""Who is to blame for a trial that failed."""

import pytest
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import PreemptionError
from ray.tune.error import TuneError

from raysr.failures import RayFailedError, cause_of, failure_of, kind_of, told_plainly


def of_workers(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("workers failed", dict(enumerate(failures)))


def raised(error: Exception) -> Exception:
    """As a worker hands it over."""
    return UserExceptionWithTraceback(error, "Traceback ...")


def node_died() -> Exception:
    return RayActorError(None, "The actor died because its node has died. Node Id: 1")


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (of_workers(raised(ValueError("shapes"))), "exception", "network"),
        (of_workers(raised(RuntimeError("CUDA error")), raised(RuntimeError("CUDA error"))), "exception", "network"),
        (of_workers(raised(OSError(28, "No space left"))), "exception", "machine"),
        (of_workers(RayActorError(None, "The actor died unexpectedly")), "process", "machine"),
        (
            of_workers(raised(RuntimeError("connection reset")), RayActorError(None, "The actor died unexpectedly")),
            "process",
            "machine",
        ),
        (of_workers(raised(RuntimeError("connection reset")), node_died()), "node", "machine"),
        (of_workers(ActorUnavailableError("gone", None)), "process", "machine"),
        (ControllerError(OutOfMemoryError("killed for memory")), "process", "machine"),
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
    "error", [TuneError("Trials did not complete"), NodeDiedError("gone"), of_workers(node_died())]
)
def test_whatever_ray_raises_is_told_without_a_traceback(error: Exception) -> None:
    with pytest.raises(RayFailedError, match="Ray failed: "), told_plainly():
        raise error
    with pytest.raises(KeyError), told_plainly():
        raise KeyError("a fault of our own stays what it is")
