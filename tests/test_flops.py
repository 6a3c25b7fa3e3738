import torch
from torch import nn

from raysr.flops import count_arch, count_forward, count_step
from raysr.losses import load_perceptual
from raysr.models import build_model


def test_a_convolution_is_two_operations_a_weight_and_pixel_and_three_times_that_with_its_gradients() -> None:
    class Nothing(nn.Module):
        def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            return (sr - hr).abs()

    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    found = count_step(model, Nothing(), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
    one = 2 * 4 * 9 * 64  # of either convolution
    # The first needs no gradient of its input.
    assert found.network == found.total == one * 2 + one * 3
    assert {"relu", "abs", "sub"} <= set(found.uncounted)
    assert "convolution" not in found.uncounted
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_dearest_network_has_the_most_operations_and_the_loss_is_the_same_for_all() -> None:
    perceptual = load_perceptual("vgg-random", None)
    found = {arch: count_arch(build_model(arch, 2), perceptual, 32, 2) for arch in ("espcn", "srcnn", "inverted_unet4")}
    losses = {round(one.total - one.network) for one in found.values()}
    assert len(losses) == 1
    assert found["espcn"].network < found["srcnn"].network < found["inverted_unet4"].network
    # SRCNN: 9-1-5 on 32 x 32 pixels; the input of the first layer needs no gradient.
    layers = (64 * 81, 64 * 32, 32 * 25)
    assert found["srcnn"].network == 2 * 32 * 32 * (2 * layers[0] + 3 * layers[1] + 3 * layers[2])


def test_twice_the_side_is_four_times_the_operations() -> None:
    perceptual = load_perceptual("vgg-random", None)
    model = build_model("inverted_unet3", 2)
    small, large, counted = (count_arch(model, perceptual, px, 2) for px in (32, 64, 128))
    assert large.total == 4 * small.total
    assert counted.total == 16 * small.total
    # Scaled by area, a large square has what really counting it gives.
    whole = count_step(model, perceptual, torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 128, 128))
    assert (counted.total, counted.network) == (whole.total, whole.network)


def test_a_picture_is_counted_as_deployed_without_computing_or_changing_anything() -> None:
    assert count_forward(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), 8) == 4 * 9 * 64
    assert count_forward(build_model("bicubic", 2), 1 << 15) == 0
    model = build_model("span", 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # SPAN's deployed weights work once a pixel. Its 19 convolutions of 48 channels and its first one are folded once a
    # picture: 1x1 into 3x3, and both into 1x1.
    weights = 406_372 - 20 * 48 - 48 - 4
    folding = 19 * 48 * 96 * 9 * (96 * 9 + 48) + 96 * 9 * (2 * 9 + 48)
    assert count_forward(model, 256) == weights * 256**2 + folding
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
