"""Layers that lost inputs are fitted to what they used to answer: against least squares over all positions."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

from limbeck.compress.pruning import reconstruct, sampling
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.reconstruct import repair
from limbeck.errors import HyperParameterError, NameUnknown
from limbeck.phase import Batch
from limbeck.taps import call


def ones(n):
    return tuple((i,) for i in range(n))


def net(first=6, second=4):
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, first, 3, padding=1),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(first, second, 3, 2, 1),
            act2=nn.ReLU(),
            flat=nn.Flatten(),
            fc=nn.Linear(9 * second, 3),
        )
    )


GROUPS = [
    Group("conv1", 6, (Member("conv1", "out", ones(6)), Member("conv2", "in", ones(6)))),
    Group(
        "conv2",
        4,
        (
            Member("conv2", "out", ones(4)),
            Member("fc", "in", tuple(tuple(range(9 * c, 9 * c + 9)) for c in range(4))),
        ),
    ),
]
KEPT = {"conv1": [0, 2, 3, 5], "conv2": [1, 2, 3]}


def pair():
    """A network, and what surgery makes of it."""
    torch.manual_seed(0)
    whole, small = net(), net(4, 3)
    a, b = KEPT["conv1"], KEPT["conv2"]
    columns = [9 * c + i for c in b for i in range(9)]
    with torch.no_grad():
        small.conv1.weight.copy_(whole.conv1.weight[a])
        small.conv1.bias.copy_(whole.conv1.bias[a])
        small.conv2.weight.copy_(whole.conv2.weight[b][:, a])
        small.conv2.bias.copy_(whole.conv2.bias[b])
        small.fc.weight.copy_(whole.fc.weight[:, columns])
        small.fc.bias.copy_(whole.fc.bias)
    return whole, small


def batches(n=4, size=16, seed=1):
    gen = torch.Generator().manual_seed(seed)
    return [Batch(torch.randn(size, 2, 6, 6, generator=gen)) for _ in range(n)]


def error(whole, small, data, layer):
    """The relative squared error of a layer's answers over all positions."""
    missed = energy = 0.0
    with torch.no_grad():
        for batch in data:
            if layer == "conv2":
                y = (whole[:3](batch.inputs) - whole.conv2.bias.reshape(-1, 1, 1))[:, KEPT["conv2"]]
                z = small[:3](batch.inputs) - small.conv2.bias.reshape(-1, 1, 1)
            else:
                y, z = whole(batch.inputs) - whole.fc.bias, small(batch.inputs) - small.fc.bias
            missed, energy = missed + float((y - z).square().sum()), energy + float(y.square().sum())
    return missed / energy


@pytest.mark.parametrize("by", ["lasso", "thinet"])
def test_the_answers_come_nearer_on_data_that_was_not_fitted(by):
    whole, small = pair()
    bare, unseen = copy.deepcopy(small), batches(seed=9)
    found = repair(whole, small, GROUPS, KEPT, by, calibration=batches(n=8))
    assert list(found) == ["conv2", "fc"]
    for layer, told in found.items():
        assert told.after < told.before
        assert told.how == ("weights" if by == "lasso" else "scales")
        assert error(whole, small, unseen, layer) < 0.95 * error(whole, bare, unseen, layer), layer
    assert found["conv2"].before == pytest.approx(error(whole, bare, batches(n=8), "conv2"), rel=1e-4)  # all 9 places
    assert found["conv2"].after == pytest.approx(error(whole, small, batches(n=8), "conv2"), rel=1e-4)
    assert found["fc"].after == pytest.approx(error(whole, small, batches(n=8), "fc"), rel=1e-4)


def test_weights_are_those_of_least_squares():
    whole, small = pair()
    first = copy.deepcopy(small)
    repair(whole, small, GROUPS, KEPT, "lasso", calibration=batches())
    with torch.no_grad():
        x = torch.cat([functional.unfold(first[:2](b.inputs), 3, padding=1, stride=2) for b in batches()])
        y = torch.cat([whole[:3](b.inputs) - whole.conv2.bias.reshape(-1, 1, 1) for b in batches()])[:, KEPT["conv2"]]
    x, y = x.transpose(1, 2).reshape(-1, 36), y.flatten(2).transpose(1, 2).reshape(-1, 3)
    known = torch.linalg.lstsq(x.double(), y.double()).solution.T.reshape(3, 4, 3, 3)
    assert torch.allclose(small.conv2.weight.double(), known, atol=2e-3)
    assert torch.equal(small.conv2.bias, first.conv2.bias)
    assert torch.equal(small.conv1.weight, first.conv1.weight)


def test_scales_are_those_of_least_squares():
    whole, small = pair()
    first = copy.deepcopy(small)
    repair(whole, small, GROUPS, KEPT, "thinet", calibration=batches())
    ratio = small.conv2.weight.detach() / first.conv2.weight.detach()
    assert torch.allclose(ratio, ratio[:1, :, :1, :1].expand_as(ratio), rtol=1e-4)
    columns, target = [], []
    with torch.no_grad():
        for b in batches():
            x = first[:2](b.inputs)
            per = [functional.conv2d(x[:, c : c + 1], first.conv2.weight[:, c : c + 1], None, 2, 1) for c in range(4)]
            columns.append(torch.stack([p.flatten() for p in per], 1))
            y = (whole[:3](b.inputs) - whole.conv2.bias.reshape(-1, 1, 1))[:, KEPT["conv2"]]
            target.append(y.flatten())
    known = torch.linalg.lstsq(torch.cat(columns).double(), torch.cat(target)[:, None].double()).solution[:, 0]
    assert torch.allclose(ratio[0, :, 0, 0].double(), known, atol=1e-3)


