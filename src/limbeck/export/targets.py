"""The formats that a network can be exported to.  No torch here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limbeck.errors import NameUnknown, unknown


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        name: what the command line calls it.
        title: what it is, in a few words.
        file: the file in the folder that is opened first.
        home: the module of this room that writes and opens it.
        write, opened: the names of these functions there.
        calibrates: whether it looks at data.
        open_rows: whether the file takes any number of rows at once.
        floats_only: why no network that is in int8 already can be written so; empty where it can.
    """

    name: str
    title: str
    file: str
    home: str
    write: str = "write"
    opened: str = "opened"
    calibrates: bool = False
    open_rows: bool = True
    floats_only: str = ""

    @property
    def writer(self) -> Callable[..., dict[str, Any]]:
        return getattr(importlib.import_module(f"limbeck.export.{self.home}"), self.write)

    @property
    def opener(self) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"limbeck.export.{self.home}"), self.opened)


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", "ONNX", "model.onnx", "to_onnx"),
        Target("onnx-int8", "ONNX in int8", "model.onnx", "to_onnx", write="write_int8", calibrates=True),
        Target("torch", "torch.export", "model.pt2", "to_torch"),
        Target(
            "aot",
            "compiled for processors like this one",
            "model.pt2",
            "to_torch",
            write="write_compiled",
            opened="opened_compiled",
        ),
        Target(
            "safetensors",
            "weights and structure",
            "model.safetensors",
            "to_weights",
            floats_only="an int8 program is a graph, no weights in a structure",
        ),
        Target("openvino", "OpenVINO", "model.xml", "to_others", write="write_openvino", opened="opened_openvino"),
        Target(
            "executorch",
            "ExecuTorch",
            "model.pte",
            "to_others",
            write="write_executorch",
            opened="opened_executorch",
            open_rows=False,
            floats_only="an int8 program has the integers of x86 processors, which ExecuTorch does not compute with",
        ),
    )
}


def target(name: str) -> Target:
    """The format of that name.

    Raises:
        NameUnknown: there is none; the message has near ones.

    >>> target("onnx").file
    'model.onnx'
    """
    if name not in TARGETS:
        raise NameUnknown(f"{unknown('format', name, TARGETS)} (--to, or to=)")
    return TARGETS[name]
