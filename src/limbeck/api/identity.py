"""What a chain was made from, as texts: so that a folder gives back the results of these networks and no others'."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compressor import is_compressor
from limbeck.phase import Batch
from limbeck.taps import original


def networks(model: nn.Module, teacher: nn.Module | None, chain: Sequence[Any]) -> dict[str, str]:
    """A print of every network that a chain begins with, by what it is there."""
    found = {"model": model, "teacher": teacher}
    for place, step in enumerate(chain, 1):
        found |= {f"{one.name} of step {place}": getattr(step, one.name) for one in fields(step)}
    return {name: of_network(one) for name, one in found.items() if isinstance(one, nn.Module)}


def samples(chain: Sequence[Any], calibration: Iterable[Batch]) -> dict[str, str]:
    """A print of the batches that compressors look at; nothing for a chain that only trains."""
    return {"calibration": of_batches(calibration)} if any(is_compressor(step) for step in chain) else {}


def of_network(model: nn.Module) -> str:
    """A text that two networks share if they are built of the same layers and hold the same numbers.

    How the numbers lie in memory does not count: training in another layout leaves them the same.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> of_network(one) == of_network(other), of_network(one) == of_network(one)
    (False, True)
    """
    found, bare = hashlib.sha256(), original(model)
    for path, part in bare.named_modules():
        found.update(f"{path} {type(part).__qualname__}\n".encode())
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        found.update(f"{name} ".encode())
        _add(found, tensor)
    return found.hexdigest()


def of_batches(batches: Iterable[Batch]) -> str:
    """A text that lists of batches share if they hold the same inputs and targets in the same order."""
    found = hashlib.sha256()
    for batch in batches:
        _add(found, batch.inputs)
        _add(found, batch.targets)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            found.update(f"{key} ".encode())
            _add(found, one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            _add(found, one)
    else:
        found.update(f"{value!r} ".encode())
