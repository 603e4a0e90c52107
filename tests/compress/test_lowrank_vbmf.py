"""Ranks out of the noise: planted ones, and the free energy written out and searched through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limbeck.compress.lowrank.vbmf import evbmf, weakened
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TensorTypeError


def planted(rows, columns, rank, noise, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return signal + noise * rng.standard_normal((rows, columns))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(64, 128, 10), (128, 300, 40), (200, 60, 8), (100, 100, 20), (30, 30, 1)]
)
def test_planted_ranks_are_found(rows, columns, rank, seed):
    matrix = torch.from_numpy(planted(rows, columns, rank, 0.3, seed))
    assert evbmf(matrix) == rank
    assert evbmf(matrix.T) == rank
    assert evbmf(1e-6 * matrix) == evbmf(1e6 * matrix.float()) == rank


def by_search(matrix):
    """The definition, one component at a time, on a fine grid of the noise's variance."""
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    low, high = matrix.shape
    values = np.linalg.svd(matrix, compute_uv=False)
    alpha = low / high
    tau_low = 2.5129 * math.sqrt(alpha)
    x_low = (1 + tau_low) * (1 + alpha / tau_low)

    def energy(variance):
        total = 0.0
        for value in values:
            x = value**2 / (high * variance)
            total += x - math.log(x)
            if x > x_low:
                tau = 0.5 * (x - (1 + alpha) + math.sqrt((x - (1 + alpha)) ** 2 - 4 * alpha))
                total += math.log(tau + 1) + alpha * math.log(tau / alpha + 1) - tau
        return total

    top = math.ceil(low / (1 + alpha)) - 1
    upper = (values**2).mean() / high
    lower = max(values[top] ** 2 / (high * x_low), (values[top:] ** 2).mean() / high)
    grid = np.exp(np.linspace(math.log(lower), math.log(upper), 1500))
    variance = min(grid, key=energy)
    return sum(value > math.sqrt(high * variance * x_low) for value in values)


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0, 6.0, 20.0])
@pytest.mark.parametrize("shape", [(20, 50), (40, 15), (25, 25)])
def test_like_the_definition_also_where_signal_drowns(shape, noise):
    matrix = planted(*shape, 6, noise)
    assert evbmf(torch.from_numpy(matrix)) == max(1, by_search(matrix))


@pytest.mark.parametrize("seed", range(4))
def test_like_the_definition_where_components_fade_into_the_noise(seed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, 50)))[0] for size in (100, 250))
    matrix = left * np.linspace(15, 40, 50) @ right.T + rng.standard_normal((100, 250))
    found = evbmf(torch.from_numpy(matrix))
    assert found == by_search(matrix)
    assert 1 < found < 50


def test_noise_alone_and_nothing_at_all_have_one():
    torch.manual_seed(0)
    assert evbmf(torch.randn(64, 576)) == 1
    assert by_search(np.random.default_rng(0).standard_normal((64, 200))) == 0
    assert evbmf(torch.zeros(4, 6)) == 1
    assert evbmf(torch.ones(1, 1)) == 1


def test_exact_low_rank_without_any_noise():
    assert evbmf(torch.from_numpy(planted(30, 40, 4, 0.0))) == 4
    assert evbmf(torch.from_numpy(planted(30, 40, 4, 0.0)).float()) == 4


@pytest.mark.parametrize(("weaken", "rank"), [(0.0, 8), (0.25, 22), (1.0, 64)])
def test_weakening(weaken, rank):
    assert weakened(8, 64, weaken) == rank


def test_what_is_refused():
    with pytest.raises(NonFiniteError, match="non-finite"):
        evbmf(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ShapeError, match="2 dimensions"):
        evbmf(torch.ones(3))
    with pytest.raises(TensorTypeError, match="floating-point"):
        evbmf(torch.ones(3, 3, dtype=torch.int32))
    with pytest.raises(HyperParameterError, match=r"weaken = 1.5"):
        weakened(1, 2, 1.5)
