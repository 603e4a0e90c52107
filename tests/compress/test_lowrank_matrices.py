"""Decompositions of weights against NumPy: exact at full rank, and what is lost is what was cut off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.compress.lowrank.matrices import squares
from limbeck.compress.lowrank.spatial import spatial
from limbeck.compress.lowrank.svd import rank_for_energy, svd_linear
from limbeck.compress.lowrank.tucker import tucker2
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TensorTypeError


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def tucker_product(inside, core, outside):
    """The kernel, entry by entry."""
    inside, core, outside = (part.numpy() for part in (inside, core, outside))
    whole = np.zeros((len(outside), len(inside), *core.shape[2:]))
    for p in range(core.shape[0]):
        for q in range(core.shape[1]):
            whole += np.multiply.outer(np.outer(outside[:, p], inside[:, q]), core[p, q])
    return whole


def spatial_product(down, across):
    down, across = down.numpy(), across.numpy()
    outside, rank, _, width = across.shape
    inside, height = down.shape[1:3]
    whole = np.zeros((outside, inside, height, width))
    for o in range(outside):
        for i in range(inside):
            for r in range(rank):
                whole[o, i] += np.outer(down[r, i, :, 0], across[o, r, 0])
    return whole


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (5, 5), (1, 4)])
def test_what_svd_loses_is_the_other_singular_values(shape):
    weight = random(*shape)
    values = np.linalg.svd(weight.numpy(), compute_uv=False)
    errors = []
    for rank in range(1, min(shape) + 1):
        down, up = svd_linear(weight, rank)
        assert down.shape == (rank, shape[1])
        assert up.shape == (shape[0], rank)
        errors.append(np.linalg.norm(up.numpy() @ down.numpy() - weight.numpy()))
        assert errors[-1] == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-12)
        # the root of the singular values is on both sides
        assert np.allclose(np.diag(down.numpy() @ down.numpy().T), values[:rank])
        assert np.allclose(np.diag(up.numpy().T @ up.numpy()), values[:rank])
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12
    assert svd_linear(weight, 99)[0].shape[0] == min(shape)


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 8, 1, 3), (4, 12, 5, 2)])
def test_tucker_is_exact_at_full_rank_and_no_worse_than_its_start(shape):
    kernel = random(*shape)
    inside, core, outside = tucker2(kernel, 99, 99)
    assert np.allclose(tucker_product(inside, core, outside), kernel.numpy(), atol=1e-12)
    last = np.inf
    for rank in range(1, min(shape[:2]) + 1):
        found = [np.linalg.norm(tucker_product(*tucker2(kernel, rank, rank, n)) - kernel.numpy()) for n in (0, 1, 5)]
        assert found[0] >= found[1] - 1e-12 >= found[2] - 2e-12
        assert found[2] <= last + 1e-12
        last = found[2]
        inside, _, outside = tucker2(kernel, rank, rank)
        assert np.allclose(inside.T @ inside, np.eye(rank), atol=1e-12)
        assert np.allclose(outside.T @ outside, np.eye(rank), atol=1e-12)


def test_tucker_is_as_near_as_iterations_with_singular_vectors_bring_it():
    kernel = random(10, 8, 3, 3).numpy()
    outside = np.linalg.svd(kernel.reshape(10, -1))[0][:, :3]
    inside = np.linalg.svd(kernel.transpose(1, 0, 2, 3).reshape(8, -1))[0][:, :2]
    lost = []
    for _ in range(6):
        core = np.tensordot(inside.T, np.tensordot(outside.T, kernel, 1), (1, 1)).swapaxes(0, 1)
        lost.append(np.sqrt((kernel**2).sum() - (core**2).sum()))
        seen = np.stack([np.tensordot(inside.T, kernel[o], 1) for o in range(10)])
        outside = np.linalg.svd(seen.reshape(10, -1))[0][:, :3]
        seen = np.stack([np.tensordot(outside.T, kernel[:, i], 1) for i in range(8)])
        inside = np.linalg.svd(seen.reshape(8, -1))[0][:, :2]
    assert lost[5] < 0.99 * lost[0]
    for rounds in (0, 1, 5):
        got = np.linalg.norm(tucker_product(*tucker2(torch.from_numpy(kernel), 2, 3, rounds)) - kernel)
        assert got == pytest.approx(lost[rounds], rel=1e-9)
    assert np.array_equal(
        tucker_product(*tucker2(torch.from_numpy(kernel), 2, 3)),
        tucker_product(*tucker2(torch.from_numpy(kernel), 2, 3, 5)),
    )


def test_tucker_of_one_side_loses_the_other_singular_values_of_that_unfolding():
    kernel = random(8, 6, 3, 3).numpy()
    for rank in range(1, 6):
        values = np.linalg.svd(kernel.reshape(8, -1), compute_uv=False)
        lost = np.linalg.norm(tucker_product(*tucker2(torch.from_numpy(kernel), 6, rank)) - kernel)
        assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()))
        values = np.linalg.svd(kernel.transpose(1, 0, 2, 3).reshape(6, -1), compute_uv=False)
        lost = np.linalg.norm(tucker_product(*tucker2(torch.from_numpy(kernel), rank, 8)) - kernel)
        assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-12)


def test_tucker_finds_what_was_planted():
    kernel = torch.einsum("op,pqhw,iq->oihw", random(20, 4), random(4, 3, 3, 3, seed=1), random(16, 3, seed=2))
    assert np.allclose(tucker_product(*tucker2(kernel, 3, 4)), kernel.numpy(), atol=1e-10)
    assert np.linalg.norm(tucker_product(*tucker2(kernel, 2, 4)) - kernel.numpy()) > 1


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 8, 3, 5), (4, 3, 1, 7), (5, 3, 4, 1)])
def test_what_a_spatial_split_loses_is_the_other_singular_values(shape):
    kernel = random(*shape)
    outside, inside, height, width = shape
    matrix = np.zeros((inside * height, outside * width))
    for o, i, y, x in np.ndindex(*shape):
        matrix[i * height + y, o * width + x] = kernel[o, i, y, x]
    values = np.linalg.svd(matrix, compute_uv=False)
    for rank in range(1, len(values) + 1):
        down, across = spatial(kernel, rank)
        assert down.shape == (rank, inside, height, 1)
        assert across.shape == (outside, rank, 1, width)
        lost = np.linalg.norm(spatial_product(down, across) - kernel.numpy())
        assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_have_the_weights_dtype(dtype):
    weight = random(6, 5, 3, 3).to(dtype)
    parts = (*tucker2(weight, 2, 3), *spatial(weight, 2), *svd_linear(weight.flatten(1), 2))
    assert {part.dtype for part in parts} == {dtype}


def test_ranks_by_energy():
    values = torch.tensor([1.0, 4.0, 2.0, 2.0])  # in any order; squares 16, 4, 4, 1 of 25
    for energy, rank in [
        (1e-9, 1),
        (0.63, 1),
        (0.64, 1),
        (0.65, 2),
        (0.8, 2),
        (0.81, 3),
        (0.96, 3),
        (0.97, 4),
        (1.0, 4),
    ]:
        assert rank_for_energy(values, energy) == rank
    assert rank_for_energy(torch.zeros(3), 1.0) == 1
    low = torch.linalg.svdvals((random(40, 3) @ random(3, 50, seed=1)).float())
    assert rank_for_energy(low, 1.0) == 3  # the rest is rounding


def test_sums_of_squares_are_those_of_the_singular_values():
    for matrix in (random(3, 7, 4), random(3, 4, 7)):
        assert np.allclose(squares(matrix), np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2)


@pytest.mark.parametrize(
    "f", [lambda w: svd_linear(w.flatten(1), 1), lambda w: tucker2(w, 1, 1), lambda w: spatial(w, 1)]
)
def test_weights_that_are_refused(f):
    for bad in (float("nan"), float("inf")):
        weight = torch.ones(2, 2, 3, 3)
        weight[1, 0, 2, 1] = bad
        with pytest.raises(NonFiniteError, match="non-finite"):
            f(weight)
    with pytest.raises(TensorTypeError, match="int64"):
        f(torch.ones(2, 2, 3, 3, dtype=torch.int64))


def test_arguments_that_are_refused():
    with pytest.raises(ShapeError, match=r"\[2, 2, 2\]; 2 dimensions"):
        svd_linear(torch.ones(2, 2, 2), 1)
    with pytest.raises(ShapeError, match=r"\[0, 3\]"):
        svd_linear(torch.ones(0, 3), 1)
    for rank in (0, -1, 1.5, True):
        with pytest.raises(HyperParameterError, match=r"rank = .*1 or more"):
            svd_linear(torch.ones(2, 2), rank)
        with pytest.raises(HyperParameterError, match="r_out = "):
            tucker2(torch.ones(2, 2, 3, 3), 1, rank)
        with pytest.raises(HyperParameterError, match="rank = "):
            spatial(torch.ones(2, 2, 3, 3), rank)
    with pytest.raises(HyperParameterError, match="iterations = -1"):
        tucker2(torch.ones(2, 2, 3, 3), 1, 1, -1)
    for energy in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(HyperParameterError, match="energy = "):
            rank_for_energy(torch.ones(2), energy)
    with pytest.raises(ShapeError, match="a vector of one or more"):
        rank_for_energy(torch.ones(0), 0.5)
    with pytest.raises(NonFiniteError, match="non-finite"):
        rank_for_energy(torch.tensor([1.0, float("nan")]), 0.5)
