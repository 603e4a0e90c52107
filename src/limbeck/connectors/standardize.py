"""Columns brought to mean 0 and standard deviation 1, as counted over the training rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each column, as counted in train mode.

    In train mode ``forward`` counts the rows it is given and returns them unchanged; in eval mode it
    standardises them with what was counted, and gives NaN where nothing was.  A column that never varies
    (a spread below ``1e-6`` of its mean, or of 1) keeps its scale: it is centred, and divided by 1.

    The buffers hold sums, so that adding, or averaging, those of several processes gives the mean and
    variance of all their rows together.  ``count``, ``total`` and ``square`` are float64, since a variance
    is a small difference of large sums (float32 on devices of type "mps", which have no float64).

    Args:
        columns: how many logits a row has.
        device: where the buffers are.

    Example:
        >>> scaler = Standardize(1).train()
        >>> _ = scaler(torch.tensor([[1.0], [3.0]]))
        >>> scaler.eval()(torch.tensor([[5.0]]))
        tensor([[3.]])
    """

    count: Tensor
    total: Tensor
    square: Tensor

    def __init__(self, columns: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.register_buffer("count", torch.zeros((), dtype=dtype, device=device))
        self.register_buffer("total", torch.zeros(columns, dtype=dtype, device=device))
        self.register_buffer("square", torch.zeros(columns, dtype=dtype, device=device))

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.reshape(-1, self.total.numel())
        if self.training:
            seen = wide.detach().to(self.total.dtype)
            self.count += seen.shape[0]
            self.total += seen.sum(0)
            self.square += seen.square().sum(0)
            return rows
        # float32 at least: under autocast the logits come in bfloat16, with 8 bits of precision
        kind = torch.promote_types(rows.dtype, torch.float32)
        return ((wide.to(kind) - self.mean.to(kind)) / self.spread.to(kind)).reshape(rows.shape)

    @property
    def mean(self) -> Tensor:
        """The mean of each column."""
        return self.total / self.count

    @property
    def spread(self) -> Tensor:
        """The standard deviation of each column (of all rows, no Bessel correction), or 1 where it is constant."""
        mean = self.mean
        deviation = (self.square / self.count - mean.square()).clamp_min(0).sqrt()
        constant = deviation <= 1e-6 * mean.abs().clamp_min(1.0)
        return torch.where(constant, torch.ones_like(deviation), deviation)
