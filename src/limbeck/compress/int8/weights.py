"""Weights stored in 8 or 4 bits and computed with in float: a smaller file, no faster network."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.compress.int8.dead import remove_dead
from limbeck.compress.int8.layers import left_alone, place, unsuitable, weighted
from limbeck.compress.int8.program import Quantized, count, takes
from limbeck.compress.int8.static import float_graph
from limbeck.compress.uniform import quantize, symmetric
from limbeck.errors import LimbeckError
from limbeck.randomness import own_random_numbers


class Stored(nn.Module):
    """A weight as integers; called, it gives the numbers that they stand for.

    Args:
        weight: ``[out, ...]``.
        bits: 8, or 4, two of which share a byte.
        per_channel: one scale per output channel, not one for all.

    >>> Stored(torch.tensor([[1.0, -7.0, 3.0]]), 4, True)()
    tensor([[ 1., -7.,  3.]])
    """

    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bits: int, per_channel: bool) -> None:
        super().__init__()
        grid = symmetric(weight.float(), bits=bits, axis=0 if per_channel else None)
        integers = quantize(weight.float(), grid)
        self.bits, self.shape, self.count = bits, list(weight.shape), weight.numel()
        self.dtype = weight.dtype
        self.register_buffer("values", _paired(integers) if bits == 4 else integers.to(torch.int8))
        scale, _ = grid.shaped(weight)
        # Types of 16 bits round a scale by as much as the integers round the weight.
        self.register_buffer("scale", scale.to(torch.promote_types(weight.dtype, torch.float32)))

    def forward(self) -> Tensor:
        values = self.values
        if self.bits == 4:
            halves = torch.stack([values & 15, values >> 4], 1).flatten()[: self.count]
            values = halves.to(self.scale.dtype) - 8
        return (values.reshape(self.shape).to(self.scale.dtype) * self.scale).to(self.dtype)


def _paired(integers: Tensor) -> Tensor:
    """Integers in [-8, 7], two to a byte, the first in the lower half."""
    flat = (integers.flatten() + 8).to(torch.uint8)
    if len(flat) % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[0::2] | (flat[1::2] << 4)


def stored(model: nn.Module, example: Any, *, bits: int, per_channel: bool, skip: tuple[str, ...]) -> Quantized:
    """The network with the weights of its convolutions and linear layers stored in few bits."""
    kept = left_alone(model, skip)
    with own_random_numbers(), torch.no_grad():
        graph, least = float_graph(model, example, kept)
        layers: dict[str, list[str]] = {"int8": [], "float": []}
        done: dict[fx.Node, fx.Node] = {}
        for name, node in weighted(graph):
            source = node.args[1]
            whole = isinstance(source, fx.Node) and (source in done.values() or source.op == "get_attr")
            if name in kept or not whole:
                layers["float"].append(name)
                continue
            assert isinstance(source, fx.Node)
            if source not in done.values():
                _replace(graph, source, bits, per_channel, done, kept)
            if name not in layers["int8"]:
                layers["int8"].append(name)
    if not layers["int8"]:
        raise LimbeckError("nothing was quantized: there is no convolution or linear layer left to work on")
    remove_dead(graph)
    others = unsuitable(graph)
    sharing = [name for name in others if name in _reading(graph)]  # a table that is the weight of a linear layer, too
    in_float = layers["float"] + [name for name in others if name not in sharing]
    told = {"float": in_float, f"int{bits}": layers["int8"] + sharing}
    facts = {"mode": "weights", "least": least, "takes": takes(example), "layers": told, "parameters": count(model)}
    return Quantized(graph, facts)


def _reading(graph: fx.GraphModule) -> set[str]:
    """The modules that compute with a stored weight."""
    modules = dict(graph.named_modules())
    stored = [n for n in graph.graph.nodes if n.op == "call_module" and isinstance(modules[str(n.target)], Stored)]
    return {place(user) for node in stored for user in node.users}


def _replace(
    graph: fx.GraphModule,
    source: fx.Node,
    bits: int,
    per_channel: bool,
    done: dict[fx.Node, fx.Node],
    kept: Collection[str],
) -> None:
    """A stored weight in the place of one, but for layers that are to stay in float and share it."""
    path, _, last = str(source.target).rpartition(".")
    weight = getattr(graph.get_submodule(path), last)
    name = f"stored_{len(done)}"
    graph.add_module(name, Stored(weight, bits, per_channel))
    with graph.graph.inserting_before(source):
        new = graph.graph.call_module(name)
    source.replace_all_uses_with(new, delete_user_cb=lambda user: place(user) not in kept)
    done[source] = new
