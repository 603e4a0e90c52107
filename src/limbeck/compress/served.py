"""The form in which a network is timed and used: as it is, or compiled where only that makes it fast."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import nn

from limbeck.compress.cost import is_program
from limbeck.compress.plain import plain


class Served(NamedTuple):
    """A module to be called, and what its form is called: "eager" or "int8, compiled"."""

    model: nn.Module
    name: str


def served(model: nn.Module, example: Any) -> Served:
    """How people would run this network here.

    A quantized program that is not compiled computes in floating point and is slower than the network it came from;
    everything else is timed in eager mode, since compiling is the user's choice, and as it is when training is over: nobody
    would apply masks, or take signs of weights, in every forward.
    """
    if is_program(model):
        return Served(cast(Any, model).compiled(example), "int8, compiled")
    return Served(plain(model), "eager")
