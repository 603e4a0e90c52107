from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.errors import HyperParameterError, LimbeckError, NonFiniteError, TensorTypeError
from limbeck.models import dominant, dominant_student, kernel_rank, kernel_spectrum


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def merged(pair: nn.Sequential, groups: int = 1) -> np.ndarray:
    """The weights of the one convolution that a pair amounts to, kernel by kernel."""
    kernels = pair.get_submodule("depthwise").weight.detach().numpy()
    mixing = pair.get_submodule("pointwise").weight.detach().numpy()
    outside, per_group = mixing.shape[:2]
    inside = pair.get_submodule("depthwise").in_channels
    k = len(kernels) // inside
    whole = np.zeros((outside, inside // groups, *kernels.shape[2:]))
    for n in range(outside):
        first = n // (outside // groups) * (inside // groups)  # first input channel of the group
        for m in range(per_group):
            whole[n, m // k] += mixing[n, m, 0, 0] * kernels[first * k + m, 0]
    return whole


@pytest.mark.parametrize(("k", "expected"), [(1, 17_536), (2, 35_072)])
def test_counts_of_the_reference(k, expected):
    conv = nn.Conv2d(128, 128, 3, bias=False)
    assert count(conv) == 147_456
    assert count(dominant(conv, k)) == expected


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": (2, 0)},
        {"padding": "same", "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 2, "padding": 1},
        {"groups": 4},
        {"kernel_size": (1, 5)},
        {"kernel_size": 1},
    ],
)
@pytest.mark.parametrize("outside", [4, 12, 20])
def test_all_kernels_are_exact(setting, outside):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, outside, **{"kernel_size": 3, **setting}).double()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    window = int(np.prod(conv.kernel_size))
    rank = min(outside // conv.groups, window)
    assert kernel_rank(conv) == rank
    pair = dominant(conv, rank)
    assert torch.allclose(pair(x), conv(x), atol=1e-12)
    assert pair.get_submodule("pointwise").groups == conv.groups
    more = dominant(conv, rank + 3)
    assert more.get_submodule("depthwise").out_channels // conv.in_channels == rank
    assert torch.equal(more(x), pair(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_what_is_lost_is_the_other_singular_values(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, groups=groups).double()
    weight = conv.weight.detach().numpy()
    errors = []
    for k in range(1, kernel_rank(conv) + 1):
        lost = 0.0
        for g in range(groups):
            for c in range(4 // groups):
                rows = weight[g * 8 // groups : (g + 1) * 8 // groups, c].reshape(-1, 9)
                lost += (np.linalg.svd(rows, compute_uv=False)[k:] ** 2).sum()
        error = ((merged(dominant(conv, k), groups) - weight) ** 2).sum()
        assert error == pytest.approx(lost, abs=1e-12)
        assert (kernel_spectrum(conv)[:, k:] ** 2).sum().item() == pytest.approx(lost, abs=1e-12)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-12


def test_fewer_outputs_than_window_positions():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3).double()
    whole = conv.weight.detach().norm().item()
    relative = [np.linalg.norm(merged(dominant(conv, k)) - conv.weight.detach().numpy()) / whole for k in (1, 3, 6)]
    assert relative[0] > relative[1] > 0.01
    assert relative[2] < 1e-12


def test_a_convolution_of_one_kernel_per_channel_needs_one():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 5, 3, padding=1).double()
    shapes = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(5, 2, 1, 1, dtype=torch.float64) * shapes)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    assert torch.allclose(dominant(conv, 1)(x), conv(x), atol=1e-12)


def test_the_convolution_and_the_random_numbers_stay():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3).requires_grad_(False).eval()
    before, state = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    pair = dominant(conv, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in conv.state_dict().items())
    assert not any(p.requires_grad for p in pair.parameters())
    assert not any(part.training for part in pair.modules())
    assert pair.get_submodule("pointwise").bias is not conv.bias
    assert dominant(conv.half(), 2).get_submodule("depthwise").weight.dtype == torch.float16


def test_fresh_weights():
    conv = nn.Conv2d(64, 128, 3, padding=1)
    torch.manual_seed(0)
    pair = dominant(conv, 2, initialise="fresh")
    torch.manual_seed(0)
    again = dominant(conv, 2, initialise="fresh")
    assert torch.equal(pair.get_submodule("depthwise").weight, again.get_submodule("depthwise").weight)
    assert pair.get_submodule("depthwise").weight.std().item() == pytest.approx(1 / 3, rel=0.1)
    assert pair.get_submodule("pointwise").weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert not pair.get_submodule("pointwise").bias.any()
    assert [p.shape for p in pair.parameters()] == [p.shape for p in dominant(conv, 2).parameters()]


def test_a_student_in_the_same_places():
    torch.manual_seed(0)
    net = models.build("digits_cnn", classes=10).eval()
    before = copy.deepcopy(net.state_dict())
    student = dominant_student(net, 9)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(student(x), net(x), atol=1e-4)
    assert student.get_submodule("layer1.0.depthwise").in_channels == 1
    assert isinstance(student.get_submodule("layer1.1"), nn.BatchNorm2d)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    thin = dominant_student(net, 1)
    expected = count(net) + sum(9 * c + c * n - 9 * c * n for c, n in ((1, 16), (16, 32), (32, 64)))
    assert count(thin) == expected
    # positions times what a position costs, before and after
    sides = ((8 * 8, 1, 16), (4 * 4, 16, 32), (4 * 4, 32, 64))
    assert models.count_macs(net, x) == sum(p * 9 * c * n for p, c, n in sides) + 64 * 10
    assert models.count_macs(thin, x) == sum(p * (9 * c + c * n) for p, c, n in sides) + 64 * 10
    assert not torch.allclose(thin(x), net(x), atol=1e-2)


def test_only_spatial_convolutions_with_something_to_choose():
    torch.manual_seed(0)

    class Own(nn.Conv2d):
        pass

    shared = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4), Own(4, 4, 3), shared, nn.ReLU(), shared)
    student = dominant_student(net, 2)
    assert [type(part).__name__ for part in student] == ["Conv2d", "Conv2d", "Own", "Sequential", "ReLU", "Sequential"]
    assert student[3] is student[5]
    assert isinstance(dominant_student(shared, 1), nn.Sequential)
    bigger = dominant_student(models.build("resnet8", classes=10), 2, initialise="fresh")
    assert bigger(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_bad_input():
    conv = nn.Conv2d(3, 4, 3)
    for k in (0, -1, 1.5, True):
        with pytest.raises(HyperParameterError, match=r"k = .*: kernels per input channel, 1 or more"):
            dominant(conv, k)  # type: ignore[arg-type]
        with pytest.raises(HyperParameterError, match=r"k = "):
            dominant_student(nn.Sequential(conv), k)  # type: ignore[arg-type]
    with pytest.raises(HyperParameterError, match="initialise = 'qr': one of svd, fresh"):
        dominant(conv, 1, initialise="qr")  # type: ignore[arg-type]
    with pytest.raises(TensorTypeError, match=r"made from an nn\.Conv2d, not from a Linear"):
        dominant(nn.Linear(2, 2), 1)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="a Sequential without spatial convolutions"):
        dominant_student(nn.Sequential(nn.Linear(2, 2)), 1)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="non-finite"):
        dominant(conv, 1)
    dominant(conv, 1, initialise="fresh")
