"""A step is the same step however its pairs go through the network."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raysr.memory import StepBytes, estimate_step, free_bytes, keep_freed_memory
from raysr.models import build_model
from raysr.step import Stepper, choose_micro_batch, compiled

CPU = torch.device("cpu")


class SquaredError(nn.Module):
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).square().mean((1, 2, 3))


def stepper(network: nn.Module, micro_batch: int, **more: bool) -> Stepper:
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return Stepper(network, SquaredError(), optimizer, device=CPU, precision="float32", micro_batch=micro_batch, **more)


def pairs(n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    lr, hr = (torch.rand(n, 1, side, side, generator=generator, dtype=torch.float64) for side in (6, 12))
    return lr, hr


def fresh(arch: str = "inverted_unet3(width=8)") -> nn.Module:
    torch.manual_seed(0)
    return build_model(arch, 2).double()


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
def test_parts_add_up_to_the_whole_batch(micro_batch: int) -> None:
    whole, parts = fresh(), fresh()
    one, other = stepper(whole, 5).step(*pairs()), stepper(parts, micro_batch).step(*pairs())
    assert torch.allclose(one.loss, other.loss, rtol=1e-12)
    assert (bool(one.constant), bool(other.constant)) == (False, False)
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14), name
        assert not torch.equal(a, dict(fresh().named_parameters())[name]), name


def test_a_constant_picture_is_seen_only_where_all_parts_are_constant() -> None:
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, lr: Tensor) -> Tensor:
            return self.level.expand(len(lr), 1, 12, 12)

    lr, hr = pairs(4)
    assert bool(stepper(Grey(), 2).step(lr, hr).constant)
    assert not bool(stepper(Grey(), 2).step(lr, torch.full_like(hr, 0.2)).constant)
    assert not bool(stepper(fresh(), 2).step(lr, hr).constant)


class Hungry(nn.Module):
    """Runs out of memory over more than `most` pictures."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inside, self.most, self.seen = fresh(), most, []

    def forward(self, lr: Tensor) -> Tensor:
        self.seen.append(len(lr))
        if len(lr) > self.most:
            raise torch.OutOfMemoryError("too many")
        return self.inside(lr)


def test_a_device_that_runs_out_of_memory_gets_fewer_pairs_at_a_time_and_the_step_is_whole() -> None:
    hungry, calm = Hungry(2), fresh()
    smaller = stepper(hungry, 5, may_shrink=True)
    smaller.step(*pairs())
    assert smaller.micro_batch == 2
    assert hungry.seen == [5, 3, 2, 2, 1]
    stepper(calm, 5).step(*pairs())
    for a, b in zip(hungry.inside.parameters(), calm.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


class HungryOnce(nn.Module):
    """Runs out of memory once, in its pass number `when`."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.inside, self.when, self.seen = fresh(), when, []

    def forward(self, lr: Tensor) -> Tensor:
        self.seen.append(len(lr))
        if len(self.seen) == self.when:
            raise torch.OutOfMemoryError("too many")
        return self.inside(lr)


def test_a_part_that_fails_after_others_leaves_nothing_of_them_in_the_step() -> None:
    hungry, calm = HungryOnce(2), fresh()
    smaller = stepper(hungry, 3, may_shrink=True)
    seen = smaller.step(*pairs())
    assert hungry.seen == [3, 2, 2, 2, 1]
    assert torch.allclose(seen.loss, stepper(calm, 5).step(*pairs()).loss, rtol=1e-12)
    for a, b in zip(hungry.inside.parameters(), calm.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_where_not_one_pair_fits_or_the_user_has_chosen_the_error_is_told() -> None:
    for most, may_shrink in ((0, True), (2, False)):
        with pytest.raises(torch.OutOfMemoryError, match="too many"):
            stepper(Hungry(most), 5, may_shrink=may_shrink).step(*pairs())


class Counting(Hungry):
    """Has a running mean, which each pass moves before it may run out of memory."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, lr: Tensor) -> Tensor:
        self.mean.mul_(0.5).add_(lr.mean())
        return super().forward(lr)


def test_a_pass_that_failed_leaves_no_trace_in_what_the_network_counts() -> None:
    failed, parts = Counting(2), Counting(5)
    stepper(failed, 5, may_shrink=True).step(*pairs())
    stepper(parts, 2).step(*pairs())
    assert torch.equal(failed.mean, parts.mean)


def test_batch_normalisation_that_runs_out_of_memory_keeps_its_batch_and_says_what_to_do() -> None:
    network = Hungry(2)
    network.norm = nn.BatchNorm2d(1)
    one = stepper(network, 5, may_shrink=True)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"too many; this network normalises over its batch of 5, .*--batch"
    ):
        one.step(*pairs())
    assert one.micro_batch == 5


def chosen(model: nn.Module, wanted: int | None, share: int = 8) -> int:
    loss = SquaredError()
    return choose_micro_batch(wanted, share, model, loss, px=32, scale=2, precision="float32", device=CPU)


