from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.connectors import Standardize, activation_of, regressor
from limbeck.errors import HyperParameterError, ShapeError


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_regressor_has_few_weights():
    # 8x8x96 from 12x12x32 through 5x5 kernels: 76,800 weights; between 8x8 maps a full matrix would have 12,582,912
    net = regressor((32, 12, 12), (96, 8, 8))
    assert net[0].kernel_size == (5, 5)
    assert net[0].padding == (0, 0)
    assert net[0].weight.numel() == 76_800
    assert count(regressor((32 * 8 * 8,), (96,))) == 32 * 8 * 8 * 96 + 96


@pytest.mark.parametrize(
    ("form", "ours", "theirs", "kernel", "stride"),
    [
        ("paper", (4, 8, 8), (6, 8, 8), (1, 1), (1, 1)),
        ("paper", (4, 16, 8), (6, 8, 6), (9, 3), (1, 1)),
        ("benchmark", (4, 8, 8), (6, 8, 8), (1, 1), (1, 1)),
        ("benchmark", (4, 16, 16), (6, 8, 8), (3, 3), (2, 2)),
        ("benchmark", (4, 12, 12), (6, 8, 8), (5, 5), (1, 1)),
    ],
)
def test_convolutions_make_the_sizes_equal(form, ours, theirs, kernel, stride):
    net = regressor(ours, theirs, form=form)
    assert isinstance(net[0], nn.Conv2d)
    assert net[0].kernel_size == kernel
    assert net[0].stride == stride
    assert tuple(net(torch.randn(2, *ours)).shape[1:]) == theirs
    assert any(isinstance(m, nn.BatchNorm2d) for m in net) == (form == "benchmark")
    assert isinstance(net[-1], nn.ReLU)


@pytest.mark.parametrize(
    ("form", "ours", "theirs", "kernel"),
    [
        ("paper", (4, 4, 4), (6, 8, 8), (5, 5)),
        ("paper", (4, 3, 8), (6, 8, 8), (6, 1)),
        ("benchmark", (4, 4, 4), (6, 8, 8), (4, 4)),
    ],
)
def test_a_smaller_student_goes_through_a_transposed_convolution(form, ours, theirs, kernel):
    net = regressor(ours, theirs, form=form)
    assert isinstance(net[0], nn.ConvTranspose2d)
    assert net[0].kernel_size == kernel
    assert tuple(net(torch.randn(2, *ours)).shape[1:]) == theirs


def test_vectors_and_tokens_go_through_a_linear_layer():
    assert regressor((5,), (7,))(torch.randn(2, 5)).shape == (2, 7)
    tokens = regressor((10, 5), (10, 7), activation="none")
    x = torch.randn(2, 10, 5)
    assert tokens(x).shape == (2, 10, 7)
    assert count(tokens) == 5 * 7 + 7
    swapped = x[:, torch.randperm(10, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(tokens(swapped).sum(1), tokens(x).sum(1), atol=1e-5)  # every token by the same weights


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "none"])
def test_it_ends_with_the_activation_that_was_asked_for(name):
    net = regressor((4, 8, 8), (6, 8, 8), activation=name)
    x = torch.randn(2, 4, 8, 8)
    bare = net[0](x)
    wanted = {"relu": bare.clamp_min(0), "tanh": bare.tanh(), "sigmoid": 1 / (1 + (-bare).exp()), "none": bare}[name]
    assert torch.allclose(net(x), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "form", "words"),
    [
        ((4, 3, 3), (6, 9, 9), "benchmark", ["3x3", "9x9", "exactly 2", "regressor='paper'"]),
        ((4, 8, 4), (6, 4, 8), "paper", ["8x4", "4x8", "one aspect"]),
        ((4, 8, 8), (6,), "paper", ["[4, 8, 8]", "[6]", "another pair"]),
        ((4, 8, 8, 8), (6, 8, 8, 8), "paper", ["[4, 8, 8, 8]", "maps [channels, height, width]"]),
        ((9, 5), (10, 7), "paper", ["9 tokens", "10", "same number"]),
    ],
)
def test_shapes_that_do_not_fit_are_named(ours, theirs, form, words):
    with pytest.raises(ShapeError) as error:
        regressor(ours, theirs, form=form)
    for word in words:
        assert word in str(error.value)


def test_unknown_forms_and_activations_are_named():
    with pytest.raises(HyperParameterError, match="no form 'papr'; near: paper"):
        regressor((4,), (4,), form="papr")
    with pytest.raises(HyperParameterError, match="no activation 'rlu'; near: relu"):
        regressor((4,), (4,), activation="rlu")


def test_the_activation_is_read_off_the_values():
    assert activation_of(torch.randn(50).clamp_min(0)) == "relu"
    assert activation_of(torch.randn(50)) == "none"
    assert activation_of(torch.rand(50) + 0.1) == "none"  # positive, but never zero: a sigmoid, say


def test_standardize_matches_numpy_over_uneven_batches():
    rows = np.random.default_rng(0).normal(loc=[3.0, -40.0, 0.1], scale=[1.0, 0.01, 20.0], size=(103, 3))
    scaler = Standardize(3).train()
    for part in (rows[:50], rows[50:53], rows[53:]):
        x = torch.tensor(part)
        assert torch.equal(scaler(x), x)  # while it counts, nothing is changed
    scaler.eval()
    wanted = (rows - rows.mean(0)) / rows.std(0)
    assert np.allclose(scaler(torch.tensor(rows)).numpy(), wanted, atol=1e-6)
    assert scaler(torch.tensor(rows, dtype=torch.bfloat16)).dtype == torch.float32
    before = scaler.total.clone()
    scaler(torch.tensor(rows))
    assert torch.equal(scaler.total, before)  # eval mode counts nothing


def test_averaged_sums_of_two_processes_keep_the_mean_and_the_variance():
    rows = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    parts = [Standardize(2).train(), Standardize(2).train()]
    parts[0](rows[:30]), parts[1](rows[30:])
    for name, buffer in parts[0].named_buffers():
        buffer.copy_((buffer + dict(parts[1].named_buffers())[name]) / 2)
    assert torch.allclose(parts[0].mean, rows.mean(0))
    assert torch.allclose(parts[0].spread, rows.std(0, correction=0))


def test_a_logit_that_never_varies_is_only_centred():
    scaler = Standardize(2).train()
    scaler(torch.tensor([[5.1, 1.0], [5.1, 3.0]]))
    out = scaler.eval()(torch.tensor([[6.1, 2.0]]))
    assert torch.allclose(out, torch.tensor([[1.0, 0.0]]), atol=1e-5)


def test_without_statistics_nothing_is_hidden():
    assert torch.isnan(Standardize(2).eval()(torch.ones(1, 2))).all()


def test_a_single_logit_per_sample_may_have_no_column():
    scaler = Standardize(1).train()
    scaler(torch.tensor([1.0, 3.0]))
    assert torch.allclose(scaler.eval()(torch.tensor([5.0, 2.0])), torch.tensor([3.0, 0.0]))
