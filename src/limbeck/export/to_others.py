"""OpenVINO and ExecuTorch, where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from limbeck.compress.runtimes import openvino_core
from limbeck.errors import LimbeckError
from limbeck.export import to_onnx
from limbeck.export.needs import cause_of, need, quiet_others
from limbeck.export.subject import Subject
from limbeck.export.to_torch import program_of

OPENVINO = "model.xml"
EXECUTORCH = "model.pte"


def _largest(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling to one position, which is a maximum; ExecuTorch has no operator for others."""
    if tuple(size) != (1, 1):
        return NotImplemented
    found = x.amax((-2, -1), keepdim=True)
    return found, torch.zeros_like(found, dtype=torch.int64)  # where it was; nothing reads this


_DECOMPOSED: dict[Any, Callable[..., Any]] = {torch.ops.aten.adaptive_max_pool2d.default: _largest}


def write_openvino(subject: Subject, folder: Path) -> dict[str, Any]:
    """Write ``model.xml`` and ``model.bin``, the number of rows left open, weights in the precision that they have.

    A network in int8 goes by way of ONNX: of torch's graphs OpenVINO knows only those in float.
    """
    need("openvino", "openvino", "openvino")
    import openvino

    with quiet_others(), TemporaryDirectory(dir=folder) as aside:
        if subject.in_int8:
            to_onnx.write(subject, Path(aside))
        try:
            if subject.in_int8:
                model = openvino.convert_model(Path(aside) / to_onnx.FILE)
            else:
                model = openvino.convert_model(subject.module, example_input=subject.example)
                shapes = [openvino.PartialShape([-1, *tensor.shape[1:]]) for tensor in subject.example]
                model.reshape(dict(zip(model.inputs, shapes)))
            openvino.save_model(model, str(folder / OPENVINO), compress_to_fp16=False)
        except Exception as error:
            raise LimbeckError(
                f"OpenVINO cannot convert this network: {cause_of(error)}; --to onnx is read by OpenVINO, too"
            ) from error
    return {"openvino": openvino.__version__}


def opened_openvino(folder: Path, told: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The file in OpenVINO, on the CPU: inputs in, logits out."""
    need("an OpenVINO file", "openvino", "openvino")
    # Its default on some processors is bfloat16; this is to give the network's own numbers.
    model = openvino_core().compile_model(str(folder / told["file"]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Tensor]) -> Tensor:
        found = model([tensor.numpy() for tensor in inputs])
        return torch.from_numpy(found[model.output(0)].copy())

    return run


def write_executorch(subject: Subject, folder: Path) -> dict[str, Any]:
    """Write ``model.pte`` for one row at a time, lowered to XNNPACK where that takes it."""
    need("executorch", "executorch", "executorch")
    program = program_of(subject, open_rows=False)
    with quiet_others("torch.utils._pytree"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            program = program.run_decompositions(_DECOMPOSED)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        except Exception as error:
            raise LimbeckError(
                f"ExecuTorch cannot lower this network: {cause_of(error)}; --to onnx may take it"
            ) from error
    (folder / EXECUTORCH).write_bytes(lowered.buffer)
    return {"backend": "XNNPACK"}


def opened_executorch(folder: Path, told: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The file in ExecuTorch, a row at a time: inputs in, logits out."""
    need("an ExecuTorch file", "executorch", "executorch")
    with quiet_others("torch.utils._pytree"):
        from executorch.runtime import Runtime

        method: Any = Runtime.get().load_program(folder / told["file"]).load_method("forward")

    def run(inputs: Sequence[Tensor]) -> Tensor:
        rows = range(len(inputs[0]))
        return torch.cat([method.execute([tensor[row : row + 1] for tensor in inputs])[0].clone() for row in rows])

    return run
