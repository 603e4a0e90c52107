"""The forms in which a network can run on a CPU, to be timed against each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.batches import changed
from limbeck.compiling import without_limit
from limbeck.compress import runtimes
from limbeck.compress.int8.needs import quiet
from limbeck.compress.plain import plain
from limbeck.errors import LimbeckError, NameUnknown, unknown
from limbeck.models.swap import copied
from limbeck.phase import Batch
from limbeck.processor import BF16_UNITS, bf16_unit

FORMS: tuple[str, ...] = (
    "eager",
    "compiled",
    "bf16 compiled",
    "int8 eager",
    "int8 compiled",
    "onnxruntime",
    "onnxruntime int8",
    "openvino",
    "openvino bf16",
    "openvino int8",
)
OF_FILES: tuple[str, ...] = (
    "onnxruntime int8",
    "openvino int8",
)  # an ONNX file in int8 is needed for these, not a network


class Form(nn.Module):
    """Something that runs a network, as a module that `limbeck.compress.cost.latency` can time.

    Inference mode, always, in all forms alike; modes inside are left alone, since another mode costs a compilation.
    """

    def __init__(self, runs: Any, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.runs = [runs]  # in a list: no submodule, whose flags others would set
        self.dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            if self.dtype is not None:
                args, kwargs = (
                    tuple(_cast(a, self.dtype) for a in args),
                    {k: _cast(v, self.dtype) for k, v in kwargs.items()},
                )
            return self.runs[0](*args, **kwargs)


def compiled(model: nn.Module, example: Any, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a network, compiled for batches of this shape, with channels last and frozen weights.

    Args:
        model: in any mode; stays as it is.
        example: a batch on the CPU.
        dtype: of the copy's weights, and of the inputs; None: as they are.
    """
    from limbeck.compress.int8.fused import freeze

    freeze()
    own = copied(model).eval().requires_grad_(False)
    own = own if dtype is None else own.to(dtype)
    for tensor in (*own.parameters(), *own.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    with quiet(), without_limit():
        form = Form(torch.compile(own, dynamic=False), dtype)
        _run(form, example)
    return form


def _require_bf16() -> None:
    if bf16_unit() is None:
        raise LimbeckError(
            f"this CPU does not multiply in bfloat16 (that takes {' or '.join(BF16_UNITS.values())}): the network would "
            "run slower than in float32, up to twice, and nothing would say so"
        )


def compiled_bf16(model: nn.Module, example: Any) -> nn.Module:
    """The network in bfloat16, compiled: the form that int8 must beat on a CPU that multiplies in it.

    Raises:
        LimbeckError: the CPU does not; see `limbeck.processor.bf16_unit`.
    """
    _require_bf16()
    return compiled(model, example, dtype=torch.bfloat16)


def onnx(model: nn.Module, example: Any) -> nn.Module:
    """The network in onnxruntime, on one CPU thread; see `limbeck.compress.runtimes.as_onnx` for what may go wrong."""
    return Form(runtimes.onnxruntime(runtimes.as_onnx(model, example)))


def openvino(model: nn.Module | Path, example: Any, precision: str = "f32") -> nn.Module:
    """The network, or an ONNX file, in OpenVINO, on one CPU thread; see `limbeck.compress.runtimes.openvino`."""
    if precision == "bf16":
        _require_bf16()
    return Form(runtimes.openvino(model, example, precision=precision))


def session(file: str | Path | bytes) -> nn.Module:
    """An ONNX file, or its bytes, in onnxruntime, on one CPU thread."""
    return Form(runtimes.onnxruntime(file))


def latency_forms(model: nn.Module, example: Any, only: Collection[str] | None = None) -> dict[str, nn.Module]:
    """The forms of a network that this machine can run, by name, ready to be timed together.

    "eager", "compiled", "bf16 compiled" (where the CPU multiplies in it), "int8 compiled" (static, all layers, calibrated with the example:
    enough for times, not for accuracy), "onnxruntime" and "openvino" (where installed), "openvino bf16" (like "bf16 compiled").  A network
    that is in int8 already has the forms "int8 eager" and "int8 compiled".  A form that cannot be had is left out; `missing_forms` says why.

    Args:
        only: names of the forms that are wanted; None: all.

    Raises:
        NameUnknown: there is no form of a name.

    >>> sorted(latency_forms(nn.Linear(4, 2), torch.zeros(3, 4), only=("eager", "compiled")))
    ['compiled', 'eager']
    """
    for name in only or ():
        if name in OF_FILES or name not in FORMS:
            raise NameUnknown(unknown("form", name, [form for form in FORMS if form not in OF_FILES]))
    return {name: form for name, form in tried(model, example, only) if isinstance(form, nn.Module)}


def missing_forms(model: nn.Module, example: Any) -> dict[str, str]:
    """The forms that `latency_forms` leaves out, and why, in words; makes them all to find out."""
    return {name: reason for name, reason in tried(model, example) if isinstance(reason, str)}


def tried(model: nn.Module, example: Any, only: Collection[str] | None = None) -> Iterator[tuple[str, nn.Module | str]]:
    """Each form by name, or why it cannot be had, one after the other: making one takes seconds."""
    from limbeck.compress.int8.program import Quantized

    makers: dict[str, Callable[[], nn.Module]]
    if isinstance(model, Quantized):
        makers = {"int8 eager": lambda: Form(copied(model).eval()), "int8 compiled": lambda: model.compiled(example)}
    else:
        model = plain(model)
        makers = {
            "eager": lambda: Form(copied(model).eval()),
            "compiled": lambda: compiled(model, example),
            "bf16 compiled": lambda: compiled_bf16(model, example),
            "int8 compiled": lambda: int8(model, example),
            "onnxruntime": lambda: onnx(model, example),
            "openvino": lambda: openvino(model, example),
            "openvino bf16": lambda: openvino(model, example, "bf16"),
        }
    for name, make in makers.items():
        if only is not None and name not in only:
            continue
        try:
            form: nn.Module | str = make()
        except Exception as error:  # whatever keeps one form away must not keep the others
            form = str(error).partition("\n")[0]
        yield name, form


def int8(model: nn.Module, example: Any) -> nn.Module:
    """The network in static int8, compiled, with ranges from the example alone: for timing."""
    from limbeck.compress.quantize import Quantize

    made: Any = Quantize("int8")(model, example=example, calibration=[Batch(example)])
    return made.compiled(example)


def _run(form: nn.Module, example: Any) -> Any:
    return form(**example) if isinstance(example, Mapping) else form(example)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return changed(value, lambda t: t.to(dtype) if t.is_floating_point() else t)
