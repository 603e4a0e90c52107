"""Compiled int8 graphs, and the proof that their kernels are int8."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn

from limbeck.compress.int8.batches import call, device_of, run
from limbeck.compress.int8.needs import quiet
from limbeck.errors import LimbeckError

_KERNEL = re.compile(r"torch\.ops\.(onednn\.q\w+)")
_aten = torch.ops.aten
_RELUS = (_aten.relu.default, _aten.relu_.default)
_SUMS = (_aten.add.Tensor, _aten.add_.Tensor)
_LINE = -2  # the dimension of lines in a picture, with a batch or without
_PRODUCTS = (_aten.conv1d.default, _aten.conv2d.default, _aten.convolution.default, _aten.linear.default)


class Compiled(nn.Module):
    """A compiled graph.  Runs in inference mode always: with gradients on, torch does not freeze weights into kernels.

    Attributes:
        kernels: the int8 kernels in it, in order.
    """

    def __init__(self, graph: fx.GraphModule, least: int) -> None:
        super().__init__()
        self.quick: Any = torch.compile(graph, dynamic=False)
        self.least = least
        self.kernels: tuple[str, ...] = ()
        self.known: set[tuple[torch.Size, ...]] = set()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        shapes = tuple(value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.inference_mode(), nullcontext() if shapes in self.known else quiet():  # a new shape is compiled
            out = call(self.quick, self.least, args, kwargs)
        self.known.add(shapes)
        return out

    def train(self, mode: bool = True) -> Compiled:
        """Set the own flag only: another flag inside would cost a compilation."""
        self.training = mode
        return self


def freeze() -> None:
    """Let inductor fold weights into kernels, from now on and for the whole process."""
    import torch._inductor.config as config

    if not config.freezing:
        config.freezing = True


def compiled(graph: fx.GraphModule, example: Any, *, least: int = 1) -> Compiled:
    """Compile a converted graph for batches like this one, now.

    Raises:
        LimbeckError: the example is not on the CPU, or torch cannot compile the graph.
    """
    if device_of(example).type != "cpu":
        raise LimbeckError(f"int8 kernels are for the CPU, and the example is on {device_of(example)}; move both there")
    freeze()
    fast = Compiled(_for_kernels(graph), least)
    fast.eval()
    try:
        with quiet(), _written() as code:
            run(fast, 1, example)
    except Exception as error:  # of the compiler: any kind
        raise LimbeckError(f"torch cannot compile the int8 graph: {str(error)[:500]}") from error
    fast.kernels = tuple(name for text in code for name in _KERNEL.findall(text))
    return fast


@contextmanager
def _written() -> Iterator[list[str]]:
    """The code that torch's compiler writes meanwhile.

    `torch._inductor.utils.run_and_get_code` does the same, after it has thrown away all that was compiled before.
    """
    from torch._inductor.graph import GraphLowering

    code: list[str] = []
    with mock.patch.object(GraphLowering, "save_output_code", code.append):
        yield code


def _for_kernels(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy, with the same weights, written in the ways for which torch has int8 kernels."""
    own = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    _rows_as_pictures(own.graph)
    _sums_apart(own.graph)
    own.recompile()
    return own


def _rows_as_pictures(graph: fx.Graph) -> None:
    """Write int8 convolutions of rows (1-D) as those of pictures of one line, in place; what nothing reads then, torch leaves out.

    torch takes the length of the answer of its 1-D kernel from a weight that is packed in two dimensions, hence for longer than
    it is, and fails where a later step needs the length (a GRU, attention; torch 2.15).
    """
    for node in graph.find_nodes(op="call_function", target=_aten.conv1d.default):
        rest = [*node.args, *(None, [1], [0], [1], 1)[len(node.args) - 2 :]]
        x, weight, bias, stride, padding, dilation, groups = rest
        if not all(isinstance(part, fx.Node) and "dequantize" in str(part.target) for part in (x, weight)):
            continue
        after = next(iter(node.users)) if len(node.users) == 1 else None
        last = after if after is not None and after.target in _RELUS else node
        with graph.inserting_before(last):
            lines = [_line(graph, part) for part in (x, weight)]
            out = graph.call_function(
                _aten.conv2d.default, (*lines, bias, [1, *stride], [0, *padding], [1, *dilation], groups)
            )
            if last is after:  # right behind the kernel, which takes it in
                out = graph.call_function(_aten.relu.default, (out,))
            last.replace_all_uses_with(graph.call_function(_aten.squeeze.dim, (out, _LINE)))


def _line(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """What a node makes float of, as pictures of one line: kernels want the integers right before them."""
    whole = node.args[0]
    line = graph.call_function(_aten.unsqueeze.default, (whole, _LINE))
    return graph.node_copy(node, lambda source: line if source is whole else source)


def _sums_apart(graph: fx.Graph) -> None:
    """Let no sum follow right on the ReLU of a convolution or linear layer, in place.

    torchao takes that ReLU into the integer kernel, then wants the sum in the same kernel and fails on what it made
    (``x + relu(conv(y))``, as in ResNet-9; torchao 0.18).  Written as a clamp the ReLU is left to the sum's own loop.
    """
    for node in graph.nodes:
        if node.target in _RELUS and node.args[0].target in _PRODUCTS and any(u.target in _SUMS for u in node.users):
            node.target, node.args = _aten.clamp_min.default, (node.args[0], 0)


def require_fused(kernels: Iterable[str]) -> list[str]:
    """The kernels themselves; an error where there are none.

    Args:
        kernels: what `Quantized.fused` said.

    Raises:
        LimbeckError: the compiled graph computes in float, however it was quantized.

    >>> require_fused(["onednn.qconv_pointwise"])
    ['onednn.qconv_pointwise']
    """
    found = list(kernels)
    if not found:
        raise LimbeckError(
            "the compiled graph holds no int8 kernel: it computes in float with rounded numbers, and is no faster. "
            "Weights-only networks are always so; else compile in inference mode with torch._inductor.config.freezing "
            "on since before the first compilation, and check that the CPU has avx512_vnni or amx_int8"
        )
    return found