def test_batch_normalisation_takes_its_whole_batch_at_a_time() -> None:
    model = build_model("srresnet", 2)
    assert (chosen(model, None), chosen(model, 8), chosen(model, 9)) == (8, 8, 8)
    with pytest.raises(ValueError, match=r"--micro-batch 4: this network normalises over its batch of 8"):
        chosen(model, 4)


def test_what_is_asked_for_is_taken_and_else_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("inverted_unet3", 2)
    assert [chosen(model, wanted) for wanted in (1, 3, 100, None)] == [1, 3, 8, 8]
    pair = estimate_step(model, SquaredError(), 32, 2, "float32").pair
    for room, fits in ((0.1, 1), (3.5, 3), (100, 8)):
        monkeypatch.setattr("raysr.step.free_bytes", lambda device, room=room: room * pair / 0.5 + 1e6)
        assert chosen(model, None) == fits


def test_how_many_pairs_fit_is_the_free_memory_over_what_each_keeps() -> None:
    need = StepBytes(fixed=100.0, pair=50.0)
    assert [need.pairs(free, 8, "cuda") for free in (None, 0, 250, 500, 1e9)] == [8, 1, 2, 6, 8]
    assert [need.pairs(free, 8, "cpu") for free in (None, 0, 250, 600, 1e9)] == [8, 1, 1, 4, 8]


def test_on_a_cpu_no_more_pairs_go_through_than_make_a_step_faster() -> None:
    large = StepBytes(fixed=0.0, pair=90e6)
    assert large.pairs(1e12, 8, "cuda") == 8
    assert [large.pairs(free, 8, "cpu") for free in (None, 1e12)] == [3, 3]
    assert StepBytes(fixed=0.0, pair=900e6).pairs(1e12, 8, "cpu") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_what_is_free_on_a_cpu_is_some_of_what_there_is() -> None:
    free = free_bytes(CPU)
    assert free is not None
    assert 1e6 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_memory_is_estimated_by_what_a_larger_square_really_keeps(precision: str) -> None:
    model, loss = build_model("inverted_unet3(width=16)", 2), SquaredError()
    small, large = (estimate_step(model, loss, px, 2, precision) for px in (64, 256))
    assert large.pair == pytest.approx(16 * small.pair)
    # The tensor between the last upsample and the way down: 8 x the input's side, 16 channels; it, its gradient and one
    # more as room are most of the step.
    between = (4 * 64) ** 2 * 16 * (4 if precision == "float32" else 2)
    assert 3 * between < small.pair < 4.5 * between


def test_a_warm_up_leaves_weights_buffers_and_gradients_as_they_are() -> None:
    torch.manual_seed(0)
    network = build_model("srresnet", 2)
    before = copy.deepcopy(network.state_dict())
    lr, hr = (one.float() for one in pairs(2))
    stepper(network, 2).warm_up(lr, hr)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")  # the tests' own check of shapes
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
@pytest.mark.parametrize("arch", ["espcn", "inverted_unet3(width=16)"])
def test_a_compiled_network_takes_the_same_step(arch: str) -> None:
    eager, faster = fresh(arch).float(), fresh(arch).float()
    lr, hr = (one.float() for one in pairs(2))
    for network, run in ((eager, eager), (faster, compiled(faster, "default"))):
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        Stepper(run, SquaredError(), optimizer, device=CPU, precision="float32", micro_batch=2).step(lr, hr)
    for (name, a), b in zip(eager.named_parameters(), faster.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7), name
    assert list(faster.state_dict()) == list(eager.state_dict())


def one_of_two(rank: int, address: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    network, (lr, hr) = fresh(), pairs(6)
    mine = slice(3 * rank, 3 * rank + 3)
    stepper(DistributedDataParallel(network), 2).step(lr[mine], hr[mine])
    torch.save(network.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_in_parts_take_the_step_of_one_that_has_all(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    alone = fresh()
    stepper(alone, 6).step(*pairs(6))
    for rank in (0, 1):
        for name, tensor in torch.load(tmp_path / f"{rank}.pt").items():
            assert torch.allclose(tensor, alone.state_dict()[name], rtol=1e-10, atol=1e-12), name


FAULTS = """
import ctypes, resource, sys, threading
if sys.argv[1] == "keep":
    from raysr.memory import keep_freed_memory
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def fill():
    block = libc.malloc(ctypes.c_size_t(200_000_000))
    ctypes.memset(block, 1, 200_000_000)
    libc.free(block)
def count():
    fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "first":
    count()
else:
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc, and has no such setting")
def test_memory_that_was_freed_is_taken_again_without_new_pages() -> None:
    def faults(way: str, thread: str, **environment: str) -> int:
        command = [sys.executable, "-c", FAULTS, way, thread]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    kept = faults("keep", "first")
    assert kept < 100
    assert faults("plain", "first") > 10 * kept + 100
    # As in a Ray Train worker, whose function runs in a thread.
    assert faults("keep", "other", MALLOC_ARENA_MAX="1") < 100
