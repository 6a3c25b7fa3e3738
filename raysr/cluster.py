"""One quiet Ray session: the cluster that is there, or a local one."""

import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysr.errors import text_of

QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""No doubled prints; and Train looks every 0.2 s, not every 2, for a result that a worker waits to hand over."""

WORKERS = {"MALLOC_ARENA_MAX": "1"}
"""Environment of Ray's workers. Ray Train runs its function in a thread, and glibc gives a thread a heap of its own, of
parts of 64 MB. A larger tensor then comes from the system anew each time, whatever `keep_freed_memory` says: the
Inverted U-Net paid for it (docs/log.md). With one heap for all threads what was freed is kept.

The environment belongs to the process that starts Ray. As a runtime environment of the job it would keep Ray's waiting
workers from being used."""

ANSWER_S = 6.0
"""Seconds that a Ray head has to answer, for each of two questions."""

ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""Where Ray runs on this machine alone: nobody takes it away, and the watcher is one process more for each trial."""


def start_ray(*, num_cpus: int | None = None) -> None:
    """Connect to the cluster at RAY_ADDRESS (set inside `ray job submit`), else start Ray here; once is enough."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if ":" in address:
        check_reachable(address)
    # A job has the environment that its cluster was started with.
    missing = {name: value for name, value in WORKERS.items() if os.environ.get(name) != value}
    settings: dict[str, Any] = {"runtime_env": {"env_vars": missing}} if missing else {}
    os.environ.update(QUIET)
    if address == "local":
        os.environ.update(WORKERS | ALONE)
        # Ray lowers its workers' priority (nice 15). Its own processes, which wake up a hundred times a second each,
        # then interrupt every step: 13 % slower on two cores, and 3 % with the same priority for all (docs/log.md).
        system = {"worker_niceness": 0}
        settings = {"num_cpus": num_cpus, "include_dashboard": False, "_system_config": system}
    stop = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **settings,
        )
    if threading.current_thread() is threading.main_thread() and stop is not None:
        signal.signal(signal.SIGTERM, stop)  # Ray's own ends the process at once, and prints its stack
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def check_reachable(address: str) -> None:
    """Raise ConnectionError unless a Ray head answers at `address` (`host:port`, `ray://host:port`).

    Ray itself tries for a quarter of an hour, and its error names another address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    told = f"no Ray cluster answers at RAY_ADDRESS={address}"
    hint = "start its head, correct RAY_ADDRESS, or unset it to run on this machine alone"
    if not host or not port.isdecimal():
        raise ConnectionError(f"RAY_ADDRESS={address} should be HOST:PORT, as in 10.0.0.1:6379: {hint}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        raise ConnectionError(f"{told} ({text_of(error)}): {hint}") from error
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    channel = grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
    except grpc.FutureTimeoutError as error:
        raise ConnectionError(f"{told}, where something else listens: {hint}") from error
    finally:
        channel.close()


def cluster_devices() -> dict[str, float]:
    """What the cluster has: its CPUs and GPUs."""
    resources = ray.cluster_resources()
    return {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}


def choose_accelerator(found: Sequence[str], wanted: str | None) -> str | None:
    """The model of accelerator that all trials run on; None where the cluster names none.

    `found` are the models of the cluster. Raises ValueError where there are several and none was asked for (seconds of
    unlike accelerators are not the same money), and for one that is not there.
    """
    if wanted is None and len(found) > 1:
        raise ValueError(
            f"the cluster has unlike accelerators ({', '.join(found)}), and their seconds do not compare: choose one "
            f"with --accelerator, for example --accelerator {found[0]}"
        )
    if wanted is not None and wanted not in found:
        raise ValueError(f"--accelerator {wanted} is not in the cluster, which has {', '.join(found) or 'none'}")
    return wanted or next(iter(found), None)


def cluster_accelerators() -> list[str]:
    """The models of accelerator of the cluster, as Ray names them."""
    prefix = "accelerator_type:"
    return sorted(name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix))


def cpus_for_each(nodes: Sequence[Mapping[str, float]], *, workers: int, use_gpu: bool) -> int:
    """CPUs for each of `workers` at a time, so many that every one of them fits on some node (CPU and GPU of each).

    Ray sets OMP_NUM_THREADS from the CPUs that a worker asks for: give it all that its share allows.
    """
    if use_gpu:
        return max(1, min(int(node.get("CPU", 0) / node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1))
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    fitting = (each for each in range(max(cpus), 0, -1) if sum(cpu // each for cpu in cpus) >= workers)
    return next(fitting, 1)


def use_assigned_cpus() -> None:
    """In a worker: compute on as many threads as it was given CPUs.

    Ray sets OMP_NUM_THREADS before a worker's first task, and keeps the process for later ones that were given more.
    """
    import torch  # here: a driver without a worker of its own need not wait for it

    cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
    if cpus >= 1:
        torch.set_num_threads(cpus)


HEAD = "node:__internal_head__"
"""By this resource Ray knows the head, which is no spot instance."""


def on_head() -> dict[str, float]:
    """A token of the head for what must outlive the workers; nothing where the cluster names no head."""
    return {HEAD: 0.0001} if HEAD in ray.cluster_resources() else {}


def free_place(placement_group: str | None) -> None:
    """Give back what a placement group, by its id, still holds.

    Ray Train leaves that of a controller that was killed, and its CPUs and GPUs are missing until the job ends: the
    process that should clear it away asks Ray's dashboard for the controller, or was killed as well.
    """
    if placement_group is None:
        return
    known = placement_group_table().get(placement_group)
    if known is not None and known["state"] != "REMOVED":
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(placement_group))))


def check_shared(folder: str, what: str) -> None:
    """Raise FileNotFoundError where another node of the cluster does not see `folder`.

    Each would write into a disk of its own, and nothing of it would be found.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if "://" in folder or not others:
        return
    mark = Path(folder, f".seen-{secrets.token_hex(4)}")
    mark.touch()
    try:
        blind = hosts_without(mark, others)
    finally:
        mark.unlink()
    if blind:
        raise FileNotFoundError(
            f"{blind[0]} does not see {what} {folder}: on a cluster it must be storage that all nodes share, for "
            "example s3://BUCKET/FOLDER"
        )


def hosts_without(file: Path, node_ids: Sequence[str]) -> list[str]:
    """Those of the nodes on which there is no such file."""
    task: Any = ray.remote(lambda: (socket.gethostname(), file.exists()))
    pinned = [NodeAffinitySchedulingStrategy(node, soft=False) for node in node_ids]
    found = ray.get([task.options(num_cpus=0, scheduling_strategy=one).remote() for one in pinned])
    return [host for host, there in found if not there]


def cluster_nodes() -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
