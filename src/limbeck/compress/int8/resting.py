"""A graph that was exported in training mode, put into evaluation mode, and whether it then does what the network does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from limbeck.attention import plain_attention
from limbeck.batches import changed
from limbeck.compress.int8.export import two_rows
from limbeck.compress.int8.layers import place
from limbeck.compress.int8.needs import quiet
from limbeck.errors import LimbeckError, listed
from limbeck.models.macs import as_found
from limbeck.randomness import own_random_numbers
from limbeck.taps import call, title

_LEARNS = "limbeck_learns"
_OFF = 0.01  # of the length of an output: the same operations differ by less
_aten = torch.ops.aten

# Operators that do one thing in training and another in evaluation: which argument says so, and its value in evaluation.
_SWITCHES: dict[Any, tuple[int, Any]] = {
    _aten.batch_norm.default: (5, False),
    _aten.instance_norm.default: (5, False),
    _aten.dropout.default: (2, False),
    _aten.dropout_.default: (2, False),
    _aten.feature_dropout.default: (2, False),
    _aten.feature_dropout_.default: (2, False),
    _aten.alpha_dropout.default: (2, False),
    _aten.feature_alpha_dropout.default: (2, False),
    _aten.rrelu.default: (3, False),
    _aten.scaled_dot_product_attention.default: (4, 0.0),
}
_NORMS = {_aten.batch_norm.default, _aten.instance_norm.default}


def set_graph(graph: fx.GraphModule, learns: bool) -> None:
    """Put a graph that was exported in training mode into this mode."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in _SWITCHES:
            continue
        index, resting = _SWITCHES[node.target]
        alone = node.target in _NORMS and node.args[3] is None  # keeps no statistics: those of the batch in either mode
        if index < len(node.args) and not alone:
            first = node.meta.setdefault(_LEARNS, node.args[index])
            node.update_arg(index, first if learns else resting)
    graph.recompile()


def require_rest(graph: fx.GraphModule, model: nn.Module, example: Any) -> None:
    """Refuse a network that does something in training only which no switch of the graph turns off: it would be in int8 for good.

    Both are as they were afterwards: torchao looks for normalisation in training mode.

    Args:
        graph: of the network in training mode, as torch.export gave it.
        model: the network.
        example: a batch.

    Raises:
        LimbeckError: in evaluation mode the two give outputs of another form or other numbers, or only the graph draws random
            numbers or writes to buffers.  The message says which.
    """
    inputs = two_rows(example)
    with own_random_numbers(), quiet(), torch.no_grad(), plain_attention(), as_found(graph, model):
        set_graph(graph, False)
        model.eval()
        expected, drew, wrote = _tried(model, inputs)
        found, draws, writes = _tried(graph, inputs)
        (want, want_form), (have, have_form) = tree_flatten(expected), tree_flatten(found)
        cause = ""
        if want_form != have_form or [_shape(v) for v in want] != [_shape(v) for v in have]:
            cause = f"its output has another form in training ({_form(found)} for {_form(expected)})"
        elif draws and not drew:
            cause = f"random numbers are drawn in {listed(_random(graph)) or 'its forward'}"
        elif writes - wrote:
            cause = f"it writes to {listed(sorted(writes - wrote))}"
        elif not drew and (off := max(map(_apart, have, want), default=0.0)) > _OFF:
            cause = f"in evaluation mode the graph of its training gives outputs that are {off:.1%} off"
    set_graph(graph, True)
    if cause:
        raise LimbeckError(
            f"what this {title(model)} does in training only would stay in the int8 network: {cause}. Quantization-aware training "
            "knows one graph for training and evaluation, and can switch dropout and normalisation in it, nothing else: take such "
            'a part out of the forward (a rate of 0, or a forward that is the same in both modes), or use mode "static" '
            "on the trained network"
        )


def _tried(model: nn.Module, inputs: Any) -> tuple[Any, bool, set[str]]:
    """What comes out, whether random numbers were drawn for it, and the buffers that were written to."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    numbers = _numbers()
    out = call(model, changed(inputs, Tensor.clone))
    drew = any(not torch.equal(a, b) for a, b in zip(numbers, _numbers(), strict=True))
    now = dict(model.named_buffers())
    return out, drew, {name for name, old in before.items() if name in now and not torch.equal(now[name], old)}


def _numbers() -> list[Tensor]:
    """The states of torch's generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _random(graph: fx.GraphModule) -> list[str]:
    """Where a graph draws random numbers that it cannot leave, with the operation."""
    found = [
        f"{place(node) or 'its own forward'} ({node.target.name().removeprefix('aten::')})"
        for node in graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in node.target.tags
        and node.target not in _SWITCHES
    ]
    return list(dict.fromkeys(found))


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else None


def _form(output: Any) -> str:
    """An output in a few words."""
    tensors = [value for value in tree_flatten(output)[0] if isinstance(value, Tensor)]
    return f"a {type(output).__name__}" + ("" if isinstance(output, Tensor) else f" of {len(tensors)}")


def _apart(a: Any, b: Any) -> float:
    """How far two outputs are apart, as a part of the length of the second; what is no floating-point tensor is not compared."""
    if not isinstance(b, Tensor) or not b.is_floating_point():
        return 0.0
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return float((a - b).norm() / b.norm().clamp_min(1e-6))
