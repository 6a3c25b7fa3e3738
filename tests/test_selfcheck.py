import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from raysr.benchmark import EvaluateConfig
from raysr.protocol import LITERATURE, PAPER, Protocol, changed, resize_bytes
from raysr.selfcheck import Reference, check_pictures, measure, self_check
from raysr.testsets import find_set

ROOT = Path(__file__).parents[1]
SET5 = ROOT.parent / "shared" / "data" / "set5"
needs_set5 = pytest.mark.skipif(
    not SET5.is_dir(), reason="uses the photographs of ../shared/data, which is missing here"
)


def save(folder: Path, name: str, picture: np.ndarray, **options: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name, **options)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two photographs."""
    save(tmp_path / "known" / "HR", "a.png", photographs.astronaut()[:128, 150:300])
    save(tmp_path / "known" / "HR", "b.png", photographs.coffee()[100:220, 200:340])
    return tmp_path / "known"


def reference(home: Path) -> Reference:
    """What the pictures have as they should be measured."""
    value, _ = measure(find_set(home, 2), LITERATURE, use_given=False)
    return Reference(title="Known", published=round(value, 2), distributed=round(value, 2), count=2)


def told(home: Path, protocol: Protocol = LITERATURE, expected: Reference | None = None) -> str:
    finding = check_pictures(find_set(home, 2), expected or reference(home), protocol)
    assert finding.right == finding.message.endswith(": right")
    assert f"Known: {finding.measured:.2f} where " in finding.message
    return finding.message.partition("expected: ")[2] or finding.message.rpartition(": ")[2]


def test_a_right_value_is_right(home: Path) -> None:
    assert told(home) == "right"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"y_range": "full"}, "full-range luminance"),
        ({"kernel": "opencv"}, "pictures made smaller and larger without anti-aliasing (as OpenCV's bicubic)"),
        ({"border": 9}, "a border of 9 pixels cut where 2 are"),
        ({"colour": "rgb"}, "RGB compared where luminance is"),
        (
            {"y_range": "full", "kernel": "opencv"},
            "full-range luminance, pictures made smaller and larger without anti-aliasing (as OpenCV's bicubic)",
        ),
    ],
)
def test_a_protocol_that_is_wrong_is_named(change: dict[str, str], reason: str, home: Path) -> None:
    assert told(home, changed(LITERATURE, **change)) == reason


def test_a_protocol_wrong_in_all_is_taken_apart(home: Path) -> None:
    wrong = {"y_range": "full", "kernel": "opencv", "border": 9}
    reason = told(home, changed(LITERATURE, **wrong))
    assert reason.startswith("full-range luminance, pictures made smaller and larger without")
    assert reason.endswith("a border of 9 pixels cut where 2 are")


def test_right_inputs_are_not_accused_where_the_protocol_is_wrong_in_all(home: Path) -> None:
    for file in (home / "HR").iterdir():
        hr = np.asarray(Image.open(file))
        lr = resize_bytes(hr, hr.shape[1] // 2, hr.shape[0] // 2, "matlab")
        save(home / "LR_bicubic" / "X2", f"{file.stem}x2.png", lr)
    reason = told(home, changed(LITERATURE, y_range="full", kernel="opencv", border=9))
    assert "full-range luminance" in reason
    assert "counterparts" not in reason
    square = told(home, changed(PAPER, square_px=128))
    assert "pictures fitted into a square of 128" in square
    assert "counterparts" not in square


def test_inputs_of_a_wrong_size_are_not_accused_of_their_kernel(home: Path) -> None:
    expected = reference(home)
    for file in (home / "HR").iterdir():
        save(home / "LR_bicubic" / "X2", f"{file.stem}x2.png", np.asarray(Image.open(file))[:9, :9])
    assert "counterparts" not in told(home, changed(PAPER, square_px=128), expected)


@pytest.mark.parametrize(
    ("kernel", "made"),
    [
        ("opencv", "without anti-aliasing (as OpenCV's bicubic)"),
        ("nearest", "in another way (nearest is opencv's, "),
    ],
)
def test_inputs_that_were_made_in_another_way_are_named(kernel: str, made: str, home: Path) -> None:
    for file in (home / "HR").iterdir():
        hr = np.asarray(Image.open(file))
        lr = hr[::2, ::2] if kernel == "nearest" else resize_bytes(hr, hr.shape[1] // 2, hr.shape[0] // 2, "opencv")
        save(home / "LR_bicubic" / "X2", f"{file.stem}x2.png", lr)
    assert told(home).startswith(f"LR counterparts were made {made}")
    pictures = find_set(home, 2)
    assert check_pictures(pictures, reference(home), LITERATURE, use_given=False).right


def test_inputs_of_matlabs_or_pillows_kernel_are_right(home: Path) -> None:
    for kernel in ("matlab", "pillow"):
        for file in (home / "HR").iterdir():
            hr = np.asarray(Image.open(file))
            lr = resize_bytes(hr, hr.shape[1] // 2, hr.shape[0] // 2, kernel)
            save(home / "LR_bicubic" / "X2", f"{file.stem}x2.png", lr)
        assert told(home) == "right"


def test_altered_pictures_are_an_unrecognised_deviation(home: Path) -> None:
    expected = reference(home)
    for file in sorted((home / "HR").iterdir()):
        picture = np.asarray(Image.open(file))
        file.unlink()
        save(home / "HR", f"{file.stem}.jpg", picture, quality=40)
    reason = told(home, expected=expected)
    assert reason == (
        "unrecognised deviation, no neighbouring protocol gives it: are these the original pictures; a.jpg is a JPEG?"
    )


def test_levels_that_were_changed_already_are_told(home: Path) -> None:
    expected = reference(home)
    for file in (home / "HR").iterdir():
        save(home / "HR", file.name, (16.5 + np.asarray(Image.open(file)) * (219 / 255)).astype(np.uint8))
    assert told(home, expected=expected) == (
        "only full-range luminance gives it: the levels of these pictures were changed to 16..235 already"
    )


def test_missing_and_damaged_pictures_are_told(home: Path) -> None:
    expected = reference(home)
    (home / "HR" / "b.png").write_bytes(b"")
    assert told(home, expected=expected) == "1 of 2 pictures cannot be used: b.png: the file is empty"
    (home / "HR" / "b.png").unlink()
    assert told(home, expected=expected) == "1 pictures, and Known has 2"


def test_only_bicubic_on_known_sets_can_be_checked(home: Path) -> None:
    with pytest.raises(ValueError, match="known is neither Set5 nor Set14, by its name or by the number and sizes"):
        self_check(EvaluateConfig(sets=(str(home),), self_check=True))
    with pytest.raises(ValueError, match="--self-check measures bicubic x2; leave out --model espcn"):
        self_check(EvaluateConfig(sets=(str(home),), self_check=True, model="espcn"))


def job(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/evaluate.py", *words],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_job_ends_with_1_for_pictures_that_are_not_set5s(tmp_path: Path) -> None:
    save(tmp_path / "Set5", "baby.png", photographs.astronaut()[:64, :64])
    done = job("--self-check", "--sets", str(tmp_path / "Set5"))
    assert done.returncode == 1
    assert re.search(r"Set5: \d+\.\d\d where 33.66 is expected: 1 pictures, and Set5 has 5", done.stdout)


def test_the_job_prints_a_table_and_writes_json(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    done = job("--sets", str(home), "--json", str(out), "--perceptual", "none")
    assert (done.returncode, done.stderr) == (0, "")
    assert "literature (perceptual=none): luminance (limited range" in done.stdout
    assert len(out.read_text().splitlines()) == 3
    wrong = job("--sets", str(home), "--model", "espcn")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: ESPCN has 21,284 parameters")


@needs_set5
def test_the_published_values_are_found_on_the_published_pictures() -> None:
    config = EvaluateConfig(sets=(str(SET5), str(SET5.parent / "set14")), self_check=True)
    assert [finding.message for finding in self_check(config)] == [
        "Set5: 33.68 where 33.66 is published (33.68 for SelfExSR's files): right",
        "Set14: 30.33 where 30.24 is published (30.33 for SelfExSR's files): right",
    ]


@needs_set5
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kernel": "pillow", "y_range": "full", "y_bits": "bytes"},
            "32.33 where 33.66 is expected: full-range luminance, luminance in whole bytes",
        ),
        ({"y_range": "full"}, "32.36 where 33.66 is expected: full-range luminance"),
        ({"kernel": "opencv"}, "34.45 where 33.66 is expected: pictures made smaller and larger without anti-aliasing"),
    ],
)
def test_what_is_wrong_with_a_value_of_set5_is_named(settings: dict[str, str], message: str) -> None:
    (finding,) = self_check(EvaluateConfig(sets=(str(SET5),), self_check=True, **settings))
    assert message in finding.message
    assert not finding.right


@needs_set5
def test_set5_compressed_again_is_an_unrecognised_deviation(tmp_path: Path) -> None:
    for file in SET5.glob("*.png"):
        save(tmp_path / "Set5", f"{file.stem}.jpg", np.asarray(Image.open(file)), quality=75)
    (finding,) = self_check(EvaluateConfig(sets=(str(tmp_path / "Set5"),), self_check=True))
    assert "unrecognised deviation" in finding.message
    assert not finding.right
