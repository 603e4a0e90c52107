"""Networks by name: our own, torchvision's and timm's."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from limbeck.errors import HyperParameterError, NameUnknown
from limbeck.models.macs import count_macs
from limbeck.models.names import TABLE, line, problem
from limbeck.settings import require


def build(
    name: str, *, classes: int, in_channels: int | None = None, size: int | None = None, **options: Any
) -> nn.Module:
    """A fresh network.  Its weights come from torch's global random numbers and from nothing else.

    Args:
        name: a network of the zoo ("resnet20", "wrn_16_2", "plain_4"; see `limbeck.models.names`),
            "torchvision:NAME" or "timm:NAME" (never with their trained weights).
        classes: how many scores it returns, 1 or more.
        in_channels: of the input; None: what the network was made for (3, and 1 for the digits networks).
        size: side of the square input in pixels; None: what the network was made for (32, and 8 for digits).
        options: further settings of that network, such as ``dropout`` of ``wrn_D_W``.

    Returns:
        A module in training mode that maps ``[batch, in_channels, size, size]`` to scores ``[batch, classes]``.

    Raises:
        NameUnknown: no such network; the message has near names.
        HyperParameterError: a number out of range, or an option that the network does not have.
        LimbeckError: timm is asked for and not installed.

    >>> net = build("resnet8", classes=10)
    >>> sum(p.numel() for p in net.parameters())
    78042
    """
    if (found := problem(name)) is not None:
        raise NameUnknown(found)
    known = line(name)
    told = {"name": name, "classes": classes, "in_channels": in_channels, "size": size, **options}
    channels = in_channels if in_channels is not None else known.channels if known else 3
    side = size if size is not None else known.size if known else 32
    for what, value in (("classes", classes), ("in_channels", channels), ("size", side)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        require(whole and value >= 1, what, value, "a whole number, 1 or more")
    if known is None:
        from limbeck.models import outside

        return _named(outside.build(name, classes, channels, side, options), name, told)
    maker: Callable[..., nn.Module] = importlib.import_module(f"limbeck.models.{known.home}").build
    _check_options(name, maker, options)
    return _named(maker(name, classes, channels, side, **options), name, told)


def again(model: nn.Module) -> Callable[[], nn.Module] | None:
    """What makes a network like this one with weights of its own, as `build` does; None if it did not make this one.

    >>> again(build("resnet8", classes=10))().zoo_name
    'resnet8'
    """
    told = getattr(model, "zoo_options", None)
    return None if told is None else lambda: build(**told)


def _named(model: nn.Module, name: str, told: dict[str, Any]) -> nn.Module:
    """The network, knowing what messages should call it and how it was made.  Plain attributes: no part of its state."""
    object.__setattr__(model, "zoo_name", name)
    object.__setattr__(model, "zoo_options", told)
    return model


def _check_options(name: str, maker: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(maker).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise HyperParameterError(f"no option {option!r} in network {name!r}; its options: {takes}")


@dataclass(frozen=True)
class ZooEntry:
    """One network of the zoo.  Its numbers are counted when they are asked for, and cost no memory for weights.

    Attributes:
        name: what a recipe calls it.
        title: what it is, in a few words.
        input_shape: of the image it was made for: channels, height, width.
    """

    name: str
    title: str
    input_shape: tuple[int, int, int]

    @property
    def parameters(self) -> int:
        """How many parameters it has at 10 classes."""
        return _numbers(self.name)[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image of `input_shape` at 10 classes; see `count_macs`."""
        return _numbers(self.name)[1]


@cache
def _numbers(name: str) -> tuple[int, int]:
    with torch.device("meta"):  # no memory, no random numbers
        model = build(name, classes=10)
        inputs = torch.empty(1, *zoo()[name].input_shape)
    return sum(p.numel() for p in model.parameters()), count_macs(model, inputs)


@cache
def zoo() -> Mapping[str, ZooEntry]:
    """The networks with a name of their own.

    >>> zoo()["resnet20"].parameters, zoo()["digits_cnn"].input_shape
    (272474, (1, 8, 8))
    """
    return MappingProxyType(
        {name: ZooEntry(name, known.title, (known.channels, known.size, known.size)) for name, known in TABLE.items()}
    )
