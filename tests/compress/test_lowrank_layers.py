"""Split layers do what one layer did, wherever it looked; and fold back into one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.compress.lowrank.fold import fold, is_row
from limbeck.compress.lowrank.layers import split
from limbeck.compress.lowrank.options import full_ranks, split_weights
from limbeck.errors import HyperParameterError, NameUnknown, TensorTypeError
from limbeck.models import Bottleneck

# torch says so of any such convolution, split or not
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

SETTINGS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (2, 0), "bias": False},
    {"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 3), "dilation": (2, 1)},
    {"kernel_size": (2, 4), "padding": "same"},
    {"padding": "same", "dilation": (3, 1), "padding_mode": "reflect"},
    {"padding": "valid", "dilation": 2},
    {"padding": (1, 2), "padding_mode": "reflect", "stride": 2},
    {"padding": (2, 1), "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate"},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2},
    {"kernel_size": (1, 5), "padding": (0, 2)},
    {"kernel_size": 1, "stride": 2, "padding": 1},
]
KINDS = ["svd", "tucker", "spatial", "dominant"]


def conv(setting, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(4, 12, **{"kernel_size": 3, **setting}).double()


def numbers():
    return torch.randn(2, 4, 11, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(pair, groups):
    """The kernel that a row amounts to: what it answers to single pixels, put together in NumPy."""
    parts = [(name, part.weight.detach().numpy()) for name, part in pair.named_children()]
    names, weights = [name for name, _ in parts], [weight for _, weight in parts]
    whole = []
    for g in range(groups):
        inner = [np.split(weight, groups)[g] for weight in weights]
        if names == ["depthwise", "pointwise"]:
            kernels, mixing = inner
            k = mixing.shape[1] // (4 // groups)
            out = np.zeros((len(mixing), 4 // groups, *kernels.shape[2:]))
            for o, m in np.ndindex(*mixing.shape[:2]):
                out[o, m // k] += mixing[o, m, 0, 0] * kernels[m, 0]
        else:
            out = inner[0]  # each further layer mixes the maps of the one before
            for weight in inner[1:]:
                size = (out.shape[2] + weight.shape[2] - 1, out.shape[3] + weight.shape[3] - 1)
                grown = np.zeros((len(weight), out.shape[1], *size))
                for o, r, y, x in np.ndindex(*weight.shape):
                    grown[o, :, y : y + out.shape[2], x : x + out.shape[3]] += weight[o, r, y, x] * out[r]
                out = grown
        whole.append(out)
    return torch.from_numpy(np.concatenate(whole))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_full_ranks_do_what_the_convolution_does(setting, kind):
    layer = conv(setting)
    before = copy.deepcopy(layer.state_dict())
    pair = split(layer, kind, (99, 99) if kind == "tucker" else (99,))
    x = numbers()
    assert torch.allclose(pair(x), layer(x), atol=1e-10)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    assert all(type(part) is nn.Conv2d for part in pair)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_small_ranks_do_what_a_convolution_with_their_product_does(setting, kind):
    layer = conv(setting)
    pair = split(layer, kind, (1, 2) if kind == "tucker" else (1,))
    same = conv(setting)
    with torch.no_grad():
        same.weight.copy_(by_hand(pair, same.groups))
        if same.bias is not None:
            same.bias.copy_(layer.bias)
    x = numbers()
    assert torch.allclose(pair(x), same(x), atol=1e-10)
    back = fold(pair)
    assert type(back) is nn.Conv2d
    assert repr(back) == repr(layer)
    assert torch.allclose(back.weight, same.weight, atol=1e-12)
    assert torch.allclose(back(x), pair(x), atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(*shape, bias=bias)
    x = torch.randn(3, 4, shape[0])
    pair = split(layer, "svd", (5,))
    assert [tuple(p.weight.shape) for p in pair] == [(5, shape[0]), (shape[1], 5)]
    assert pair[0].bias is None
    assert torch.allclose(pair(x), layer(x), atol=1e-5)
    small = split(layer, "svd", (2,))
    back = fold(small)
    assert repr(back) == repr(layer)
    assert torch.allclose(back(x), small(x), atol=1e-5)


@pytest.mark.parametrize(("k", "count"), [(1, 17_536), (2, 35_072)])
def test_counts_of_dominant_kernels(k, count):
    layer = nn.Conv2d(128, 128, 3, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == 147_456
    assert sum(p.numel() for p in split(layer, "dominant", (k,)).parameters()) == count


@pytest.mark.parametrize("kind", KINDS)
def test_modes_switches_dtype_and_order_in_memory_are_kept(kind):
    layer = conv({"padding": 1}).to(memory_format=torch.channels_last).bfloat16().eval()
    layer.weight.requires_grad_(False)
    state = torch.get_rng_state()
    pair = split(layer, kind, (2, 2) if kind == "tucker" else (2,))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part.training for part in pair.modules())
    weights = [part.weight for part in pair]
    assert not any(w.requires_grad for w in weights)
    assert pair[-1].bias is not None
    assert pair[-1].bias.requires_grad
    assert {p.dtype for p in pair.parameters()} == {torch.bfloat16}
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    back = fold(pair)
    assert not back.weight.requires_grad
    assert back.weight.dtype == torch.bfloat16
    assert not back.training


def test_folding_named_layers_bottlenecks_and_nothing_else():
    torch.manual_seed(0)
    net = nn.Sequential(
        split(nn.Conv2d(4, 8, 3), "tucker", (2, 2)),
        nn.ReLU(),
        split(nn.Conv2d(8, 8, 3), "spatial", (3,)),
        nn.Flatten(),
        Bottleneck(8 * 25, 6, 2),
    )
    net.append(net[1])  # a module that stands in two places
    x = torch.randn(2, 4, 9, 9)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    one = fold(net, ["2"])
    assert [type(part).__name__ for part in one] == ["Sequential", "ReLU", "Conv2d", "Flatten", "Bottleneck", "ReLU"]
    every = fold(net)
    assert [type(part).__name__ for part in every] == ["Conv2d", "ReLU", "Conv2d", "Flatten", "Linear", "ReLU"]
    for new in (one, every):
        assert torch.allclose(new(x), net(x), atol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    with pytest.raises(NameUnknown, match="no factorized layer '3' in Sequential; there are: 0, 2, 4"):
        fold(net, ["3"])
    with pytest.raises(HyperParameterError, match="a list of names"):
        fold(net, "2")


def test_rows_that_are_something_else_are_left():
    def row(**parts):
        return nn.Sequential(__import__("collections").OrderedDict(parts))

    assert is_row(row(down=nn.Conv2d(3, 2, 3, bias=False), up=nn.Conv2d(2, 4, 1)))
    for other in (
        nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3)),  # not named like ours
        row(down=nn.Linear(3, 2), up=nn.Linear(2, 3)),  # a bias in between
        row(down=nn.Conv2d(3, 2, 3, bias=False), up=nn.Conv2d(2, 4, 3)),  # two windows
        row(down=nn.Conv2d(3, 2, 3, bias=False), up=nn.Conv2d(2, 4, 1, stride=2)),
        row(down=nn.Conv2d(3, 2, 3, bias=False), up=nn.Conv2d(2, 4, 1, padding=1)),
        row(down=nn.Conv2d(4, 2, 3, bias=False), up=nn.Conv2d(2, 4, 1, groups=2)),
        row(down=nn.Conv2d(3, 2, 3, bias=False), up=nn.ReLU()),
        row(depthwise=nn.Conv2d(4, 4, 3, bias=False), pointwise=nn.Conv2d(4, 4, 1)),
        row(
            vertical=nn.Conv2d(3, 2, (3, 1), bias=False, padding_mode="reflect"),
            horizontal=nn.Conv2d(2, 4, (1, 3)),
        ),
    ):
        assert not is_row(other)


def test_what_is_refused():
    layer = nn.Conv2d(3, 4, 3)
    with pytest.raises(TensorTypeError, match="a ReLU cannot"):
        split(nn.ReLU(), "svd", (1,))
    with pytest.raises(HyperParameterError, match="kind = 'cp'"):
        split(layer, "cp", (1,))
    with pytest.raises(HyperParameterError, match="two for tucker"):
        split(layer, "tucker", (1,))
    with pytest.raises(HyperParameterError, match="a linear layer has the kind svd"):
        split(nn.Linear(3, 4), "spatial", (1,))
    for kind in KINDS:
        with pytest.raises(HyperParameterError, match="1 or more"):
            split(layer, kind, (0, 0) if kind == "tucker" else (0,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_weights_of_the_parts_are_counted_beforehand(setting, kind):
    layer = conv(setting)
    ranks = tuple(max(1, most // 2) for most in full_ranks(layer, kind))
    made = split(layer, kind, ranks)
    assert split_weights(layer, kind, *ranks) == tuple(part.weight.numel() for part in made)


def test_the_weights_of_a_split_linear_layer_are_counted_beforehand():
    made = split(nn.Linear(7, 5), "svd", (3,))
    assert split_weights(nn.Linear(7, 5), "svd", 3) == tuple(part.weight.numel() for part in made) == (21, 15)
