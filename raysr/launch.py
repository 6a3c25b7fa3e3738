"""Trials on a Ray cluster: Ray Tune schedules them, Ray Train trains each."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.tune
import torch
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console

from raysr import storage
from raysr.cluster import (
    QUIET,
    free_place,
    on_head,
    use_assigned_cpus,
)
from raysr.failures import LIMITS, OF_RAY, Failure, RayFailedError, failure_of, fit, kind_of
from raysr.losses import PerceptualInfo
from raysr.progress import BOARD_S, Board, ProgressDisplay, Snapshot, remote_update
from raysr.provenance import now
from raysr.resources import Resources
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

TrialErrors = dict[tuple[str, int], Failure]
"""Why trials failed, by architecture and seed."""

FAILED = "failure"
"""Under this name a trial that is given up reports why to Tune."""

MISSING_MINUTES = 60
"""How often a trial waits a minute (Ray Train's default) for accelerators that are not there. A spot node that is
replaced takes a quarter of an hour."""


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
    # One that is killed, for memory for example, begins again with nothing to tell.
    board = actor.options(num_cpus=0, resources=on_head(), max_restarts=-1).remote()

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
            errors |= _tune(
                trained, resources, train_worker, {"board": board}, lambda spec: ended_row(spec) is not None
            )
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
        timed = lambda spec, before=before: _times_timed(spec) > before[spec.name]  # noqa: E731
        errors |= _tune(left, resources, calibration_worker, {}, timed)
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


def _tune(
    specs: list[TrialSpec],
    resources: Resources,
    worker: Worker,
    extra: dict[str, Any],
    done: Callable[[TrialSpec], bool],
) -> TrialErrors:
    """Run `worker` for each of `specs`, with `extra` in its configuration; returns the errors of those that failed.

    Where Ray Tune itself ends, those that are not `done` are begun again.
    """
    failures: TrialErrors = {}
    for _ in range(1 + LIMITS["process"]):
        left = [spec for spec in specs if not done(spec)]
        if not left:
            return {}
        try:
            return _tune_once(left, resources, worker, extra)
        except RayFailedError as error:
            failures = {(spec.arch, spec.seed): failure_of(error) for spec in left}
    return failures


def _tune_once(specs: list[TrialSpec], resources: Resources, worker: Worker, extra: dict[str, Any]) -> TrialErrors:
    """As `_tune`; raises RayFailedError. An error without a trial counts for every trial."""
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
    errors: TrialErrors = {}
    for result in fit(tuner):
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
        files = TrialFiles(spec.run, spec.arch, spec.seed)
        while True:
            free_place(files.read_place())
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
            except OF_RAY as error:
                kind = kind_of(error)
                if left[kind] == 0:
                    # Told, not raised: Tune would begin it again.
                    ray.tune.report({FAILED: asdict(failure_of(error))})
                    return
                left[kind] -= 1

    return drive
