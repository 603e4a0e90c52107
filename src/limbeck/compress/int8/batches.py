"""Calling a graph, and showing it calibration batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.batches import batch_size, moved, resized
from limbeck.errors import HyperParameterError, NonFiniteError
from limbeck.phase import Batch


def call(graph: Any, least: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a graph; a batch that is too small for it goes in twice and comes out once."""
    if least > 1:
        inputs = dict(kwargs) if kwargs else args[0]
        if batch_size(inputs) == 1:
            twice = resized(inputs, 2)
            out = graph(**twice) if kwargs else graph(twice)
            return tree_map(lambda value: value[:1] if isinstance(value, Tensor) and value.ndim else value, out)
    return graph(*args, **kwargs)


def run(graph: Any, least: int, inputs: Any) -> Any:
    """The same with a batch's inputs."""
    return call(graph, least, (), inputs) if isinstance(inputs, Mapping) else call(graph, least, (inputs,), {})


def calibrate(graph: nn.Module, least: int, batches: Iterable[Batch], most: int | None, like: Any, what: str) -> int:
    """Show a prepared graph the calibration batches; the number of samples it saw.

    Raises:
        HyperParameterError: there are none.
        NonFiniteError: one has NaN or infinity in it.
    """
    device, seen = device_of(like), 0
    with torch.no_grad():
        for index, batch in enumerate(islice(batches, most)):
            inputs = moved(batch.inputs, device)
            require_finite(f"calibration batch {index + 1}", inputs)
            run(graph, least, inputs)
            seen += batch_size(inputs)
    if not seen:
        raise HyperParameterError(
            f"{what} measures the ranges of activations and has no batches to do it with: give calibration batches "
            "(some hundred training rows without augmentation; calibration: 512 in a recipe)"
        )
    return seen


def device_of(inputs: Any) -> torch.device:
    """Where a batch lies."""
    parts = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return next((part.device for part in parts if isinstance(part, Tensor)), torch.device("cpu"))


def require_finite(what: str, inputs: Any) -> None:
    """Refuse NaN and infinity: a range that holds them holds nothing else."""
    for name, value in (inputs if isinstance(inputs, Mapping) else {"inputs": inputs}).items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"{what}: {name!r} is non-finite; quantization ranges cannot be measured with it")
