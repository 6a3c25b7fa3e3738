"""TensorBoard's files of a run: each validation, as the trials report it."""

import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.tune
from tensorboardX import SummaryWriter

from raysr import storage
from raysr.errors import text_of
from raysr.spec import trial_name


class TensorBoard(ray.tune.Callback):
    """Writes each validation as the trials report it, by trial, in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        # An object store takes whole files: they are written here and copied at the end.
        self.local = tempfile.mkdtemp(prefix="raysr-tensorboard-") if "://" in folder else folder
        self.writers: dict[str, SummaryWriter] = {}
        self.told = False

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Tune in the driver."""
        if "perceptual" not in result:  # a timing
            return
        name = trial_name(trial.config["trial"]["arch"], trial.config["trial"]["seed"])
        if name not in self.writers:
            with self._guarded():
                self.writers[name] = SummaryWriter(storage.join(self.local, name))
        if name not in self.writers:
            return
        with self._guarded():
            for key in ("perceptual", "charged_usd"):
                if result.get(key) is not None:
                    self.writers[name].add_scalar(key, result[key], result["step"])

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Close the files, and take them to where the run is."""
        with self._guarded():
            for writer in self.writers.values():
                writer.close()
            if self.local != self.folder:
                for file in sorted(path for path in Path(self.local).rglob("*") if path.is_file()):
                    place = storage.join(self.folder, *file.relative_to(self.local).parts)
                    storage.write_bytes(place, file.read_bytes())
                shutil.rmtree(self.local)

    @contextmanager
    def _guarded(self) -> Generator[None]:
        """Tell once of what cannot be written: Tune would end the comparison over it, after the money was spent."""
        try:
            yield
        except OSError as error:
            if not self.told:
                print(f"warning: TensorBoard's files cannot be written: {text_of(error)}", file=sys.stderr)
            self.told = True
