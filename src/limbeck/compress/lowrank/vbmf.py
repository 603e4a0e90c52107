"""How many components of a matrix stand out of its noise: empirical variational Bayesian matrix factorization."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.compress.lowrank.matrices import check_rank, double
from limbeck.settings import finite, require


def evbmf(matrix: Tensor) -> int:
    """The rank that the global analytic solution of empirical VBMF keeps, and at least 1.

    With the matrix ``[L, M]``, ``L <= M`` (else its transpose), singular values ``g_h`` and ``alpha = L / M``:
    ``tau = 2.5129 sqrt(alpha)``, ``x = (1 + tau) (1 + alpha / tau)``; the noise's variance ``s`` minimises the free
    energy, and the components with ``g_h > sqrt(M s x)`` are kept.  Source: Nakajima, Sugiyama, Babacan, Tomioka:
    Global analytic solution of fully-observed variational Bayesian matrix factorization, JMLR 14 (2013).

    Weights that were never trained are noise to it: the plain answer is 0 then, and 1 is returned.

    Args:
        matrix: two dimensions, any scale.

    Raises:
        ShapeError, TensorTypeError, NonFiniteError: it is no finite matrix.

    >>> torch.manual_seed(0) and None
    >>> planted = torch.randn(60, 5) @ torch.randn(5, 90) + 0.1 * torch.randn(60, 90)
    >>> evbmf(planted), evbmf(planted.T)
    (5, 5)
    """
    energies = torch.linalg.svdvals(double(matrix, 2)).square()
    low, high = sorted(matrix.shape)
    total = float(energies.sum())
    if total == 0:
        return 1
    energies = energies / total  # the answer does not depend on the scale; the search's bounds should not either
    alpha = low / high
    tau = 2.5129 * math.sqrt(alpha)
    least = (1 + tau) * (1 + alpha / tau)

    def free_energy(log_noise: float) -> float:
        noise = math.exp(log_noise)
        x = energies / (high * noise)
        seen = x[x > least]
        shifted = seen - (1 + alpha)
        t = (shifted + (shifted.square() - 4 * alpha).clamp_min(0).sqrt()) / 2
        signal = torch.log1p(t) + alpha * torch.log1p(t / alpha) - t
        return float(x.sum()) + low * log_noise + float(signal.sum())

    upper = 1 / (low * high)
    first = min(math.ceil(low / (1 + alpha)) - 1, low - 1)  # not all can be signal
    tail = energies[first:]
    lower = max(float(tail[0]) / (high * least), float(tail.mean()) / high, upper * 1e-14)
    noise = math.exp(_lowest(free_energy, math.log(lower), math.log(upper))) if lower < upper else upper
    return max(1, int((energies > high * noise * least).sum()))


def weakened(rank: int, full: int, weaken: float) -> int:
    """A rank between the one found and the full one: ``rank + weaken (full - rank)``, to the nearest.

    Args:
        rank: what was found.
        full: the largest possible.
        weaken: 0: as found; 1: full.

    >>> [weakened(10, 64, w) for w in (0.0, 0.5, 1.0)]
    [10, 37, 64]
    """
    check_rank("rank", rank)
    require(finite(weaken) and 0 <= weaken <= 1, "weaken", weaken, "in [0, 1]")
    return rank + int(weaken * (full - rank) + 0.5)


def _lowest(f: Callable[[float], float], low: float, high: float, points: int = 100) -> float:
    """Where a function of one number is lowest: by golden section about every dip of a grid, the deepest counts."""
    step = (high - low) / points
    grid = [low + i * step for i in range(points + 1)]
    heights = [math.inf, *map(f, grid), math.inf]
    dips = [grid[i] for i in range(points + 1) if heights[i] >= heights[i + 1] <= heights[i + 2]]
    return min((_golden(f, max(low, dip - step), min(high, dip + step)) for dip in dips), key=f)


def _golden(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one dip is lowest."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = f(left), f(right)
    for _ in range(60):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = f(right)
    return (low + high) / 2
