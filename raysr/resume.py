"""Going on with a run whose driver, workers or whole cluster went away: its own `run.json` rules."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from raysr import storage
from raysr.cost import Budget, Price
from raysr.device import Device
from raysr.manifest import Manifest, ManifestError
from raysr.presets import PRESETS, CompareConfig, SearchConfig
from raysr.provenance import commit
from raysr.runs import amend
from raysr.spec import TrainConfig

_OF_THE_RESUMPTION = ("resume", "out", "data", "extend_seeds", "wait_for_gpus")
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

    def check_device(self, device: Device, use_gpu: bool, *, every_cost_is_frozen: bool) -> None:
        """Raise ValueError unless `device` can go on with the run.

        Money by the clock is of one device. Where every step's cost is frozen another one may go on, which is slower or
        faster at the same charge, if it computes in the same precision.
        """
        begun, train = self.info["device"], self.config.train
        if device.name != begun and (not every_cost_is_frozen or use_gpu == self.info["notional"]):
            raise ValueError(
                f"{self.run} was begun on {begun}, and this is {device.name}: seconds do not compare. Only a "
                "calibrated run whose steps are all timed goes on elsewhere, from CPU to CPU or from GPU to GPU"
            )
        then = self._best_precision()
        if "auto" in (train.precision, train.eval_precision) and then not in (None, device.best_precision):
            raise ValueError(
                f"{self.run} trains in {then}, which --precision auto came to on {begun}, and on this {device.name} it "
                f"comes to {device.best_precision}: go on where it is {then}"
            )

    def _best_precision(self) -> str | None:
        """What `auto` came to; of a run that does not say, its trials do. None where nothing was trained yet."""
        if "best_precision" in self.info or self.config.train.precision != "auto":
            return self.info.get("best_precision")
        location = storage.join(self.run, "trials.jsonl")
        lines = storage.read_bytes(location).splitlines() if storage.exists(location) else []
        return next((row["precision"] for row in map(json.loads, lines) if row.get("precision")), None)

    def note(self, when: str, device: Device) -> None:
        """Write into `run.json` that the run was taken up again, at which commit, on what, where its data lie, and how
        many seeds it has now, if more."""
        resumed = [*self.info.get("resumed", []), {"at": when, "commit": commit(), "device": device.name}]
        changes: dict[str, Any] = {"resumed": resumed, "data": self.info["data"] | {"location": self.data}}
        begun, seeds = self.info["config"]["seeds"], self.config.seeds
        if seeds > begun:
            changes["config"] = self.info["config"] | {"seeds": seeds}
            changes["extended"] = [*self.info.get("extended", []), {"at": when, "seeds": [begun, seeds]}]
        amend(self.run, **changes)


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
    _refuse_contradictions(config, info["config"], run)
    stored = dict(info["config"])
    stored["budget"] = Budget(**stored["budget"])
    stored["train"] = TrainConfig(**stored["train"] | {"evaluate_at": tuple(stored["train"]["evaluate_at"])})
    stored["search"] = SearchConfig(**{name: _as_tuple(value) for name, value in stored["search"].items()})
    stored |= {"archs": tuple(stored["archs"]), "charged": tuple(stored["charged"])}
    stored |= _more_seeds(config.extend_seeds, stored["seeds"], run)
    stored["wait_for_gpus"] = config.wait_for_gpus or stored.get("wait_for_gpus", 0)
    data = storage.absolute(config.data) if config.data is not None else info["data"]["location"]
    try:
        found = Manifest.read(data).content_sha256
    except ManifestError as error:
        raise ValueError(f"{error}; where the set of {run} lies elsewhere now, say --data DIR") from error
    if found != info["data"]["content_sha256"]:
        raise ValueError(
            f"{data} is not what {run} was begun with: content sha256 {found}, then {info['data']['content_sha256']}"
        )
    return Resumed(run, CompareConfig(**stored), Budget(**info["budget"]), Price(**info["price"]), data, info)


def _more_seeds(wanted: int | None, begun: int, run: str) -> dict[str, int]:
    if wanted is not None and wanted < begun:
        raise ValueError(f"--extend-seeds {wanted}, but {run} has {begun} seeds already: give more, or leave it out")
    return {} if wanted is None else {"seeds": wanted}


def _refuse_contradictions(config: CompareConfig, stored: dict[str, Any], run: str) -> None:
    if config.preset != stored["preset"]:
        raise ValueError(f"{run} is a run of preset {stored['preset']!r}: resume it as that, not as {config.preset!r}")
    given, frozen = (_flat(json.loads(json.dumps(asdict(one)))) for one in (config, PRESETS[config.preset][1]))
    then = _flat(stored)
    for name, value in given.items():
        if name not in _OF_THE_RESUMPTION and value != frozen[name] and value != then.get(name):
            flag = name.removeprefix("train.").replace("_", "-")
            raise ValueError(f"--{flag} {value} contradicts {run}, which was begun with {then.get(name)}: leave it out")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("budget", "search", "train"):
            flat |= {f"{name}.{inner}": setting for inner, setting in value.items()}
        else:
            flat[name] = value
    return flat
