"""Torch's own formats: the graph as it was exported, and the same compiled for this kind of processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.export.needs import cause_of, need_compiler, quiet_others
from limbeck.export.rows import require_any_rows
from limbeck.export.subject import Subject
from limbeck.processor import processor_name

FILE = "model.pt2"
_STEPS = "quantized_decomposed"  # quantize and dequantize, in the graph of a network in int8
_OPERATORS = "torch.ao.quantization.fx._decomposed"  # the module that registers these
_COMPILER = "torch.utils.cpp_extension"  # that there is no GPU is no news to who asks for a file for CPUs
_TALK = ("stack_trace", "from_node")  # where in somebody's source a node comes from, with the paths that it has there


def program_of(subject: Subject, *, open_rows: bool = True) -> torch.export.ExportedProgram:
    """The network as torch.export sees it, the number of rows left open.

    Raises:
        LimbeckError: torch cannot export it.
    """
    rows = tuple({0: torch.export.Dim.DYNAMIC} for _ in subject.names)
    shapes = ((rows,) if subject.varargs else rows) if open_rows else None
    example = subject.example if open_rows else tuple(tensor[:1] for tensor in subject.example)
    program = _program(subject.module, example, shapes)
    require_any_rows(program)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _TALK:
                    node.meta.pop(key, None)
    return program


def _program(module: Any, example: tuple[Tensor, ...], shapes: Any) -> torch.export.ExportedProgram:
    """By torch's two ways to follow a forward: the strict one keeps ``len(x)`` open, which is a number to the other."""
    failures: list[Exception] = []
    for strict in (False, True):
        try:
            # torch prints whole graphs to stderr where it gives up; the error below says it in a line
            with quiet_others(), redirect_stderr(StringIO()):
                return torch.export.export(module, example, dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # torch raises a dozen kinds here
            failures.append(error)
    raise LimbeckError(
        f"torch.export does not take this network: {cause_of(failures[0])}. Python that depends on values, or on the number of rows, "
        "is what it cannot follow"
    ) from failures[0]


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Write ``model.pt2`` for ``torch.export.load``."""
    program = program_of(subject)
    program.example_inputs = None  # they would be pickled
    with quiet_others():
        torch.export.save(program, folder / FILE)
    steps = any(_STEPS in str(node.target) for node in program.graph.nodes)
    return {"operators": _OPERATORS} if steps else {}


def opened(folder: Path, told: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The file in PyTorch: inputs in, logits out."""
    with quiet_others():
        if told["details"].get("operators"):
            import_module(_OPERATORS)  # no name from a file is imported
        module = torch.export.load(folder / told["file"]).module()
    return _runs(module)


def write_compiled(subject: Subject, folder: Path) -> dict[str, Any]:
    """Write ``model.pt2`` for ``torch._inductor.aoti_load_package``: machine code for processors like this one."""
    need_compiler()
    program = program_of(subject)
    with quiet_others(_COMPILER):
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(folder / FILE))
        except Exception as error:
            raise LimbeckError(
                f"torch cannot compile this network ahead of time: {cause_of(error)}; --to torch does not compile it"
            ) from error
    return {"processor": processor_name()}


def opened_compiled(folder: Path, told: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The compiled network: inputs in, logits out."""
    with quiet_others(_COMPILER):
        try:
            module: Any = torch._inductor.aoti_load_package(str(folder / told["file"]))
        except Exception as error:
            made = told.get("details", {}).get("processor", "another processor")
            raise LimbeckError(
                f"{folder / told['file']} cannot be loaded here ({error}); it was compiled on {made}. Export it on this machine"
            ) from error
    return _runs(module)


def _runs(module: Callable[..., Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
    def run(inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return module(*inputs)

    return run
