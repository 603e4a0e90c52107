"""Networks run by other programs than torch: onnxruntime and OpenVINO, on one CPU thread, tensors in and out."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.int8.needs import quiet
from limbeck.errors import LimbeckError

Runs = Callable[[Tensor], Tensor]


def as_onnx(model: nn.Module, example: Any) -> bytes:
    """A network as the bytes of an ONNX file, for batches like the example.

    Raises:
        LimbeckError: onnxruntime or onnxscript is missing, it takes more than a tensor, or it cannot be exported.
    """
    _need("onnxruntime", "onnx", "onnxruntime", "onnxscript")
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
    return buffer.getvalue()


def onnxruntime(file: str | Path | bytes) -> Runs:
    """An ONNX file, or its bytes, in onnxruntime.

    Raises:
        LimbeckError: onnxruntime is missing.
    """
    _need("onnxruntime", "onnx", "onnxruntime")
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    given = file if isinstance(file, bytes) else str(file)
    session: Any = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino(model: nn.Module | Path, example: Any, *, precision: str = "f32") -> Runs:
    """A network, or an ONNX file, in OpenVINO, for batches of the example's shape.

    Args:
        model: the network stays as it is.
        example: a batch, one tensor.
        precision: "f32", or "bf16": OpenVINO's own choice on a CPU that multiplies in it, where this is to say it aloud.

    Raises:
        LimbeckError: OpenVINO is missing, or it cannot convert the network.
    """
    _need("openvino", "openvino", "openvino")
    import openvino as runtime

    if isinstance(example, Mapping):
        raise LimbeckError("OpenVINO is timed for networks with one input tensor")
    try:
        with quiet():
            if isinstance(model, Path):
                graph = runtime.convert_model(model)
            else:
                graph = runtime.convert_model(copy.deepcopy(model).eval(), example_input=example)
            graph.reshape({graph.inputs[0]: runtime.PartialShape(list(example.shape))})
            threads = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
            made = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": precision, **threads})
    except Exception as error:  # of OpenVINO's own kinds
        raise LimbeckError(f"OpenVINO cannot convert {type(model).__name__}: {str(error)[:400]}") from error
    request = made.create_infer_request()
    return lambda x: torch.from_numpy(request.infer([x.contiguous().numpy()])[0])


@cache
def openvino_core() -> Any:
    """The one OpenVINO runtime of this process; the caller sees to it that OpenVINO is there.

    Never a second one, and never given up: on a CPU with AMX each replaces the memory that signals are handled
    on, and puts back what it found there when it goes.  Where two overlap that is memory already given up, and
    the next Ctrl-C ends the process (OpenVINO 2026.4).
    """
    import openvino as runtime

    return runtime.Core()


def _need(what: str, extra: str, *packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise LimbeckError(f"{what} needs {package}: pip install 'limbeck[{extra}]'")
