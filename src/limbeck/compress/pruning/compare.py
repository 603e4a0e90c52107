"""How far a network's answers moved when something was removed: what decides between two ways of removing as much."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batches import moved
from limbeck.compress.answers import tensors
from limbeck.errors import NonFiniteError
from limbeck.models.macs import as_found
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers
from limbeck.taps import call, quiet

_BATCHES = 8  # order is clear long before that; calibration may be long


def moved_by(before: nn.Module, after: nn.Module, calibration: Iterable[Batch]) -> float:
    """The distance between two networks' outputs, relative to the length of the first one's.

    The root of ``sum (a - b)^2 / sum a^2`` over every floating-point tensor that they return, in evaluation mode, on the first
    batches.  It needs no labels, and says the same for classes, numbers and maps.

    Args:
        before: the network as it was, on the device of its first parameter.
        after: the one that was made of it, on the same device.
        calibration: batches of inputs.

    Returns:
        0 for equal outputs; infinite where outputs are of other number or shape, or the second network's are NaN.

    Raises:
        NonFiniteError: the first network answers NaN.

    >>> one, other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> other.weight.data = 0.75 * one.weight.data
    >>> round(moved_by(one, other, [Batch(torch.randn(8, 2))]), 4)
    0.25
    """
    device = next((p.device for p in before.parameters()), torch.device("cpu"))
    apart, length = 0.0, 0.0
    for batch in islice(calibration, _BATCHES):
        inputs = moved(batch.inputs, device)
        ours, theirs = _answers(before, inputs), _answers(after, inputs)
        if not ours or [a.shape for a in ours] != [b.shape for b in theirs]:
            return float("inf")
        if any(bool(a.isnan().any()) for a in ours):
            raise NonFiniteError(
                "the network answers NaN on a calibration batch, so that nothing can be compared; look for such numbers in its inputs"
            )
        apart += sum((a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True))
        length += sum(a.square().sum().item() for a in ours)
    far = (apart / length if length else apart) ** 0.5
    return far if far == far else float("inf")


def _answers(model: nn.Module, inputs: Any) -> list[Tensor]:
    with own_random_numbers(), as_found(model), quiet(model), torch.compiler.set_stance("force_eager"):
        torch.manual_seed(0)  # a network that draws in evaluation draws the same for both
        return [t.double() for t in tensors(call(model, inputs)) if t.is_floating_point()]
