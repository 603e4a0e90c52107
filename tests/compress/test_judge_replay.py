"""What comes before a changed layer is not computed again, and nobody can tell."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import limbeck as lk
from limbeck.compress.pruning.graph import groups
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.judge import judge
from limbeck.compress.pruning.judging import replay
from limbeck.compress.pruning.judging.replay import replayed
from limbeck.phase import Batch


class Remembers(nn.Module):
    """A layer that does more than to answer: another reads what it left."""

    def forward(self, x):
        self.last = x.mean(dim=(2, 3))
        return x


class Writes(nn.Module):
    """In-place everywhere: activations, a residual sum, a product; one convolution twice, one look back."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(c, 6, 3, padding=1) for c in (2, 6, 6))
        self.norm, self.act, self.left = nn.BatchNorm2d(6), nn.ReLU(inplace=True), Remembers()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        y = self.left(self.act(self.second(self.act(self.first(x)))))
        y = self.first(y)
        y += x
        return self.fc(y.mul_(2).relu_().mean(dim=(2, 3)) + self.left.last)


def ours():
    torch.manual_seed(0)
    model = Writes().eval()
    nn.init.normal_(model.norm.weight)
    data = [Batch(torch.randn(n, 2, 5, 5), torch.randint(3, (n,))) for n in (4, 3)]
    ones = tuple((i,) for i in range(6))
    found = [
        Group("second", 6, (Member("second", "out", ones), Member("fc", "in", ones))),
        Group("stem", 6, (Member("stem", "out", ones), Member("first", "in", ones))),
        Group("first", 6, (Member("first", "out", ones), Member("second", "in", ones))),
    ]
    return model, found, data


def silenced(model, data, reader, channel):
    """The change of the loss, with nothing but torch."""
    x, y = torch.cat([b.inputs for b in data]), torch.cat([b.targets for b in data])

    def loss():
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(x).double(), y))

    whole, weight = loss(), reader.weight.detach().clone()
    with torch.no_grad():
        reader.weight[:, channel] = 0
        less = loss()
        reader.weight.copy_(weight)
    return abs(less - whole)


@pytest.mark.parametrize("kept", [replay.KEPT, 0, 1500])
def test_the_oracle_is_right_where_layers_write_over_what_others_answered(kept, monkeypatch):
    monkeypatch.setattr(replay, "KEPT", kept)
    model, found, data = ours()
    told = judge(model, "oracle", found, example=data[0].inputs, calibration=data)
    for group, reader in zip(found, (model.fc, model.first, model.second), strict=True):
        for channel in range(6):
            known = silenced(model, data, reader, channel)
            assert float(told[group.name][channel]) == pytest.approx(known, abs=2e-6), (group.name, channel)


@pytest.mark.parametrize("network", ["resnet8", "vgg8", "mobilenet_v2"])
def test_the_oracle_is_the_same_bits_with_and_without_memory(network, monkeypatch):
    torch.manual_seed(0)
    model = lk.build(network, classes=10)
    data = [Batch(torch.randn(4, 3, 32, 32), torch.randint(10, (4,)))]
    found = [Group(g.name, min(g.size, 2), g.members) for g in groups(model, data[0].inputs[:2])[::3]]
    told = []
    for kept in (replay.KEPT, 0, 10**6):
        monkeypatch.setattr(replay, "KEPT", kept)
        told.append(judge(model, "oracle", found, example=data[0].inputs, calibration=data))
    for name, score in told[0].items():
        assert torch.equal(score, told[1][name])
        assert torch.equal(score, told[2][name])


def test_layers_before_the_change_are_not_computed_again():
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)), nn.Flatten(), nn.Linear(4 * 36, 3))
    ones = tuple((i,) for i in range(4))
    flat = tuple(tuple(range(36 * c, 36 * c + 36)) for c in range(4))
    found = [Group("3", 4, (Member("3", "out", ones), Member("5", "in", flat)))]
    data = [Batch(torch.randn(2, 4, 6, 6), torch.randint(3, (2,)))]

    def cost(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    whole = cost(lambda: model(data[0].inputs))
    last = cost(lambda: model[-1](torch.randn(2, 4 * 36)))
    measured = cost(lambda: judge(model, "oracle", found, example=data[0].inputs, calibration=data))
    assert measured == 2 * whole + 4 * last  # which layers run, what they answer, and each channel


def test_layers_are_as_they_were_afterwards():
    model, _, data = ours()
    own = nn.ReLU()
    own.forward = lambda x: x  # somebody else's
    model.act = own
    before = {name: dict(vars(module)) for name, module in model.named_modules()}

    def interrupted():
        with torch.no_grad(), replayed(model) as again:
            again(lambda: model(data[0].inputs))
            assert again.calls == 6  # the activation's own forward is not among them
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for name, module in model.named_modules():
        assert vars(module).keys() - {"last"} == before[name].keys() - {"last"}
    assert model.act.forward is own.forward
