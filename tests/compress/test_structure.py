"""What a run says about a compressed network's build suffices to build it again."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from limbeck.compress.binarize import Binarize
from limbeck.compress.factorize import Factorize
from limbeck.compress.parametrized import settle
from limbeck.compress.prune import Prune
from limbeck.compress.results import load, save
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


# -- what stands at several places, or beside the parts --------------------------------------------


class _Walk(nn.Module):
    """Its forward goes along a plain list; one of its layers stands at two paths, one inside of another part."""

    def __init__(self):
        super().__init__()
        self.first, self.l1, self.l2 = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.block = nn.Sequential(self.l2, nn.ReLU())
        self.again, self.head = self.l1, nn.Linear(32, 4)
        self.walk = [self.first, nn.ReLU(), self.l1, self.block, self.again, self.head]

    def forward(self, x):
        for part in self.walk:
            x = part(x)
        return x


@pytest.mark.parametrize("how", [Factorize(rank=3, measured=False), Binarize("bwn", ends=True)], ids=["rank", "bwn"])
def test_plain_lists_of_layers_and_layers_that_stand_twice(how, tmp_path):
    torch.manual_seed(0)
    net, x = _Walk().eval(), torch.randn(8, 16)
    new = how(net, example=x)
    told = json.loads(json.dumps(describe(net, new)))
    assert told["changes"]["again"] == {"same": "l1"}
    assert told["changes"]["block.0"] == {"same": "l2"}
    back = rebuild(net, told)
    assert back.again is back.l1
    assert back.block[0] is back.l2
    assert back.walk[0] is back.first
    assert back.walk[2] is back.walk[4] is back.l1
    back.load_state_dict(new.state_dict())
    assert torch.equal(back(x), new(x))
    save(net, new, tmp_path)  # a file of weights holds a shared one once
    assert torch.equal(load(net, tmp_path, x)(x), new(x))


def test_a_shared_layer_that_was_changed_in_place_is_told_once():
    net = _Walk()
    new = copy.deepcopy(net)
    new.l1.bias = None
    told = describe(net, new)
    assert list(told["changes"]) == ["l1"]
    assert rebuild(net, told).again.bias is None
    assert describe(net, copy.deepcopy(net))["changes"] == {}


def test_layers_that_only_the_new_network_shares():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    new = copy.deepcopy(net)
    row = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4))
    new[0], new[1], new[2] = new[1], nn.Sequential(*row, new[1], *row), nn.Sequential(row[1])
    told = json.loads(json.dumps(describe(net, new)))
    assert told["changes"]["1.2"] == {"same": "0"}
    assert [told["changes"][path] for path in ("1.3", "1.4", "2.0")] == [
        {"same": "1.0"},
        {"same": "1.1"},
        {"same": "1.1"},
    ]
    back = rebuild(net, told)
    assert back[1][2] is back[0]
    assert back[1][0] is back[1][3]
    assert back[1][1] is back[1][4] is back[2][0]
    assert back.state_dict().keys() == new.state_dict().keys()


def test_a_description_from_before_sharing_was_told():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2] = net[0]
    new = copy.deepcopy(net)
    new[0] = new[2] = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4))
    told = describe(net, new)
    told["changes"]["2"] = told["changes"]["0"]
    back = rebuild(net, told)
    back.load_state_dict(new.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(back(x), new(x))


# -- buffers that no file of weights holds ---------------------------------------------------------


class _Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)
        self.register_buffer("scale", torch.linspace(0.5, 2, 16).view(1, 16, 1, 1), persistent=False)

    def forward(self, x):
        return self.head(self.conv(x).relu() * self.scale)


def test_channels_of_a_buffer_that_no_file_holds():
    torch.manual_seed(0)
    net, x = _Scaled().eval(), torch.randn(2, 3, 8, 8)
    new = Prune(keep=0.5)(net, example=x)
    assert new.scale.shape == (1, 8, 1, 1)
    assert "scale" not in new.state_dict()
    back = rebuild(net, json.loads(json.dumps(describe(net, new))))
    back.load_state_dict(new.state_dict())
    assert torch.equal(back.scale, new.scale)
    assert torch.equal(back(x), new(x))


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([True, False, True]),
        torch.tensor(3.5),
        torch.tensor(7),
        torch.empty(0, 4),
        torch.tensor([[1.5, -0.0], [float("inf"), 1e-40]], dtype=torch.bfloat16),
        torch.arange(6.0).view(2, 3).T,
        torch.tensor([1 + 2j]),
    ],
    ids=["bool", "0-d", "whole", "empty", "bfloat16", "not contiguous", "complex"],
)
def test_buffers_of_any_type_and_shape_keep_their_values(value):
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].register_buffer("kept_aside", torch.zeros(2), persistent=False)
    new = copy.deepcopy(net)
    new[0].register_buffer("kept_aside", value, persistent=False)
    back = rebuild(net, json.loads(json.dumps(describe(net, new))))
    got = back[0].kept_aside
    assert (got.dtype, got.shape) == (value.dtype, value.shape)
    assert torch.equal(got, value)
    assert back.state_dict().keys() == net.state_dict().keys()
    assert describe(new, back)["changes"] == {}


def test_a_network_with_a_part_that_is_a_graph_is_kept():
    net = nn.Sequential(
        fx.symbolic_trace(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))), nn.Linear(4, 2)
    )
    x = torch.randn(8, 4)
    new = Prune(keep=0.5, multiple=1)(net, example=x)
    back = rebuild(net, json.loads(json.dumps(describe(net, new))))
    back.load_state_dict(new.state_dict())
    assert back.get_submodule("0.0").out_features == 8
    assert torch.equal(back(x), new(x))
