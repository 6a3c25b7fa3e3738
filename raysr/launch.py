"""Trials on a Ray cluster: Ray Tune schedules them, Ray Train trains each."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.tune
import torch
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console

from raysr import errors, storage
from raysr.cluster import (
    QUIET,
    choose_accelerator,
    cluster_accelerators,
    cluster_devices,
    cluster_nodes,
    cpus_for_each,
    on_head,
    use_assigned_cpus,
)
from raysr.device import Device, this_device
from raysr.failures import LIMITS, OF_RAY, Failure, failure_of, kind_of
from raysr.forecast import Pace, measure_pace
from raysr.losses import PerceptualInfo
from raysr.presets import CompareConfig
from raysr.progress import BOARD_S, Board, ProgressDisplay, Snapshot, remote_update
from raysr.provenance import now
from raysr.rows import TrialRow
from raysr.runs import unfinished_row
from raysr.spec import TrialSpec
from raysr.tensorboard import TensorBoard
from raysr.train import Reporter, calibration_worker, run_trial, train_worker
from raysr.trial import Trial
from raysr.trial_files import TrialFiles
from raysr.world import World

_ORDER = 7
"""Of the random numbers that shuffle the trials."""

WAIT_S = 2.0
"""Between two looks at whether GPUs have come."""

TrialErrors = dict[tuple[str, int], Failure]
"""Why trials failed, by architecture and seed."""

FAILED = "failure"
"""Under this name a trial that is given up reports why to Tune."""

MISSING_MINUTES = 60
"""How often a trial waits a minute (Ray Train's default) for accelerators that are not there. A spot node that is
replaced takes a quarter of an hour, and Ray counts over all of a trial's life."""


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
    """Of all trials at a time, at most, on one machine."""

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
        return errors.text_of(error).splitlines()[-1]


def ended_row(spec: TrialSpec) -> TrialRow | None:
    """The row of a trial that has ended; None of one that has not."""
    return TrialFiles(spec.run, spec.arch, spec.seed).read_row()


def run_all(
    specs: list[TrialSpec],
    resources: Resources,
    console: Console,
    perceptual: PerceptualInfo,
    broken: Mapping[tuple[str, int], Failure],
) -> tuple[list[TrialRow], bool]:
    """Run every trial but the `broken` ones, which have failed before with that error.

    Returns a row for each, and whether the user stopped the comparison.
    """
    actor: Any = ray.remote(Board)
    board = actor.options(num_cpus=0, resources=on_head()).remote()

    def snapshot() -> Snapshot:
        try:
            return ray.get(board.snapshot.remote(), timeout=BOARD_S)
        except (ray.exceptions.RayError, TimeoutError):
            return Snapshot([], [])  # the board went down with the cluster: the trials' own errors tell why

    errors = dict(broken)
    interrupted = False
    todo = [spec for spec in specs if (spec.arch, spec.seed) not in broken and ended_row(spec) is None]
    with ProgressDisplay(snapshot, console, len(todo), perceptual.name):
        try:
            for spec in todo:
                if spec.untrained:
                    errors |= _score_untrained(spec, resources, board)
            trained = [spec for spec in todo if not spec.untrained]
            errors |= _tune(trained, resources, train_worker, {"board": board})
        except KeyboardInterrupt:
            interrupted = True
    rows: list[TrialRow] = []
    for spec in specs:
        row, failure = ended_row(spec), errors.get((spec.arch, spec.seed))
        if row is None and failure is not None:  # what ended well before Ray failed has ended well
            row = unfinished_row(spec, "failed", failure.text, perceptual.name, failure.cause)
        elif row is None:
            # Tune itself takes the first Ctrl-C: it stops its trials and returns.
            interrupted = True
            row = unfinished_row(spec, "interrupted", "stopped before its end", perceptual.name)
        rows.append(row)
    return rows, interrupted


def time_all(specs: list[TrialSpec], resources: Resources, rounds: int) -> TrialErrors:
    """Time the steps of each of `specs` as its trial will run, `rounds` times, one after the other in each round.

    Returns the errors of those that failed. Raises KeyboardInterrupt where the user stopped it.
    """
    errors: TrialErrors = {}
    for _ in range(rounds):
        left = [spec for spec in specs if (spec.arch, spec.seed) not in errors]
        before = {spec.name: _times_timed(spec) for spec in left}
        errors |= _tune(left, resources, calibration_worker, {})
        for spec in left:
            if (spec.arch, spec.seed) not in errors and _times_timed(spec) == before[spec.name]:
                raise KeyboardInterrupt  # Tune itself takes the first Ctrl-C: it stops its trials and returns
    return errors


def _times_timed(spec: TrialSpec) -> int:
    return len(TrialFiles(spec.run, spec.arch, spec.seed).read_timings())


def _score_untrained(spec: TrialSpec, resources: Resources, board: Any) -> TrialErrors:
    """Score a network without parameters where the others train, outside Tune: it spends nothing.

    Returns its error if it failed.
    """

    def work() -> None:
        use_assigned_cpus()
        device = torch.device("cuda" if resources.use_gpu else "cpu")
        run_trial(Trial(spec, World(device=device)), Reporter(remote_update(board)))

    task: Any = ray.remote(work)
    try:
        options = {"num_gpus": int(resources.use_gpu), "resources": resources.model}
        ray.get(task.options(num_cpus=resources.cpus_per_worker, **options).remote())
    except ray.exceptions.RayError as error:
        return {(spec.arch, spec.seed): failure_of(error)}
    return {}


Worker = Callable[[dict[str, Any]], None]
"""What runs in each Ray Train worker."""


def _tune(specs: list[TrialSpec], resources: Resources, worker: Worker, extra: dict[str, Any]) -> TrialErrors:
    """Run `worker` for each of `specs`, with `extra` in its configuration; returns the errors of those that failed.

    An error that Tune lays to no trial in particular is that of every trial.
    """
    if not specs:
        return {}
    run = specs[0].run
    shuffled = in_blocks(specs)
    # A store for each driver: what a killed one left of Ray's own state is never read again, ours is.
    store = storage.join(run, "ray", now().strftime("%Y%m%d-%H%M%S-%f"))
    tuner = ray.tune.Tuner(
        # A trial only waits for its workers: a token of memory keeps it from taking a CPU away from them.
        ray.tune.with_resources(_driver(specs, resources, store, worker, extra), {"memory": 1_000_000, **on_head()}),
        param_space={"trial": ray.tune.grid_search([{"arch": s.arch, "seed": s.seed} for s in shuffled])},
        # A trial's driver only waits: the next trial takes its process over, which has imported everything.
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=resources.max_concurrent, reuse_actors=True),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=store,
            verbose=0,
            callbacks=[TensorBoard(storage.join(run, "tensorboard"))],
            # A trial's driver that is killed, for memory for example, begins again; what fails in it is counted there.
            failure_config=ray.tune.FailureConfig(max_failures=LIMITS["process"]),
        ),
    )
    try:
        results = tuner.fit()
    except OF_RAY as error:
        return {(spec.arch, spec.seed): failure_of(error) for spec in specs}
    errors: TrialErrors = {}
    for result in results:
        trial = (result.config or {}).get("trial")
        told = (result.metrics or {}).get(FAILED)
        failure = failure_of(result.error) if result.error is not None else Failure(**told) if told else None
        if failure is None:
            continue
        if trial is None:
            errors = {(spec.arch, spec.seed): failure for spec in specs} | errors
        else:
            errors[trial["arch"], trial["seed"]] = failure
    return errors


