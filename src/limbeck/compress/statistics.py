"""BatchNorm's statistics after a network was changed: those in it are of activations that are no more."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.batches import batch_size, moved
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers
from limbeck.taps import call, quiet

ANEW = "the statistics of BatchNorm were estimated anew on the calibration batches"


def recalibrated(model: nn.Module, calibration: Iterable[Batch], batches: int | None = 50) -> int:
    """Estimate the statistics of BatchNorm layers anew: plain means over some batches.

    Args:
        model: is changed; its modes are not.
        calibration: batches of training rows; those of a single sample are left out, since it has no variance.
        batches: at most so many of them are used; None: all.

    Returns:
        How many were used; 0: nothing was done, for want of batches or of such layers.

    >>> import torch
    >>> norm = nn.BatchNorm1d(1)
    >>> recalibrated(norm, [Batch(torch.tensor([[1.0], [3.0]])), Batch(torch.tensor([[5.0]]))]), norm.running_mean
    (1, tensor([2.]))
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and isinstance(m.running_mean, Tensor)]
    if not norms:
        return 0
    device = norms[0].running_mean.device  # type: ignore[union-attr]
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        with own_random_numbers(), quiet(model):
            for batch in islice((one for one in calibration if batch_size(one.inputs) > 1), batches):
                if seen == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                        norm.momentum = None  # a plain mean over the batches
                        norm.train()
                call(model, moved(batch.inputs, device))
                seen += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return seen
