"""How big the networks of the zoo are.  Imports torch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from limbeck.models import build, count_macs, zoo


class Size(NamedTuple):
    """One network of the zoo.

    Attributes:
        name: what a recipe calls it.
        title: what it is.
        input_shape: of one image: channels, height, width.
        parameters: how many.
        macs: multiply-accumulates for one image.
    """

    name: str
    title: str
    input_shape: tuple[int, int, int]
    parameters: int
    macs: int


def sizes(classes: int) -> list[Size]:
    """Every network, for so many classes; built without memory for weights."""
    return [_size(name, entry.title, entry.input_shape, classes) for name, entry in zoo().items()]


def _size(name: str, title: str, shape: tuple[int, int, int], classes: int) -> Size:
    with torch.device("meta"):
        model = build(name, classes=classes)
        macs = count_macs(model, torch.empty(1, *shape))
    return Size(name, title, shape, sum(p.numel() for p in model.parameters()), macs)
