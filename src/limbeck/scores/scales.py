"""The scales of batch normalisation as scores of their channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.errors import HyperParameterError
from limbeck.scores._checks import real
from limbeck.settings import finite, require


def slimming(gamma: Tensor) -> Tensor:
    """The absolute scale of each channel.

    Args:
        gamma: ``[channels]``, the weight of a batch normalisation.

    Returns:
        ``[channels]``, zero or more, float32 at least.

    Raises:
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming
        (ICCV 2017), section 3.

    >>> import torch
    >>> slimming(torch.tensor([0.5, -0.7]))
    tensor([0.5000, 0.7000])
    """
    return real("slimming", "gamma", gamma).abs()


def slimming_threshold(gammas: Sequence[Tensor], ratio: float) -> float:
    """The one threshold for a whole network: channels with ``|gamma|`` at or above it are kept.

    Of the n sorted scales, ``floor(ratio * n)`` are below; the next one is the threshold.  Scales equal to it are kept,
    so that with many equal ones fewer than ``ratio`` are removed.

    Args:
        gammas: the scales of each layer, ``[channels]``.
        ratio: the part to remove, in [0, 1).

    Returns:
        The threshold.

    Raises:
        HyperParameterError: the ratio is outside its range, or there are no layers.
        TensorTypeError, ShapeError, NonFiniteError: as in `l1`.

    Source:
        Liu et al. (ICCV 2017), section 3: one global percentile.

    >>> import torch
    >>> layers = [torch.tensor([0.9, 0.01, 0.5]), torch.tensor([0.02, 0.03, 0.8, 0.7])]
    >>> slimming_threshold(layers, 0.5)
    0.5
    """
    require(finite(ratio) and 0 <= ratio < 1, "ratio", ratio, "in [0, 1)")
    if not gammas:
        raise HyperParameterError("slimming: no layers: give the scales of at least one batch normalisation")
    every = torch.cat([slimming(gamma).flatten().cpu() for gamma in gammas]).sort().values
    return float(every[math.floor(ratio * len(every) + 1e-9)])  # 0.29 * 100 is a little below 29
