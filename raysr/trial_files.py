"""What one trial leaves in the folder of its run."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save
from torch import nn

from raysr import storage
from raysr.errors import text_of
from raysr.evaluate import ImageScore
from raysr.rows import CurvePoint, TrialRow, decode
from raysr.spec import trial_name


class TrialFiles:
    """What one trial writes: only its rank 0 does, and always whole files, so that any moment can be looked at."""

    def __init__(self, run: str, arch: str, seed: int) -> None:
        self.run, self.arch, self.seed = run, arch, seed
        self.name = trial_name(arch, seed)
        self.folder = storage.join(run, "trials", self.name)

    @property
    def checkpoint(self) -> str:
        """The weights' path below the run's folder."""
        return f"checkpoints/{self.name}.safetensors"

    def write_model(self, model: nn.Module, metadata: dict[str, str]) -> None:
        """The weights as safetensors, with `metadata` in its header."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        storage.write_bytes(storage.join(self.run, self.checkpoint), save(tensors, metadata))

    def write_curve(self, points: Sequence[CurvePoint]) -> None:
        """Every validation so far."""
        storage.write_text(storage.join(self.folder, "curve.json"), json.dumps([asdict(point) for point in points]))

    def write_images(self, step: int, scores: Sequence[ImageScore]) -> None:
        """The scores of each validation picture after `step` steps."""
        storage.write_text(self._images(step), json.dumps([asdict(score) for score in scores]))

    def _images(self, step: int) -> str:
        return storage.join(self.folder, "images", f"{step}.json")

    def add_timing(self, timing: dict[str, Any]) -> None:
        """What the network's steps took in one more round, before the trial is run."""
        storage.write_text(storage.join(self.folder, "timings.json"), json.dumps([*self.read_timings(), timing]))

    def read_timings(self) -> list[dict[str, Any]]:
        """What `add_timing` wrote, a timing for each round."""
        return self._read("timings.json") or []

    def write_picture(self, pixels: np.ndarray) -> None:
        """The first validation picture through this network."""
        write_png(storage.join(self.folder, "picture.png"), pixels)

    def write_state(self, state: bytes, attempt: int) -> None:
        """The checkpoint that a later attempt goes on from.

        Each attempt has a file of its own: a worker that was given up for dead never writes over its successor's.
        """
        mine = f"state-{attempt:06d}.pt"
        storage.write_bytes(storage.join(self.folder, mine), state)
        for name in self._states():
            if name < mine or name == "state.pt":
                storage.remove(storage.join(self.folder, name))

    def read_state(self) -> bytes | None:
        """The last checkpoint; None before the first."""
        states = self._states()
        return storage.read_bytes(storage.join(self.folder, states[-1])) if states else None

    def has_state(self) -> bool:
        """Whether there is a checkpoint."""
        return bool(self._states())

    def _states(self) -> list[str]:
        """Files of checkpoints, by attempt; older versions had one for all attempts."""
        there = storage.children(self.folder) if storage.is_folder(self.folder) else []
        names = [name for name in there if name.startswith("state") and name.endswith(".pt")]
        return sorted(names, key=lambda name: (name != "state.pt", name))

    def write_place(self, placement_group: str) -> None:
        """Which of Ray's placement groups the trial's workers are in."""
        storage.write_text(storage.join(self.folder, "placement_group"), placement_group)

    def read_place(self) -> str | None:
        """What `write_place` wrote; None before the first worker began."""
        location = storage.join(self.folder, "placement_group")
        return storage.read_bytes(location).decode() if storage.exists(location) else None

    def write_row(self, row: TrialRow) -> None:
        """The trial's end."""
        storage.write_text(storage.join(self.folder, "row.json"), json.dumps(asdict(row)))

    def read_row(self) -> TrialRow | None:
        """The trial's end, or None when it has not come to one."""
        raw = self._read("row.json")
        return None if raw is None else decode(TrialRow, raw, storage.join(self.folder, "row.json"))

    def read_curve(self) -> list[CurvePoint]:
        """Every validation so far."""
        where = storage.join(self.folder, "curve.json")
        return [decode(CurvePoint, point, where) for point in self._read("curve.json") or []]

    def read_images(self) -> list[dict[str, Any]]:
        """The scores of each picture at every validation of the curve, with the trial's name, oldest first."""
        mine = {"arch": self.arch, "seed": self.seed}
        return [
            mine | {"step": point.step} | score
            for point in self.read_curve()
            for score in _parsed(self._images(point.step))
        ]

    def _read(self, name: str) -> Any:
        location = storage.join(self.folder, name)
        return _parsed(location) if storage.exists(location) else None


def _parsed(location: str) -> Any:
    try:
        return json.loads(storage.read_bytes(location))
    except ValueError as error:
        raise ValueError(f"{location} is damaged: {text_of(error)}") from error


def write_png(location: str, pixels: np.ndarray) -> None:
    """An 8-bit greyscale picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    storage.write_bytes(location, buffer.getvalue())
