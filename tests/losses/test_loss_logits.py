"""Properties, limits and errors of the losses on logits."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck import losses
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TargetError, TensorTypeError


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("temperature", [1, 4, 20])
def test_kd_ignores_a_constant_per_row_and_the_order_of_classes(temperature):
    s, t = 3 * draw(6, 5), 3 * draw(6, 5, seed=1)
    value = losses.kd_kl(s, t, temperature=temperature)
    shift = 10 * draw(6, 1, seed=2)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(losses.kd_kl(s + shift, t, temperature=temperature), value)
    torch.testing.assert_close(losses.kd_kl(s, t - shift, temperature=temperature), value)
    torch.testing.assert_close(losses.kd_kl(s[:, order], t[:, order], temperature=temperature), value)
    assert losses.kd_kl(t + shift, t, temperature=temperature).abs().max() < 1e-10
    assert (value > 1e-3).all()
    assert not torch.allclose(losses.kd_kl(t, s, temperature=temperature), value)


def test_kd_large_temperature_is_logit_matching_of_centred_rows():
    s, t = draw(4, 7), draw(4, 7, seed=1)
    d = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    torch.testing.assert_close(losses.kd_kl(s, t, temperature=1e4), d.square().sum(1) / 14, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("temperature", [1, 4, 20])
def test_kd_in_float32_is_close_to_float64(temperature):
    s, t = 3 * draw(64, 10), 3 * draw(64, 10, seed=1)
    low = losses.kd_kl(s.float(), t.float(), temperature=temperature)
    torch.testing.assert_close(low.double(), losses.kd_kl(s, t, temperature=temperature), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", [losses.kd_kl, losses.kd_sigmoid])
@pytest.mark.parametrize(("a", "b"), [(1e3, -1e3), (-1e3, 1e3), (1e3, 1e3), (1e3, 999.0), (0.0, 1e3)])
def test_huge_logits_stay_finite(loss, a, b):
    s = torch.tensor([[a, 0.0]], requires_grad=True)
    value = loss(s, torch.tensor([[b, 0.0]]), temperature=1)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()


def test_huge_sigmoid_logits_have_the_right_value():
    value = losses.kd_sigmoid(torch.tensor([-1e3]), torch.tensor([1e3]), temperature=2)
    assert value.item() == pytest.approx(4 * 500)


@pytest.mark.parametrize("temperature", [1, 4])
def test_sigmoid_form_is_the_softmax_form_of_two_columns(temperature):
    m_s, m_t = 4 * draw(9), 4 * draw(9, seed=1)
    two_s, two_t = (torch.stack([torch.zeros(9, dtype=m.dtype), m], 1) for m in (m_s, m_t))
    one = losses.kd_sigmoid(m_s, m_t, temperature=temperature)
    assert one.shape == (9,)
    torch.testing.assert_close(one, losses.kd_kl(two_s, two_t, temperature=temperature), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(one, losses.kd_sigmoid(m_s[:, None], m_t, temperature=temperature), rtol=0, atol=0)


def test_sigmoid_form_sums_over_the_classes():
    s, t = draw(5, 3), draw(5, 3, seed=1)
    parts = sum(losses.kd_sigmoid(s[:, j], t[:, j], temperature=2) for j in range(3))
    torch.testing.assert_close(losses.kd_sigmoid(s, t, temperature=2), parts)


def test_cross_entropy_takes_any_integer_type():
    s = draw(4, 3)
    y = [0, 2, 1, 2]
    want = losses.cross_entropy(s, torch.tensor(y))
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(losses.cross_entropy(s, torch.tensor(y, dtype=dtype)), want)


def test_cross_entropy_leaves_masked_classes_alone():
    s = torch.tensor([[1.0, 2.0, -math.inf]])
    assert losses.cross_entropy(s, torch.tensor([0])).item() == pytest.approx(math.log(1 + math.e), abs=1e-6)


@pytest.mark.parametrize("targets", [[1, 0, 1], [True, False, True], [1.0, 0.0, 1.0]])
def test_sigmoid_cross_entropy_accepts_one_logit_in_every_shape(targets):
    s, y = draw(3), torch.tensor(targets)
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    want = torch.log1p(torch.exp(-sign * s))
    for logits in (s, s[:, None]):
        for given in (y, y[:, None]):
            torch.testing.assert_close(losses.sigmoid_cross_entropy(logits, given), want)


def test_sigmoid_cross_entropy_sums_over_the_classes():
    s, y = draw(4, 3), torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    parts = sum(losses.sigmoid_cross_entropy(s[:, j], y[:, j]) for j in range(3))
    torch.testing.assert_close(losses.sigmoid_cross_entropy(s, y), parts)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("loss", [losses.kd_kl, losses.kd_sigmoid])
def test_bad_temperature(loss, temperature):
    with pytest.raises(HyperParameterError, match=r"temperature = .*more than 0"):
        loss(draw(2, 3), draw(2, 3), temperature=temperature)


def test_one_column_of_softmax_logits():
    with pytest.raises(ShapeError, match=r"single column.*sigmoid mode, kd_sigmoid"):
        losses.kd_kl(draw(4, 1), draw(4, 1), temperature=4)
    with pytest.raises(ShapeError, match=r"single column.*sigmoid mode, kd_sigmoid"):
        losses.kd_kl(draw(4), draw(4), temperature=4)
    with pytest.raises(ShapeError, match=r"single column.*sigmoid_cross_entropy"):
        losses.cross_entropy(draw(4, 1), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: losses.kd_kl(s, t, temperature=4),
        lambda s, t: losses.kd_sigmoid(s, t, temperature=4),
        losses.logit_l2,
    ],
)
def test_different_classes(loss):
    with pytest.raises(ValueError, match=r"N_t != N_s: the teacher has 10 classes .*the student 7"):
        loss(draw(4, 7), draw(4, 10))
    with pytest.raises(ShapeError, match=r"logits are \[batch, classes\].*\[4, 5, 10\]"):
        loss(draw(4, 5, 10), draw(4, 5, 10))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_bad_smoothing(smoothing):
    with pytest.raises(HyperParameterError, match="label_smoothing"):
        losses.cross_entropy(draw(2, 3), torch.tensor([0, 1]), label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("targets", "kind", "text"),
    [
        (torch.tensor([0.0, 1.0]), TargetError, "targets are float32; class ids are integers"),
        (torch.tensor([True, False]), TargetError, "targets are bool; class ids are integers"),
        (torch.tensor([0, 3]), TargetError, r"targets from 0 to 3; with 3 classes they must be in \[0, 3\)"),
        (torch.tensor([-1, 1]), TargetError, r"targets from -1 to 1"),
        (torch.tensor([0, 1, 2]), ShapeError, r"logits are \[2, 3\], targets \[3\]"),
        (torch.tensor([[0], [1]]), ShapeError, r"targets \[2, 1\]"),
        (None, TargetError, "targets are NoneType; this term needs labels"),
    ],
)
def test_bad_class_ids(targets, kind, text):
    with pytest.raises(kind, match=text):
        losses.cross_entropy(draw(2, 3), targets)


@pytest.mark.parametrize(
    ("targets", "kind", "text"),
    [
        (torch.tensor([0, 1]), ShapeError, "class ids belong in cross_entropy"),
        (torch.tensor([[0, 1, 2], [0, 1, 1]]), TargetError, r"must lie in \[0, 1\].*from 0 to 2"),
        (torch.tensor([[0.0, math.nan, 1.0], [0.0, 1.0, 1.0]]), TargetError, r"must lie in \[0, 1\]"),
        (None, TargetError, "targets are NoneType"),
    ],
)
def test_bad_multi_hot(targets, kind, text):
    with pytest.raises(kind, match=text):
        losses.sigmoid_cross_entropy(draw(2, 3), targets)


def test_one_logit_never_broadcasts_to_pairs():
    with pytest.raises(ShapeError, match="targets"):
        losses.sigmoid_cross_entropy(draw(3), torch.ones(3, 3))
    assert losses.logit_l2(draw(3), draw(3, 1)).shape == (3,)
    with pytest.raises(ShapeError, match="N_t != N_s"):
        losses.logit_l2(draw(3, 3), draw(3))


def test_labels_as_logits():
    with pytest.raises(TensorTypeError, match="the student is int64"):
        losses.cross_entropy(torch.ones(2, 3, dtype=torch.long), torch.tensor([0, 1]))


def test_overflow_is_called_overflow():
    with pytest.raises(
        NonFiniteError, match=r"non-finite.*rows 1.*inputs are finite, but too large for float32.*1e\+30"
    ):
        losses.logit_l2(torch.tensor([[0.0, 1.0], [1e30, 0.0]]), torch.zeros(2, 2))


def test_a_teacher_from_inference_mode():
    s = draw(3, 4).requires_grad_()
    with torch.inference_mode():
        t = 2 * draw(3, 4, seed=1)
    total = losses.kd_kl(s, t, temperature=4) + losses.kd_sigmoid(s, t, temperature=4) + losses.logit_l2(s, t)
    total.sum().backward()
    assert s.grad is not None
