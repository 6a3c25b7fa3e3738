import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from raysr.field import FieldRow, ListConfig, field_row, print_field
from raysr.models import MODELS, Architecture, count_parameters
from raysr.models.community import compact
from raysr.models.espcn import ESPCN


def listed(config: ListConfig, width: int = 160) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        print_field(config, console)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_list_says_what_each_network_is_and_what_it_costs() -> None:
    heading, bicubic, espcn, variant = listed(ListConfig(archs=("bicubic", "espcn", "inverted_unet3(width=4)")))
    assert re.split(r"  +", heading) == [
        *("architecture", "year", "parameters", "GMAC 256→512", "ms 64→128", "paper"),
    ]
    assert re.fullmatch(r"bicubic +1981 +0 +0\.0 +\d+\.\d +Keys 1981, .*", bicubic)
    assert re.fullmatch(r"espcn +2016 +21,284 +1\.4 +\d+\.\d +Shi et al\. 2016", espcn)
    assert re.fullmatch(r"inverted_unet3\(width=4\) +2025 +\d+ +\d\.\d +\d+\.\d +Lalchandani 2025.*; width=4", variant)


def test_listing_a_network_leaves_the_random_numbers_alone_and_takes_measurable_time() -> None:
    torch.manual_seed(3)
    row = field_row("espcn")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert row.ms > 0
    assert row == FieldRow("espcn", 2016, 2, 21_284, row.gmac, row.ms, "Shi et al. 2016")


def test_a_network_that_is_not_defined_for_2_is_counted_at_its_own_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "only3", Architecture("Only x3", ESPCN, "nobody", 2026, scales=(3, 4)))
    row = field_row("only3")
    assert (row.scale, row.parameters) == (3, 64 * 26 + 32 * 577 + 9 * 289)
    assert listed(ListConfig(archs=("only3",)))[1].startswith("only3 (x3)")


def test_a_network_of_ones_own_can_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_field.py").write_text("from raysr.models.espcn import ESPCN\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    line = listed(ListConfig(archs=("own_field:ESPCN",)))[1]
    assert re.match(r"own_field:ESPCN +- +21,284 +1\.4 ", line)


def test_a_network_that_others_have_trained_is_listed_at_its_own_scale_with_all_its_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = compact(4, features=8, convs=1)
    file = tmp_path / "4x.pth"
    torch.save(network.state_dict(), file)
    trained = count_parameters(network)
    for word in (str(file), f"checkpoint(file={str(file)!r})"):
        line = listed(ListConfig(archs=(word,)), width=400)[1]
        assert re.match(rf"4x\.pth \(x4\) +- +{trained:,} +\d+\.\d +\d+\.\d +trained elsewhere; file=", line)


def test_a_wrong_name_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ValueError, match="did you mean 'espcn'"):
        ListConfig(archs=("espncn",))


def test_without_a_name_the_whole_field_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: MODELS[name] for name in ("bicubic", "srcnn")}
    monkeypatch.setattr("raysr.field.MODELS", small)
    assert [line.split()[0] for line in listed(ListConfig())[1:]] == list(small)


def test_the_job_lists_without_the_name_of_an_architecture_to_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--list", "srcnn_955"])
    runpy.run_path(str(Path(__file__).parents[1] / "jobs" / "train.py"), run_name="__main__")
    assert "srcnn_955" in capsys.readouterr().out
