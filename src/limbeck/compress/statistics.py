"""BatchNorm's statistics after a network was changed: those in it are of activations that are no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.batches import batch_size, moved
from limbeck.errors import NonFiniteError
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers
from limbeck.taps import call, quiet

ANEW = "the statistics of BatchNorm were estimated anew on the calibration batches"


class Recalibration(NamedTuple):
    """How many batches were used, and how many of a single sample were not; neither, where there is nothing to estimate."""

    used: int = 0
    single: int = 0

    @property
    def notes(self) -> list[str]:
        """Sentences for the user.

        >>> Recalibration(8, 0).notes
        ['the statistics of BatchNorm were estimated anew on the calibration batches']
        >>> Recalibration(8, 1).notes[1]
        '1 calibration batch of a single sample did not count for them: one sample has no variance'
        """
        if self.single and not self.used:
            return [
                "the statistics of BatchNorm are still those of the network as it was: every calibration batch is a single sample, "
                "which has no variance; give larger batches"
            ]
        left = f"{self.single} calibration batch{'es' * (self.single > 1)} of a single sample did not count for them: one sample has no variance"
        return [ANEW] * (self.used > 0) + [left] * (self.single > 0)


def recalibrated(model: nn.Module, calibration: Iterable[Batch], batches: int | None = 50) -> Recalibration:
    """Estimate the statistics of BatchNorm layers anew: plain means over some batches.

    Args:
        model: is changed; its modes are not.
        calibration: batches of training rows; those of a single sample are left out, since it has no variance.
        batches: at most so many of them are used; None: all.

    Returns:
        How many were used; none: nothing was done, for want of batches or of such layers.

    Raises:
        NonFiniteError: a statistic came out as NaN or infinite.

    >>> import torch
    >>> norm = nn.BatchNorm1d(1)
    >>> recalibrated(norm, [Batch(torch.tensor([[1.0], [3.0]])), Batch(torch.tensor([[5.0]]))]), norm.running_mean
    (Recalibration(used=1, single=1), tensor([2.]))
    """
    named = {path: m for path, m in model.named_modules() if isinstance(m, _BatchNorm)}
    named = {path: m for path, m in named.items() if isinstance(m.running_mean, Tensor)}
    if not named:
        return Recalibration()
    norms = list(named.values())
    device = norms[0].running_mean.device  # type: ignore[union-attr]
    momenta = [norm.momentum for norm in norms]
    seen = single = 0
    try:
        with own_random_numbers(), quiet(model):
            for batch in calibration:
                if batch_size(batch.inputs) < 2:
                    single += 1
                    continue
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
    for path, norm in named.items() if seen else ():
        if not all(bool(t.isfinite().all()) for t in (norm.running_mean, norm.running_var)):  # type: ignore[union-attr]
            raise NonFiniteError(
                f"the statistics of {path or 'the model'} came out as NaN or infinite on the calibration batches; look for such numbers in "
                "their inputs, or in what the network makes of them"
            )
    return Recalibration(seen, single)
