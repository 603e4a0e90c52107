"""Channels whose BatchNorm scale is zero: what they say goes on into the layers behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.compress.prune import Prune
from limbeck.compressor import findings
from limbeck.models import build
from limbeck.phase import Batch

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def closed(net):
    """Statistics and shifts of a trained network; in every second channel the scale is zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.bias.normal_().abs_()  # what a ReLU lets through
                norm.weight[::2] = 0.0
    return net.eval()


def plain(padding, bias=True, ending=()):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=padding), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3, padding=padding, bias=bias), *ending
    )  # fmt: skip


def slim(net, **more):
    with torch.no_grad():
        return net(X), Prune(keep=0.5, by="slimming", multiple=1, **more)(net, example=X).eval()


@pytest.mark.parametrize(
    "ending", [(), (nn.BatchNorm2d(10), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4))]
)
@pytest.mark.parametrize("bias", [True, False])
def test_without_padding_removal_is_exact(ending, bias):
    net = closed(plain(0, bias, ending))
    if not bias and not ending:
        return  # there is nothing that could take it over: see below
    before, new = slim(net, layers={"3": 1.0} if ending else {})
    assert new[0].out_channels == 4
    with torch.no_grad():
        assert torch.allclose(new(X), before, atol=1e-5)
        away = slim(net, layers={"3": 1.0} if ending else {}, refit=False)[1]
        assert not torch.allclose(away(X), before, atol=1e-2)


def test_behind_zero_padding_all_but_the_rim_is_exact():
    before, new = slim(closed(plain(1)))
    with torch.no_grad():
        after = new(X)
    assert torch.allclose(after[..., 1:-1, 1:-1], before[..., 1:-1, 1:-1], atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-2)
    assert any("1 layers took over" in note for note in findings(new).notes)


def test_a_layer_without_bias_and_normalisation_is_left_as_it_is():
    net = closed(plain(0, bias=False))
    _, new = slim(net)
    assert new[3].bias is None
    assert not any("took over" in note for note in findings(new).notes)


def test_layers_that_lose_channels_of_their_own_too():
    net = closed(plain(0, True, (nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten(), nn.Linear(640, 4))))
    before, new = slim(net)
    assert (new[0].out_channels, new[3].out_channels) == (4, 5)
    with torch.no_grad():
        assert torch.allclose(new(X), before, atol=1e-4)


def test_along_shortcuts_the_constants_add_up():
    net = closed(build("resnet8", classes=10))
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
        new, away = (
            Prune(keep=0.5, by="slimming", multiple=1, refit=refit)(net, example=x).eval()(x) for refit in (True, False)
        )
    assert (new - before).norm() < 0.5 * (away - before).norm()


def test_obd_says_how_far_from_a_minimum_it_is():
    data = [Batch(X, torch.tensor([0, 1, 2, 3]))]
    net = plain(0, True, (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4)))
    weights = {name: p.clone() for name, p in net.named_parameters()}
    notes = findings(Prune(keep=0.5, by="obd")(net, example=X, calibration=data)).notes
    assert any("at a minimum of the loss" in note and "taylor_weight" in note for note in notes)
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in net.named_parameters())
    assert not any("minimum of the loss" in n for n in findings(Prune(keep=0.5)(net, example=X)).notes)
