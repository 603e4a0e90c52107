"""Calibration batches: the first few of them, on the device of the network, and what the network loses on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.batches import changed, moved
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
    for batch in batches:
        yield Batch(moved(batch.inputs, device), moved(batch.targets, device))


def one_sample(batch: Batch, row: int) -> Batch:
    inputs, targets = (changed(value, lambda tensor: tensor[row : row + 1]) for value in batch[:2])
    return Batch(inputs, targets)


def losses_of(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of each sample, from its labels: softmax for class ids, sigmoid for multi-hot labels and one logit."""
    logits = logits_of(call(model, batch.inputs))
    if batch.targets.is_floating_point() or batch.targets.ndim > 1 or logits.ndim == 1 or logits.shape[1] == 1:
        return losses.sigmoid_cross_entropy(logits, batch.targets)
    return losses.cross_entropy(logits, batch.targets)
