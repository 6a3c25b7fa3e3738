"""How much memory there is: the machine's, and the container's."""

from pathlib import Path

import pytest

from raysr import memory
from raysr.memory import _of_container
from raysr.models import build_model
from raysr.step import choose_micro_batch

GB = 2**30


def group(folder: Path, version: int, limit: str, usage: int, cached: int = 0) -> None:
    """A control group of memory, as the kernel shows it."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    word = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon {usage - cached}\n{word} {cached}\n")


def left(tmp_path: Path, lines: str) -> int | None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(lines)
    return _of_container(tmp_path / "proc", tmp_path / "cgroup")


def test_version_2_inside_a_container_is_the_root_of_what_is_seen(tmp_path: Path) -> None:
    group(tmp_path / "cgroup", 2, str(4 * GB), 3 * GB, GB)
    assert left(tmp_path, "0::/\n") == 2 * GB


def test_version_2_on_a_host_takes_the_tightest_group_above(tmp_path: Path) -> None:
    (tmp_path / "cgroup").mkdir()
    group(tmp_path / "cgroup/job", 2, str(4 * GB), 3 * GB)
    group(tmp_path / "cgroup/job/step", 2, "max", GB)
    assert left(tmp_path, "0::/job/step\n") == GB


def test_version_1_has_a_tree_for_memory(tmp_path: Path) -> None:
    group(tmp_path / "cgroup/memory/docker/abc", 1, str(2 * GB), GB, GB // 2)
    group(tmp_path / "cgroup/memory", 1, str(2**63 - 4096), 9 * GB)
    lines = "12:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n"
    assert left(tmp_path, lines) == 3 * GB // 2


def test_version_1_inside_a_container_names_a_path_that_only_the_host_sees(tmp_path: Path) -> None:
    group(tmp_path / "cgroup/memory", 1, str(2 * GB), GB)
    assert left(tmp_path, "4:memory:/docker/abc\n") == GB


@pytest.mark.parametrize("lines", ["0::/\n", "", "4:cpu:/\n"])
def test_without_a_limit_the_container_says_nothing(tmp_path: Path, lines: str) -> None:
    group(tmp_path / "cgroup", 2, "max", GB)
    assert left(tmp_path, lines) is None
    assert _of_container(tmp_path / "no proc", tmp_path) is None


def test_the_tighter_of_machine_and_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    cpu = torch.device("cpu")
    for machine, container, least in ((3, 2, 2), (1, 2, 1), (3, None, 3), (None, 2, 2), (None, None, None)):
        monkeypatch.setattr(memory, "_of_machine", lambda machine=machine: machine)
        monkeypatch.setattr(memory, "_of_container", lambda container=container: container)
        assert memory.free_bytes(cpu) == least


def test_trials_side_by_side_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Squared(torch.nn.Module):
        def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            return (sr - hr).square().mean((1, 2, 3))

    model, loss = build_model("inverted_unet3", 2), Squared()
    pair = memory.estimate_step(model, loss, 32, 2, "float32").pair
    monkeypatch.setattr("raysr.step.free_bytes", lambda device: 6.5 * pair / 0.5 + 2e6)
    fits = [
        choose_micro_batch(
            None, 8, model, loss, px=32, scale=2, precision="float32", device=torch.device("cpu"), sharers=sharers
        )
        for sharers in (1, 2, 6)
    ]
    assert fits == [6, 3, 1]
