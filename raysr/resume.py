"""Going on with a run whose driver, workers or whole cluster went away: its own `run.json` rules."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from raysr import storage
from raysr.cost import Budget, Price
from raysr.device import Device
from raysr.errors import text_of
from raysr.losses import PerceptualInfo, perceptual_infos
from raysr.manifest import Manifest, ManifestError
from raysr.own_code import check_code, code_digest
from raysr.presets import PRESETS, CompareConfig, SearchConfig
from raysr.provenance import code_sha256, commit
from raysr.runs import amend
from raysr.spec import TrainConfig
from raysr.trial_files import TrialFiles

_OF_EACH_PART = ("wait_for_gpus", "accelerator", "max_concurrent")
"""Settings that may be others when a run is taken up again; those that are not given stay."""

_OF_THE_RESUMPTION = ("resume", "out", "data", "extend_seeds", *_OF_EACH_PART)
"""Settings that do not contradict those that a run was begun with."""


@dataclass(frozen=True)
class Resumed:
    """What a run was begun with."""

    run: str
    config: CompareConfig
    budget: Budget
    price: Price
    data: str
    info: dict[str, Any]
    """The whole of `run.json`."""

    def check_device(self, device: Device, *, use_gpu: bool, every_cost_is_frozen: bool) -> None:
        """Raise ValueError unless `device`, shared by as many trials as `config` says, can go on with the run.

        Money by the clock is of one device, and of one number of trials that share its processors. Where every step's
        cost is frozen another one may go on, which is slower or faster at the same charge, if it computes in the same
        precision.
        """
        begun, train = self.info["device"], self.config.train
        if device.name != begun and (not every_cost_is_frozen or use_gpu == self.info["notional"]):
            raise ValueError(
                f"{self.run} was begun on {begun}, and this is {device.name}: seconds do not compare. Only a "
                "calibrated run whose steps are all timed goes on elsewhere, from CPU to CPU or from GPU to GPU"
            )
        at_once, then_at_once = self.config.max_concurrent or 1, self.info["config"].get("max_concurrent") or 1
        if at_once != then_at_once and not use_gpu and not every_cost_is_frozen:
            raise ValueError(
                f"--max-concurrent {at_once} contradicts {self.run}, which was begun with {then_at_once}: trials that "
                "share processors take longer, and it charges by the clock. Leave it out; only a calibrated run whose "
                "steps are all timed may change it"
            )
        auto = "auto" in (train.precision, train.eval_precision)
        check_precision(train, self._best_precision() if auto else None, device, f"{self.run} (on {begun})")

    def _best_precision(self) -> str | None:
        """What `auto` came to; of a run of an older version its trials tell. None where none has begun."""
        if "best_precision" in self.info:
            return self.info["best_precision"]
        names = product(self.config.archs, range(self.config.seeds))
        begun = [TrialFiles(self.run, arch, seed) for arch, seed in names]
        rows = [row for row in (files.read_row() for files in begun) if row is not None]
        told = [row.precision for row in rows if row.steps and self.config.train.precision == "auto"]
        if not told and any(files.has_state() for files in begun):
            raise ValueError(
                f"{self.run} is of an older version, and does not say in which precision it trains and validates: "
                "begin a new one"
            )
        return next(iter(told), None)

    def note(self, when: str, device: Device, resources: dict[str, Any]) -> None:
        """Write into `run.json` that the run was taken up again, at which commit, on what and how that is shared out,
        where its data lie, and how many seeds it has now, if more."""
        part = taken_up(when, device, resources)
        changes: dict[str, Any] = {
            "resumed": [*self.info.get("resumed", []), part],
            "data": self.info["data"] | {"location": self.data},
            "best_precision": self.info.get("best_precision", device.best_precision),
            "code": self.info.get("code", pinned(self.config.archs)),
        }
        begun, seeds = self.info["config"]["seeds"], self.config.seeds
        if seeds > begun:
            changes["config"] = self.info["config"] | {"seeds": seeds}
            changes["extended"] = [*self.info.get("extended", []), {"at": when, "seeds": [begun, seeds]}]
        amend(self.run, **changes)


def check_precision(train: TrainConfig, then: str | None, device: Device, run: str) -> None:
    """Raise ValueError where `auto` comes to another precision on `device` than `then`; None: nobody knows."""
    settings = {"--precision": train.precision, "--eval-precision": train.eval_precision}
    auto = " and ".join(name for name, value in settings.items() if value == "auto")
    if auto and then not in (None, device.best_precision):
        raise ValueError(
            f"{run} was begun with {auto} auto, which came to {then}, and on this {device.name} it comes to "
            f"{device.best_precision}: go on where it is {then}"
        )


def pinned(archs: Sequence[str]) -> dict[str, str]:
    """Hashes of the source of networks of the user's own."""
    found = {arch: code_digest(arch) for arch in archs}
    return {arch: code for arch, code in found.items() if code is not None}


