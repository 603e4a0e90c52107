"""The form in which a network is timed and used: as it is, or compiled where only that makes it fast."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.cost import is_program
from limbeck.compress.parametrized import settle


class Served(NamedTuple):
    """A module to be called, and what its form is called: "eager" or "int8, compiled"."""

    model: nn.Module
    name: str


def served(model: nn.Module, example: Any) -> Served:
    """How people would run this network here.

    A quantized program that is not compiled computes in floating point and is slower than the network it came from;
    everything else is timed as it is, since compiling is the user's choice.
    """
    if is_program(model):
        return Served(cast(Any, model).compiled(example), "int8, compiled")
    if any(parametrize.is_parametrized(part) for part in model.modules()):
        # A mask is applied in every forward, which nobody would do with a finished network.
        model = copy.deepcopy(model)
        settle(model)
    return Served(model, "eager")
