"""The comparison: Ray Tune runs one Ray Train trial per architecture and seed, and every trial spends the same."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.tune
import torch
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console
from tensorboardX import SummaryWriter

from raysr import storage
from raysr.cluster import QUIET, cluster_devices, start_ray
from raysr.cost import CHARGED, Budget, Price, price_per_hour
from raysr.losses import load_perceptual
from raysr.models import MODELS, build_model, count_parameters
from raysr.pairs import Manifest, PairSet
from raysr.prepare import PrepareConfig, prepare
from raysr.presets import DEMO_GEOMETRY, CompareConfig, chosen_budget
from raysr.progress import ProgressDisplay, start_board
from raysr.runs import Run, Status, TrialFiles, TrialRow, gather, new_run_folder, write_png
from raysr.train import Reporter, Trial, TrialSpec, run_trial, train_worker
from raysr.world import World


@dataclass(frozen=True)
class Outcome:
    """A comparison that has ended, well or not."""

    run: Run
    error: str | None
    """The first failed trial's error."""
    interrupted: bool


@dataclass(frozen=True)
class Resources:
    """How the cluster is shared out."""

    use_gpu: bool
    cpus_per_worker: int
    max_concurrent: int

    @property
    def per_worker(self) -> dict[str, float]:
        """For Ray's scheduler."""
        return {"CPU": float(self.cpus_per_worker), **({"GPU": 1.0} if self.use_gpu else {})}


def compare(config: CompareConfig, console: Console) -> Outcome:
    """Run the comparison to its end and return what its folder holds.

    A failed trial leaves the others' results intact and is named in the outcome. Raises ValueError and its like for a
    configuration that cannot run, before any money is spent.
    """
    budget = chosen_budget(config)
    price = price_per_hour(config.price, _now().date().isoformat())
    if config.data is None and config.preset != "demo":
        raise ValueError(f"preset {config.preset!r} needs --data DIR, a set made by jobs/prepare.py")
    if config.data is not None:
        Manifest.read(storage.absolute(config.data))
    perceptual_name = load_perceptual(config.train.perceptual, config.train.vgg_weights).info.name
    run = new_run_folder(config.out, config.preset, _now().strftime("%Y%m%d-%H%M%S"))
    console.print(f"run folder: {run}", soft_wrap=True, highlight=False)
    start_ray()
    data = _data(config, run, console)
    resources = _share_out(config)
    specs = [
        TrialSpec(arch=arch, seed=seed, data=data, run=run, budget=budget, price=price, train=config.train)
        for seed, arch in product(range(config.seeds), config.archs)
        if seed == 0 or arch != "bicubic"
    ]
    _check(specs, data, config)
    _write_info(config, budget, price, data, run, perceptual_name, resources)
    board_name = f"raysr-{Path(run).name}"
    board = start_board(board_name)
    with ProgressDisplay(board, console, len(specs), perceptual_name):
        for spec in specs:
            if count_parameters(build_model(spec.arch, 2)) == 0:
                _score_untrained(spec, resources)
        trained = [spec for spec in specs if count_parameters(build_model(spec.arch, 2)) > 0]
        error, interrupted = _tune(trained, resources, config, board_name, run)
    rows = [_row(spec, perceptual_name, error, interrupted) for spec in specs]
    gather(run, rows)
    first = next((row.error for row in rows if row.status == "failed"), None)
    return Outcome(Run.read(run), first, interrupted)


def _now() -> datetime:
    return datetime.now(timezone.utc).astimezone()


def _data(config: CompareConfig, run: str, console: Console) -> str:
    if config.data is not None:
        return storage.absolute(config.data)
    data = storage.join(run, "data")
    manifest = prepare(PrepareConfig(source="bundled", out=data, geometry=DEMO_GEOMETRY))
    console.print(
        f"prepared {sum(manifest.photographs.values())} bundled photographs: "
        f"{manifest.pairs['train']} training and {manifest.pairs['val']} validation pairs",
        highlight=False,
    )
    return data