def test_both_networks_are_left_as_they_were_but_for_the_weights():
    whole, small = pair()
    whole.train()
    small.train()
    small.act2.eval()
    before, modes = copy.deepcopy(whole.state_dict()), [m.training for m in small.modules()]
    random = torch.random.get_rng_state()
    repair(whole, small, GROUPS, KEPT, "lasso", calibration=batches())
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())
    assert whole.training
    assert modes == [m.training for m in small.modules()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in small.parameters())
    for model in (whole, small):
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_little_data_changes_little_and_never_for_the_worse():
    whole, small = pair()
    found = repair(whole, small, GROUPS, KEPT, "lasso", calibration=batches(n=1, size=2))
    assert all(told.after <= told.before for told in found.values())
    assert torch.isfinite(small.conv2.weight).all()
    assert float(small.conv2.weight.detach().abs().max()) < 10


def test_a_layer_with_too_many_weights_is_rescaled(monkeypatch):
    monkeypatch.setattr(reconstruct, "LARGEST", 30)
    whole, small = pair()
    found = repair(whole, small, GROUPS, KEPT, "lasso", calibration=batches())
    assert [told.how for told in found.values()] == ["scales", "weights"]
    assert found["conv2"].after < found["conv2"].before


@pytest.mark.parametrize("by", ["lasso", "thinet"])
def test_answers_are_held_for_a_few_layers_at_a_time(by, monkeypatch):
    """However many: the weights are the same, and each network runs no further and no oftener than it must."""
    ran = []
    monkeypatch.setattr(reconstruct, "call", lambda model, x: ran.append(model) or call(model, x))
    found = {}
    for held in (reconstruct.HELD, 0):
        monkeypatch.setattr(reconstruct, "HELD", held)
        whole, small = pair()
        last = []
        small.fc.register_forward_hook(lambda *_: last.append(1))  # noqa: B023
        ran.clear()
        repair(whole, small, GROUPS, KEPT, by, calibration=batches())
        found[held] = small.state_dict()
        # To see what runs, and for answers: once for all layers, or once for each of the two.
        assert len(ran) == 1 + 4 * (1 if held else 2)
        assert len(last) == 1
    first, second = found.values()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_layer_that_runs_twice_is_fitted_to_its_last_call():
    class Twice(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.again = nn.Linear(3, width), nn.Linear(width, width)
            self.last = nn.Linear(width, 2)

        def forward(self, x):
            return self.last(self.again(self.again(self.first(x).relu()).relu()).relu())

    torch.manual_seed(0)
    whole, small, stay = Twice(8), Twice(5), [0, 2, 3, 5, 7]
    with torch.no_grad():
        for layer, ins, outs in (("first", range(3), stay), ("again", stay, stay), ("last", stay, range(2))):
            old, new = whole.get_submodule(layer), small.get_submodule(layer)
            new.weight.copy_(old.weight[list(outs)][:, list(ins)])
            new.bias.copy_(old.bias[list(outs)])
    before = copy.deepcopy(small)
    members = [Member("first", "out", ones(8)), Member("again", "in", ones(8)), Member("again", "out", ones(8))]
    found = repair(
        whole,
        small,
        [Group("first", 8, (*members, Member("last", "in", ones(8))))],
        {"first": stay},
        "lasso",
        calibration=[Batch(torch.randn(64, 3))],
    )
    assert list(found) == ["again", "last"]
    x = torch.randn(64, 3)
    with torch.no_grad():
        apart = [(net(x) - whole(x)).square().mean() for net in (before, small)]
    assert apart[1] < apart[0]


def test_groups_that_lost_nothing_are_not_touched():
    whole, _ = pair()
    same = copy.deepcopy(whole)
    found = repair(whole, same, GROUPS, {"conv1": range(6)}, "thinet", calibration=batches())
    assert found == {}
    assert torch.equal(same.conv2.weight, whole.conv2.weight)


def test_what_is_refused():
    whole, small = pair()
    with pytest.raises(NameUnknown, match="no repair 'laso'; near: lasso"):
        repair(whole, small, GROUPS, KEPT, "laso", calibration=batches())
    with pytest.raises(HyperParameterError, match="give calibration batches"):
        repair(whole, small, GROUPS, KEPT, "lasso", calibration=[])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2)),
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        nn.Conv2d(4, 6, 4, padding="same"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding="valid", groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv1d(4, 6, 3, 2, 1),
        nn.Conv3d(4, 6, 3, padding=1),
        nn.Linear(4, 6),
    ],
    ids=str,
)
def test_patches_times_weights_are_the_answers(layer):
    gen = torch.Generator().manual_seed(0)
    shape = {nn.Conv1d: (3, 4, 9), nn.Conv3d: (3, 4, 4, 4, 4), nn.Linear: (3, 5, 4)}.get(type(layer), (3, 4, 7, 7))
    x = torch.randn(*shape, generator=gen)
    for count in (4, 1000):
        where = sampling.places(layer, x, count, gen)
        with torch.no_grad():
            answers = sampling.responses(layer, layer(x), where)
            made = torch.einsum("sik,oik->so", sampling.patches(layer, x, where), sampling.dense(layer))
        assert answers.shape == (3 * where.shape[1], sampling.dense(layer).shape[0])
        assert torch.allclose(made, answers, atol=1e-5)
