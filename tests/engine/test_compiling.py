"""Compiling more networks of one class than torch compiles of one code by itself."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrize

from limbeck.compiling import without_limit


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def masked():
    layer = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", Halved())  # makes the layer a class of its own
    return layer


def compiled(count):
    torch._dynamo.reset()
    counter = CompileCounter()
    for _ in range(count):
        torch.compile(masked(), backend=counter)(torch.zeros(1, 2))
    return counter.frame_count


def test_the_tenth_network_is_compiled_too():
    with without_limit():
        assert compiled(10) == 10


def test_the_limit_is_back_afterwards():
    limit = torch._dynamo.config.recompile_limit
    with without_limit():
        pass
    assert torch._dynamo.config.recompile_limit == limit