def _share_out(config: CompareConfig) -> Resources:
    devices = cluster_devices()
    use_gpu = devices["GPU"] > 0 if config.device == "auto" else config.device == "cuda"
    available = int(devices["GPU"] if use_gpu else devices["CPU"])
    if config.workers_per_trial > available:
        kind = "GPUs" if use_gpu else "CPUs"
        raise ValueError(f"--workers-per-trial {config.workers_per_trial}, but the cluster has {available} {kind}")
    most = available // config.workers_per_trial
    concurrent = min(config.max_concurrent or (most if use_gpu else 1), most)
    cpus = max(1, int(devices["CPU"]) // (concurrent * config.workers_per_trial))
    # Ray sets OMP_NUM_THREADS from the CPUs that a worker asks for: give it all that its share allows.
    return Resources(use_gpu, cpus, concurrent)


def _check(specs: list[TrialSpec], data: str, config: CompareConfig) -> None:
    """Find out now what would otherwise fail every trial: a damaged set, a batch that does not fit."""
    from raysr.pairs import TrainingBatches

    pairs, _ = PairSet(data, "train"), PairSet(data, "val")
    batches = TrainingBatches(
        pairs,
        batch_size=config.train.batch_size,
        seed=0,
        world_size=config.workers_per_trial,
        patch_px=config.train.patch_px,
    )
    for spec in specs:
        trainable = count_parameters(build_model(spec.arch, pairs.geometry.scale)) > 0
        if trainable:
            spec.budget.limit_steps(spec.arch, batches.steps_per_epoch)
    first = PairSet(data, "val").read_group(0)[0]
    for name, pixels in (("hr", first.hr), ("lr", first.lr)):
        write_png(storage.join(specs[0].run, "pictures", f"{name}.png"), pixels)


class _Silent:
    """Nobody is told; the trial's files are enough."""

    def progress(self, progress: object) -> None:
        pass

    def validated(self, trial: Trial) -> None:
        pass


def _score_untrained(spec: TrialSpec, resources: Resources) -> None:
    """Score a network without parameters where the others train, outside Tune: it spends nothing."""

    def work() -> None:
        device = torch.device("cuda" if resources.use_gpu else "cpu")
        reporter: Reporter = _Silent()
        run_trial(Trial(spec, World(device=device)), reporter)

    task: Any = ray.remote(work)
    ray.get(task.options(num_cpus=resources.cpus_per_worker, num_gpus=int(resources.use_gpu)).remote())


def _tune(
    specs: list[TrialSpec], resources: Resources, config: CompareConfig, board: str, run: str
) -> tuple[dict[tuple[str, int], str], bool]:
    """Run the trials; returns the errors of those that failed, and whether the user stopped the comparison."""
    if not specs:
        return {}, False
    by_name = {(spec.arch, spec.seed): spec for spec in specs}
    workers = config.workers_per_trial
    store = storage.join(run, "ray")

    def drive(trial: dict[str, Any]) -> None:
        spec = by_name[trial["arch"], trial["seed"]]
        os.environ.update(QUIET)
        TorchTrainer(
            train_worker,
            train_loop_config={"spec": spec, "board": board},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=resources.use_gpu, resources_per_worker=resources.per_worker
            ),
            run_config=ray.train.RunConfig(
                name=f"{spec.arch}-{spec.seed}",
                storage_path=store,
                callbacks=[TuneReportCallback()],
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                failure_config=ray.train.FailureConfig(max_failures=1, controller_failure_limit=3),
            ),
        ).fit()

    tuner = ray.tune.Tuner(
        # A trial only waits for its workers: a token of memory keeps it from taking a CPU away from them.
        ray.tune.with_resources(drive, {"memory": 1_000_000}),
        param_space={"trial": ray.tune.grid_search([{"arch": s.arch, "seed": s.seed} for s in specs])},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=resources.max_concurrent),
        run_config=ray.tune.RunConfig(
            name="tune", storage_path=store, verbose=0, callbacks=[TensorBoard(storage.join(run, "tensorboard"))]
        ),
    )
    results = tuner.fit()
    errors: dict[tuple[str, int], str] = {}
    unfinished = False
    for spec, result in zip(specs, results, strict=False):
        if result.error is not None:
            errors[spec.arch, spec.seed] = str(result.error).strip()
        unfinished |= result.error is None and TrialFiles(run, spec.arch, spec.seed).read_row() is None
    return errors, unfinished