def in_blocks(specs: list[TrialSpec]) -> list[TrialSpec]:
    """`specs` one seed after the other, the architectures of each in random order (randomised blocks).

    A machine that slows down over the hours does not always meet the same architecture, and a comparison that is
    stopped has whole seeds to show. Trials that have a checkpoint come first, so that a resumed one has few halves.
    """
    draws = np.random.default_rng([_ORDER, len(specs)]).permutation(len(specs))
    begun = [TrialFiles(spec.run, spec.arch, spec.seed).has_state() for spec in specs]
    keys = [(not has, spec.seed, draw) for has, spec, draw in zip(begun, specs, draws, strict=True)]
    return [spec for _, spec in sorted(zip(keys, specs, strict=True), key=lambda one: one[0])]


def _driver(
    specs: list[TrialSpec], resources: Resources, store: str, worker: Worker, extra: dict[str, Any]
) -> Callable[[dict[str, Any]], None]:
    """The Tune trial: a Ray Train run that reports through it."""
    by_name = {(spec.arch, spec.seed): spec for spec in specs}
    # Attempts are counted here, by what ended them: of a failed worker Ray Train knows the number alone.
    failures = ray.train.FailureConfig(
        max_failures=0, max_preemption_failures=0, controller_failure_limit=MISSING_MINUTES
    )

    def drive(config: dict[str, Any]) -> None:
        spec = by_name[config["trial"]["arch"], config["trial"]["seed"]]
        os.environ.update(QUIET)
        left = dict(LIMITS)
        while True:
            trainer = TorchTrainer(
                worker,
                train_loop_config={"spec": spec, **extra},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=resources.workers_per_trial,
                    use_gpu=resources.use_gpu,
                    resources_per_worker=resources.per_worker,
                ),
                run_config=ray.train.RunConfig(
                    name=spec.name,
                    storage_path=store,
                    callbacks=[TuneReportCallback()],
                    failure_config=failures,
                ),
            )
            try:
                trainer.fit()
                return
            except TrainingFailedError as error:
                kind = kind_of(error)
                if left[kind] == 0:
                    # Told, not raised: Tune would begin it again.
                    ray.tune.report({FAILED: asdict(failure_of(error))})
                    return
                left[kind] -= 1

    return drive
