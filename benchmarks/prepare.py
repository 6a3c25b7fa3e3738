"""Preparing photographs against a bare Pillow loop.

    python benchmarks/prepare.py --photographs FOLDER --copies 6

Prints the table that stands in benchmarks/README.md. All is measured in one run, and both ways must give the same
pixels. Without --photographs the bundled ones are taken.
"""

import io
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
import tyro
from PIL import Image

from raysr.cluster import start_ray
from raysr.images import Geometry
from raysr.pairs import PairSet
from raysr.prepare import Advance, PrepareConfig, prepare
from raysr.sources import find_photographs


@dataclass(frozen=True)
class Config:
    photographs: str = "bundled"
    """Folder of photographs."""
    copies: int = 6
    """How often each is prepared, so that starting up counts for little."""
    hr_px: int = 512


def bare(path: Path, hr_px: int) -> np.ndarray:
    """What a training script does for each photograph in each epoch, as in the paper: the target and its input."""
    y = Image.open(io.BytesIO(path.read_bytes())).convert("YCbCr").getchannel("Y")
    ratio = min(1.0, hr_px / max(y.size))
    y = y.resize((round(y.width * ratio), round(y.height * ratio)), Image.Resampling.BICUBIC)
    square = Image.new("L", (hr_px, hr_px), 0)
    square.paste(y, ((hr_px - y.width) // 2, (hr_px - y.height) // 2))
    square.resize((hr_px // 2, hr_px // 2), Image.Resampling.BICUBIC)
    return np.asarray(square)


def copy_photographs(config: Config, folder: Path) -> list[Path]:
    """The same photographs several times as training files, and a grey square that validates."""
    found = find_photographs(config.photographs, val_share=0.1, seed=0).photographs
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600), np.uint8)).save(folder / "val" / "noise.png")
    paths: list[Path] = []
    for copy in range(config.copies):
        for index, photo in enumerate(found):
            path = folder / "train" / f"{copy}-{index:03d}{Path(photo.location).suffix}"
            shutil.copy(photo.location, path)
            paths.append(path)
    return paths


def prepared_per_second(source: Path, out: Path, geometry: Geometry, cpus: int) -> tuple[float, float]:
    """Photographs a second on `cpus` cores: of the whole call, and from its first finished shard to its last."""
    ray.shutdown()
    start_ray(num_cpus=cpus)
    marks: list[tuple[float, int]] = []

    def on_advance(advance: Advance) -> None:
        marks.append((time.perf_counter(), advance.done))

    start = time.perf_counter()
    prepare(PrepareConfig(source=str(source), out=str(out), geometry=geometry), on_advance)
    whole = marks[-1][1] / (time.perf_counter() - start)
    first = marks[cpus - 1]
    return whole, (marks[-1][1] - first[1]) / (marks[-1][0] - first[0])


def main() -> None:
    config = tyro.cli(Config)
    geometry = Geometry(hr_px=config.hr_px, fit="pad")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = copy_photographs(config, root / "source")
        bare(paths[0], config.hr_px)
        start = time.perf_counter()
        for path in paths:
            bare(path, config.hr_px)
        loop = len(paths) / (time.perf_counter() - start)
        print(f"{len(paths)} photographs, Pillow {Image.__version__}, {config.hr_px} pixels\n")
        print("| way | photographs/s, whole call | steady | of the bare loop |\n|---|---|---|---|")
        print(f"| bare Pillow loop, one process | {loop:.1f} | {loop:.1f} | 100% |")
        for cpus in (1, 2):
            whole, steady = prepared_per_second(root / "source", root / f"set{cpus}", geometry, cpus)
            print(f"| raysr, {cpus} cores | {whole:.1f} | {steady:.1f} | {steady / loop:.0%} |")
        fast = replace(geometry, fast_jpeg=True)
        whole, steady = prepared_per_second(root / "source", root / "fast", fast, 1)
        print(f"| raysr, 1 core, --fast-jpeg | {whole:.1f} | {steady:.1f} | {steady / loop:.0%} |")
        ray.shutdown()
        sets = {name: PairSet(str(root / name), "train").rows() for name in ("set1", "set2", "fast")}
        by_id = {row.image_id: row for row in sets["set1"]}
        assert all(np.array_equal(row.hr, by_id[row.image_id].hr) for row in sets["set2"])
        assert all(np.array_equal(bare(path, config.hr_px), by_id[f"train/{path.name}"].hr) for path in paths)
        errors = np.array([np.abs(row.hr.astype(int) - by_id[row.image_id].hr) for row in sets["fast"]])
        print(f"\n--fast-jpeg differs by {errors.mean():.2f} of 255 on the mean, {errors.max()} at most")


if __name__ == "__main__":
    main()
