"""Several teachers and coarser classes: identities, and loops in float64."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from limbeck import losses
from limbeck.errors import HyperParameterError, ShapeError
from limbeck.losses.mixture import average, require_partition

SHARES = [None, (1, 1, 1), (2.0, 0.5, 1.5), (0.0, 3.0, 1.0)]


def softmax(row):
    e = [math.exp(v - max(row)) for v in row]
    return [v / math.fsum(e) for v in e]


def kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q) if a)


def draw(seed=0, teachers=3, classes=4, batch=5):
    generator = torch.Generator().manual_seed(seed)
    s = 2 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return s, 2 * torch.randn(batch, teachers, classes, generator=generator, dtype=torch.float64)


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_golden_means():
    both = logs((0.9, 0.1), (0.5, 0.5))[None]
    assert average(both, "arithmetic").exp()[0].tolist() == pytest.approx([0.7, 0.3])
    assert average(both, "geometric").exp()[0].tolist() == pytest.approx([0.75, 0.25])
    for averaging, best in (("arithmetic", (0.7, 0.3)), ("geometric", (0.75, 0.25))):
        at_best = losses.kd_kl_mixture(logs(best), both, temperature=1, averaging=averaging)
        assert at_best.item() == pytest.approx(0.0, abs=1e-12)
    off = losses.kd_kl_mixture(logs((0.5, 0.5)), both, temperature=1)
    assert off.item() == pytest.approx(0.7 * math.log(1.4) + 0.3 * math.log(0.6))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", SHARES)
def test_arithmetic_against_a_loop(weights, temperature):
    s, t = draw()
    value = losses.kd_kl_mixture(s, t, temperature=temperature, weights=weights)
    share = [w / sum(weights) for w in weights] if weights else [1 / 3] * 3
    for row in range(5):
        each = [softmax([v / temperature for v in z]) for z in t[row].tolist()]
        p = [math.fsum(w * one[c] for w, one in zip(share, each)) for c in range(4)]
        q = softmax([v / temperature for v in s[row].tolist()])
        assert value[row].item() == pytest.approx(temperature**2 * kl(p, q), rel=1e-9)


@pytest.mark.parametrize("weights", SHARES)
def test_geometric_is_the_softmax_of_the_mean_logits(weights):
    s, t = draw(1)
    share = np.asarray(weights or (1, 1, 1), dtype=float) / sum(weights or (1, 1, 1))
    mean = torch.from_numpy(np.einsum("k,bkc->bc", share, t.numpy()))
    value = losses.kd_kl_mixture(s, t, temperature=3, averaging="geometric", weights=weights)
    torch.testing.assert_close(value, losses.kd_kl(s, mean, temperature=3))


@pytest.mark.parametrize("weights", SHARES)
def test_cross_entropy_to_the_mean_is_the_mean_of_the_cross_entropies(weights):
    """H(p, q) = sum_k w_k H(p_k, q), exactly: the loss less its constant."""
    s, t = draw(2)
    value = losses.kd_kl_mixture(s, t, temperature=2, weights=weights) / 4
    share = [w / sum(weights) for w in weights] if weights else [1 / 3] * 3
    for row in range(5):
        each = [softmax([v / 2 for v in z]) for z in t[row].tolist()]
        q = softmax([v / 2 for v in s[row].tolist()])
        p = [math.fsum(w * one[c] for w, one in zip(share, each)) for c in range(4)]
        entropy = -math.fsum(a * math.log(a) for a in p)
        wanted = -math.fsum(w * a * math.log(b) for w, one in zip(share, each) for a, b in zip(one, q))
        assert value[row].item() + entropy == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("weights", SHARES)
def test_its_gradient_is_the_mean_of_the_teachers_own(weights):
    s, t = draw(3)
    s.requires_grad_()
    (have,) = torch.autograd.grad(losses.kd_kl_mixture(s, t, temperature=2, weights=weights).sum(), s)
    share = [w / sum(weights) for w in weights] if weights else [1 / 3] * 3
    each = [torch.autograd.grad(losses.kd_kl(s, t[:, k], temperature=2).sum(), s)[0] for k in range(3)]
    torch.testing.assert_close(have, sum(w * g for w, g in zip(share, each)))


def test_what_each_mean_is_the_middle_of():
    """Arithmetic minimises sum KL(p_k || p), geometric sum KL(p || p_k): no other distribution is nearer."""
    generator = np.random.default_rng(0)
    _, t = draw(4, batch=1)
    each = [softmax(z) for z in t[0].tolist()]
    log_p = t.log_softmax(2)
    a, g = (average(log_p, how)[0].exp().tolist() for how in ("arithmetic", "geometric"))
    for _ in range(200):
        other = softmax((np.log(a) + generator.normal(size=4)).tolist())
        assert sum(kl(p, other) for p in each) > sum(kl(p, a) for p in each)
        assert sum(kl(other, p) for p in each) > sum(kl(g, p) for p in each)


def test_one_teacher_is_kd():
    s, t = draw(5, teachers=1)
    for averaging in ("arithmetic", "geometric"):
        value = losses.kd_kl_mixture(s, t, temperature=4, averaging=averaging, weights=[7])
        torch.testing.assert_close(value, losses.kd_kl(s, t[:, 0], temperature=4))


def test_sure_teachers_who_disagree_stay_finite():
    t = torch.tensor([[[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]]])
    value = losses.kd_kl_mixture(torch.zeros(1, 3), t, temperature=1)
    assert value.item() == pytest.approx(math.log(3) - math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ((1.0, 1.0), "weights = (1.0, 1.0): 2 for 3 teachers; one for each"),
        ((1.0, -1.0, 1.0), "a weight is a finite number, zero or more"),
        ((1.0, math.nan, 1.0), "a weight is a finite number, zero or more"),
        ((0, 0, 0), "all are zero, so no teacher would count"),
    ],
)
def test_bad_weights(weights, text):
    with pytest.raises(HyperParameterError, match=re.escape(text)):
        losses.kd_kl_mixture(*draw(), temperature=1, weights=weights)


def test_bad_shapes_and_words():
    s, t = draw()
    with pytest.raises(ShapeError, match=r"same classes \(N_t == N_s\); these are \[5, 4\] and \[5, 3, 3\]"):
        losses.kd_kl_mixture(s, t[:, :, :3], temperature=1)
    with pytest.raises(ShapeError, match=r"these are \[5, 4\] and \[5, 4\]"):
        losses.kd_kl_mixture(s, s, temperature=1)
    with pytest.raises(ShapeError, match="a single column"):
        losses.kd_kl_mixture(s[:, :1], t[:, :, :1], temperature=1)
    with pytest.raises(HyperParameterError, match=r"no averaging 'arithmetical'.*near: arithmetic"):
        losses.kd_kl_mixture(s, t, temperature=1, averaging="arithmetical")
    with pytest.raises(HyperParameterError, match="temperature"):
        losses.kd_kl_mixture(s, t, temperature=0)


# -- groups -------------------------------------------------------------------------------------------

ODD = ((0, 2, 4), (1, 3, 5))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_grouped_against_a_loop(temperature):
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    t = 3 * torch.randn(5, 6, generator=generator, dtype=torch.float64)
    value = losses.kd_grouped(s, t, groups=ODD, temperature=temperature)
    for row in range(5):
        fine = softmax([v / temperature for v in t[row].tolist()])
        p = [fine[0] + fine[2] + fine[4], fine[1] + fine[3] + fine[5]]
        q = softmax([v / temperature for v in s[row].tolist()])
        assert value[row].item() == pytest.approx(temperature**2 * kl(p, q), rel=1e-9)


def test_groups_of_one_are_kd_and_may_change_the_order():
    s, t = draw(6)
    t = t[:, 0]
    torch.testing.assert_close(
        losses.kd_grouped(s, t, groups=[(0,), (1,), (2,), (3,)], temperature=4), losses.kd_kl(s, t, temperature=4)
    )
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        losses.kd_grouped(s, t, groups=[[c] for c in order], temperature=4),
        losses.kd_kl(s, t[:, order], temperature=4),
    )


@pytest.mark.parametrize(("temperature", "wanted"), [(1, 1.00684206), (4, 1.11631904)])
def test_golden_two_classes_only_the_margin_counts(temperature, wanted):
    """m_s = 2, m_t = -1, the teacher's margin being that of two sums of four classes; one-logit sigmoid KD agrees."""
    half = math.log(2) * temperature  # two equal classes count like one that is log 2 higher, at this temperature
    t = torch.tensor([[1.0 - half, 0.0 - half, 1.0 - half, 0.0 - half]], dtype=torch.float64)
    s = torch.tensor([[5.0, 7.0]], dtype=torch.float64)
    value = losses.kd_grouped(s, t, groups=((0, 2), (1, 3)), temperature=temperature)
    assert value.item() == pytest.approx(wanted, abs=1e-8)
    margin = losses.kd_sigmoid(s[:, 1] - s[:, 0], torch.tensor([-1.0], dtype=torch.float64), temperature=temperature)
    torch.testing.assert_close(value, margin)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (((0, 1, 2, 3),), "two groups at least"),
        (((0, 1, 2, 3), ()), "group 1 is empty"),
        (((0, 1), (2,)), "exactly one group; left out: 3"),
        (((0, 1), (2, 3, 1)), "exactly one group; twice: 1"),
        (((0, 1), (2, 4)), "no such class: 4; left out: 3"),
        (((0, 1), (2, 3, -1)), "no such class: -1"),
    ],
)
def test_bad_groups(groups, text):
    with pytest.raises(HyperParameterError, match=re.escape(text)):
        losses.kd_grouped(torch.zeros(1, 2), torch.zeros(1, 4), groups=groups, temperature=1)


def test_a_student_with_another_number_of_columns():
    with pytest.raises(ShapeError, match=r"2 groups of the teacher's 4 classes, and a student with 3 columns \[1, 3\]"):
        losses.kd_grouped(torch.zeros(1, 3), torch.zeros(1, 4), groups=((0, 1), (2, 3)), temperature=1)
    with pytest.raises(ShapeError, match=r"logits are \[batch, classes\]"):
        losses.kd_grouped(torch.zeros(2), torch.zeros(2, 4), groups=((0, 1), (2, 3)), temperature=1)
    assert require_partition(((3, 0), (1, 2))) == 4
