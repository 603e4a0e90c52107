"""Decoupled distillation, against the definition written out in NumPy, and against ordinary distillation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limbeck import losses
from limbeck.errors import HyperParameterError, ShapeError, TargetError


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def by_hand(s, t, y, temperature):
    """(TCKD, NCKD) of one sample, without the squared temperature."""
    p, q = softmax(np.array(t) / temperature), softmax(np.array(s) / temperature)
    others = [i for i in range(len(s)) if i != y]
    right = kl([p[y], sum(p[i] for i in others)], [q[y], sum(q[i] for i in others)])
    p_rest, q_rest = softmax(np.array(t)[others] / temperature), softmax(np.array(s)[others] / temperature)
    return right, kl(p_rest, q_rest)


@pytest.fixture
def logits():
    gen = torch.Generator().manual_seed(3)
    s, t = (3 * torch.randn(7, 5, generator=gen, dtype=torch.float64) for _ in range(2))
    return s, t, torch.randint(5, (7,), generator=gen)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 8), (1, 0), (0, 1), (0.5, 2.5)])
@pytest.mark.parametrize("temperature", [1, 4])
def test_the_definition(logits, temperature, alpha, beta):
    s, t, y = logits
    have = losses.dkd(s, t, targets=y, temperature=temperature, alpha=alpha, beta=beta)
    parts = [by_hand(*row, temperature) for row in zip(s.tolist(), t.tolist(), y.tolist(), strict=True)]
    want = [temperature**2 * (alpha * right + beta * rest) for right, rest in parts]
    assert have.tolist() == pytest.approx(want, abs=1e-12)


def test_golden():
    """Both softened to (2/3, 1/6, 1/6) and (1/3, 1/3, 1/3), say: one sample, worked out on paper."""
    t = torch.tensor([[math.log(4.0), 0.0, 0.0]], dtype=torch.float64)
    s = torch.zeros(1, 3, dtype=torch.float64)
    right = 2 / 3 * math.log(2) + 1 / 3 * math.log(1 / 2)
    assert losses.dkd(s, t, targets=torch.tensor([0]), temperature=1).item() == pytest.approx(right, abs=1e-15)
    # with class 1 as the target, the others are (4/5, 1/5) against (1/2, 1/2)
    target = 1 / 6 * math.log(1 / 2) + 5 / 6 * math.log(5 / 4)
    rest = 4 / 5 * math.log(8 / 5) + 1 / 5 * math.log(2 / 5)
    have = losses.dkd(s, t, targets=torch.tensor([1]), temperature=1, alpha=2, beta=3).item()
    assert have == pytest.approx(2 * target + 3 * rest, abs=1e-15)


@pytest.mark.parametrize("temperature", [1, 4])
def test_with_the_teachers_own_doubt_it_is_ordinary_distillation(logits, temperature):
    s, t, y = logits
    s = s.clone().requires_grad_()
    doubt = 1 - (t / temperature).softmax(1).gather(1, y[:, None])[:, 0]
    have = losses.dkd(s, t, targets=y, temperature=temperature, alpha=1.0, beta=doubt)
    want = losses.kd_kl(s, t, temperature=temperature)
    torch.testing.assert_close(have, want, rtol=0, atol=1e-12)
    (a,), (b,) = (torch.autograd.grad(v.sum(), s, retain_graph=True) for v in (have, want))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_two_classes_have_no_others_to_compare(logits):
    s, t, y = logits
    s, t, y = s[:, :2], t[:, :2], y % 2
    assert losses.dkd(s, t, targets=y, temperature=2, alpha=0, beta=8).abs().max() < 1e-15
    torch.testing.assert_close(
        losses.dkd(s, t, targets=y, temperature=2, alpha=1, beta=8), losses.kd_kl(s, t, temperature=2)
    )


@pytest.mark.parametrize("size", [50.0, 1000.0])
def test_a_teacher_without_any_doubt(size):
    """1 - p_y is far below what float32 can tell from zero; a published version takes its logarithm."""
    t = torch.tensor([[size, 0.0, 0.5], [-size, 0.0, 0.5]])
    s = torch.tensor([[0.1, 0.2, 0.3], [size, 0.0, 0.3]], requires_grad=True)
    value = losses.dkd(s, t, targets=torch.tensor([0, 0]), temperature=1, alpha=1, beta=8)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
    assert (s.grad.abs().amax(1) > 0.1).all()


def test_classes_may_be_named_by_any_integers(logits):
    s, t, y = logits
    want = losses.dkd(s, t, targets=y, temperature=4)
    for kind in (torch.int32, torch.uint8):
        assert torch.equal(losses.dkd(s, t, targets=y.to(kind), temperature=4), want)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"targets": None}, TargetError, "dkd: targets are NoneType; this term needs labels"),
        ({"targets": torch.zeros(7)}, TargetError, r"dkd: targets are float32; class ids are integers"),
        (
            {"targets": torch.zeros(7, 5, dtype=torch.int64)},
            ShapeError,
            r"one class id per sample: .* targets \[7, 5\]",
        ),
        (
            {"targets": torch.full((7,), 5)},
            TargetError,
            r"targets from 5 to 5; with 5 classes they must be in \[0, 5\)",
        ),
        ({"temperature": 0}, HyperParameterError, "temperature = 0: a finite number, more than 0"),
        ({"alpha": -1.0}, HyperParameterError, "alpha = -1.0: a finite number, at least 0"),
        ({"beta": math.nan}, HyperParameterError, "beta = nan"),
        ({"beta": torch.ones(3)}, ShapeError, r"beta is one number per sample: logits are \[7, 5\], beta \[3\]"),
        ({"beta": -torch.ones(7)}, HyperParameterError, "every weight is zero or more"),
    ],
)
def test_bad_input(logits, change, error, text):
    s, t, y = logits
    with pytest.raises(error, match=text):
        losses.dkd(s, t, **{"targets": y, "temperature": 4, **change})


def test_one_column_and_other_classes(logits):
    s, t, y = logits
    with pytest.raises(ShapeError, match=r"dkd: a single column of logits, \[7, 1\]: there is no other class"):
        losses.dkd(s[:, :1], t[:, :1], targets=y, temperature=4)
    with pytest.raises(ShapeError, match=r"dkd: N_t != N_s: the teacher has 4 classes"):
        losses.dkd(s, t[:, :4], targets=y, temperature=4)
