"""The loss that is trained on is the lpips package's distance, which stands here as the oracle."""

import copy

import pytest
import torch
from skimage import data as photographs
from torch import Tensor

from raysr.losses import Perceptual, load_perceptual
from raysr.perceptual import PerceptualLoss, distance_and_gradient


@pytest.fixture(scope="module")
def package() -> Perceptual:
    perceptual = load_perceptual("vgg-random")
    # Random trunks have biases of 0 and heads that are learned: take biases too, so that nothing hides behind a zero.
    generator = torch.Generator().manual_seed(5)
    for name, tensor in perceptual.network.net.named_parameters():
        if name.endswith("bias"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return perceptual


def pictures(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two photographs, and the same with noise."""
    camera = torch.from_numpy(photographs.camera()[100 : 100 + height, 200 : 200 + width].copy()).double() / 255
    hr = torch.stack([camera, camera.flip(0)])[:, None]
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (hr + 0.05 * noise).clamp(0, 1), hr


def distance(loss: torch.nn.Module, sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    sr = sr.clone().requires_grad_()
    values = loss(sr, hr)
    (gradient,) = torch.autograd.grad(values @ torch.tensor([1.0, 3.0], dtype=values.dtype), sr)
    return values.detach(), gradient


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (64, 47)])
def test_value_and_gradient_are_those_of_the_package(package: Perceptual, size: tuple[int, int]) -> None:
    exact = copy.deepcopy(package).double()
    sr, hr = pictures(*size)
    (ours, gradient), (theirs, right) = (distance(loss, sr, hr) for loss in (PerceptualLoss(exact), exact))
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=0)
    assert (gradient - right).norm() < 1e-11 * right.norm()


def test_in_float32_the_value_agrees_to_1e_5_and_the_gradient_is_as_near_the_truth_as_the_packages(
    package: Perceptual,
) -> None:
    sr, hr = pictures(96, 80)
    _, truth = distance(copy.deepcopy(package).double(), sr, hr)
    (ours, gradient), (theirs, right) = (
        distance(loss, sr.float(), hr.float()) for loss in (PerceptualLoss(package), package)
    )
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=0)
    errors = [(one.double() - truth).norm() / truth.norm() for one in (gradient, right)]
    # Both lie off by what a maximum or a ReLU that tips over changes, which a rounding decides.
    assert errors[0] < max(1e-5, 2 * errors[1])
    assert errors[1] < 1e-2


def test_in_bfloat16_value_and_gradient_are_as_near_as_the_packages_under_autocast(package: Perceptual) -> None:
    sr, hr = pictures(48, 48)  # small: without bfloat16 instructions it is slow
    values, truth = distance(copy.deepcopy(package).double(), sr, hr)
    ours, gradient = distance(PerceptualLoss(package, "bfloat16"), sr.float(), hr.float())
    with torch.autocast("cpu", torch.bfloat16):
        theirs, right = distance(package, sr.float(), hr.float())
    assert ((ours - values) / values).abs().max() < max(0.01, 1.5 * ((theirs - values) / values).abs().max())
    assert (gradient - truth).norm() < 1.5 * (right - truth).norm()


def test_equal_pictures_have_no_distance_and_no_gradient(package: Perceptual) -> None:
    _, hr = pictures(32, 32)
    values, gradient = distance(PerceptualLoss(package), hr.float(), hr.float())
    assert torch.equal(values, torch.zeros(2))
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_only_the_first_picture_has_a_gradient_and_no_weight_is_trained(package: Perceptual) -> None:
    loss = PerceptualLoss(package)
    sr, hr = (one.float().requires_grad_() for one in pictures(32, 32))
    loss(sr, hr).sum().backward()
    assert sr.grad is not None
    assert hr.grad is None
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


def test_a_pixel_without_features_has_a_gradient_of_0_where_the_package_has_none() -> None:
    sr = torch.zeros(1, 4, 2, 2)
    hr = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    values, gradient = distance_and_gradient(sr, hr, torch.ones(4), wants_gradient=True)
    assert values.isfinite().all()
    assert gradient is not None
    assert gradient.isfinite().all()


def test_the_size_of_the_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    sr, hr = (torch.rand(2, 5, 7, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    head = torch.rand(5, generator=generator, dtype=torch.float64)
    whole = distance_and_gradient(sr, hr, head, wants_gradient=True)
    monkeypatch.setattr("raysr.perceptual.CHUNK_ELEMENTS", {"cpu": 40})
    for one, other in zip(distance_and_gradient(sr, hr, head, wants_gradient=True), whole, strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-15)
    assert distance_and_gradient(sr, hr, head, wants_gradient=False)[1] is None
