"""A compressed network in a folder, and back: weights, and how it is built otherwise than the one before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.compress.structure import describe, rebuild
from limbeck.errors import LimbeckError
from limbeck.models.weights import load_weights, save_weights

STRUCTURE, WEIGHTS, PROGRAM = "structure.json", "last.safetensors", "program.pt2"


def save(before: nn.Module, after: nn.Module, folder: Path) -> None:
    """Write what `load` needs; the weights come last, so that their presence means that all is there.

    Raises:
        LimbeckError: the network holds something that cannot be kept.
    """
    (folder / WEIGHTS).unlink(missing_ok=True)
    if _is(after, "Quantized"):
        after.save(folder / PROGRAM)  # pyright: ignore[reportCallIssue]
        told: dict[str, Any] = {"format": 1, "program": PROGRAM}
    elif _is(after, "Prepared"):
        told = {"format": 1, "prepared": dict(after.made)}  # type: ignore[call-overload]
    else:
        told = describe(before, after)
    _write(folder / STRUCTURE, told)
    save_weights(after, folder / WEIGHTS)


def require_kept(before: nn.Module, after: nn.Module) -> None:
    """Refuse a network that `save` could not write.

    Raises:
        LimbeckError: it holds something that cannot be kept.
    """
    if not _is(after, "Quantized") and not _is(after, "Prepared"):
        describe(before, after)


def load(before: nn.Module, folder: Path, example: Any) -> nn.Module:
    """The network that was kept in the folder.

    Args:
        before: the network that it was made from, or one of its build.
        folder: of `save`.
        example: a batch as the networks take it.

    Raises:
        LimbeckError: the folder does not hold one, or it was made from another network.
    """
    try:
        told = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LimbeckError(
            f"cannot read {folder / STRUCTURE}: {error}; remove {folder} to have it made again"
        ) from error
    if "program" in told:
        from limbeck.compress.int8.program import Quantized

        return Quantized.load(folder / told["program"]).train(before.training)
    if "prepared" in told:
        from limbeck.compress.int8.prepare import rebuild_prepared

        model = rebuild_prepared(before, told["prepared"], example)
    else:
        model = rebuild(before, told)
    load_weights(model, folder / WEIGHTS)
    return model


def _is(model: nn.Module, kind: str) -> bool:
    """Whether this is one of the two networks that hold a graph instead of layers; asked without importing them."""
    return type(model).__name__ == kind and type(model).__module__.startswith("limbeck.compress.int8")


def _write(path: Path, told: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    beside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
