"""A network of the user's own is pinned by its source."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from test_resume import stored

from raysr.cost import DEFAULT_PRICE, Budget
from raysr.own_code import _reached, check_code, code_digest
from raysr.presets import CompareConfig
from raysr.resume import read_resumed
from raysr.spec import TrainConfig, TrialSpec
from raysr.train_one import TrainOneConfig, train_one
from raysr.trial import Trial
from raysr.world import World

NETWORK = """
from torch import nn
from parts_{name} import WIDTH
import unrelated_{name}

class MyNet(nn.Sequential):
    def __init__(self, scale):
        super().__init__(nn.Conv2d(1, WIDTH, 3), nn.Conv2d(WIDTH, scale**2, 3, padding=2), nn.PixelShuffle(scale))
"""
TRAIN = TrainConfig(learning_rate=1e-3, batch_size=2, patch_px=16, evaluate_at=())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture of a module that takes a name from one beside it, under names that no other test has."""
    name = f"n{abs(hash(tmp_path))}"
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / f"net_{name}.py").write_text(NETWORK.format(name=name))
    (folder / f"parts_{name}.py").write_text(f"from helper_{name} import WIDTH\n")
    (folder / f"helper_{name}.py").write_text("WIDTH = 4\n")
    (folder / f"unrelated_{name}.py").write_text("")
    (folder / f"never_{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    return f"net_{name}:MyNet"


def edit(tmp_path: Path, kind: str) -> None:
    (file,) = (tmp_path / "code").glob(f"{kind}_*.py")
    file.write_text(file.read_text() + "\n# edited\n")


@pytest.mark.parametrize("kind", ["net", "parts", "helper", "unrelated"])
def test_an_edit_of_the_network_or_of_what_its_module_imports_is_another_network(
    own: str, tmp_path: Path, kind: str
) -> None:
    pinned = code_digest(own)
    assert pinned is not None
    check_code(own, pinned)
    edit(tmp_path, "never")  # nobody imports it
    check_code(own, pinned)
    edit(tmp_path, kind)
    assert code_digest(own) != pinned
    with pytest.raises(ValueError, match=rf"{own} was edited after the run began .*: take the change back, or give"):
        check_code(own, pinned)


def test_what_has_a_version_is_not_pinned_by_its_source(own: str) -> None:
    assert code_digest("espcn") is None
    assert code_digest("inverted_unet3(width=8)") is None
    check_code("espcn", None)
    assert code_digest(f"{own}(title='Mine')") == code_digest(own)


def test_a_network_edited_between_seeds_is_refused_where_it_is_built(own: str, small_set: str, tmp_path: Path) -> None:
    spec = TrialSpec(
        arch=own,
        seed=0,
        data=small_set,
        run=str(tmp_path / "run"),
        budget=Budget(samples=4),
        price=DEFAULT_PRICE,
        train=TRAIN,
        code=code_digest(own),
    )
    Trial(spec, World())
    edit(tmp_path, "net")
    with pytest.raises(ValueError, match="was edited after the run began"):
        Trial(replace(spec, seed=1), World())


def test_a_run_is_not_resumed_with_another_network_of_the_same_name(own: str, small_set: str, tmp_path: Path) -> None:
    config = TrainOneConfig(arch=own, data=small_set, out=str(tmp_path / "runs"), budget=Budget(samples=4), train=TRAIN)
    console = Console(file=StringIO())
    run = train_one(config, console).run
    assert run.info["code"] == {own: code_digest(own)}
    train_one(TrainOneConfig(resume=run.folder), console)
    edit(tmp_path, "parts")
    with pytest.raises(ValueError, match="was edited after the run began"):
        train_one(TrainOneConfig(resume=run.folder), console)


def test_a_comparison_is_not_resumed_with_another_network_of_the_same_name(
    own: str, small_set: str, tmp_path: Path
) -> None:
    run = stored(tmp_path, small_set, archs=["bicubic", own], code={own: code_digest(own)})
    config = CompareConfig(preset="paper", seeds=3, resume=run)
    read_resumed(config)
    edit(tmp_path, "net")
    with pytest.raises(ValueError, match="was edited after the run began"):
        read_resumed(config)


def test_modules_of_a_package_are_found_by_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"p{abs(hash(tmp_path))}"
    folder = tmp_path / name
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "net.py").write_text("from .inner import layers\ndef make(scale):\n    from . import late\n")
    (folder / "inner" / "__init__.py").write_text("from ..base import WIDTH\n")
    (folder / "inner" / "layers.py").write_text("import torch, json\nfrom raysr.models import espcn\n")
    (folder / "base.py").write_text("WIDTH = 4\n")
    (folder / "late.py").write_text("")
    (folder / "other.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    code_digest(f"{name}.net:make")
    assert {module.removeprefix(name) for module in _reached(f"{name}.net")} == {
        *("", ".net", ".inner", ".inner.layers", ".base", ".late"),
    }
