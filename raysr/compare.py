"""The comparison: one trial per architecture and seed, and every trial spends the same."""

from dataclasses import asdict
from itertools import product

from rich.console import Console

from raysr import storage
from raysr.cluster import start_ray
from raysr.cost import Budget, Price
from raysr.launch import Resources, ended_row, run_all, share_out, trial_device
from raysr.losses import PerceptualInfo, perceptual_infos
from raysr.manifest import Manifest
from raysr.prepare import PrepareConfig, prepare
from raysr.presets import DEMO_GEOMETRY, CompareConfig, chosen_budget
from raysr.prices import find_price
from raysr.provenance import RunInfo, now
from raysr.resume import read_resumed
from raysr.runs import Outcome, Run, gather, new_run_folder
from raysr.spec import TrialSpec
from raysr.train import check_trials


def compare(config: CompareConfig, console: Console) -> Outcome:
    """Run the comparison to its end, or go on with one (`config.resume`), and return what its folder holds.

    A failed trial leaves the others' results intact and is named in the outcome; Ctrl-C keeps what was reached. Raises
    ValueError and its like for a configuration that cannot run, before any money is spent.
    """
    return _begin(config, console) if config.resume is None else _resume(config, console)


def _begin(config: CompareConfig, console: Console) -> Outcome:
    budget = chosen_budget(config)
    price = find_price(config.price, now().date().isoformat())
    if config.data is None and config.preset != "demo":
        raise ValueError(f"preset {config.preset!r} needs --data DIR, a set made by jobs/prepare.py")
    if config.data is not None:
        Manifest.read(storage.absolute(config.data))
    train = config.train
    perceptual, alex = perceptual_infos(train.perceptual, train.vgg_weights, train.alex_weights)
    run = new_run_folder(config.out, config.preset, now().strftime("%Y%m%d-%H%M%S"))
    console.print(f"run folder: {run}", soft_wrap=True, highlight=False)
    start_ray()
    resources = share_out(config)
    specs = _specs(config, run, _data(config, run, console), budget, price)
    RunInfo(
        preset=config.preset,
        device=trial_device(resources),
        notional=not resources.use_gpu,
        perceptual=perceptual,
        alex=alex,
        specs=specs,
        config=config,
        resources=asdict(resources),
        figure_image_id=check_trials(specs, config.workers_per_trial),
    ).write()
    return _finish(specs, resources, console, perceptual)


def _resume(config: CompareConfig, console: Console) -> Outcome:
    old = read_resumed(config)
    train = old.config.train
    perceptual, _ = perceptual_infos(train.perceptual, train.vgg_weights, train.alex_weights)
    if perceptual.weights_sha256 != old.info["perceptual"]["weights_sha256"]:
        raise ValueError(f"the perceptual weights have changed since {old.run} began: {perceptual.weights_sha256}")
    start_ray()
    resources = share_out(old.config)
    device = trial_device(resources)
    if device != old.info["device"]:
        raise ValueError(f"{old.run} was begun on {old.info['device']}, and this is {device}: seconds do not compare")
    specs = _specs(old.config, old.run, old.data, old.budget, old.price)
    check_trials(specs, old.config.workers_per_trial)
    old.note(now().isoformat(timespec="seconds"))
    left = sum(ended_row(spec) is None for spec in specs)
    console.print(f"run folder: {old.run}: {left} of {len(specs)} trials to go", soft_wrap=True, highlight=False)
    return _finish(specs, resources, console, perceptual)


def _specs(config: CompareConfig, run: str, data: str, budget: Budget, price: Price) -> list[TrialSpec]:
    return [
        TrialSpec(
            arch=arch,
            seed=seed,
            data=data,
            run=run,
            budget=budget,
            price=price,
            train=config.train,
            charged=config.charged,
            tolerance=config.tolerance,
        )
        for seed, arch in product(range(config.seeds), config.archs)
        if seed == 0 or arch != "bicubic"
    ]


def _finish(specs: list[TrialSpec], resources: Resources, console: Console, perceptual: PerceptualInfo) -> Outcome:
    """Run what has not ended yet, and gather everything."""
    rows, interrupted = run_all(specs, resources, console, perceptual)
    gather(specs[0].run, rows)
    first = next((row.error for row in rows if row.status == "failed"), None)
    return Outcome(Run.read(specs[0].run), first, interrupted)


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