def taken_up(when: str, device: Device, resources: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` says of a run's going on: when, with which code, and on what."""
    code = {"commit": commit(), "code_sha256": code_sha256()}
    return {"at": when, **code, "device": device.name, "resources": resources}


def read_resumed(config: CompareConfig) -> Resumed:
    """What the run in `config.resume` was begun with.

    Raises FileNotFoundError where there is no run, and ValueError for a setting of `config` that contradicts the run's
    own, or data that are not those that it was begun with.
    """
    run = storage.absolute(str(config.resume))
    location = storage.join(run, "run.json")
    if not storage.exists(location):
        raise FileNotFoundError(
            f"{run} cannot be resumed: it holds no run.json, so no trial had begun; start a new run"
        )
    info = json.loads(storage.read_bytes(location))
    _refuse_contradictions(config, info, run)
    stored = dict(info["config"])
    stored["budget"] = Budget(**stored["budget"])
    stored["train"] = TrainConfig(**stored["train"] | {"evaluate_at": tuple(stored["train"]["evaluate_at"])})
    stored["search"] = SearchConfig(**{name: _as_tuple(value) for name, value in stored["search"].items()})
    stored |= {"archs": tuple(stored["archs"]), "charged": tuple(stored["charged"]), "resume": run}
    stored |= _more_seeds(config.extend_seeds, stored["seeds"], run)
    for name in _OF_EACH_PART:
        given = getattr(config, name)
        stored[name] = stored.get(name) if given is None else given
    data = find_data(config.data, info, run)
    for arch, code in info.get("code", {}).items():
        check_code(arch, code)
    return Resumed(run, CompareConfig(**stored), Budget(**info["budget"]), Price(**info["price"]), data, info)


def find_data(given: str | None, info: dict[str, Any], run: str) -> str:
    """Where the set of `run` lies: at `given`, or where it lay. Raises ValueError for another set, or none."""
    data = storage.absolute(given) if given is not None else info["data"]["location"]
    try:
        found = Manifest.read(data).content_sha256
    except ManifestError as error:
        raise ValueError(f"{text_of(error)}; where the set of {run} lies elsewhere now, say --data DIR") from error
    if found != info["data"]["content_sha256"]:
        raise ValueError(
            f"{data} is not what {run} was begun with: content sha256 {found}, then {info['data']['content_sha256']}"
        )
    return data


def find_weights(train: TrainConfig, info: dict[str, Any], run: str) -> PerceptualInfo:
    """The weights that judge `run`; raises ValueError where those that are here now are others."""
    found, _ = perceptual_infos(train.perceptual, train.vgg_weights, train.alex_weights)
    if found.weights_sha256 != info["perceptual"]["weights_sha256"]:
        raise ValueError(f"the perceptual weights have changed since {run} began: {found.weights_sha256}")
    return found


def _more_seeds(wanted: int | None, begun: int, run: str) -> dict[str, int]:
    if wanted is not None and wanted < begun:
        raise ValueError(f"--extend-seeds {wanted}, but {run} has {begun} seeds already: give more, or leave it out")
    return {} if wanted is None else {"seeds": wanted}


def _refuse_contradictions(config: CompareConfig, info: dict[str, Any], run: str) -> None:
    stored = info["config"]
    if "preset" not in stored:
        raise ValueError(f"{run} is a run of jobs/train.py: go on with it by jobs/train.py --resume {run}")
    if config.preset != stored["preset"]:
        raise ValueError(f"{run} is a run of preset {stored['preset']!r}: resume it as that, not as {config.preset!r}")
    given, frozen = (flat(json.loads(json.dumps(asdict(one)))) for one in (config, PRESETS[config.preset][1]))
    then = flat(stored)
    begun = info["extended"][0]["seeds"][0] if "extended" in info else None
    for name, value in given.items():
        if name == "seeds" and value == begun:
            continue
        if name not in _OF_THE_RESUMPTION and value != frozen[name] and value != then.get(name):
            flag = name.removeprefix("train.").replace("_", "-")
            hint = "leave it out, or add seeds with --extend-seeds" if name == "seeds" else "leave it out"
            raise ValueError(f"--{flag} {value} contradicts {run}, which was begun with {then.get(name)}: {hint}")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("budget", "search", "train"):
            flat |= {f"{name}.{inner}": setting for inner, setting in value.items()}
        else:
            flat[name] = value
    return flat
