"""The comparison: one trial per architecture and seed, and every trial spends the same."""

import time
from dataclasses import asdict, replace
from itertools import product

from rich.console import Console

from raysr import storage
from raysr.calibration import Calibration, Timing, conditions
from raysr.claim import claimed
from raysr.cluster import check_shared, start_ray
from raysr.cost import Budget, Price, format_usd
from raysr.failures import LIMITS, Failure, RayFailedError, failure_of, told_plainly
from raysr.forecast import forecast, taken
from raysr.judge import TARGETS, drop_targets
from raysr.launch import TrialErrors, ended_row, run_all, time_all
from raysr.ledger import Ledger
from raysr.losses import PerceptualInfo, perceptual_infos
from raysr.manifest import Manifest
from raysr.plain import say
from raysr.prepare import PrepareConfig, prepare
from raysr.presets import DEMO_GEOMETRY, CompareConfig, SearchConfig, chosen_budget
from raysr.prices import find_price
from raysr.provenance import RunInfo, now
from raysr.resources import Resources, share_out, trial_device, trial_pace
from raysr.resume import find_weights, pinned, read_resumed
from raysr.runs import Outcome, Run, amend, discarded_unless_begun, gather, new_run_folder
from raysr.search import Found, check_search, find_settings, judging_photographs, searched
from raysr.spec import TrialSpec
from raysr.train import check_trials
from raysr.trial_files import TrialFiles

CALIBRATION = "calibration.json"
"""In the run's folder."""


def compare(config: CompareConfig, console: Console) -> Outcome:
    """Run the comparison to its end, or go on with one (`config.resume`), and return what its folder holds.

    A failed trial leaves the others' results intact and is named in the outcome; Ctrl-C keeps what was reached. Raises
    ValueError and its like for a configuration that cannot run, before any money is spent.
    """
    with told_plainly():
        return _begin(config, console) if config.resume is None else _resume(config, console)


def _begin(config: CompareConfig, console: Console) -> Outcome:
    budget = chosen_budget(config)
    price = find_price(config.price, now().date().isoformat())
    if config.data is None and config.preset != "demo":
        raise ValueError(f"preset {config.preset!r} needs --data DIR, a set made by jobs/prepare.py")
    if config.data is not None:
        Manifest.read(config.data)
    train = config.train
    perceptual, alex = perceptual_infos(train.perceptual, train.vgg_weights, train.alex_weights)
    run = new_run_folder(config.out, config.preset, now().strftime("%Y%m%d-%H%M%S"))
    say(console, f"run folder: {run}")
    with discarded_unless_begun(run), claimed(run):
        start_ray()
        check_shared(run, "--out")
        resources = _share_out(config, console)
        specs = _specs(config, run, _data(config, run, console), budget, price, resources)
        device = trial_device(resources)
        if config.search.usd is not None:
            check_search(config.search, specs, resources.workers_per_trial)
        given = None
        if config.calibration is not None:
            given = Calibration.read(config.calibration)
            given.check(specs, device.name, asdict(resources), config.calibration)
        figure_image_id = check_trials(specs, config.workers_per_trial)
        if given is not None:
            given.write(storage.join(run, CALIBRATION), specs)
        RunInfo(
            preset=config.preset,
            device=device,
            notional=not resources.use_gpu,
            perceptual=perceptual,
            alex=alex,
            specs=specs,
            config=config,
            resources=asdict(resources),
            figure_image_id=figure_image_id,
        ).write()
        return _finish(config, specs, resources, console, perceptual)


def _resume(config: CompareConfig, console: Console) -> Outcome:
    old = read_resumed(config)
    perceptual = find_weights(old.config.train, old.info, old.run)
    with claimed(old.run):
        start_ray()
        check_shared(old.run, "--resume")
        resources = _share_out(old.config, console)
        second_opinion = old.info["alex"] is not None
        specs = _specs(old.config, old.run, old.data, old.budget, old.price, resources, second_opinion=second_opinion)
        device = trial_device(resources)
        every_cost_is_frozen = _all_timed(old.config, specs)
        old.check_device(device, use_gpu=resources.use_gpu, every_cost_is_frozen=every_cost_is_frozen)
        check_trials(specs, old.config.workers_per_trial)
        old.note(now().isoformat(timespec="seconds"), device, asdict(resources))
        left = sum(ended_row(spec) is None for spec in specs)
        say(console, f"run folder: {old.run}: {left} of {len(specs)} trials to go")
        return _finish(old.config, specs, resources, console, perceptual)


