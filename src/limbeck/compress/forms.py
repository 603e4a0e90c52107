"""The forms in which a network can run on a CPU, to be timed against each other."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.int8.export import mapped
from limbeck.compress.int8.needs import quiet
from limbeck.errors import LimbeckError
from limbeck.phase import Batch


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


def has_amx() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware (AMX); without that bf16 is no faster, or far slower."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


def compiled(model: nn.Module, example: Any, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a network, compiled for batches of this shape, with channels last and frozen weights.

    Args:
        model: in any mode; stays as it is.
        example: a batch on the CPU.
        dtype: of the copy's weights, and of the inputs; None: as they are.
    """
    from limbeck.compress.int8.fused import freeze

    freeze()
    own = copy.deepcopy(model).eval().requires_grad_(False)
    own = own if dtype is None else own.to(dtype)
    for tensor in (*own.parameters(), *own.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    import torch._dynamo.config as config

    # Networks of one class share the code of their forward: past a few of them torch would quietly stop compiling.
    with quiet(), config.patch(recompile_limit=1024, accumulated_recompile_limit=8192):
        form = Form(torch.compile(own, dynamic=False), dtype)
        _run(form, example)
    return form


def compiled_bf16(model: nn.Module, example: Any) -> nn.Module:
    """The network in bfloat16, compiled: the form that int8 must beat on a CPU with AMX.

    Raises:
        LimbeckError: the CPU has no AMX; there it is slower than float32.
    """
    if not has_amx():
        raise LimbeckError(
            "this CPU has no AMX for bfloat16: the network would run slower than in float32, up to twice, and says nothing"
        )
    return compiled(model, example, dtype=torch.bfloat16)


def onnx(model: nn.Module, example: Any) -> nn.Module:
    """The network in onnxruntime, on one CPU thread.

    Raises:
        LimbeckError: onnxruntime, onnx or onnxscript is missing, or the network cannot be exported.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise LimbeckError(f"onnxruntime needs {error.name}: pip install 'limbeck[onnx]'") from error
    if isinstance(example, Mapping):
        raise LimbeckError("onnxruntime is timed for networks with one input tensor")
    own = copy.deepcopy(model).eval()
    try:
        with quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            program: Any = torch.onnx.export(own, (example,), dynamo=True, verbose=False)
            buffer = io.BytesIO()
            program.save(buffer)
    except Exception as error:  # torch's exporter raises many kinds
        raise LimbeckError(f"{type(model).__name__} cannot be exported to ONNX: {str(error)[:400]}") from error
    return session(buffer.getvalue())


def session(file: str | bytes) -> nn.Module:
    """An ONNX file, or its bytes, in onnxruntime, on one CPU thread; takes and gives tensors.

    Raises:
        LimbeckError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise LimbeckError(f"onnxruntime needs {error.name}: pip install 'limbeck[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return Form(_Session(onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])))


class _Session:
    def __init__(self, session: Any) -> None:
        self.session, self.name = session, session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: x.numpy()})[0])


def latency_forms(model: nn.Module, example: Any, only: Collection[str] | None = None) -> dict[str, nn.Module]:
    """The forms of a network that this machine can run, by name, ready to be timed together.

    "eager", "compiled", "bf16 compiled" (with AMX), "int8 compiled" (static, all layers, calibrated with the example:
    enough for times, not for accuracy), "onnxruntime" (where installed).  A network that is in int8 already has the forms
    "int8 eager" and "int8 compiled".  A form that cannot be had is left out; `missing_forms` says why.

    Args:
        only: names of the forms that are wanted; None: all.

    >>> sorted(latency_forms(nn.Linear(4, 2), torch.zeros(3, 4)))[-1] in ("int8 compiled", "onnxruntime")
    True
    """
    return {name: form for name, form in tried(model, example, only) if isinstance(form, nn.Module)}


def missing_forms(model: nn.Module, example: Any) -> dict[str, str]:
    """The forms that `latency_forms` leaves out, and why, in words; makes them all to find out."""
    return {name: reason for name, reason in tried(model, example) if isinstance(reason, str)}


def tried(model: nn.Module, example: Any, only: Collection[str] | None = None) -> Iterator[tuple[str, nn.Module | str]]:
    """Each form by name, or why it cannot be had, one after the other: making one takes seconds."""
    from limbeck.compress.int8.program import Quantized

    plain = lambda: Form(copy.deepcopy(model).eval())  # noqa: E731
    makers: dict[str, Callable[[], nn.Module]]
    if isinstance(model, Quantized):
        makers = {"int8 eager": plain, "int8 compiled": lambda: model.compiled(example)}
    else:
        makers = {
            "eager": plain,
            "compiled": lambda: compiled(model, example),
            "bf16 compiled": lambda: compiled_bf16(model, example),
            "int8 compiled": lambda: int8(model, example),
            "onnxruntime": lambda: onnx(model, example),
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
    return mapped(value, lambda t: t.to(dtype) if t.is_floating_point() else t)
