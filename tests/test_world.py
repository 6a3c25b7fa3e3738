"""What the ranks of one trial agree on and what each does by itself: two real processes, over gloo."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import prepare_here, synthetic
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raysr.cost import DEFAULT_PRICE, Budget
from raysr.images import Geometry
from raysr.spec import TrainConfig, TrialSpec
from raysr.train import Reporter, run_trial
from raysr.trial import DEAD_AFTER_CHECKS, Trial
from raysr.world import MOST_STEPS, World

CPU = torch.device("cpu")
SILENT = Reporter(lambda progress: None)


class Own(nn.Module):
    """A network that draws random numbers, and that a test can spoil on one rank alone."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(0.5))
        self.end = nn.Sequential(nn.Conv2d(8, scale**2, 1), nn.PixelShuffle(scale))
        self.spoil: Callable[[Tensor], Tensor] = lambda sr: sr
        self.most = 99
        self.dropped: list[Tensor] = []

    def forward(self, lr: Tensor) -> Tensor:
        if len(lr) > self.most:
            raise torch.OutOfMemoryError("too many")
        inside = self.inside(lr)
        if self.training:
            self.dropped.append(inside.detach() == 0)
        return self.spoil(self.end(inside))


ARCH = f"{__name__}:Own"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(data: str, run: str, world: World, **settings: Any) -> Trial:
    """A trial whose steps take a second of its own clock."""
    train = TrainConfig(learning_rate=1e-2, batch_size=4, patch_px=16, loss="l1", evaluate_at=(0.5,))
    train = replace(train, **settings.pop("train", {}))
    spec = TrialSpec(arch=ARCH, seed=3, data=data, run=run, price=DEFAULT_PRICE, train=train, **settings)
    clock = Clock()
    wrap = DistributedDataParallel if dist.is_initialized() else lambda model: model
    trial = Trial(spec, world, wrap=wrap, clock=clock)
    assert trial.optimizer is not None
    trial.optimizer.register_step_post_hook(lambda *_: setattr(clock, "now", clock.now + 1))
    return trial


def ended(trial: Trial) -> tuple[str, int]:
    row = run_trial(trial, SILENT)
    return row.status, row.steps


def one_of_two(rank: int, address: str, data: str, folder: str) -> None:
    """Everything that one rank does; what it saw is saved for the tests."""
    torch.set_num_threads(1)
    # A rank that waits in vain ends with an error, and not only when the test's time is over.
    dist.init_process_group("gloo", address, timedelta(seconds=20), world_size=2, rank=rank)
    world, seen = World.current(CPU), dict[str, Any]()

    drawing = opened(data, f"{folder}/drawing", world, budget=Budget(samples=16))
    drawing.model.dropped.clear()
    drawing.take_steps(3)
    seen["dropped"] = [mask.clone() for mask in drawing.model.dropped]

    broken = opened(data, f"{folder}/broken", world, budget=Budget(samples=80))
    broken.model.spoil = lambda sr: sr * (torch.nan if rank == 1 and broken.step == 2 else 1)
    seen["broken"] = ended(broken)

    dead = opened(data, f"{folder}/dead", world, budget=Budget(samples=80))
    dead.model.spoil = lambda sr: sr * 0 + sr.mean() if rank == 1 else sr
    seen["dead"] = ended(dead)

    # Each rank's clock has its own set-up, which is charged here.
    apart = opened(
        data,
        f"{folder}/apart",
        world,
        budget=Budget(gpu_seconds=20),
        charged=("setup", "train", "stall"),
        checkpoint_every_s=3.0,
        train={"schedule": "cosine"},
    )
    with apart.meter.segment("setup"):
        apart.meter._clock.now += 3.0 * rank
    rates, assert_open = list[float](), apart.optimizer
    assert assert_open is not None
    assert_open.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    seen["apart"], seen["rates"] = ended(apart), rates
    seen["checkpoints"] = [entry.step for entry in apart.ledger.read() if entry.event == "checkpoint"]

    short = opened(data, f"{folder}/short", world, budget=Budget(samples=80))
    short.model.most = 1
    try:
        short.take_steps(1)
    except torch.OutOfMemoryError:
        seen["short"] = short.stepper.micro_batch
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(12):
        Image.fromarray(synthetic(index, 40, 30)).save(folder / f"{index:02d}.png")
    return prepare_here(str(folder), tmp_path_factory.mktemp("set"), Geometry(hr_px=32, fit="pad"))


@pytest.fixture(scope="module")
def ranks(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(one_of_two, (f"file://{folder}/meet", data, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_each_rank_drops_pixels_of_its_own_in_every_step(ranks: list[dict[str, Any]]) -> None:
    masks = [mask for rank in ranks for mask in rank["dropped"]]
    assert len(masks) == 2 * 3
    assert all(0.4 < float(mask.float().mean()) < 0.6 for mask in masks)
    assert not any(torch.equal(masks[a], masks[b]) for a, b in product(range(6), repeat=2) if a != b)


def test_what_a_step_draws_is_its_own_and_its_seeds_and_its_ranks() -> None:
    drawn = set[int]()
    steps = (0, 1, 2, MOST_STEPS - 1)
    for size in (1, 2, 3):
        drawn.clear()
        for seed, step, rank in product(range(3), steps, range(size)):
            World(rank, size).seed_step(seed, step)
            first = torch.rand(3)
            drawn.add(torch.initial_seed())
            World(rank, size).seed_step(seed, step)
            assert torch.equal(torch.rand(3), first)
        assert len(drawn) == 3 * len(steps) * size


def test_a_fault_that_one_rank_sees_ends_the_trial_on_both(ranks: list[dict[str, Any]]) -> None:
    # The loss of rank 1 alone is no number in the third step; its picture alone is constant from the first one on.
    assert [rank["broken"] for rank in ranks] == [("diverged", 3)] * 2
    assert [rank["dead"] for rank in ranks] == [("dead", DEAD_AFTER_CHECKS)] * 2


def test_only_a_row_of_constant_pictures_is_death_and_not_as_many_with_others_between(
    data: str, tmp_path: Path
) -> None:
    trial = opened(data, str(tmp_path / "run"), World(), budget=Budget(samples=80))
    trial.model.spoil = lambda sr: sr if trial.step % DEAD_AFTER_CHECKS == 5 else sr * 0 + sr.mean()
    assert ended(trial) == ("finished", 20)


def test_ranks_whose_clocks_differ_take_the_same_steps_at_the_same_rates(ranks: list[dict[str, Any]]) -> None:
    # Twenty seconds of both are ten steps by rank 0, whose own set-up takes none; rank 1 would have stopped at seven.
    assert [rank["apart"][1] for rank in ranks] == [10, 10]
    assert ranks[0]["rates"] == ranks[1]["rates"]
    assert ranks[0]["checkpoints"] == [0, 3, 5, 8, 10]


def test_ranks_that_run_out_of_memory_do_not_begin_their_step_anew_by_themselves(
    ranks: list[dict[str, Any]], data: str, tmp_path: Path
) -> None:
    assert [rank["short"] for rank in ranks] == [2, 2]
    alone = opened(data, str(tmp_path / "alone"), World(), budget=Budget(samples=80))
    alone.model.most = 1
    alone.take_steps(1)
    assert alone.stepper.micro_batch == 1
    chosen = opened(data, str(tmp_path / "chosen"), World(), budget=Budget(samples=80), train={"micro_batch": 3})
    chosen.model.most = 1
    with pytest.raises(torch.OutOfMemoryError):
        chosen.take_steps(1)
