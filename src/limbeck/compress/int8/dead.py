"""Tensors that a graph holds but does not read.

Conversion to int8 leaves the float weights where they were, unread: without this the file would be larger than before.
"""

from __future__ import annotations

from torch import fx, nn


def remove_dead(graph: fx.GraphModule) -> list[str]:
    """Delete parameters, buffers and submodules that no node of a graph reads.

    Returns:
        The names of the tensors that are gone.
    """
    graph.graph.eliminate_dead_code()
    graph.recompile()
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    gone = []
    for name, _ in [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)]:
        if name not in read and not any(name.startswith(f"{path}.") for path in called):
            _forget(graph, name)
            gone.append(name)
    kept = read | called
    for name in sorted((name for name, _ in graph.named_modules() if name), key=len, reverse=True):
        inside = any(path == name or path.startswith(f"{name}.") or name.startswith(f"{path}.") for path in kept)
        if not inside:
            _forget(graph, name)
    return gone


def _forget(module: nn.Module, name: str) -> None:
    path, _, last = name.rpartition(".")
    delattr(module.get_submodule(path), last)
