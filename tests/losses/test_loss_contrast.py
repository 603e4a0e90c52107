"""Contrast, against the published formulas written out in NumPy; and the likelihood of variational information."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limbeck import losses
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TensorTypeError
from limbeck.losses import contrast


@pytest.fixture
def case():
    gen = torch.Generator().manual_seed(5)
    s = torch.nn.functional.normalize(torch.randn(6, 4, generator=gen, dtype=torch.float64), dim=1)
    memory = 0.1 + torch.randn(50, 4, generator=gen, dtype=torch.float64)
    return s, memory, torch.randint(50, (6, 9), generator=gen)


def products(s, memory, index, tau):
    out = np.zeros(index.shape)
    for b in range(index.shape[0]):
        for k in range(index.shape[1]):
            row = memory[index[b, k]].numpy()
            out[b, k] = sum(s[b].numpy() * row) / math.sqrt(sum(row * row)) / tau
    return out


@pytest.mark.parametrize("route", ["product", "gather", "one by one"])
def test_scores(case, route, monkeypatch):
    s, memory, index = case
    monkeypatch.setattr(contrast, "_PRODUCT_UP_TO", 100 if route == "product" else 0)
    monkeypatch.setattr(contrast, "_CHUNK", 80 if route == "gather" else 1)
    s = s.clone().requires_grad_()
    have = losses.contrast_scores(s, memory, index=index, tau=0.07)
    np.testing.assert_allclose(have.detach().numpy(), products(s.detach(), memory, index, 0.07), atol=1e-12)
    weights = torch.arange(54.0, dtype=torch.float64).reshape(6, 9)
    (grad,) = torch.autograd.grad((weights * have).sum(), s)
    units = memory.numpy() / np.linalg.norm(memory.numpy(), axis=1, keepdims=True)
    want = [sum(weights[b, k].item() / 0.07 * units[index[b, k]] for k in range(9)) for b in range(6)]
    np.testing.assert_allclose(grad.numpy(), want, atol=1e-9)


@pytest.mark.parametrize("limit", [0, 100])
def test_the_length_of_a_memory_is_nothing_and_it_gets_no_gradient(case, limit, monkeypatch):
    monkeypatch.setattr(contrast, "_PRODUCT_UP_TO", limit)
    s, memory, index = (x.float() if x.is_floating_point() else x for x in case)
    faint = (memory * 2.0**-20).requires_grad_()
    s.requires_grad_()
    have = losses.contrast_scores(s, faint, index=index, tau=0.5)
    torch.testing.assert_close(have, losses.contrast_scores(s, memory, index=index, tau=0.5))
    have.sum().backward()
    assert faint.grad is None
    assert s.grad is not None


@pytest.mark.parametrize("limit", [0, 100])
def test_scores_are_exact_in_half_precision_and_under_autocast(case, limit, monkeypatch):
    monkeypatch.setattr(contrast, "_PRODUCT_UP_TO", limit)
    s, memory, index = (x.float() if x.is_floating_point() else x for x in case)
    plain = losses.contrast_scores(s, memory, index=index, tau=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.contrast_scores(s, memory, index=index, tau=0.07), plain)
    half = losses.contrast_scores(s.bfloat16(), memory, index=index, tau=0.07)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, losses.contrast_scores(s.bfloat16().float(), memory, index=index, tau=0.07))


def published(positive, negatives, rows, z):
    """As the code that everyone compares with: probabilities, and 1e-7 below the line (beside K / M, about 0.3 there)."""
    out = []
    for x, row in zip(positive, negatives, strict=True):
        noise = len(row) / rows
        p = math.exp(x) / z
        value = -math.log(p / (p + noise + 1e-7))
        for y in row:
            value -= math.log(noise / (math.exp(y) / z + noise + 1e-7))
        out.append(value)
    return out


@pytest.mark.parametrize(("rows", "z"), [(50, 1.0), (50, 700.0), (16, 20.0)])
def test_the_published_formula(case, rows, z):
    scores = losses.contrast_scores(case[0], case[1], index=case[2], tau=0.3)
    have = losses.crd_nce(scores[:, 0], scores[:, 1:], rows=rows, log_z=math.log(z))
    want = published(scores[:, 0].tolist(), scores[:, 1:].tolist(), rows, z)
    assert have.tolist() == pytest.approx(want, rel=1e-5)
    small = losses.crd_nce(scores[:, 0].float(), scores[:, 1:].float(), rows=rows, log_z=torch.tensor(math.log(z)))
    assert small.dtype == torch.float32
    assert small.tolist() == pytest.approx(want, rel=1e-5)


def test_with_the_estimated_constant_the_number_of_rows_cancels(case):
    scores = losses.contrast_scores(case[0], case[1], index=case[2], tau=0.3)
    mean = math.log(np.exp(scores.numpy()).mean())
    values = [
        losses.crd_nce(scores[:, 0], scores[:, 1:], rows=rows, log_z=mean + math.log(rows)) for rows in (9, 50, 10**6)
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


def test_before_anything_is_learnt_a_pair_is_one_among_all():
    """All scores equal, Z estimated: h = 1 / (K + 1), so the value is log(K + 1) + K log((K + 1) / K)."""
    k = 15
    value = losses.crd_nce(torch.full((2,), 3.0), torch.full((2, k), 3.0), rows=100, log_z=3.0 + math.log(100))
    assert value.tolist() == pytest.approx([math.log(k + 1) + k * math.log((k + 1) / k)] * 2, rel=1e-5)


def test_scores_of_any_size_are_finite():
    x = torch.tensor([900.0, -900.0], requires_grad=True)
    y = torch.tensor([[900.0], [-900.0]], requires_grad=True)
    value = losses.crd_nce(x, y, rows=10)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.0, -1.0])
    assert y.grad is not None
    assert y.grad.flatten().tolist() == pytest.approx([1.0, 0.0])


def test_bad_scores(case):
    s, memory, index = case
    with pytest.raises(HyperParameterError, match="tau = 0: a finite number, more than 0"):
        losses.contrast_scores(s, memory, index=index, tau=0)
    with pytest.raises(ShapeError, match=r"with one dimension; these are \[6, 4\] and \[50, 3\]"):
        losses.contrast_scores(s, memory[:, :3], index=index, tau=1)
    with pytest.raises(ShapeError, match=r"index is int64 \[batch, drawn\]; this is int64 \[5, 9\] for 6 anchors"):
        losses.contrast_scores(s, memory, index=index[:5], tau=1)
    with pytest.raises(ShapeError, match="rows from 50 to 50; the memory has rows 0 to 49"):
        losses.contrast_scores(s, memory, index=torch.full((6, 1), 50), tau=1)
    with pytest.raises(TensorTypeError, match="the student is int64"):
        losses.contrast_scores(s.long(), memory, index=index, tau=1)
    s[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"contrast_scores is non-finite for 1 of 6 samples \(rows 2\): the student"):
        losses.contrast_scores(s, memory, index=index, tau=1)


def test_bad_contrast():
    x, y = torch.zeros(3), torch.zeros(3, 2)
    with pytest.raises(HyperParameterError, match="rows = 0: the number of rows that negatives come from, at least 1"):
        losses.crd_nce(x, y, rows=0)
    with pytest.raises(ShapeError, match=r"scores are \[batch\] of the positives .* these are \[3\] and \[2, 2\]"):
        losses.crd_nce(x, y[:2], rows=5)
    with pytest.raises(ShapeError, match=r"the negative scores is empty: it has the shape \[3, 0\]"):
        losses.crd_nce(x, y[:, :0], rows=5)
    y[1, 1] = math.nan
    with pytest.raises(
        ValueError, match=r"crd_nce is non-finite for 1 of 3 samples \(rows 1\): the negatives holds 1 NaN"
    ):
        losses.crd_nce(x, y, rows=5)


# -- variational information ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["paper", "benchmark"])
def test_the_likelihood_of_a_map(form):
    gen = torch.Generator().manual_seed(1)
    s, t = (torch.randn(3, 4, 2, 5, generator=gen, dtype=torch.float64) for _ in range(2))
    v = torch.rand(4, generator=gen, dtype=torch.float64) + 0.1
    want = []
    for b in range(3):
        total = 0.0
        for c in range(4):
            for i in range(2):
                for j in range(5):
                    gap = float(s[b, c, i, j] - t[b, c, i, j])
                    density = math.exp(-gap * gap / (2 * float(v[c]))) / math.sqrt(2 * math.pi * float(v[c]))
                    total += -math.log(density) - 0.5 * math.log(2 * math.pi)
        want.append(total if form == "paper" else total / 40)
    assert losses.vid_nll(s, t, variance=v, form=form).tolist() == pytest.approx(want, rel=1e-9)


def test_the_best_variance_is_the_mean_square():
    s, t = torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    variance = torch.tensor([5.0, 0.5], requires_grad=True)  # (1 + 9) / 2 and (0 + 1) / 2
    losses.vid_nll(s, t, variance=variance).sum().backward()
    assert variance.grad is not None
    assert variance.grad.abs().max() < 1e-6


def test_bad_likelihood():
    s = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ShapeError, match=r"the shapes differ: student \[2, 3, 4, 4\], teacher \[2, 3, 4, 2\]"):
        losses.vid_nll(s, s[..., :2], variance=torch.ones(3))
    with pytest.raises(ShapeError, match=r"one variance for each channel; these are \[2, 3, 4, 4\] and \[4\]"):
        losses.vid_nll(s, s, variance=torch.ones(4))
    with pytest.raises(HyperParameterError, match="variance: more than zero; the smallest is -1"):
        losses.vid_nll(s, s, variance=-torch.ones(3))
    with pytest.raises(HyperParameterError, match="no form 'sum' in vid_nll"):
        losses.vid_nll(s, s, variance=torch.ones(3), form="sum")


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("x", "y", "who"),
    [
        ([INF], [[0.0, 1.0]], "positives holds 0 NaN and 1 inf"),
        ([-INF], [[0.0, 1.0]], "positives holds 0 NaN and 1 inf"),
        ([1.0], [[-INF, 1.0]], "negatives holds 0 NaN and 1 inf"),
        ([1.0], [[NAN, 1.0]], "negatives holds 1 NaN and 0 inf"),
    ],
)
def test_scores_that_are_not_finite(x, y, who):
    with pytest.raises(NonFiniteError, match=f"crd_nce is non-finite .* the {who}"):
        losses.crd_nce(torch.tensor(x), torch.tensor(y), rows=3)


def test_constants_that_are_not_finite():
    x, y = torch.zeros(1), torch.zeros(1, 2)
    unchecked = getattr(losses.crd_nce, "__wrapped__", losses.crd_nce)
    for bad in (0, NAN, INF):
        with pytest.raises(HyperParameterError, match=f"rows = {bad}: the number of rows that negatives come from"):
            unchecked(x, y, rows=bad)
    for bad in (NAN, INF, -INF):
        with pytest.raises(HyperParameterError, match=f"log_z = {bad}: the logarithm of a number above zero"):
            losses.crd_nce(x, y, rows=3, log_z=bad)
        with pytest.raises(NonFiniteError, match="the log_z holds"):
            losses.crd_nce(x, y, rows=3, log_z=torch.tensor(bad))
    with pytest.raises(NonFiniteError, match="the variance holds 0 NaN and 1 inf among 2 values"):
        losses.vid_nll(torch.zeros(1, 2), torch.zeros(1, 2), variance=torch.tensor([1.0, INF]))


@pytest.mark.parametrize(("s", "t", "who"), [(-INF, 0.0, "student"), (0.0, INF, "teacher"), (NAN, 0.0, "student")])
def test_a_discriminators_scores_that_are_not_finite(s, t, who):
    with pytest.raises(NonFiniteError, match=f"adversarial_value is non-finite .* the {who} holds"):
        losses.adversarial_value(torch.tensor([[s, 0.0]]), torch.tensor([[t, 0.0]]))
