"""BatchNorm's statistics after a network was changed: those in it are of activations that are no more."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.batches import moved
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers
from limbeck.taps import call

ANEW = "the statistics of BatchNorm were estimated anew on the calibration batches"


def recalibrated(model: nn.Module, calibration: Iterable[Batch], batches: int = 50) -> bool:
    """Estimate the statistics of BatchNorm layers anew: plain means over some batches.  False: nothing to do it with.

    Args:
        model: is changed; its modes are not.
        calibration: batches of training rows.
        batches: at most so many of them are used.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and isinstance(m.running_mean, Tensor)]
    if not norms:
        return False
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    seen = 0
    model.eval()
    try:
        with own_random_numbers(), torch.no_grad():
            for batch in calibration:
                if seen == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                        norm.momentum = None  # a plain mean over the batches
                        norm.train()
                call(model, moved(batch.inputs, device))
                seen += 1
                if seen == batches:
                    break
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return seen > 0
