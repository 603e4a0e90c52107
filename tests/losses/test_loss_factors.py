"""Factors, hints as probabilities, and the hierarchical context loss, against numbers worked out by hand or in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limbeck import losses
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError

S, T = torch.tensor([[1.0, 2.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0, 4.0]])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- factor_lp -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "form", "value"),
    [(1, "paper", 1.86666667), (1, "mean", 0.46666667), (2, "paper", 1.09544512), (2, "mean", 1.2 / 4)],
)
def test_golden_factors(p, form, value):
    assert losses.factor_lp(S, T, p=p, form=form).item() == pytest.approx(value, abs=1e-6)
    maps = losses.factor_lp(S.reshape(1, 1, 2, 2), T.reshape(1, 1, 2, 2), p=p, form=form)
    assert maps.item() == pytest.approx(value, abs=1e-6)


def test_two_teachers_are_twice_one():
    assert 2 * losses.factor_lp(S, T).item() == pytest.approx(3.73333333, abs=1e-6)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
    ("s_shape", "t_shape"),
    [
        ((4, 5, 7, 7), (4, 8, 7, 7)),
        ((3, 6, 9, 9), (3, 4, 5, 5)),
        ((3, 4, 4, 4), (3, 6, 8, 8)),
        ((2, 3, 1, 1), (2, 5, 1, 1)),
    ],
)
def test_agreement_with_the_published_benchmark(p, s_shape, t_shape):
    """Channels collapsed to the mean of their squares, brought to length 1, mean difference."""
    s, t = draw(*s_shape), draw(*t_shape, seed=1)
    a, b = (
        (s, F.adaptive_avg_pool2d(t, (s.shape[2], s.shape[3])))
        if s.shape[2] < t.shape[2]
        else (F.adaptive_avg_pool2d(s, (t.shape[2], t.shape[3])), t)
    )
    a, b = ((x**2).mean(1).reshape(len(x), -1) for x in (a, b))
    a, b = (x / (x**2).sum(1, keepdim=True) ** 0.5 for x in (a, b))
    want = ((a - b).abs() ** p).mean()
    have = losses.factor_lp(s.float(), t.float(), p=p, form="benchmark").mean()
    assert have.item() == pytest.approx(want.item(), rel=1e-5, abs=1e-7)


def test_the_larger_factor_is_averaged_down():
    s, t = draw(2, 3, 4, 4), draw(2, 3, 8, 6, seed=1)
    small = np.zeros((2, 3, 4, 4))
    for b, c, i in np.ndindex(2, 3, 4):  # 6 columns to 4: adaptive windows of 2, overlapping
        for j, (low, high) in enumerate([(0, 2), (1, 3), (3, 5), (4, 6)]):
            small[b, c, i, j] = t[b, c, 2 * i : 2 * i + 2, low:high].mean().item()
    torch.testing.assert_close(losses.factor_lp(s, t), losses.factor_lp(s, torch.from_numpy(small)))


def test_a_factors_length_is_nothing():
    s, t = draw(3, 4, 5, 5), draw(3, 4, 5, 5, seed=1)
    scale = torch.tensor([0.1, 2.0, 30.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    torch.testing.assert_close(losses.factor_lp(scale * s, t), losses.factor_lp(s, t))
    assert losses.factor_lp(scale * s, s).abs().max() < 1e-12


@pytest.mark.parametrize("form", ["paper", "mean", "benchmark"])
@pytest.mark.parametrize("p", [1, 2])
def test_a_dead_factor_has_no_gradient_and_equal_ones_a_finite_one(p, form):
    t = draw(2, 3, 2, 2)
    dead = torch.zeros_like(t).requires_grad_()
    losses.factor_lp(dead, t, p=p, form=form).sum().backward()
    assert dead.grad is not None
    assert dead.grad.abs().max() == 0
    equal = t.clone().requires_grad_()
    losses.factor_lp(equal, t, p=p, form=form).sum().backward()
    assert equal.grad is not None
    assert torch.isfinite(equal.grad).all()


def test_bad_input_of_factors():
    x = draw(2, 3, 4, 4)
    with pytest.raises(HyperParameterError, match="p = 3: 1 or 2"):
        losses.factor_lp(x, x, p=3)
    with pytest.raises(HyperParameterError, match="no form 'papers' in factor_lp; near: paper"):
        losses.factor_lp(x, x, form="papers")
    with pytest.raises(
        ShapeError, match=r"shapes differ: student \[2, 3, 4, 4\], teacher \[2, 5, 4, 4\]; a translator"
    ):
        losses.factor_lp(x, draw(2, 5, 4, 4))
    with pytest.raises(ShapeError, match=r"form 'benchmark' compares factors \[batch, channels, height, width\]"):
        losses.factor_lp(S, T, form="benchmark")
    with pytest.raises(ShapeError, match=r"factors are \[batch, ...\]; the student's is \[4\]"):
        losses.factor_lp(S[0], T[0])


# -- hint_ce ---------------------------------------------------------------------------------------------


def cross_entropies(s, t, mode, tau):
    """By definition, in loops over samples, with NumPy."""
    found = []
    for a, b in zip(s.flatten(1).numpy() / tau, t.flatten(1).numpy() / tau, strict=True):
        if mode == "softmax":
            q, p = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (a, b))
            found.append((-(p * np.log(q)).sum(), -(p * np.log(p)).sum()))
        else:
            q, p = (1 / (1 + np.exp(-x)) for x in (a, b))
            found.append(tuple(-(p * np.log(r) + (1 - p) * np.log(1 - r)).sum() for r in (q, p)))
    return np.array(found).T


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_it_is_the_cross_entropy_above_its_minimum(mode, tau):
    s, t = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    crossed, entropy = cross_entropies(s, t, mode, tau)
    have = losses.hint_ce(s, t, mode=mode, temperature=tau)
    assert np.allclose(have.numpy(), crossed - entropy, rtol=1e-9)
    at_best, same = cross_entropies(t, t, mode, tau)
    assert np.allclose(at_best, same)  # the minimum is the target's entropy, at equality
    assert losses.hint_ce(t, t, mode=mode, temperature=tau).abs().max() < 1e-12


def test_a_constant_is_nothing_to_softmax_and_something_to_sigmoid():
    s, t = draw(3, 8), draw(3, 8, seed=1)
    torch.testing.assert_close(losses.hint_ce(s + 7.0, t), losses.hint_ce(s, t))
    assert (losses.hint_ce(s + 7.0, t, mode="sigmoid") - losses.hint_ce(s, t, mode="sigmoid")).abs().min() > 1


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_a_unit_that_is_far_off_pulls_with_at_most_one(mode):
    t = draw(2, 6)
    s = t.clone()
    s[:, 2] += 100.0
    s.requires_grad_()
    (mine,) = torch.autograd.grad(losses.hint_ce(s, t, mode=mode).sum(), s)
    (square,) = torch.autograd.grad(losses.hint_l2(s, t).sum(), s)
    assert mine[:, 2].abs().min() > 0.05
    assert mine.abs().max() <= 1
    assert square.abs().max() == pytest.approx(100)


def test_large_features_stay_finite():
    s, t = torch.tensor([[1e3, -1e3, 0.0]]), torch.tensor([[-1e3, 1e3, 0.0]])
    assert losses.hint_ce(s, t).item() == pytest.approx(2000)
    assert losses.hint_ce(s, t, mode="sigmoid").item() == pytest.approx(2000)


def test_bad_input_of_hints():
    x = draw(2, 3)
    with pytest.raises(HyperParameterError, match="no mode 'softmaxx' in hint_ce; near: softmax"):
        losses.hint_ce(x, x, mode="softmaxx")
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(HyperParameterError, match=r"temperature = .*: a finite number, more than 0"):
            losses.hint_ce(x, x, temperature=tau)
    with pytest.raises(
        ShapeError, match=r"hint_ce: the shapes differ: student \[2, 3\], teacher \[2, 4\]; a regressor"
    ):
        losses.hint_ce(x, draw(2, 4))
    with pytest.raises(ShapeError, match="softmax over a single unit"):
        losses.hint_ce(x[:, :1], x[:, :1])
    with pytest.raises(NonFiniteError, match="the teacher holds 1 NaN"):
        losses.hint_ce(x, torch.where(x == x[0, 0], math.nan, x))


# -- hcl -------------------------------------------------------------------------------------------------


def context(s, t):
    """Level by level with plain means over windows; sizes that 4, 2 and 1 divide."""
    total, whole, count = ((s - t) ** 2).mean(), 1.0, 1.0
    for level in (4, 2, 1):
        if level >= s.shape[2]:
            continue
        count /= 2
        step = s.shape[2] // level
        pooled = [x.reshape(*x.shape[:2], level, step, level, step).mean((3, 5)) for x in (s, t)]
        total, whole = total + count * ((pooled[0] - pooled[1]) ** 2).mean(), whole + count
    return total / whole


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_levels_of_detail(size):
    s, t = draw(3, 5, size, size), draw(3, 5, size, size, seed=1)
    torch.testing.assert_close(losses.hcl(s, t).mean(), context(s, t))


def test_a_shift_counts_at_every_level_and_noise_at_the_finest():
    t = torch.zeros(1, 1, 8, 8)
    assert losses.hcl(t + 1, t).item() == pytest.approx(1.0)  # all four levels see it
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1.0
    assert losses.hcl(board[None, None], t).item() == pytest.approx(1 / 1.875)  # averaged away below


def test_bad_input_of_context():
    with pytest.raises(
        ShapeError, match=r"hcl: the shapes differ: student \[2, 3, 4, 4\], teacher \[2, 3, 8, 8\]; a fusion"
    ):
        losses.hcl(draw(2, 3, 4, 4), draw(2, 3, 8, 8))
    with pytest.raises(ShapeError, match=r"features are \[batch, channels, height, width\]; the student is \[2, 3\]"):
        losses.hcl(draw(2, 3), draw(2, 3))
