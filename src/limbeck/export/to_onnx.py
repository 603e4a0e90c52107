"""ONNX, in float and in int8, and onnxruntime to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.export.needs import cause_of, need, quiet_others
from limbeck.export.rows import require_any_rows
from limbeck.export.subject import Subject
from limbeck.phase import Batch

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_TALKERS = ("", "torch.onnx", "onnxscript", "onnx_ir")  # onnxruntime's tools speak to the root logger
_ONE_FILE = 1_500_000_000  # bytes of weights; an ONNX file ends at two gigabytes


def write(subject: Subject, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx``, the number of rows left open; returns what `deploy.json` says of it."""
    need("onnx", "onnx", *PACKAGES)
    with quiet_others(*_TALKERS):
        try:
            program = torch.onnx.export(
                subject.module,
                subject.example,
                dynamo=True,
                dynamic_shapes=_open_rows(subject),
                input_names=list(subject.names),
                output_names=[subject.answer],
                verbose=False,
            )
        except Exception as error:
            raise LimbeckError(
                f"torch cannot write this network as ONNX: {cause_of(error)}. A network that torch.export takes, without "
                "Python that depends on values or on the number of rows, would do"
            ) from error
        assert program is not None
        if program.exported_program is not None:
            require_any_rows(program.exported_program)
        _without_traces(program.model)
        weights = sum(t.numel() * t.element_size() for t in subject.network.state_dict().values())
        program.save(folder / FILE, external_data=weights > _ONE_FILE)
    return {"opset": program.model.opset_imports.get("", None)}


def write_int8(subject: Subject, folder: Path, calibration: Iterable[Batch]) -> dict[str, Any]:
    """Write ``model.onnx`` with int8 weights and activations, and quantize/dequantize nodes around them.

    Scales of weights are per output channel; those of activations are the extremes on the calibration batches.
    """
    need("onnx-int8", "onnx", *PACKAGES)
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    details = write(subject, folder)
    whole, simple = folder / "float.onnx", folder / "simple.onnx"
    (folder / FILE).rename(whole)
    reader: Any = _Reader(subject, calibration)
    with quiet_others(*_TALKERS):
        try:
            # The exporter has written every shape.  onnxruntime's symbolic ones add none, and where they fail they
            # leave a file in the folder that the process happens to stand in (1.31).
            quant_pre_process(str(whole), str(simple), skip_symbolic_shape=True)
            quantize_static(
                str(simple),
                str(folder / FILE),
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,  # signed activations have no fast kernels on x86
                weight_type=QuantType.QInt8,
            )
        except LimbeckError:
            raise
        except Exception as error:
            raise LimbeckError(
                f"onnxruntime cannot quantize this network: {cause_of(error)}; --to onnx leaves it in float"
            ) from error
    details["float_bytes"] = whole.stat().st_size
    for left in (whole, simple, *folder.glob("*.data")):
        left.unlink(missing_ok=True)
    return {**details, "calibration_rows": reader.rows}


class _Reader:
    """Calibration batches as onnxruntime asks for them."""

    def __init__(self, subject: Subject, batches: Iterable[Batch]) -> None:
        self.rows = 0
        self._walk = self._inputs(subject, batches)

    def _inputs(self, subject: Subject, batches: Iterable[Batch]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            inputs = subject.row_of(batch.inputs)
            self.rows += len(inputs[0])
            yield {name: tensor.numpy() for name, tensor in zip(subject.names, inputs)}

    def get_next(self) -> dict[str, Any] | None:
        return next(self._walk, None)


def opened(folder: Path, told: Mapping[str, Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The file in onnxruntime, on the CPU: inputs in, logits out."""
    need("an ONNX file", "onnx", "onnxruntime")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(folder / told["file"]), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LimbeckError(f"onnxruntime cannot open {folder / told['file']}: {cause_of(error)}") from error
    names = [entry["name"] for entry in told["inputs"]]

    def run(inputs: Sequence[Tensor]) -> Tensor:
        (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs)})
        return torch.from_numpy(logits)

    return run


def _open_rows(subject: Subject) -> Any:
    rows = tuple({0: "batch"} for _ in subject.names)
    return (rows,) if subject.varargs else rows


def _without_traces(model: Any) -> None:
    """Torch puts lines of source files into every node, with the paths that they have on this machine."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes() if hasattr(graph, "all_nodes") else graph:
            node.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs):
            value.metadata_props.clear()
