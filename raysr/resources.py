"""How the cluster is shared out among the trials of a comparison, and what a share of it is."""

import time
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
import torch

from raysr.cluster import (
    choose_accelerator,
    cluster_accelerators,
    cluster_devices,
    cluster_nodes,
    cpus_for_each,
    use_assigned_cpus,
)
from raysr.device import Device, this_device
from raysr.errors import text_of
from raysr.forecast import Pace, measure_pace
from raysr.presets import CompareConfig
from raysr.spec import TrialSpec

WAIT_S = 2.0
"""Between two looks at whether GPUs have come."""


@dataclass(frozen=True)
class Resources:
    """How the cluster is shared out."""

    use_gpu: bool
    workers_per_trial: int
    cpus_per_worker: int
    max_concurrent: int
    accelerator: str | None = None
    """Model of GPU that every worker needs."""
    workers_per_node: int = 1
    """Workers on one machine at a time, of all trials together, at most."""

    @property
    def per_worker(self) -> dict[str, float]:
        """For Ray's scheduler."""
        return {"CPU": float(self.cpus_per_worker), **({"GPU": 1.0} if self.use_gpu else {}), **self.model}

    @property
    def model(self) -> dict[str, float]:
        """A token of the resource by which Ray knows the model of GPU."""
        return {f"accelerator_type:{self.accelerator}": 0.001} if self.accelerator else {}


def share_out(config: CompareConfig) -> Resources:
    """How the cluster is shared out among the trials of `config`, when the GPUs that it is to wait for are there.

    Raises ValueError for more than the cluster has.
    """
    while cluster_devices()["GPU"] < (config.wait_for_gpus or 0):
        time.sleep(WAIT_S)
    devices = cluster_devices()
    use_gpu = devices["GPU"] > 0 if config.device == "auto" else config.device == "cuda"
    accelerator = choose_accelerator(cluster_accelerators(), config.accelerator) if use_gpu else None
    nodes = [node for node in cluster_nodes() if accelerator is None or f"accelerator_type:{accelerator}" in node]
    available = int(sum(node.get("GPU" if use_gpu else "CPU", 0.0) for node in nodes))
    if config.workers_per_trial > available:
        kind = "GPUs" if use_gpu else "CPUs"
        raise ValueError(f"--workers-per-trial {config.workers_per_trial}, but the cluster has {available} {kind}")
    most = available // config.workers_per_trial
    concurrent = min(config.max_concurrent or (most if use_gpu else 1), most)
    workers = concurrent * config.workers_per_trial
    cpus = cpus_for_each(nodes, workers=workers, use_gpu=use_gpu)
    most = max(int(node.get("GPU", 0) if use_gpu else node.get("CPU", 0) // cpus) for node in nodes)
    return Resources(use_gpu, config.workers_per_trial, cpus, concurrent, accelerator, max(1, min(workers, most)))


def trial_device(resources: Resources) -> Device:
    """What trains: a worker's device, which the driver's machine need not have."""
    task: Any = ray.remote(this_device)
    kind = "cuda" if resources.use_gpu else "cpu"
    return ray.get(task.options(num_cpus=1, num_gpus=int(resources.use_gpu), resources=resources.model).remote(kind))


def trial_pace(specs: list[TrialSpec], resources: Resources) -> Pace | str:
    """How long a worker takes to enlarge and judge a validation picture by each architecture of `specs`.

    A network that fails here fails its trials, which tell more: the reason alone comes back.
    """
    device = torch.device("cuda" if resources.use_gpu else "cpu")

    def measure() -> Pace:
        use_assigned_cpus()
        return measure_pace(specs, device)

    task: Any = ray.remote(measure)
    options = {"num_gpus": int(resources.use_gpu), "resources": resources.model}
    try:
        return ray.get(task.options(num_cpus=resources.cpus_per_worker, **options).remote())
    except ray.exceptions.RayError as error:
        return text_of(error).splitlines()[-1]
