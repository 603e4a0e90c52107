"""Calibration batches: the first few of them, on the device of the network, and what the network loses on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.phase import Batch, logits_of
from limbeck.taps import call

BATCHES = 10  # at most so many batches of the calibration data are looked at


def first_batches(calibration: Iterable[Batch], model: nn.Module) -> list[Batch]:
    """The first `BATCHES` batches, inputs and targets, where the model is."""
    return list(islice(on(calibration, device_of(model)), BATCHES))


def device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def on(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    def move(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: move(part) for key, part in value.items()}
        return value.to(device) if isinstance(value, Tensor) else value

    for batch in batches:
        yield Batch(move(batch.inputs), move(batch.targets))


def size_of(batch: Batch) -> int:
    return len(next(iter(batch.inputs.values())) if isinstance(batch.inputs, Mapping) else batch.inputs)


def one_sample(batch: Batch, row: int) -> Batch:
    def cut(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: cut(part) for key, part in value.items()}
        return value[row : row + 1] if isinstance(value, Tensor) else value

    return Batch(cut(batch.inputs), cut(batch.targets))


def losses_of(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of each sample, from its labels: softmax for class ids, sigmoid for multi-hot labels and one logit."""
    logits = logits_of(call(model, batch.inputs))
    if batch.targets.is_floating_point() or batch.targets.ndim > 1 or logits.ndim == 1 or logits.shape[1] == 1:
        return losses.sigmoid_cross_entropy(logits, batch.targets)
    return losses.cross_entropy(logits, batch.targets)