class TensorBoard(ray.tune.Callback):
    """Writes each validation as the trials report it, by trial, in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.writers: dict[str, SummaryWriter] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called by Tune in the driver."""
        names = trial.config["trial"]
        name = f"{names['arch']}-{names['seed']}"
        if name not in self.writers:
            self.writers[name] = SummaryWriter(storage.join(self.folder, name))
        for key in ("perceptual", "charged_usd"):
            if result.get(key) is not None:
                self.writers[name].add_scalar(key, result[key], result["step"])

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Close the files."""
        for writer in self.writers.values():
            writer.close()


def _row(spec: TrialSpec, perceptual_name: str, errors: dict[tuple[str, int], str], interrupted: bool) -> TrialRow:
    files = TrialFiles(spec.run, spec.arch, spec.seed)
    row, error = files.read_row(), errors.get((spec.arch, spec.seed))
    if row is not None and error is None:
        return row
    status: Status = "failed" if error is not None else "interrupted"
    curve = files.read_curve()
    reached: dict[str, Any] = {}
    if curve:
        last = curve[-1]
        names = ("perceptual", "ms_ssim", "ssim", "psnr", "perceptual_content", "ms_ssim_content")
        reached = {name: getattr(last, name) for name in names}
        reached |= {"steps": last.step, "epochs": last.epochs, "charged_usd": last.charged_usd}
        reached |= {"perceptual_start": curve[0].perceptual, "checkpoint": files.checkpoint}
    return TrialRow(
        arch=spec.arch,
        seed=spec.seed,
        status=status,
        params=count_parameters(build_model(spec.arch, 2)),
        budget_usd=spec.budget.limit_usd(spec.price),
        perceptual_name=perceptual_name,
        error=error if error is not None else ("stopped by the user" if interrupted else "left no result"),
        **reached,
    )


def _write_info(
    config: CompareConfig,
    budget: Budget,
    price: Price,
    data: str,
    run: str,
    perceptual_name: str,
    resources: Resources,
) -> None:
    manifest = Manifest.read(data)
    perceptual = load_perceptual(config.train.perceptual, config.train.vgg_weights).info
    device = _device_name(resources)
    info = {
        "preset": config.preset,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": _now().isoformat(timespec="seconds"),
        "commit": _commit(),
        "config": asdict(config),
        "budget": asdict(budget),
        "budget_usd": budget.limit_usd(price),
        "price": asdict(price),
        "notional": not resources.use_gpu,
        "charged_segments": list(CHARGED),
        "device": device,
        "resources": asdict(resources),
        "perceptual": asdict(perceptual) | {"name": perceptual_name},
        "data": {
            "location": data,
            "source": manifest.source,
            "content_sha256": manifest.content_sha256,
            "geometry": asdict(manifest.geometry),
            "pairs": manifest.pairs,
            "photographs": manifest.photographs,
        },
        "models": {arch: MODELS[arch].source for arch in config.archs},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("raysr", "ray", "torch", "torchvision", "lpips", "pillow", "pyarrow")},
        },
    }
    storage.write_text(storage.join(run, "run.json"), json.dumps(info, indent=2, default=str) + "\n")


def _device_name(resources: Resources) -> str:
    def name() -> str:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()

    task: Any = ray.remote(name)
    return ray.get(task.options(num_cpus=1, num_gpus=int(resources.use_gpu)).remote())


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside of one, as in a job's extracted copy."""
    root = Path(__file__).resolve().parent.parent
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    try:
        found = run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, timeout=10, check=True)  # fmt: skip  # noqa: S603, S607, E501
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
