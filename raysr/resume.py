"""Going on with a run whose driver, workers or whole cluster went away: its own `run.json` rules."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from raysr import storage
from raysr.cost import Budget, Price
from raysr.manifest import Manifest, ManifestError
from raysr.presets import PRESETS, CompareConfig, SearchConfig
from raysr.provenance import commit
from raysr.runs import amend
from raysr.spec import TrainConfig


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

    def note(self, when: str) -> None:
        """Write into `run.json` that the run was taken up again, at which commit, and where its data lie now."""
        resumed = [*self.info.get("resumed", []), {"at": when, "commit": commit()}]
        amend(self.run, resumed=resumed, data=self.info["data"] | {"location": self.data})


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


def _refuse_contradictions(config: CompareConfig, stored: dict[str, Any], run: str) -> None:
    if config.preset != stored["preset"]:
        raise ValueError(f"{run} is a run of preset {stored['preset']!r}: resume it as that, not as {config.preset!r}")
    given, frozen = (_flat(json.loads(json.dumps(asdict(one)))) for one in (config, PRESETS[config.preset][1]))
    then = _flat(stored)
    for name, value in given.items():
        if name not in ("resume", "out", "data") and value != frozen[name] and value != then.get(name):
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
