"""Without torchao's exports of patterns that cannot be in the graph, and the others exported once.

Where a graph has BatchNorm, torchao looks for it behind four kinds of convolution: twelve patterns when a network is prepared for
training, 96 when any network is converted, each exported anew, in every call.  On one core that is a fifth of a second each: of the
20 seconds that int8 of a small network with BatchNorm before a convolution took, 18.  What comes out has the same bits.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any
from unittest import mock

from torch import Tensor, fx

_FOUND = "_get_aten_graph_module_for_pattern"
_FUSE, _FOLD = "_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper"
_once: dict[Any, fx.GraphModule] = {}
_turn = threading.RLock()  # torchao's module is everybody's


@contextmanager
def few_patterns() -> Iterator[None]:
    """While it lasts, torchao exports only patterns that a graph may hold, and each at most once in a process.

    With a torchao that does this in other ways nothing is changed, and nothing saved.
    """
    from torchao.quantization.pt2e import qat_utils

    if not all(hasattr(qat_utils, name) for name in (_FOUND, _FUSE, _FOLD)):
        yield
        return
    with (
        _turn,
        mock.patch.object(qat_utils, _FOUND, _exported_once(getattr(qat_utils, _FOUND))),
        mock.patch.object(qat_utils, _FUSE, _where_it_may_be(getattr(qat_utils, _FUSE))),
        mock.patch.object(qat_utils, _FOLD, _where_it_may_be(getattr(qat_utils, _FOLD), "aten.sqrt.")),
    ):
        yield


def _where_it_may_be(replace: Callable[..., fx.GraphModule], *needed: str) -> Callable[..., fx.GraphModule]:
    """The same for graphs with this kind of convolution and all operations that are `needed`; others have nothing to replace."""

    def replaced(
        graph: fx.GraphModule, convolution: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> fx.GraphModule:
        there = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
        if all(any(name.startswith(one) for name in there) for one in (f"aten.{convolution.__name__}.", *needed)):
            return replace(graph, convolution, *args, **kwargs)
        graph.graph.eliminate_dead_code()  # as torchao does before it looks
        graph.recompile()
        return graph

    return replaced


def _exported_once(export: Callable[..., fx.GraphModule]) -> Callable[..., fx.GraphModule]:
    """The same, from the second time on a copy of what came the first time."""

    def exported(pattern: Any, inputs: tuple[Any, ...], on_gpu: bool = False, **kwargs: Any) -> fx.GraphModule:
        key = (
            *_of_function(getattr(pattern, "fn", pattern)),
            _shapes(inputs),
            on_gpu,
            _shapes(tuple(sorted(kwargs.items()))),
        )
        if key not in _once:
            _once[key] = export(pattern, inputs, on_gpu, **kwargs)
        return copy.deepcopy(_once[key])

    return exported


def _of_function(function: FunctionType) -> tuple[Any, ...]:
    """What tells one pattern from another: its name, and the settings that it closes over."""
    return (function.__qualname__, *(cell.cell_contents for cell in function.__closure__ or ()))


def _shapes(value: Any) -> Any:
    """Inputs without their numbers, which are drawn."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return tuple(_shapes(v) for v in value) if isinstance(value, tuple) else value