def _share_out(config: CompareConfig, console: Console) -> Resources:
    if config.wait_for_gpus:
        say(console, f"waiting until the cluster has {config.wait_for_gpus} GPUs")
    return share_out(config)


def _specs(
    config: CompareConfig,
    run: str,
    data: str,
    budget: Budget,
    price: Price,
    resources: Resources,
    *,
    second_opinion: bool = True,
) -> list[TrialSpec]:
    scale = Manifest.read(data).geometry.scale
    codes = pinned(config.archs)
    every = [
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
            checkpoint_every_s=config.checkpoint_every_s,
            scale=scale,
            targets=storage.join(run, TARGETS),
            code=codes.get(arch),
            sharers=resources.workers_per_node,
            second_opinion=second_opinion,
        )
        for seed, arch in product(range(config.seeds), config.archs)
    ]
    return [spec for spec in every if spec.seed == 0 or not spec.untrained]


def _finish(
    config: CompareConfig, specs: list[TrialSpec], resources: Resources, console: Console, perceptual: PerceptualInfo
) -> Outcome:
    """Run what has not ended yet, and gather everything."""
    begun, run = time.monotonic(), specs[0].run
    _tell_forecast(config, specs, resources, console)
    broken: TrialErrors = {}
    try:
        if config.search.usd is not None and not config.search_at_frozen_cost:
            specs, broken = _search(specs, broken, config.search, resources, console)
        if config.calibrated:
            specs, broken = _freeze(specs, broken, resources, config.timing_rounds, console)
        if config.search_at_frozen_cost:
            specs, broken = _search(specs, broken, config.search, resources, console)
        rows, interrupted = run_all(specs, resources, console, perceptual, broken)
    finally:
        drop_targets(specs[0].targets)
    gather(run, rows)
    say(console, taken(rows, time.monotonic() - begun))
    first = next((row.error for row in rows if row.status == "failed"), None)
    return Outcome(Run.read(run), first, interrupted)


def _tell_forecast(config: CompareConfig, specs: list[TrialSpec], resources: Resources, console: Console) -> None:
    """Say what the trials that are left will cost and take."""
    left = [spec for spec in specs if ended_row(spec) is None]
    if not left:
        return
    pace = trial_pace(left, resources)
    if isinstance(pace, str):
        say(console, f"no forecast: {pace}")
        return
    searching = {spec.arch for spec in left if config.search.usd and not spec.untrained and not searched(spec)}
    told = forecast(
        left,
        pace,
        Manifest.read(left[0].data).pairs["val"],
        workers=resources.workers_per_trial,
        at_once=resources.max_concurrent,
        searching=searching,
        search_usd=config.search.usd or 0.0,
        spent_usd={spec.name: spent.charged_usd for spec in left if (spent := Ledger(spec.run, spec.name).last())},
        search_pictures=len(judging_photographs(left[0].data)) if searching else 0,
        notional=not resources.use_gpu,
    )
    say(console, told.line())


def _all_timed(config: CompareConfig, specs: list[TrialSpec]) -> bool:
    """Whether the run's `calibration.json` has what a step of each of its networks costs."""
    location = storage.join(specs[0].run, CALIBRATION)
    timed = Calibration.read(location).timings if config.calibrated and storage.exists(location) else {}
    return all(spec.arch in timed or spec.untrained for spec in specs)


