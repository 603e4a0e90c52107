"""A network as a graph of torch.export, with a free batch size."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.attention import plain_attention
from limbeck.batches import batch_size, resized
from limbeck.compress.int8.needs import quiet
from limbeck.errors import LimbeckError
from limbeck.randomness import own_random_numbers
from limbeck.taps import takes_any

_SHOWN = 6  # lines of torch's message
_aten = torch.ops.aten
_WORDED = {
    _aten.conv1d.padding: _aten.conv1d.default,
    _aten.conv2d.padding: _aten.conv2d.default,
    _aten.conv3d.padding: _aten.conv3d.default,
}


def exported(model: nn.Module, example: Any, *, strict: bool = True) -> tuple[torch.export.ExportedProgram, int]:
    """The program of a model in the mode that it is in, and the smallest batch that it takes (1, rarely 2).

    Traced strictly, since torchao's quantizer fails on other graphs where a module is called twice.

    Args:
        model: is traced as it is; its state does not change.
        example: a batch; a mapping becomes keyword arguments.

    Raises:
        LimbeckError: torch cannot make a graph of it; the message has the cause and what to try.
    """
    failures: list[Exception] = []
    for least in (1, 2):
        args, kwargs, shapes = _call(model, example, torch.export.Dim("batch", min=least))
        try:
            # torch prints the whole graph to stderr where a forward branches on values; the error below says it in a line
            with quiet(), own_random_numbers(), plain_attention(), redirect_stderr(StringIO()):
                return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=strict), least
        except Exception as error:  # torch raises a dozen kinds here
            failures.append(error)
    raise LimbeckError(_explain(model, failures[0])) from failures[0]


def _call(model: nn.Module, example: Any, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Arguments for torch.export, with the first dimension of every tensor that holds samples free."""
    free, inputs = {0: batch}, two_rows(example)
    if isinstance(inputs, Mapping):
        samples = batch_size(example)
        return (), dict(inputs), {key: free if has_rows(value, samples) else None for key, value in example.items()}
    return (inputs,), {}, ((free,),) if takes_any(model) else (free,)


def has_rows(value: Any, samples: int) -> bool:
    """Whether an input holds samples, so many, in its first dimension: a scale and a mask of positions do not."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == samples


def two_rows(inputs: Any) -> Any:
    """The first two samples of a batch, the only one twice: a batch of 1 would be taken for a constant."""
    return resized(inputs, 2)


def as_graph(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module that can be changed, and whose modes can be set; padding is in numbers."""
    with quiet():
        graph: Any = program.module()
    _padded_by_numbers(graph)
    _padded_before(graph)
    return free_modes(graph)


def _padded_by_numbers(graph: fx.GraphModule) -> None:
    """Convolutions with padding="same" or "valid" as those with numbers, the only ones that torchao knows.

    As in torch, where "same" adds an odd number of zeros, the odd one goes behind.
    """
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in _WORDED:
            continue
        defaults = [a.default_value for a in node.target._schema.arguments]
        x, weight, bias, stride, word, dilation, groups = [*node.args, *defaults[len(node.args) :]]
        kernel = weight.meta["val"].shape[2:]
        steps = list(dilation) * len(kernel) if len(dilation) == 1 else list(dilation)
        total = [d * (k - 1) if word == "same" else 0 for d, k in zip(steps, kernel, strict=True)]
        if any(n % 2 for n in total):
            zeros = [n for count in reversed(total) for n in (0, count % 2)]
            with graph.graph.inserting_before(node):
                more = graph.graph.call_function(_aten.pad.default, (x, zeros))
            with quiet():
                more.meta["val"] = torch.nn.functional.pad(x.meta["val"], zeros)
            more.meta["nn_module_stack"] = node.meta.get("nn_module_stack") or {}
            _no_convolution(more)
            x = more
        node.target, node.args = _WORDED[node.target], (x, weight, bias, stride, [n // 2 for n in total], steps, groups)
        node.kwargs = {}
    graph.recompile()


def _padded_before(graph: fx.GraphModule) -> None:
    """Padding by reflection and its like, a part of torch's convolutions, as a step of its own before them."""
    for node in graph.graph.find_nodes(op="call_function", target=_aten.pad.default):
        _no_convolution(node)


def _no_convolution(pad: fx.Node) -> None:
    """Else torchao takes it for the convolution that it comes from."""
    pad.meta["source_fn_stack"] = [(pad.name, torch.nn.functional.pad)]


def free_modes(graph: fx.GraphModule) -> fx.GraphModule:
    """Take away the methods by which exported modules refuse ``train()`` and ``eval()``."""
    for name in ("train", "eval"):
        graph.__dict__.pop(name, None)
    return graph


def _explain(model: nn.Module, error: Exception) -> str:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(said[:_SHOWN])[:900]
    if "onstraint" in text or "specializ" in text:
        advice = (
            "the forward fixes the batch size: let it take sizes from the input (x.shape[0], flatten(1)) instead of "
            "numbers, and make no Python decision by them"
        )
    else:
        advice = (
            "a forward must not branch on the values of tensors (if x.sum() > 0, .item()), nor call what torch does "
            "not know; use torch.where or torch.cond, or leave such a part outside of the network that is quantized"
        )
    return (
        f"torch.export cannot make a graph of {type(model).__name__}: {text or type(error).__name__}. To try: {advice}"
    )
