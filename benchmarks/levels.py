"""How bright the networks of a run leave its report's picture: inside the content, and in the black bars around it.

    python benchmarks/levels.py --run docs/results/bsds320-float32

The perceptual loss leaves the level loose, which PSNR and SSIM do not: a network that is a little too bright, or whose
bars are a little grey, loses in them. Levels are means, of 255.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import tyro
from PIL import Image

from raysr import storage
from raysr.runs import Run
from raysr.trial_files import TrialFiles


@dataclass(frozen=True)
class Config:
    run: str
    """Folder that jobs/compare.py left."""


def main() -> None:
    run = Run.read(tyro.cli(Config).run)
    target = Image.open(BytesIO(storage.read_bytes(storage.join(run.folder, "pictures/hr.png"))))
    box = target.getbbox()
    assert box is not None, "the report's picture is black all over"
    hr = np.asarray(target, np.float64)
    inside = np.zeros(hr.shape, bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    print(f"content {box} of {target.size}, {1 - inside.mean():.0%} of the square is bars\n")
    print("| network | seed | too bright inside | bars |")
    print("|---|---|---|---|")
    for trial in run.trials:
        if trial.status != "finished":
            continue
        location = storage.join(TrialFiles(run.folder, trial.arch, trial.seed).folder, "picture.png")
        picture = np.asarray(Image.open(BytesIO(storage.read_bytes(location))), np.float64)
        bars = picture[~inside]
        shown = f"{bars.mean():.1f}" if bars.size else "-"
        print(f"| {trial.arch} | {trial.seed} | {(picture - hr)[inside].mean():+.1f} | {shown} |")


if __name__ == "__main__":
    main()
