"""The fused forms are the plain ones: nearest x2, 3x3 convolution, ReLU, and the strided convolution after it."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raysr.models import build_model
from raysr.models.strips import STRIP_BYTES, WHOLE_STRIPS, strip_rows
from raysr.models.upconv import overshoot, upsample_conv_relu

SIZES = [(1, 1), (2, 3), (5, 7), (8, 8), (13, 4)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def convolutions(*, inputs: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, 6, 3, padding=1).to(dtype), nn.Conv2d(6, 4, 3, stride=2, padding=1).to(dtype)


def plain_up(x: Tensor, up: nn.Conv2d) -> Tensor:
    return nn.functional.relu(up(nn.functional.interpolate(x, scale_factor=2, mode="nearest")))


def value_and_gradients(
    run: Callable[[Tensor], Tensor], x: Tensor, layers: list[nn.Conv2d]
) -> tuple[Tensor, list[Tensor]]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    parameters = [p for layer in layers for p in layer.parameters()]
    return y.detach(), list(torch.autograd.grad((y * weights).sum(), [x, *parameters]))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_one_transposed_convolution_is_the_upsample_and_its_convolution(
    size: tuple[int, int], inputs: int, layout: torch.memory_format
) -> None:
    up, down = convolutions(inputs=inputs)
    x = torch.randn(2, inputs, *size, dtype=torch.float64).contiguous(memory_format=layout)
    pairs = [
        (lambda x: upsample_conv_relu(x, up), lambda x: plain_up(x, up), [up]),
        (lambda x: overshoot(x, up, down), lambda x: nn.functional.relu(down(plain_up(x, up))), [up, down]),
    ]
    for fused, plain, layers in pairs:
        (y, gradients), (expected, wanted) = (value_and_gradients(run, x, layers) for run in (fused, plain))
        assert y.shape == expected.shape
        assert torch.allclose(y, expected, rtol=0, atol=1e-12)
        for gradient, right in zip(gradients, wanted, strict=True):
            assert torch.allclose(gradient, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("size", SIZES)
def test_in_strips_the_block_gives_the_same_numbers_as_the_layers(
    size: tuple[int, int], rows: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysr.models.upconv.strip_rows", lambda x, kernel, learning: rows)
    up, down = (layer.to(memory_format=layout) for layer in convolutions(inputs=3))  # pyright: ignore[reportCallIssue]
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    (y, gradients), (expected, wanted) = (
        value_and_gradients(run, x, [up, down])
        for run in (lambda x: overshoot(x, up, down), lambda x: nn.functional.relu(down(plain_up(x, up))))
    )
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    for gradient, right in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient, right, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(overshoot(x, up, down), expected, rtol=0, atol=1e-12)


def test_in_bfloat16_strips_are_as_near_the_truth_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    up, down = (layer.to(memory_format=torch.channels_last) for layer in convolutions(inputs=3))  # pyright: ignore[reportCallIssue]
    x = torch.randn(2, 3, 40, 24, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    _, truth = value_and_gradients(lambda x: overshoot(x, up, down), x, [up, down])
    layers = [copy.deepcopy(layer).bfloat16() for layer in (up, down)]
    errors: list[list[float]] = []
    for rows in (1, None):
        monkeypatch.setattr("raysr.models.upconv.strip_rows", lambda x, kernel, learning, rows=rows: rows)
        _, found = value_and_gradients(lambda x: overshoot(x, *layers), x.bfloat16(), layers)
        errors.append([float((a.double() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)])
    assert all(strips < max(1.3 * whole, 0.01) for strips, whole in zip(*errors, strict=True)), errors


def test_only_what_is_large_goes_in_strips() -> None:
    kernel = torch.zeros(3, 16, 4, 4)
    row = 4 * 512 * 16 * 4
    most = WHOLE_STRIPS * STRIP_BYTES["cpu"] // row
    assert strip_rows(torch.empty(1, 3, most, 512), kernel, learning=True) is None
    assert strip_rows(torch.empty(2, 3, most, 512), kernel, learning=True) == STRIP_BYTES["cpu"] // row
    assert strip_rows(torch.empty(4, 3, most, 512), kernel, learning=False) is None
    assert strip_rows(torch.empty(5, 3, most, 512), kernel, learning=False) == STRIP_BYTES["cpu"] // row
    assert strip_rows(torch.empty(1, 1, 1, 1).expand(1, 3, 80, 1 << 24), kernel, learning=True) == 1
    assert strip_rows(torch.empty(64, 3, most, 512, device="meta"), kernel, learning=True) is None


VARIANTS = ["width=8", "width=8, skip=True", "width=8, blocks=2", "width=8, skip=True, blocks=1"]


@pytest.mark.parametrize(
    ("arch", "options"),
    [*itertools.product(["inverted_unet3", "inverted_unet4"], VARIANTS), ("inverted_unet4", "width=8, down=(8, 4, 3)")],
)
def test_the_fused_network_is_the_plain_one_and_their_checkpoints_interchange(arch: str, options: str) -> None:
    torch.manual_seed(1)
    fused = build_model(f"{arch}({options})", 2).double()
    plain = build_model(f"{arch}({options}, fused=False)", 2).double()
    plain.load_state_dict(fused.state_dict())
    assert list(plain.state_dict()) == list(fused.state_dict())
    lr = torch.rand(2, 1, 9, 7, dtype=torch.float64)
    for model in (fused, plain):
        (model(lr) - 0.3).square().mean().backward()
    assert torch.allclose(fused(lr), plain(lr), rtol=0, atol=1e-12)
    for (name, one), other in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-10, atol=1e-12), name


def test_in_bfloat16_the_fused_form_is_as_near_the_truth_as_the_plain_one() -> None:
    torch.manual_seed(2)
    fused = build_model("inverted_unet3", 2).to(memory_format=torch.channels_last)
    plain = build_model("inverted_unet3(fused=False)", 2).to(memory_format=torch.channels_last)
    plain.load_state_dict(fused.state_dict())
    lr = torch.rand(2, 1, 24, 20)
    truth = copy.deepcopy(plain).double()(lr.double())
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(model(lr).double() - truth).square().mean().sqrt() for model in (fused, plain)]
    assert errors[0] < 1.5 * errors[1]
    assert errors[1] < 0.01


def test_a_second_gradient_is_refused() -> None:
    up, _ = convolutions(inputs=1)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(upsample_conv_relu(x, up).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_that_are_channels_last_give_what_is_channels_last_of_any_luminance() -> None:
    conv = nn.Conv2d(1, 4, 3, padding=1).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(2, 1, 6, 5)
    for given in (x, x.to(memory_format=torch.channels_last)):
        with torch.no_grad():
            assert upsample_conv_relu(given, conv).is_contiguous(memory_format=torch.channels_last)
