"""What a run says about a compressed network's build suffices to build it again."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.parametrized import settle
from limbeck.compress.structure import describe, rebuild
from limbeck.errors import LimbeckError
from limbeck.models import build
from limbeck.models.bottleneck import Bottleneck
from limbeck.models.dominant_kernels import dominant_student


class _Doubled(nn.Module):
    """Not limbeck's: a class of the tests."""

    def forward(self, x):
        return 2 * x


def _there_and_back(before: nn.Module, after: nn.Module) -> nn.Module:
    told = json.loads(json.dumps(describe(before, after)))
    new = rebuild(before, told)
    assert {k: (v.shape, v.dtype) for k, v in new.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in after.state_dict().items()
    }
    new.load_state_dict(after.state_dict())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(new.eval()(x), after.eval()(x))
    assert new.training == after.training
    return new


def _narrowed(model: nn.Module) -> nn.Module:
    """layer1's first convolution with 5 channels, as a pruner would leave it."""
    new = copy.deepcopy(model)
    block = new.layer1[0]
    block.conv1.weight = nn.Parameter(block.conv1.weight[:5].clone())
    block.conv1.out_channels = 5
    norm = block.bn1
    norm.num_features = 5
    norm.weight, norm.bias = nn.Parameter(norm.weight[:5].clone()), nn.Parameter(norm.bias[:5].clone())
    norm.running_mean, norm.running_var = norm.running_mean[:5].clone(), norm.running_var[:5].clone()
    block.conv2.weight = nn.Parameter(block.conv2.weight[:, :5].clone())
    block.conv2.in_channels = 5
    return new


def test_channels_that_were_removed():
    before = build("resnet8", classes=10, in_channels=1, size=8)
    after = _narrowed(before)
    told = describe(before, after)
    assert sorted(told["changes"]) == ["layer1.0.bn1", "layer1.0.conv1", "layer1.0.conv2"]
    assert told["changes"]["layer1.0.conv1"]["attributes"] == {"out_channels": 5}
    new = _there_and_back(before, after)
    assert new.layer1[0].conv1.out_channels == 5
    assert before.layer1[0].conv1.out_channels == 16  # the one before stays


def test_nothing_changed_is_nothing_said():
    before = build("resnet8", classes=10, in_channels=1, size=8)
    assert describe(before, copy.deepcopy(before))["changes"] == {}
    _there_and_back(before, copy.deepcopy(before))


def test_layers_in_the_place_of_one():
    before = build("resnet8", classes=10, in_channels=1, size=8)
    after = dominant_student(before, 1)
    told = describe(before, after)
    assert any("new" in change for change in told["changes"].values())
    _there_and_back(before, after)
    assert "lambda" not in json.dumps(told)


def test_a_layer_of_ours_and_one_that_is_gone():
    before = build("digits_mlp", classes=10)
    after = copy.deepcopy(before)
    name, linear = next((n, m) for n, m in after.named_modules() if isinstance(m, nn.Linear))
    outer, _, own = name.rpartition(".")
    setattr(
        after.get_submodule(outer),
        own,
        nn.Sequential(nn.Linear(linear.in_features, 3, bias=False), nn.Linear(3, linear.out_features)),
    )
    _there_and_back(before, after)
    told = describe(before, after)
    assert told["changes"][name]["new"]["class"] == "torch.nn.modules.container:Sequential"


def test_a_bias_that_came_and_one_that_went():
    before = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), nn.Linear(4, 2))
    after = copy.deepcopy(before)
    after[1].bias = nn.Parameter(torch.ones(4))
    after[2].bias = None
    new = rebuild(before, describe(before, after))
    assert new[1].bias is not None
    assert new[2].bias is None
    _there_and_back(before, after)


def test_a_parametrized_weight_and_a_settled_one():
    before = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    wrapped = nn.utils.parametrizations.weight_norm(copy.deepcopy(before)[1])
    after = nn.Sequential(nn.Flatten(), wrapped)
    new = rebuild(before, describe(before, after))
    assert parametrize.is_parametrized(new[1])
    settled = copy.deepcopy(after)
    settle(settled)
    assert torch.equal(settled[1].weight, after[1].weight)  # the one that it was copied from still has its weight
    again = rebuild(after, describe(after, settled))
    assert not parametrize.is_parametrized(again[1])
    again.load_state_dict(settled.state_dict())


class _Half(nn.Module):
    def forward(self, x):
        return x / 2


def test_only_some_parametrizations_are_settled():
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", _Half())
    parametrize.register_parametrization(layer, "bias", _Doubled())
    copied = copy.deepcopy(layer)
    settle(copied, (_Half,))
    x = torch.randn(4, 3)
    assert torch.allclose(copied(x), layer(x))
    assert list(copied.parametrizations) == ["bias"]
    assert sorted(copied.state_dict()) == ["parametrizations.bias.original", "weight"]


def test_a_class_of_somebody_else_is_refused_both_ways():
    before = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    after = nn.Sequential(nn.Flatten(), _Doubled())
    with pytest.raises(LimbeckError, match=r"1: a new _Doubled cannot be kept in a run"):
        describe(before, after)
    evil = {"format": 1, "changes": {"1": {"new": {"class": "subprocess:Popen", "made": {"args": "true"}}}}}
    with pytest.raises(
        LimbeckError, match=r"names 'subprocess:Popen', which is neither a layer of torch.nn nor limbeck's"
    ):
        rebuild(before, evil)


def test_another_network_and_another_format_are_refused():
    before = build("resnet8", classes=10, in_channels=1, size=8)
    told = describe(before, _narrowed(before))
    with pytest.raises(LimbeckError, match="it was made for another network"):
        rebuild(nn.Linear(2, 2), told)
    with pytest.raises(LimbeckError, match="has format 2; this version of limbeck reads 1"):
        rebuild(before, {**told, "format": 2})


def test_the_class_with_made_is_called_with_it():
    class Made(Bottleneck):
        """A bottleneck that says how it was made."""

        def __init__(self, features, outputs, k):
            super().__init__(features, outputs, k)
            self.made = {"features": features, "outputs": outputs, "k": k}

    import limbeck.models.bottleneck as home

    Made.__module__, Made.__qualname__ = home.__name__, "Made"
    home.Made = Made  # type: ignore[attr-defined]
    try:
        before = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        after = nn.Sequential(nn.Flatten(), Made(64, 4, 2))
        new = rebuild(before, describe(before, after))
        assert type(new[1]) is Made
        assert new[1].made == {"features": 64, "outputs": 4, "k": 2}
    finally:
        del home.Made  # type: ignore[attr-defined]
