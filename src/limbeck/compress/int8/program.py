"""A network whose weights are integers, as a graph that runs, is compiled, and goes through a file."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from limbeck.batches import batch_size, moved
from limbeck.compress.int8.batches import call
from limbeck.compress.int8.export import as_graph, exported, has_rows
from limbeck.compress.int8.needs import quiet, require_installed
from limbeck.errors import LimbeckError, WeightsError
from limbeck.models.weights import write_whole

_FACTS = "limbeck.json"
_FORMAT = 1
_TALK = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class Quantized(nn.Module):
    """A network in int8 (or with stored weights of 8 or 4 bits).

    It runs as it is, slowly, rounding where the kernels round; `compiled` gives the fast form.  Any batch size will do.
    It cannot be trained, and both modes are the same to it.

    Args:
        graph: the converted graph, of which nothing is removed here.
        facts: plain data: "mode", "least" (the smallest batch of the graph), "layers", "parameters" (how many the float
            network has), "takes" (inputs by name: see `takes`).
    """

    def __init__(self, graph: fx.GraphModule, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.body = graph.requires_grad_(False)
        self.facts = dict(facts)
        self.length: int | None = None
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return call(self.body, self.facts["least"], args, kwargs)

    def train(self, mode: bool = True) -> Quantized:
        """Set the flags, which change nothing: the graph is of evaluation mode."""
        for part in self.modules():
            part.training = mode
        return self

    @property
    def float_parameters(self) -> int:
        """How many parameters the network has that this one was made of."""
        return self.facts["parameters"]

    def example(self, batch: int = 2) -> Any:
        """Zeros in the shape that the network takes."""
        made = {
            name: torch.zeros(shape if whole else [] if shape is None else [batch, *shape], dtype=getattr(torch, dtype))
            for name, (shape, dtype, *whole) in self.facts["takes"].items()
        }
        return made.get("", made)

    def file(self) -> bytes:
        """The file of this network: a program of torch.export, without pickled objects."""
        whole = [shape[0] for shape, _, *whole in self.facts["takes"].values() if whole]
        rows = next(
            n for n in range(2, len(whole) + 3) if n not in whole
        )  # else samples and positions were the same to torch
        program, _ = exported(self.body, moved(self.example(rows), _device_of(self)))
        for node in program.graph.nodes:
            for key in _TALK:  # where in somebody's source a node comes from: two thirds of the file
                node.meta.pop(key, None)
        program.example_inputs = None
        told, buffer = json.dumps({"format": _FORMAT, **self.facts}), io.BytesIO()
        with quiet():
            torch.export.save(program, buffer, extra_files={_FACTS: told})
        data = _deflated(buffer.getvalue())
        self.length = len(data)
        return data

    def file_bytes(self) -> int:
        """The length of that file; of the one that it was read from, if it was."""
        return self.length or len(self.file())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, beside its place first, and then rename it.

        Raises:
            WeightsError: it cannot be written.
        """
        write_whole(self.file(), path, "network")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Quantized:
        """The network in a file that `save` wrote.

        Raises:
            WeightsError: there is none, or it is another kind of file; one with pickled objects is refused unread.
        """
        source = Path(path)
        if not source.is_file():
            raise WeightsError(f"no file of an int8 network at {source}")
        try:
            data = source.read_bytes()
            facts = _facts(source, data)
            if facts["mode"] != "weights":
                require_installed()  # torchao registers the operators that such programs name
            with quiet():
                program = torch.export.load(io.BytesIO(data))
            made = Quantized(as_graph(program), facts)
            made.length = len(data)
            return made
        except LimbeckError:
            raise
        except Exception as error:  # a damaged archive fails anywhere in torch
            raise WeightsError(f"{source} cannot be read as an int8 network: {str(error)[:300]}") from error

    def compiled(self, example: Any) -> nn.Module:
        """The fast form, compiled now for batches of this shape (others cost a compilation each).

        Leaves ``torch._inductor.config.freezing`` on for the process: int8 kernels need it, and turning it off again
        would quietly slow down what was compiled before.
        """
        from limbeck.compress.int8.fused import compiled

        return compiled(self.body, example, least=self.facts["least"])

    def fused(self, example: Any) -> list[str]:
        """The int8 kernels in the compiled form, in order, such as ``onednn.qconv_pointwise``."""
        return list(self.compiled(example).kernels)  # type: ignore[arg-type]


def takes(example: Any) -> dict[str, Any]:
    """Shape of one sample (None: a single number for all) and type, by name of the input; "" where there is one without a name.

    Of what has no samples, a mask of positions say, the whole shape, and "whole" behind the type.
    """
    parts, samples = example if isinstance(example, Mapping) else {"": example}, batch_size(example)
    found: dict[str, Any] = {}
    for name, value in parts.items():
        if isinstance(value, Tensor):
            own = has_rows(value, samples) or not value.ndim
            shape = None if not value.ndim else list(value.shape[1:] if own else value.shape)
            found[name] = [shape, str(value.dtype).removeprefix("torch."), *([] if own else ["whole"])]
    return found


def count(model: nn.Module) -> int:
    """Parameters of a network, tied ones once."""
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def _device_of(model: nn.Module) -> torch.device:
    return next((t.device for t in _tensors(model).values()), torch.device("cpu"))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _deflated(data: bytes) -> bytes:
    """The archive with its tables of contents compressed; weights stay as they are, so that sizes can be compared."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            plain = zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0))
            kind = zipfile.ZIP_DEFLATED if entry.filename.endswith(".json") else zipfile.ZIP_STORED
            new.writestr(plain, old.read(entry), compress_type=kind)
    return out.getvalue()


def _facts(source: Path, data: bytes) -> dict[str, Any]:
    """What the file says of itself.  What torch would unpickle is refused: only `save` writes such files, without any."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            name = entry.filename
            table = name.endswith(("weights_config.json", "constants_config.json"))
            pickled = table and re.search(r'"use_pickle"\s*:\s*true', archive.read(entry).decode())
            objects = "/sample_inputs/" in name and entry.file_size > 0
            if pickled or objects or "custom_obj" in name:
                raise WeightsError(f"{source} holds pickled objects ({name}), which limbeck neither writes nor reads")
        told = [name for name in archive.namelist() if name.endswith(f"/{_FACTS}")]
        facts = json.loads(archive.read(told[0])) if told else {}
    if facts.pop("format", None) != _FORMAT:
        raise WeightsError(f"{source} is no int8 network of this version of limbeck")
    return facts