def _search(
    specs: list[TrialSpec],
    broken: TrialErrors,
    search: SearchConfig,
    resources: Resources,
    console: Console,
) -> tuple[list[TrialSpec], TrialErrors]:
    """`specs` with the settings that each architecture's search found, and the errors of the trials that cannot be run:
    the `broken` ones, and those of architectures that found none."""
    found: dict[str, Found] = {}
    broken = dict(broken)
    able = [spec for spec in specs if not spec.untrained and (spec.arch, spec.seed) not in broken]
    for arch, spec in {spec.arch: spec for spec in reversed(able)}.items():
        if not searched(spec):
            say(console, f"{arch}: searching its settings with {format_usd(search.usd or 0)}")
        try:
            found[arch] = _found(spec, search, resources)
        except RuntimeError as error:
            failure = failure_of(error)
            broken |= {(one.arch, one.seed): failure for one in specs if one.arch == arch}
            continue
        one = found[arch]
        settings = ", ".join(f"{name} {value}" for name, value in one.settings.items())
        line = f"{arch}: {len(one.tried)} configurations tried for {format_usd(one.charged_usd)}: {settings}"
        say(console, line)
    drop_targets(specs[0].targets)  # of the photographs that judged the search: nobody asks for them again
    amend(specs[0].run, search={arch: asdict(one) | {"settings": one.settings} for arch, one in found.items()})
    return [
        replace(spec, train=replace(spec.train, **found[spec.arch].settings)) if spec.arch in found else spec
        for spec in specs
    ], broken


def _found(spec: TrialSpec, search: SearchConfig, resources: Resources) -> Found:
    """`find_settings`, begun again where Ray itself fails."""
    for _ in range(LIMITS["process"]):
        try:
            return find_settings(spec, search, resources)
        except RayFailedError:
            continue
    return find_settings(spec, search, resources)


def _freeze(
    specs: list[TrialSpec],
    broken: TrialErrors,
    resources: Resources,
    rounds: int,
    console: Console,
) -> tuple[list[TrialSpec], TrialErrors]:
    """`specs` at the frozen cost in the run's `calibration.json`, where it is there, else timed now in `rounds`.

    Returns also the errors of the trials that cannot be run: the `broken` ones, and those whose network could not be
    timed, or whose step costs more than the budget.
    """
    run = specs[0].run
    location = storage.join(run, CALIBRATION)
    known = Calibration.read(location) if storage.exists(location) else Calibration({}, {})
    able = [spec for spec in specs if not spec.untrained and (spec.arch, spec.seed) not in broken]
    missing = {spec.arch: spec for spec in reversed(able) if spec.arch not in known.timings}
    if missing:
        say(console, f"timing the steps of {', '.join(missing)}")
    errors = time_all(list(missing.values()), resources, rounds)
    device = trial_device(resources)
    for arch, spec in missing.items():
        if (arch, spec.seed) not in errors:
            timings = [Timing(**one) for one in TrialFiles(run, arch, spec.seed).read_timings()]
            known = known.with_timing(Timing.over_rounds(timings), conditions(spec, device.name, asdict(resources)))
    known.write(location, specs)
    seconds = sum(
        known.timings[spec.arch].spent_seconds for spec in able if spec.seed == 0 and spec.arch in known.timings
    )
    amend(run, timing_seconds=seconds)
    broken = dict(broken)
    for spec in known.freeze(able):
        if spec.frozen is None:
            failure = errors[spec.arch, missing[spec.arch].seed]
            told = f"its steps could not be timed: {failure.text}"
            broken[spec.arch, spec.seed] = replace(failure, text=told)
        elif not spec.frozen_steps:
            told = (
                f"the budget pays for no step of {spec.arch}, whose first takes {spec.frozen.seconds(1):.3g} "
                "accelerator-seconds; give more"
            )
            broken[spec.arch, spec.seed] = Failure(text=told, cause="network")
        elif spec.seed == 0:
            say(
                console,
                f"{spec.arch}: {spec.frozen_steps} steps of {spec.frozen.step_seconds:.4g} s, and "
                f"{spec.frozen.start_seconds:.3g} s to start",
            )
    return known.freeze(specs), broken


def _data(config: CompareConfig, run: str, console: Console) -> str:
    if config.data is not None:
        return config.data
    data = storage.join(run, "data")
    manifest = prepare(PrepareConfig(source="bundled", out=data, geometry=DEMO_GEOMETRY))
    say(
        console,
        f"prepared {sum(manifest.photographs.values())} bundled photographs: "
        f"{manifest.pairs['train']} training and {manifest.pairs['val']} validation pairs",
    )
    return data
