"""Weights to a safetensors file and back; never pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from limbeck.errors import WeightsError, listed

_SHOWN = 4


def stored(model: nn.Module) -> dict[str, Tensor]:
    """What a file of this model holds: its state, on the CPU, a tensor with several names under the first of them.

    Raises:
        WeightsError: the state has an entry that is no plain tensor; see `storable`.
    """
    kept: dict[str, Tensor] = {}
    for group in _groups(model):
        kept[group[0][0]] = group[0][1].cpu().clone(memory_format=torch.contiguous_format)
    return kept


def storable(model: nn.Module) -> bool:
    """Whether a safetensors file can hold this model's state: plain tensors and nothing else.

    Networks that another library quantized often hold tensors of its own kind, or packed ones.
    """
    return all(isinstance(value, Tensor) and is_plain(value) for value in model.state_dict().values())


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is one piece of memory: no wrapper around others, not sparse, not quantized by torch."""
    wrapper = hasattr(tensor, "__tensor_flatten__")
    return not wrapper and tensor.layout is torch.strided and not tensor.is_quantized


def packed(model: nn.Module) -> bytes:
    """The file of this model's weights, as bytes."""
    return save(stored(model), {"format": "pt"})


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and buffers.

    Tied tensors are written once.  The file is written beside its place and then renamed, so that there is never
    half a file under its name.

    Raises:
        WeightsError: the file cannot be written, or the state holds something that is no plain tensor.
    """
    write_whole(packed(model), path, "weights")


def write_whole(data: bytes, path: str | os.PathLike[str], what: str) -> None:
    """Write a file beside its place and rename it, so that there is never half a file under its name.

    Raises:
        WeightsError: the file cannot be written.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise WeightsError(f"cannot write the {what} to {target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # as a rule it is gone; in a folder that is none there is nothing to remove
            beside.unlink()


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fill a model from a file; all of it, or nothing at all.

    Of several names for one tied tensor the file needs only one.  A file in another floating-point precision fits;
    its numbers are converted.

    Raises:
        WeightsError: there is no such file, it is no safetensors file, or it does not fit: the message names the
            first keys that are missing, unexpected or of another shape, and how many there are.
    """
    source = Path(path)
    if not source.is_file():
        raise WeightsError(f"no file of weights at {source}" + (" (that is a folder)" if source.is_dir() else ""))
    try:
        found = load_file(source)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{source} cannot be read as a safetensors file: {error}") from error
    groups = _groups(model)
    known = {name for group in groups for name, _ in group}
    missing = [group[0] for group in groups if not any(name in found for name, _ in group)]
    extra = [(name, tensor) for name, tensor in sorted(found.items()) if name not in known]
    pairs = [(name, tensor, found[name]) for group in groups for name, tensor in group if name in found]
    unlike = [(name, mine, theirs) for name, mine, theirs in pairs if not _fits(mine, theirs)]
    if missing or extra or unlike:
        raise WeightsError(
            f"{source} does not fit {type(model).__name__}: "
            + "; ".join(
                [
                    *_counted("missing", [f"{name} {_shape(tensor)}" for name, tensor in missing]),
                    *_counted("unexpected", [f"{name} {_shape(tensor)}" for name, tensor in extra]),
                    *_counted(
                        "mismatched",
                        [
                            f"{name} {_shape(theirs)} in the file, {_shape(mine)} in the network"
                            for name, mine, theirs in unlike
                        ],
                    ),
                ]
            )
        )
    with torch.no_grad():
        for _, mine, theirs in pairs:
            mine.copy_(theirs)


def _groups(model: nn.Module) -> list[list[tuple[str, Tensor]]]:
    """The state's tensors with their names; those that are one and the same memory together."""
    groups: dict[object, list[tuple[str, Tensor]]] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{name} of {type(model).__name__} is a {type(value).__name__}; only tensors can be stored"
            )
        if not is_plain(value):
            what = type(value).__name__ if value.layout is torch.strided and not value.is_quantized else value.type()
            raise WeightsError(f"{name} of {type(model).__name__} is a {what}; only plain tensors can be stored")
        same: object = name  # an empty or unallocated tensor is like no other
        if value.numel() and value.device.type != "meta":
            same = (value.device, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        groups.setdefault(same, []).append((name, value))
    return list(groups.values())


def _fits(mine: Tensor, theirs: Tensor) -> bool:
    both_real = mine.is_floating_point() and theirs.is_floating_point()
    return mine.shape == theirs.shape and (both_real or mine.dtype == theirs.dtype)


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _counted(what: str, items: Iterable[str]) -> list[str]:
    items = list(items)
    if not items:
        return []
    return [f"{len(items)} {what}: {listed(items, _SHOWN)}"]
