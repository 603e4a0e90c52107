"""Network slimming: the price of the scales and its slope, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from mini_driver import images, net, run, stage
from small_fit import train

from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.methods import KD, Slimming, Sum, preset
from limbeck.methods.slimming import gammas
from limbeck.phase import Batch


def scales(model):
    return [model.layer1.norm.weight, model.layer2.norm.weight]


def test_the_price_and_its_slope():
    cast = stage(2)
    first, second = scales(cast.models["student"])
    with torch.no_grad():
        first.copy_(torch.tensor([0.5, -0.25]))
        second.copy_(torch.tensor([1.0, 0.0, -2.0, 0.125]))
    (phase,) = Slimming(weight=0.01, hard=0.0).phases(cast)
    ((player, terms),) = run(phase, cast.example)
    assert player == "student"
    assert set(terms) == {"slimming"}
    assert float(terms["slimming"].value.detach()) == 3.875
    assert terms["slimming"].weight == 0.01
    assert first.grad.tolist() == pytest.approx([0.01, -0.01])
    assert second.grad.tolist() == pytest.approx([0.01, 0.0, -0.01, 0.01])


def test_the_labels_are_beside_it():
    cast = stage(2)
    (phase,) = Slimming(hard=0.5).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    assert set(terms) == {"ce", "slimming"}
    assert terms["ce"].weight == 0.5


def test_a_price_makes_scales_small():
    ends = {}
    for weight in (0.0, 0.2):
        torch.manual_seed(0)
        models = {"student": net(4)}
        train(Slimming(weight=weight), models, epochs=4)
        ends[weight] = sum(sum(values) for values in gammas(models["student"]).values())
    assert ends[0.2] < 0.8 * ends[0.0]


def test_beside_a_teacher():
    cast = stage(2, 3)
    *_, phase = Sum(KD(), Slimming(weight=0.01, hard=0.0)).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    assert set(terms) == {"ce", "kd", "slimming"}


def test_only_scales_that_are_trained_cost_something():
    cast = stage(2)
    model = cast.models["student"]
    model.layer1.norm.weight.requires_grad_(False)
    (phase,) = Slimming(hard=0.0).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    assert float(terms["slimming"].value.detach()) == float(model.layer2.norm.weight.detach().abs().sum())


def test_gammas_are_plain_lists():
    model = net(2)
    with torch.no_grad():
        model.layer1.norm.weight.copy_(torch.tensor([-0.5, 0.25]))
    assert gammas(model) == {"layer1.norm": [0.5, 0.25], "layer2.norm": [1.0] * 4}
    assert gammas(net(2, norm=False)) == {}


def test_what_is_refused():
    bare = net(2, norm=False)
    with pytest.raises(
        LimbeckError, match=r"slimming puts a price on the scales .* Sequential has none that are trained"
    ):
        Slimming().phases(stage(bare))
    with pytest.raises(HyperParameterError, match=r"weight = -1.0: a loss weight is zero or more"):
        Slimming(weight=-1.0)
    with pytest.raises(HyperParameterError, match="weight, hard: all are zero"):
        Slimming(weight=0.0, hard=0.0)
    with pytest.raises(HyperParameterError, match="label_smoothing = 1"):
        Slimming(label_smoothing=1.0)
    with pytest.raises(LimbeckError, match="needs labels"):
        Slimming().phases(stage(2, batch=Batch(images().inputs)))


def test_published_numbers():
    assert preset("slimming", "paper").weight == 1e-4
    assert preset("slimming", "resnet").weight == 1e-5
