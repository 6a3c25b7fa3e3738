import pytest
import torch
from conftest import synthetic
from torch import Tensor

from raysr.losses import Perceptual, load_perceptual
from raysr.metrics import ms_ssim, psnr
from raysr.objective import LOSSES, Objective, ms_ssim_loss, parse_loss, smallest_side
from raysr.perceptual import PerceptualLoss


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return load_perceptual("vgg-random")


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sr, hr = (torch.rand(2, 1, 164, 168, generator=generator) for _ in range(2))
    return sr, hr


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("lpips", {"lpips": 1}),
        (" l1 ", {"l1": 1}),
        ("0.8*lpips+0.2*l1", {"lpips": 0.8, "l1": 0.2}),
        ("1e-1 * mse + charbonnier + 2*ms_ssim", {"mse": 0.1, "charbonnier": 1, "ms_ssim": 2}),
    ],
)
def test_a_sum_is_read_with_its_weights(text: str, weights: dict[str, float]) -> None:
    assert parse_loss(text) == weights


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot read --loss ''"),
        ("l1-mse", "expected a name or a sum"),
        ("l1*0.5", "expected a name or a sum"),
        ("__import__('os')*l1", "cannot read|malformed"),
        ("l2", "unknown loss 'l2' .* did you mean 'l1'.* known: lpips, l1, mse"),
        ("l1+0.5*l1", "names l1 twice"),
        ("0*l1", "weight of l1 must be above 0"),
        ("1e999*l1", "must be above 0 and finite"),
    ],
)
def test_what_cannot_be_a_loss_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_loss(text)


def test_each_loss_is_its_formula(perceptual: Perceptual, pair: tuple[Tensor, Tensor]) -> None:
    noise, hr = pair
    sr = 0.7 * hr + 0.3 * noise
    expected = {
        "lpips": PerceptualLoss(perceptual)(sr, hr),
        "l1": torch.stack([torch.nn.functional.l1_loss(a, b) for a, b in zip(sr, hr, strict=True)]),
        "mse": 10 ** (-psnr(sr, hr) / 10),
        "charbonnier": torch.stack(
            [torch.hypot(a - b, torch.tensor(1e-3)).mean() for a, b in zip(sr, hr, strict=True)]
        ),
        "ms_ssim": 1 - ms_ssim(sr, hr),
    }
    assert list(expected) == list(LOSSES)
    for name, values in expected.items():
        assert torch.allclose(Objective(name, perceptual, "float32")(sr, hr), values, rtol=1e-5), name
    both = Objective("0.8*lpips+0.2*l1", perceptual, "float32")(sr, hr)
    assert torch.allclose(both, 0.8 * expected["lpips"] + 0.2 * expected["l1"], rtol=1e-6)


@pytest.mark.parametrize("text", [*LOSSES, "0.8*lpips+0.2*l1"])
def test_a_step_down_the_gradient_makes_the_loss_smaller(
    text: str, perceptual: Perceptual, pair: tuple[Tensor, Tensor]
) -> None:
    objective, (sr, hr) = Objective(text, perceptual, "float32"), pair
    sr = (0.7 * hr + 0.3 * sr).requires_grad_()
    before = objective(sr, hr).sum()
    (gradient,) = torch.autograd.grad(before, sr)
    after = objective(sr.detach() - 1e-3 * gradient / gradient.norm(), hr).sum()
    assert after < before


def test_ms_ssim_draws_a_picture_out_of_its_own_negative_where_the_metric_has_no_gradient() -> None:
    hr = torch.from_numpy(synthetic(3, 176, 176, 1) / 255).float()[None, None]
    mix = torch.tensor(-0.5, requires_grad=True)

    def picture() -> Tensor:
        return 0.5 + mix * (hr - 0.5)

    (gradient,) = torch.autograd.grad(ms_ssim(picture(), hr).sum(), mix)
    assert gradient == 0
    optimizer = torch.optim.Adam([mix], 0.1)
    for _ in range(30):
        optimizer.zero_grad()
        loss = ms_ssim_loss(picture(), hr).sum()
        loss.backward()
        assert mix.grad is not None
        assert mix.grad.isfinite()
        optimizer.step()
    assert mix > 0.5
    assert torch.allclose(ms_ssim_loss(picture(), hr), 1 - ms_ssim(picture(), hr), rtol=1e-5)


def test_a_loss_says_how_small_a_square_it_can_judge() -> None:
    assert [smallest_side(text) for text in ("l1", "lpips", "l1+0.1*ms_ssim")] == [1, 16, 161]
