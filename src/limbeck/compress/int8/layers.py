"""The layers of a network that can be quantized, by the names that its author gave them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import fx, nn

from limbeck.errors import LimbeckError, NameUnknown, unknown

_OPS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.linear.default,
}
_AT_ONCE = 16  # channels that int8 kernels of x86 CPUs work on together
_FLOAT = ("conv_transpose", "gru", "lstm", "rnn_tanh", "rnn_relu", "embedding", "bilinear")  # they have weights, too


def weighted(graph: fx.GraphModule) -> list[tuple[str, fx.Node]]:
    """Convolutions and linear layers of a graph in order of running, with the module that each stands in."""
    return [(place(node), node) for node in graph.graph.nodes if node.op == "call_function" and node.target in _OPS]


def place(node: fx.Node) -> str:
    """The path of the innermost module that a node comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    return _path(list(stack.values())[-1]) if stack else node.name


def _path(entry: Any) -> str:
    """The path in an entry of ``nn_module_stack``."""
    return str(entry[0]).removeprefix("L['self'].")


def in_int8(graph: fx.GraphModule) -> dict[str, list[str]]:
    """Which layers of a converted graph compute with int8 weights, and which kept theirs: "int8" and "float"."""
    found: dict[str, list[str]] = {"int8": [], "float": []}
    for name, node in weighted(graph):
        weight = node.args[1]
        quantized = isinstance(weight, fx.Node) and "dequantize" in _through(weight).name
        kept = found["int8" if quantized else "float"]
        if name not in kept:
            kept.append(name)
    found["float"] += [name for name in unsuitable(graph) if name not in found["float"]]
    return found


def unsuitable(graph: fx.GraphModule) -> list[str]:
    """Layers with weights of kinds that are never quantized here: transposed convolutions, recurrent layers, tables."""
    nodes = (node for node in graph.graph.nodes if node.op == "call_function")
    return list(dict.fromkeys(place(node) for node in nodes if kind_of(node).startswith(_FLOAT)))


def kind_of(node: fx.Node) -> str:
    """The name of an operation of torch's: "conv_transpose2d"; of anything else ""."""
    return node.target.name().removeprefix("aten::") if isinstance(node.target, torch._ops.OpOverload) else ""


def _through(node: fx.Node) -> fx.Node:
    """The node behind views and transposes of a weight."""
    while node.op == "call_function" and "dequantize" not in node.name and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def padding(graph: fx.GraphModule) -> float:
    """How many times the arithmetic of a float graph grows where int8 kernels fill channels up to a multiple of sixteen.

    The first and the last layer, whose widths are given, and grouped convolutions are left out.
    """
    wanted = done = 0
    for _, node in weighted(graph)[1:-1]:
        args: Any = node.args
        if len(args) > 6 and args[6] != 1:
            continue
        weight, made = (part.meta.get("val") for part in (args[1], node))
        if weight is None or made is None:
            continue
        outs, ins, *kernel = weight.shape
        places = math.prod([*kernel, *(made.shape[2:] if kernel else ())])
        wanted += outs * ins * places
        done += _filled(outs) * _filled(ins) * places
    return done / wanted if wanted else 1.0


def _filled(channels: int) -> int:
    return -(-channels // _AT_ONCE) * _AT_ONCE


def require_foldable(graph: fx.GraphModule) -> None:
    """Refuse a BatchNorm behind a convolution that has no running statistics: torchao folds the two, and cannot without.

    Raises:
        LimbeckError: there is one; the message names it.
    """
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        source, mean = node.args[0], node.args[3]
        if mean is None and isinstance(source, fx.Node) and source.target in _OPS:
            raise LimbeckError(
                f"{place(node)} is a BatchNorm without running statistics (track_running_stats=False), and torchao, which folds it "
                f"into {place(source)}, cannot do without them: train it with statistics, put a GroupNorm in its place, or store "
                'the weights alone in int8 (mode="weights")'
            )


def left_alone(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Every path of the modules with these names and of all modules in them, also by the other names that a module has.

    A graph knows modules by the paths at which they were called: a list whose layers the forward calls one by one is not among them.

    Raises:
        NameUnknown: there is no module of a name.

    >>> left_alone(nn.ModuleDict({"a": nn.Sequential(nn.ReLU()), "b": nn.ReLU()}), ["a"])
    ('a', 'a.0')
    """
    known = {name: part for name, part in model.named_modules(remove_duplicate=False) if name}
    inside: set[int] = set()
    for name in names:
        if name not in known:
            raise NameUnknown("skip: " + unknown("layer", name, known, type(model).__name__))
        inside |= {id(part) for part in known[name].modules()}
    return tuple(name for name, part in known.items() if id(part) in inside)


def mark_holders(graph: fx.GraphModule, model: nn.Module, names: Collection[str]) -> None:
    """Place operations whose weight one of these modules holds in that module, where its own forward is not called.

    torch's attention computes with the weight of its ``out_proj`` so.

    Args:
        graph: of this very model; the placing is in the metadata of its nodes, nothing else changes.
        names: what `left_alone` gave.
    """
    if not names:
        return
    parts = dict(model.named_modules(remove_duplicate=False))
    for _, node in weighted(graph):
        weight = node.args[1]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        path, _, last = str(weight.target).rpartition(".")
        used = getattr(parts.get(path), last, None)
        stack = node.meta.get("nn_module_stack") or {}
        callers = [parts[name] for name in map(_path, stack.values()) if name in parts]
        if used is None or any(_holds(part, used) for part in callers):
            continue
        for name in names:
            if _holds(parts[name], used):
                node.meta["nn_module_stack"] = {**stack, f"holder_{name}": (name, type(parts[name]))}
                break


def _holds(part: nn.Module, tensor: Any) -> bool:
    return any(own is tensor for own in part.parameters(recurse=False))


def require_left_alone(graph: fx.GraphModule, names: Collection[str]) -> None:
    """Check that a graph in which torchao put observers, or rounding, has none at the weights of these layers.

    Raises:
        LimbeckError: it has; the message names the layer.
    """
    for name, node in weighted(graph):
        weight = node.args[1]
        if name in names and isinstance(weight, fx.Node) and weight.op == "call_module":
            raise LimbeckError(
                f"skip: {name} cannot be left in float, because torchao rounds it all the same; skip the module around it"
            )
