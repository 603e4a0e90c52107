"""Binary layers: what they compute, where their gradients go, and how their latent weights are kept small."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from limbeck.compress.binary import BinaryConv, BinaryLinear, pack, packed_dot, settle
from limbeck.compress.binary.packing import pack_signs
from limbeck.errors import HyperParameterError

FORMS = ("bnn", "bwn", "xnor")


def conv(**changes):
    torch.manual_seed(0)
    how = {"dims": 2, "in_channels": 4, "out_channels": 6, "kernel_size": (3, 3), "padding": (1, 1), "form": "bnn"}
    layer = BinaryConv(**{**how, **changes})
    for norm in (layer.before, layer.after):
        if norm is not None:  # as after some training
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    return layer.eval()


def normed(norm, x):
    """BatchNorm in eval mode, in NumPy."""
    mean, var, scale, shift = (
        getattr(norm, n).detach().double().numpy()[None, :, None, None]
        for n in ("running_mean", "running_var", "weight", "bias")
    )
    return (x.double().numpy() - mean) / np.sqrt(var + norm.eps) * scale + shift


def windows(x, pad=1, size=3):
    """Every window of a batch of maps: [batch, rows, columns, channels, size, size]."""
    wide = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    return sliding_window_view(wide, (size, size), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)


def test_a_convolution_of_signs_is_exact_in_whole_numbers():
    layer = conv(bias=False, in_channels=64, out_channels=5)
    x = torch.randn(3, 64, 6, 6)
    signs = np.where(normed(layer.before, x) >= 0, 1, -1).astype(np.int8)
    weights = np.where(layer.weight.detach().numpy() >= 0, 1, -1).astype(np.int8)
    want = np.einsum("nijcab,ocab->noij", windows(signs).astype(np.int32), weights.astype(np.int32))
    assert np.array_equal(layer(x).detach().numpy(), want)
    assert np.abs(want).max() > 50  # of 576


def test_a_linear_layer_of_signs_is_what_counting_bits_gives():
    torch.manual_seed(0)
    layer = BinaryLinear(in_features=100, out_features=7, bias=False, form="bnn").eval()
    x = torch.randn(5, 100)
    y = layer(x)
    for i in range(5):
        for j in range(7):
            bits = (
                pack_signs(torch.where(x[i] >= 0, 1.0, -1.0)),
                pack_signs(torch.where(layer.weight[j] >= 0, 1.0, -1.0)),
            )
            assert packed_dot(*bits, 100) == y[i, j].item()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_convolutions_against_numpy(form, groups):
    layer = conv(form=form, groups=groups, norm_after=True)
    x = torch.randn(2, 4, 5, 5)
    inside = x.double().numpy() if form == "bwn" else normed(layer.before, x)
    w = layer.weight.detach().double().numpy()
    signs = np.where(w >= 0, 1.0, -1.0)
    alpha = np.ones(6) if form == "bnn" else np.abs(w).reshape(6, -1).mean(1)
    given = inside if form == "bwn" else np.where(inside >= 0, 1.0, -1.0)
    want = np.zeros((2, 6, 5, 5))
    for o in range(6):
        part = slice(0, 4) if groups == 1 else slice(0, 2) if o < 3 else slice(2, 4)
        y = np.einsum("nijcab,cab->nij", windows(given)[:, :, :, part], signs[o]) * alpha[o]
        if form == "xnor":
            y = y * windows(np.abs(inside))[:, :, :, part].mean((3, 4, 5))
        want[:, o] = y + layer.bias[o].item()
    want = normed(layer.after, torch.tensor(want))
    torch.testing.assert_close(layer(x).double(), torch.tensor(want), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "how",
    [
        {"padding_mode": "reflect"},
        {"padding_mode": "circular", "padding": "same", "dilation": (2, 2)},
        {"padding_mode": "replicate", "padding": "valid"},
        {"padding": "same", "kernel_size": (5, 3)},
        {"stride": (2, 1), "dilation": (1, 2), "bias": False},
        {"dims": 1, "kernel_size": (3,), "padding": (2,)},
        {"dims": 3, "kernel_size": (1, 2, 3), "padding": (0, 1, 1)},
    ],
    ids=str,
)
def test_every_kind_of_convolution_is_torchs_of_the_signs(form, how):
    layer = conv(form=form, real_input=True, **how)
    plain = settle(nn.Sequential(layer))[0]
    assert type(plain) is {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[layer.made["dims"]]
    x = torch.randn(2, 4, *[7] * layer.made["dims"])
    assert torch.equal(plain(x), layer(x))
    layer = conv(form=form, **how)
    assert layer(x).shape == plain(x).shape  # with signs of the input, too
    assert json.loads(json.dumps(layer.made)) == layer.made
    assert BinaryConv(**layer.made).state_dict().keys() == layer.state_dict().keys()


def test_a_linear_layer_of_tokens():
    torch.manual_seed(0)
    layer = BinaryLinear(in_features=8, out_features=3, form="xnor", norm_after=True).train()
    twin, x = copy.deepcopy(layer), torch.randn(4, 5, 8)
    y = layer(x)
    assert y.shape == (4, 5, 3)
    torch.testing.assert_close(y.flatten(0, 1), twin(x.flatten(0, 1)))
    torch.testing.assert_close(layer.before.running_mean, 0.1 * x.mean((0, 1)))


def test_an_xnor_linear_layer_by_hand():
    layer = BinaryLinear(in_features=4, out_features=1, bias=False, form="xnor").eval()
    layer.before.eps = 1e-30  # nothing beside a variance of 1; torch 2.11 refuses zero
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -1.0, 2.0, 0.5]]))
    y = layer(torch.tensor([[1.0, -2.0, 3.0, -0.5]]))
    assert y.item() == 3.25  # (1 + 1 + 1 - 1) * 1 * 6.5 / 4


def test_latent_weights_are_clipped_where_they_are_used():
    layer = conv(form="bnn")
    with torch.no_grad():
        layer.weight.mul_(20)
    big = layer.weight.detach().clone()
    assert big.abs().max() > 1
    x = torch.randn(2, 4, 5, 5)
    shown = layer(x)
    assert torch.equal(layer.weight, big)  # in eval mode nothing moves
    layer.train()
    with torch.no_grad():
        layer(x)
    layer.weight.requires_grad_(False)
    layer(x)
    assert torch.equal(layer.weight, big)  # nor where nothing is learnt
    layer.weight.requires_grad_(True)
    layer(x)
    assert torch.equal(layer.weight, big.clamp(-1, 1))
    layer.eval()
    layer.load_state_dict(conv(form="bnn").state_dict() | {"weight": layer.weight})
    assert torch.equal(layer(x), shown)  # no sign has changed


def test_scaled_weights_are_not_clipped():
    layer = conv(form="xnor").train()
    with torch.no_grad():
        layer.weight.mul_(20)
    big = layer.weight.detach().clone()
    layer(torch.randn(2, 4, 5, 5))
    assert torch.equal(layer.weight, big)


@pytest.mark.parametrize("form", FORMS)
def test_two_forwards_before_one_backward(form):
    layer = conv(form=form).train()
    with torch.no_grad():
        layer.weight.mul_(20)
    x = torch.randn(2, 4, 5, 5)
    (layer(x).square().sum() + layer(-x).square().sum()).backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_captured_as_one_graph(form):
    layer = conv(form=form, norm_after=True).train()
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 4, 5, 5)
    torch.compiler.reset()
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for run in (layer, compiled):
        run(x).square().sum().backward()
    for (name, mine), other in zip(layer.named_parameters(), twin.parameters()):
        torch.testing.assert_close(mine.grad, other.grad, msg=name)


def test_stochastic_signs_only_in_training():
    layer = BinaryLinear(in_features=50, out_features=3, form="bnn", stochastic=True)
    x = torch.randn(20, 50)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("form", FORMS)
def test_bf16_autocast(form):
    layer = conv(form=form).train()
    x = torch.randn(2, 4, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == (torch.float32 if form == "xnor" else torch.bfloat16)
    y.float().sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(y.float(), layer(x), atol=0.1, rtol=0.05)


def test_nothing_that_is_no_number_is_hidden():
    layer = conv(form="bnn")
    x = torch.randn(2, 4, 5, 5)
    x[1, 2, 3, 3] = float("nan")
    assert layer(x).isnan().flatten(1).any(1).tolist() == [False, True]


def test_new_weights_on_request():
    layer = conv()
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.weight)
    assert len(pack(layer)) > 0


def test_a_form_that_does_not_exist():
    with pytest.raises(HyperParameterError, match="form = 'tnn': one of bnn, bwn, xnor"):
        conv(form="tnn")
