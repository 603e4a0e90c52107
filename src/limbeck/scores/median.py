"""Filters near the geometric median: what the others can stand in for."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.scores._checks import real


def fpgm(weight: Tensor) -> Tensor:
    """The sum of each filter's Euclidean distances to all filters of its layer.

    The lowest is the filter nearest to the geometric median, the most replaceable one.  The distances are between the
    filters themselves; distances between absolute or squared weights, as some public code has them, are another
    criterion: they take a filter and its negative for the same.

    Args:
        weight: ``[filters, ...]``.

    Returns:
        ``[filters]``, zero or more, float32 at least.

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
        Acceleration (CVPR 2019).

    >>> import torch
    >>> fpgm(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, 5.0]])).argmin()
    tensor(2)
    """
    flat = real("fpgm", "weight", weight, dimensions=2).flatten(1)
    # Differences, not the faster expansion into products, which loses the digits of close filters.
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
