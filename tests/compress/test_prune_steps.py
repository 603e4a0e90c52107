"""Pruning in several steps comes out as wide as pruning at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compressor import findings


def in_steps(how, net, example):
    model = net
    for step in range(1, how.steps + 1):
        model = replace(how, step=step)(model, example=example, beside=(net,))
    return model


def widths(model):
    return [m.weight.shape[0] for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def test_a_grouped_convolution_keeps_losing_whole_groups():
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(64, 4, 1))
    x = torch.randn(2, 3, 4, 4)
    once = lk.Prune(keep=0.5)(net, example=x)
    for steps in (2, 3, 4):
        later = in_steps(lk.Prune(keep=0.5, steps=steps), net, x)
        assert widths(later) == widths(once) == [32, 32, 4]
        assert later[1].groups == once[1].groups == 4
        assert findings(later).details["widths"] == findings(once).details["widths"] == {"0": [8, 4]}


def test_a_grouped_convolution_keeps_losing_some_of_each():
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(32, 4, 1))
    x = torch.randn(2, 3, 4, 4)
    once = lk.Prune(keep=0.25, multiple=1)(net, example=x)
    later = in_steps(lk.Prune(keep=0.25, multiple=1, steps=4), net, x)
    assert (widths(later), later[1].groups) == (widths(once), once[1].groups) == ([8, 8, 4], 4)


def slimmable():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1))  # fmt: skip
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(0.01, 0.1, 16))
        net[4].weight.copy_(torch.linspace(0.5, 1.0, 16))
    return net


def test_a_layer_with_one_channel_left_is_still_counted():
    how = lk.Prune(keep=0.25, by="slimming", scope="global", multiple=1)
    x = torch.randn(2, 3, 4, 4)
    once = how(slimmable(), example=x)
    later = in_steps(replace(how, steps=3), slimmable(), x)
    assert widths(later) == widths(once) == [1, 7, 2]
    assert findings(later).notes[1] == "25.0% of the channels stay, 25.0% were asked for"


def test_a_group_keeps_its_name_when_another_of_its_layer_is_spent():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 32, 1), nn.Conv2d(3, 36, 1)
            self.end = nn.Conv2d(36, 2, 1)

        def forward(self, x):
            return self.end((self.c(x) + torch.cat((self.a(x), self.b(x)), 1)).relu())

    torch.manual_seed(0)
    net, x = Beside(), torch.randn(2, 3, 4, 4)
    once = lk.Prune(keep=0.25, multiple=1)(net, example=x)
    later = in_steps(lk.Prune(keep=0.25, multiple=1, steps=3), net, x)
    assert widths(later) == widths(once) == [1, 8, 9, 2]
    assert findings(later).details["widths"] == findings(once).details["widths"]


@pytest.mark.parametrize(
    ("how", "wide"),
    [
        (lk.Prune(keep=0.5, layers={"0": 0.25}, steps=3), [1, 16, 3]),
        (lk.Prune(keep=0.1, minimum=1, multiple=1, steps=4), [1, 3, 3]),
    ],
)
def test_a_layer_that_cannot_get_narrower_does_not_stop_the_others(how, wide):
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    assert widths(in_steps(how, net, torch.randn(8, 6))) == wide


def test_a_layer_that_has_to_keep_its_channels_is_counted_with_them():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x):
            h = self.a(x).relu()
            return self.c(self.b(h if h.shape[1] >= 8 else 1.5 * h).relu())

    later = in_steps(lk.Prune(keep=0.5, multiple=1, steps=3), Wide(), torch.randn(8, 6))
    assert findings(later).details["widths"] == {"a": [16, 10], "b": [16, widths(later)[1]]}
    assert widths(later)[0] == 10
    assert findings(later).notes[1] == f"{sum(widths(later)[:2]) / 32:.1%} of the channels stay, 50.0% were asked for"


def test_a_network_of_which_nothing_more_can_go_ends_as_it_is():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    later = in_steps(lk.Prune(keep=0.125, steps=4, multiple=1), net, torch.randn(8, 6))
    assert widths(later) == [1, 3]
    assert findings(later).details["widths"] == {"0": [8, 1]}


def test_the_course_trains_through_a_step_in_which_nothing_can_go():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    data = [(torch.randn(16, 6), torch.randint(0, 3, (16,)))] * 2
    new = lk.compress(net, lk.Prune(keep=0.5, layers={"0": 0.25}, steps=3, epochs=1), data, latency=False, quiet=True)
    assert widths(new) == [1, 16, 3]
