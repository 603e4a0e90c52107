"""int8 networks that answer with objects, and that take more than samples."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compress.int8 import Quantized
from limbeck.phase import logits_of

First = namedtuple("First", "logits aux")
Second = namedtuple("Second", "aux logits")


@dataclass
class Answer:
    logits: torch.Tensor
    aux: Any = None


MAKERS = {
    "named tuple": (lambda y: First(y, None), tuple),
    "logits second": (lambda y: Second(y * 0, y), dict),
    "dataclass": (lambda y: Answer(y, [y]), dict),
    "object": (lambda y: SimpleNamespace(logits=y, deep=SimpleNamespace(z=y)), dict),
    "dictionary": (lambda y: {"logits": y}, dict),
    "tuple": (lambda y: (y, [y, {"more": y}]), tuple),
}
X, Y = torch.randn(32, 16), torch.randint(0, 4, (32,))


class Net(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        self.answer = answer

    def forward(self, x):
        return self.answer(self.body(x))


@pytest.mark.parametrize(
    ("kind", "mode"), [*((kind, "weights") for kind in MAKERS), ("object", "static"), ("named tuple", "qat")]
)
def test_answers_of_every_kind_are_kept(kind, mode, tmp_path):
    answer, form = MAKERS[kind]
    net = Net(answer)
    small = lk.compress(net, lk.Quantize("int8", mode=mode), [(X, Y)], evaluate=[(X, Y)], latency=False, quiet=True)
    small.save(tmp_path / "small.pt2")
    again = Quantized.load(tmp_path / "small.pt2")
    assert type(small(X)) is type(again(X)) is form
    assert torch.equal(logits_of(small(X)), logits_of(again(X)))
    if mode != "qat":
        assert (logits_of(small(X)) - logits_of(net(X))).norm() < 0.05 * logits_of(net(X)).norm()
    assert not net._forward_hooks


class Masking(nn.Module):
    """Takes a mask of positions and a scale beside the samples."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x, mask, scale):
        return self.b(self.a(x).relu() * mask) * scale.sum()


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_inputs_without_samples_stay_as_they_are(mode, tmp_path):
    net = Masking()
    given = {"x": torch.randn(8, 8), "mask": (torch.rand(16) > 0.3).float(), "scale": torch.tensor([0.5, 1.0])}
    small = lk.Quantize(mode=mode)(net, example=given)
    small.save(tmp_path / "small.pt2")
    again = Quantized.load(tmp_path / "small.pt2")
    assert {name: list(value.shape) for name, value in again.example(3).items()} == {
        "x": [3, 8],
        "mask": [16],
        "scale": [2],
    }
    for rows in (1, 2, 5, 16):
        some = {**given, "x": torch.randn(rows, 8)}
        for one in (small, again):
            assert (one(**some) - net(**some)).norm() < 0.05 * net(**some).norm()
