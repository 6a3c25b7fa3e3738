import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raysr.cli import fail, parse_preset
from raysr.cost import Budget
from raysr.models import file_name, find_architecture, parse_arch, write_arch
from raysr.presets import BUDGETS, PRESETS, CompareConfig, chosen_budget


def parse(*words: str) -> CompareConfig:
    return parse_preset(PRESETS, "demo", words)


def complaint_in(err: str) -> str:
    """Standard error without the frame that tyro draws around it and its line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─|+-]{2,}|│", " ", err).split())


def test_no_word_at_all_is_the_demo() -> None:
    assert parse() == PRESETS["demo"][1]
    assert parse("--seeds", "2").preset == "demo"


@pytest.mark.parametrize(("wrong", "meant"), [("dmeo", "demo"), ("papers", "paper"), ("paper_epochs", "paper-epochs")])
def test_an_unknown_preset_gets_a_hint(wrong: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2
    assert f"unknown preset {wrong!r}; did you mean {meant!r}? known: demo, paper" in capsys.readouterr().err


def test_an_unknown_architecture_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("demo", "--archs", "bicubic", "espncn")
    assert ended.value.code == 2
    assert "unknown architecture 'espncn'; did you mean 'espcn'?" in complaint_in(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--archs", "espcn", "espcn"],
            "takes each architecture once, and the files of espcn and espcn would have one name",
        ),
        (["--seeds", "0"], "must be at least 1"),
        (["--learning-rate", "0"], "must be above 0"),
        (["--evaluate-at", "1.5"], "between 0 and 1"),
        (["--charged", "stall"], "charged must name train"),
        (["--archs", "inverted_unet3( width=32)", "inverted_unet3(width = 32)"], "takes each architecture once, and"),
        (["--archs", "nowhere.toml"], "nowhere.toml: expected a TOML file of tables [[arch]], each with a name"),
        (["--checkpoint-every-s", "0"], "takes seconds above 0, got 0"),
        (["--search.usd", "-1"], "search.usd takes dollars above 0, got -1"),
        (["--search.learning-rates", "1e-2", "1e-3"], "takes a lower and a higher one above 0, got 0.01 0.001"),
        (["--search.batch-sizes", "0"], "takes sizes of at least 1"),
        (["--tolerance", "2"], "takes a share of the budget between 0 and 1, got 2"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("demo", *words)
    assert ended.value.code == 2
    assert complaint in complaint_in(capsys.readouterr().err)


def test_help_names_the_presets_and_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(preset in out for preset in PRESETS)
    assert "$5.20" in out


@pytest.mark.parametrize("preset", PRESETS)
def test_flags_override_a_preset_and_leave_the_rest(preset: str) -> None:
    config = parse(preset, "--archs", "bicubic", "espcn", "--patch-px", "48", "--price", "1.5", "--budget.usd", "2")
    frozen = PRESETS[preset][1]
    assert (config.archs, config.train.patch_px, config.price) == (("bicubic", "espcn"), 48, "1.5")
    assert config.train.learning_rate == frozen.train.learning_rate
    assert chosen_budget(config) == Budget(usd=2)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_one_budget_of_its_own(preset: str) -> None:
    assert chosen_budget(parse(preset)) == BUDGETS[preset].checked()


def test_two_budgets_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="give exactly one of"):
        chosen_budget(parse("demo", "--budget.usd", "1", "--budget.gpu-seconds", "3"))


def test_the_paper_preset_has_the_papers_numbers() -> None:
    paper = parse("paper")
    assert paper.archs == ("bicubic", "srcnn", "espcn", "inverted_unet3", "inverted_unet4")
    assert (paper.train.batch_size, paper.train.learning_rate, paper.train.patch_px) == (8, 1e-4, None)
    assert (paper.train.perceptual, paper.train.precision, paper.price) == ("vgg", "auto", "rtx-a5000-runpod")
    assert chosen_budget(paper) == Budget(usd=5.20)


def test_the_paper_epochs_preset_has_the_papers_epochs() -> None:
    assert chosen_budget(parse("paper-epochs")) == Budget(epochs={"srcnn": 50, "espcn": 40, "inverted_unet3": 10})


def test_architectures_come_with_options_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "variants.toml"
    file.write_text(
        '[[arch]]\nname = "inverted_unet3"\nwidth = 32\ntitle = "Half"\n\n'
        '[[arch]]\nname = "inverted_unet4"\nwidth = 8\n'
    )
    config = parse("paper", "--archs", "espcn", "inverted_unet3( width=16 )", str(file))
    variants = ("inverted_unet3(width=16)", "inverted_unet3(width=32, title='Half')", "inverted_unet4(width=8)")
    assert config.archs == ("espcn", *variants)


def test_a_network_from_elsewhere_is_pinned_by_its_path_and_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "2x_o'ne.pth"
    file.write_bytes(b"weights")
    (tmp_path / "archs.toml").write_text(f'[[arch]]\nname = "checkpoint"\nfile = "{file}"\ntitle = "One"\n')
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256(b"weights").hexdigest()[:12]
    (pinned,) = parse("paper", "--archs", file.name).archs
    assert parse_arch(pinned) == ("checkpoint", {"file": str(file), "sha256": digest})
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(file, other)
    with pytest.raises(SystemExit):
        parse("paper", "--archs", file.name, f"other/{file.name}")
    assert "two files of one name need titles" in complaint_in(capsys.readouterr().err)
    parse("paper", "--archs", file.name, write_arch("checkpoint", {"file": f"other/{file.name}", "title": "Other"}))
    assert file_name(pinned) == "2x_o_ne.pth"
    file.write_bytes(b"other weights")
    assert parse("paper", "--archs", pinned).archs == (pinned,)
    (titled,) = parse("paper", "--archs", "archs.toml").archs
    assert find_architecture(titled).title == "One"
    with pytest.raises(SystemExit):
        parse("paper", "--archs", "nowhere.pth")
    assert f"no file {tmp_path}/nowhere.pth" in complaint_in(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        parse("paper", "--archs", "checkpoint")
    assert "checkpoint cannot be made as checkpoint(scale)" in complaint_in(capsys.readouterr().err)


@pytest.mark.parametrize("text", ["arch = 3", "[[arch]]\nwidth = 3", "[[arch", "archs = []"])
def test_a_file_of_architectures_that_is_none_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "variants.toml"
    file.write_text(text)
    with pytest.raises(SystemExit):
        parse("paper", "--archs", str(file))
    assert "expected a TOML file of tables [[arch]]" in complaint_in(capsys.readouterr().err)


def test_only_money_can_be_calibrated() -> None:
    assert chosen_budget(parse("demo", "--mode", "calibrated")) == BUDGETS["demo"]
    assert parse("demo", "--calibration", "x.json").calibrated
    with pytest.raises(ValueError, match="--mode calibrated turns money into steps; this budget is in steps already"):
        chosen_budget(parse("demo", "--mode", "calibrated", "--budget.samples", "100"))


def test_an_error_never_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("no \x1b[31mred.png\nsecond line")
    assert capsys.readouterr().err == "error: no \\x1b[31mred.png\nsecond line\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_that_lacks_a_character_gets_its_number(encoding: str) -> None:
    script = (
        "from raysr.cli import make_console, fail; console = make_console()\n"
        "console.print('256\u2192512'); fail('no file \u6771.png')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stdout.decode("ascii").split() == ["256\\u2192512"]
    assert done.stderr.decode("ascii").split() == ["error:", "no", "file", "\\u6771.png"]


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN)"])
def test_sigterm_stops_a_program_as_ctrl_c_does(before: str) -> None:
    """Also one that a shell began in the background, where Ctrl-C is to be ignored."""
    script = (
        f"import os, signal, time; {before or 'pass'}\nfrom raysr.cli import make_console, plainly; make_console()\n"
        "with plainly('stopped; go on'): os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: stopped; go on\n")
