"""The formulas of BNN and XNOR-Net, against numbers worked out by hand and by trying everything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from limbeck import losses
from limbeck.compress.binary import functions as f
from limbeck.compress.binary.packing import pack_signs, packed_dot, unpack_signs
from limbeck.errors import HyperParameterError, ShapeError, TargetError

X = [-2.0, -0.5, 0.0, 0.3, 1.2]
W = [0.5, -1.5, 2.0, 0.0, 1.0]


def test_signs_have_no_zero():
    assert f.sign(torch.tensor(X)).tolist() == [-1, -1, 1, 1, 1]
    assert f.sign(torch.tensor([0.0, -0.0])).tolist() == [1, 1]
    assert torch.sign(torch.tensor(0.0)) == 0  # which is why torch's own will not do
    whole = f.sign(torch.tensor([-3, 0, 2]))
    assert (whole.tolist(), whole.dtype) == ([-1, 1, 1], torch.int64)


def test_what_is_no_number_stays_none():
    assert f.sign(torch.tensor([math.nan, math.inf, -math.inf])).isnan().tolist() == [True, False, False]
    assert f.drawn_sign(torch.tensor([math.nan]), torch.tensor([0.5])).isnan().all()
    assert f.scaled_signs(torch.tensor([[1.0, math.nan], [1.0, 1.0]])).isnan().any(1).tolist() == [True, False]


def test_the_gradient_passes_where_the_input_is_small():
    x = torch.tensor([*X, 1.0, -1.0], requires_grad=True)
    (f.input_signs(x) * torch.tensor([1.0, 2, 3, 4, 5, 6, 7])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 6, 7]


def test_the_gradient_of_a_weights_sign_passes_everywhere():
    w = torch.tensor(X, requires_grad=True)
    (f.weight_signs(w) * torch.tensor([1.0, 2, 3, 4, 5])).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [1, 2, 3, 4, 5]


def test_hard_sigmoid():
    torch.testing.assert_close(f.hard_sigmoid(torch.tensor(X)), torch.tensor([0, 0.25, 0.5, 0.65, 1]))


def test_drawn_signs_have_its_frequencies_and_the_same_gradient():
    torch.manual_seed(0)
    x = torch.tensor(X).repeat(20_000, 1).requires_grad_()
    drawn = f.drawn_input_signs(x)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    often = (drawn.detach() > 0).double().mean(0)
    assert often[0] == 0
    assert often[4] == 1
    torch.testing.assert_close(often[1:4], torch.tensor([0.25, 0.5, 0.65]).double(), atol=0.015, rtol=0)
    drawn.sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == [0, 1, 1, 1, 0]
    assert f.drawn_sign(torch.tensor([-1.0, 1.0]), torch.tensor([0.0, 1 - 2**-24])).tolist() == [-1, 1]


def test_scale_and_residual_of_a_filter():
    w = torch.tensor([W])
    assert f.filter_scale(w).tolist() == [1.0]
    assert f.residual(w).tolist() == [2.5]


def test_no_signs_and_no_scale_come_nearer():
    generator = np.random.default_rng(0)
    for w in ([0.5, -1.5, 2.0, 0.0, 1.0], *generator.normal(size=(3, 6)).tolist()):
        tried = []
        for signs in itertools.product((-1.0, 1.0), repeat=len(w)):
            alpha = sum(a * b for a, b in zip(w, signs)) / len(w)  # the best scale for these signs
            tried.append(sum((a - alpha * b) ** 2 for a, b in zip(w, signs)))
        weight = torch.tensor([w], dtype=torch.float64)
        assert f.residual(weight).item() == pytest.approx(min(tried), abs=1e-12)
        ours = (weight - f.scaled_signs(weight)).square().sum().item()
        assert ours == pytest.approx(min(tried), abs=1e-12)
        for scale in np.linspace(0, 3, 61):  # and no other scale for our signs
            assert (weight - float(scale) * f.sign(weight)).square().sum().item() >= ours - 1e-12


def test_what_normal_weights_lose():
    w = torch.randn(4, 100_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(f.residual(w) / w.square().sum(1), torch.full((4,), 1 - 2 / math.pi), atol=0.01, rtol=0)


def test_gradient_factor():
    w = torch.tensor([W], requires_grad=True)
    torch.testing.assert_close(f.gradient_factor(w), torch.tensor([[1.2, 0.2, 0.2, 1.2, 1.2]]))
    (f.weight_scaled_signs(w) * 2).sum().backward()
    torch.testing.assert_close(w.grad, torch.tensor([[2.4, 0.4, 0.4, 2.4, 2.4]]))


def test_a_filter_of_zeros_has_scale_zero():
    w = torch.zeros(2, 3, requires_grad=True)
    assert f.weight_scaled_signs(w).tolist() == [[0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(f.gradient_factor(w), torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_scale_of_scaled_signs_is_the_same_to_the_last_bit(dtype):
    for n in (3, 9, 144, 1000, 4608):
        w = torch.randn(64, n, generator=torch.Generator().manual_seed(n)).to(dtype)
        once = f.scaled_signs(w)
        assert torch.equal(f.filter_scale(once), f.filter_scale(w))
        assert torch.equal(f.scaled_signs(once), once)


def test_a_convolution_of_two_by_two():
    w, x = torch.tensor([[[[0.5, -1.0], [2.0, 0.5]]]]), torch.tensor([[[[1.0, -2.0], [3.0, -0.5]]]])
    assert F.conv2d(x, w).item() == 8.25
    assert F.conv2d(x, f.scaled_signs(w)).item() == 5.5
    scale = f.input_scale(x, (2, 2))
    assert scale.item() == 1.625
    assert (F.conv2d(f.sign(x), f.scaled_signs(w)) * scale).item() == 3.25


def test_input_scale_is_the_mean_under_each_window():
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    found = f.input_scale(x, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    wide = np.pad(np.abs(x.numpy()), ((0, 0), (0, 0), (1, 1), (0, 0)))
    assert found.shape == (2, 2, 3, 5)
    for b, g, i, j in np.ndindex(*found.shape):
        values = [wide[b, c, 2 * i + a, j + 2 * e] for c in range(3 * g, 3 * g + 3) for a in range(3) for e in range(2)]
        assert found[b, g, i, j].item() == pytest.approx(np.mean(values), abs=1e-6)


def test_a_dot_product_is_n_less_twice_the_differences():
    one, other = torch.tensor([1.0, -1, 1, 1, -1]), torch.tensor([1.0, 1, -1, 1, -1])
    assert packed_dot(pack_signs(one), pack_signs(other), 5) == 1 == 5 - 2 * 2
    generator = np.random.default_rng(1)
    for n in (1, 7, 8, 9, 64, 1001):
        a, b = generator.choice((-1, 1), size=(2, n))
        bits = [pack_signs(torch.tensor(v).float()) for v in (a, b)]
        assert packed_dot(*bits, n) == int(a @ b)
        assert len(bits[0]) == (n + 7) // 8
        assert unpack_signs(bits[0], n).tolist() == a.tolist()
    with pytest.raises(ShapeError, match=r"9 signs take 2 bytes; these rows have 2 and 1"):
        packed_dot(pack_signs(torch.ones(9)), pack_signs(torch.ones(8)), 9)


# -- the loss that binary networks were trained with -----------------------------------------------


def test_squared_hinge_by_hand():
    s = torch.tensor([[2.0, 0.0, -0.5], [-1.0, 0.5, 3.0]])
    # targets (+1, -1, -1): 0, 1, .25; targets (-1, +1, -1): 0, .25, 16
    torch.testing.assert_close(losses.squared_hinge(s, torch.tensor([0, 1])), torch.tensor([1.25 / 3, 16.25 / 3]))
    torch.testing.assert_close(
        losses.squared_hinge(s, torch.tensor([0, 1]), margin=0.5), torch.tensor([0.25 / 3, 12.25 / 3])
    )


def test_squared_hinge_refuses():
    s = torch.zeros(2, 3)
    with pytest.raises(TargetError, match=r"targets from 0 to 3; with 3 classes they must be in \[0, 3\)"):
        losses.squared_hinge(s, torch.tensor([0, 3]))
    with pytest.raises(TargetError, match="targets are NoneType; this term needs labels"):
        losses.squared_hinge(s, None)
    with pytest.raises(TargetError, match="targets are float32; class ids are integers"):
        losses.squared_hinge(s, torch.zeros(2))
    with pytest.raises(ShapeError, match=r"one class id per sample: logits are \[2, 3\], targets \[3\]"):
        losses.squared_hinge(s, torch.tensor([0, 1, 1]))
    with pytest.raises(ShapeError, match=r"logits are \[batch, classes\]; these are \[2\]"):
        losses.squared_hinge(torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(HyperParameterError, match=r"margin = 0: a finite number, more than 0"):
        losses.squared_hinge(s, torch.tensor([0, 1]), margin=0)
