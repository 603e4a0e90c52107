"""Where torchao folds BatchNorm into the layer before it: kept from it where that is wrong, and put right where it forgets.

torchao looks at neither who else reads what the layer answers nor who else computes with its weight: both would get the folded
weight.  And while a network is trained in int8, it takes every BatchNorm for one with the defaults of ``eps`` and ``momentum``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.compress.int8.layers import kind_of

_aten = torch.ops.aten
_FOLDED = ("conv", "linear")  # transposed convolutions among them
_EPS = 1e-5  # what torchao writes

Constants = Mapping[str, tuple[float, float]]


def keep_apart(graph: fx.GraphModule) -> None:
    """Put a step between a layer and its BatchNorm, in place, wherever others read the layer's answer or use its weight."""
    norms = graph.graph.find_nodes(op="call_function", target=_aten.batch_norm.default)
    layers = [n for n in graph.graph.nodes if n.op == "call_function" and kind_of(n).startswith(_FOLDED)]
    weights = Counter(_identity(graph, layer.args[1]) for layer in layers)
    shared = Counter(_identity(graph, norm.args[4]) for norm in norms)
    for norm in norms:
        layer = norm.args[0]
        if layer not in layers:
            continue
        # One set of statistics cannot be put right for two (see `settle_constants`).
        twice = shared[_identity(graph, norm.args[4])] > 1 and _constants(norm)[1] != _EPS
        if len(layer.users) == 1 and weights[_identity(graph, layer.args[1])] == 1 and not twice:
            continue
        with graph.graph.inserting_before(norm):
            step = graph.graph.call_function(_aten.clone.default, (layer,))
        step.meta = {**layer.meta, "source_fn_stack": [(step.name, torch.clone)]}
        norm.replace_input_with(layer, step)
    graph.recompile()


def _identity(graph: fx.GraphModule, source: Any) -> Any:
    """The tensor that a node fetches, whatever it is called; else the node."""
    if isinstance(source, fx.Node) and source.op == "get_attr":
        path, _, last = str(source.target).rpartition(".")
        return id(getattr(graph.get_submodule(path), last))
    return source


# -- constants of normalisation, in training ------------------------------------------------------------


def constants(graph: fx.GraphModule) -> dict[str, tuple[float, float]]:
    """``momentum`` and ``eps`` of every BatchNorm, by the name of its running variance."""
    norms = graph.graph.find_nodes(op="call_function", target=_aten.batch_norm.default)
    return {str(norm.args[4].target): _constants(norm) for norm in norms if isinstance(norm.args[4], fx.Node)}


def _constants(norm: fx.Node) -> tuple[float, float]:
    momentum, eps = norm.args[6:8]
    return float(momentum), float(eps)  # type: ignore[arg-type]


def put_back(graph: fx.GraphModule, known: Constants) -> None:
    """Give a graph that torchao prepared for training the constants that it had, in place."""
    for norm in graph.graph.find_nodes(op="call_function", target=_aten.batch_norm.default):
        if (name := _variance(norm.args[4])) in known:
            for place, value in zip((6, 7), known[name], strict=True):
                norm.update_arg(place, value)
    for node in _scales(graph):
        if (name := _variance(node.args[0])) in known:
            node.update_arg(1, known[name][1])
    graph.recompile()


def settle_constants(graph: fx.GraphModule) -> None:
    """Before a trained graph is converted: add to the variances what torchao, which folds with its own ``eps``, leaves out; in place."""
    for node in _scales(graph):
        path, _, last = _variance(node.args[0]).rpartition(".")
        variance: Tensor = getattr(graph.get_submodule(path), last)
        with torch.no_grad():
            variance += float(node.args[1]) - _EPS  # type: ignore[arg-type]


def _scales(graph: fx.GraphModule) -> list[fx.Node]:
    """Where torchao computes by what BatchNorm will divide: ``running_var + eps``, of each variance one."""
    return [node for node in graph.graph.find_nodes(op="call_function", target=_aten.add.Tensor) if _is_scale(node)]


def _is_scale(node: fx.Node) -> bool:
    if len(node.args) < 2 or not isinstance(node.args[1], float):
        return False
    return bool(_variance(node.args[0])) and any(user.target is _aten.sqrt.default for user in node.users)


def _variance(source: Any) -> str:
    fetched = isinstance(source, fx.Node) and source.op == "get_attr"
    return str(source.target) if fetched and str(source.target).endswith("running_var") else ""


def whole_norms(model: nn.Module) -> None:
    """torchao divides by BatchNorm's weight while it trains: one without gets ones that are not trained, in place."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.weight is None:
            like: dict[str, Any] = {}
            if isinstance(part.running_mean, Tensor):
                like = {"device": part.running_mean.device, "dtype": part.running_mean.dtype}
            part.weight = nn.Parameter(torch.ones(part.num_features, **like), requires_grad=False)
            part.bias = nn.Parameter(torch.zeros(part.num_features, **like), requires_grad=False)
