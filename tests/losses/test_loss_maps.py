"""Properties, edges and errors of the losses on hidden layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck import losses
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError
from limbeck.losses import maps

KINDS = [("sum", 1), ("sum_pow", 2), ("sum_pow", 3.5), ("max_pow", 1), ("max_pow", 2)]
KERNELS = ["linear", "poly", "gaussian"]
FORMS = ["paper", "benchmark"]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(loss, s, t):
    s = s.clone().requires_grad_()
    loss(s, t).sum().backward()
    assert s.grad is not None
    return s.grad


# --- hints


def test_hint_ignores_a_common_order():
    s, t = draw(3, 6, 4, 5), draw(3, 6, 4, 5, seed=1)
    order = torch.tensor([5, 0, 3, 1, 2, 4])
    torch.testing.assert_close(losses.hint_l2(s[:, order], t[:, order]), losses.hint_l2(s, t))
    torch.testing.assert_close(losses.hint_l2(s.flip(3), t.flip(3)), losses.hint_l2(s, t))
    assert (losses.hint_l2(t, t) == 0).all()


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
def test_hint_of_any_rank(shape):
    s, t = draw(*shape), draw(*shape, seed=1)
    assert losses.hint_l2(s, t).shape == (2,)
    torch.testing.assert_close(gradient(losses.hint_l2, s, t), s - t)


def test_hint_shapes_must_agree():
    with pytest.raises(ShapeError, match=r"student \[2, 3, 8, 8\], teacher \[2, 4, 8, 8\]; a regressor"):
        losses.hint_l2(draw(2, 3, 8, 8), draw(2, 4, 8, 8))
    with pytest.raises(ShapeError, match=r"features are \[batch, \.\.\.\]; these are \[3\]"):
        losses.hint_l2(draw(3), draw(3))


# --- attention


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "p"), KINDS)
def test_attention_does_not_change(kind, p, form):
    s, t = draw(3, 6, 4, 5), draw(3, 4, 4, 5, seed=1)

    def loss(s, t):
        return losses.attention_l2(s, t, kind=kind, p=p, form=form)

    value = loss(s, t)
    order, places = torch.randperm(6), torch.randperm(20)
    scale = draw(3, 1, 1, 1, seed=2).abs() + 0.1
    sign = draw(3, 6, 4, 5, seed=3).sign()
    torch.testing.assert_close(loss(s[:, order], t), value)
    torch.testing.assert_close(loss(s * scale, t), value)
    torch.testing.assert_close(loss(s * sign, t), value)
    torch.testing.assert_close(loss(torch.cat([s, s], 1), t), value)
    mixed = [x.flatten(2)[:, :, places].view(x.shape) for x in (s, t)]
    torch.testing.assert_close(loss(*mixed), value)
    assert not torch.allclose(loss(mixed[0], t), value)
    assert loss(2 * t, t).max() < 1e-12


@pytest.mark.parametrize(("kind", "p"), KINDS)
def test_attention_square_is_two_minus_two_cosines(kind, p):
    s, t = draw(5, 6, 4, 5), draw(5, 4, 4, 5, seed=1)
    a, b = (losses.attention_map(x, kind=kind, p=p).flatten(1) for x in (s, t))
    square = losses.attention_l2(s, t, kind=kind, p=p).square()
    torch.testing.assert_close(square, 2 - 2 * torch.cosine_similarity(a, b))
    assert ((square >= 0) & (square <= 2)).all()


def test_attention_uses_height_and_width():
    s, t = draw(2, 3, 6, 4), draw(2, 5, 3, 8, seed=1)
    by_hand = losses.attention_l2(s.view(2, 3, 3, 2, 4).mean(3), t.view(2, 5, 3, 4, 2).mean(4))
    torch.testing.assert_close(losses.attention_l2(s, t), by_hand)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "p"), KINDS)
def test_attention_of_nothing_is_finite(kind, p, form, dtype):
    def loss(s, t):
        return losses.attention_l2(s, t, kind=kind, p=p, form=form)

    zero, some = torch.zeros(2, 3, 4, 4, dtype=dtype), draw(2, 3, 4, 4, dtype=dtype)
    assert torch.equal(loss(zero, zero), torch.zeros(2, dtype=loss(zero, zero).dtype))
    length = 1.0 if form == "paper" else 1 / 16
    assert loss(zero, some).tolist() == pytest.approx([length, length])
    assert loss(some, zero).tolist() == pytest.approx([length, length])
    for s, t in ((zero, some), (zero, zero), (some, some)):
        assert torch.equal(gradient(loss, s, t), torch.zeros_like(s))  # also where the norm has a kink
    assert torch.isfinite(gradient(loss, some, zero)).all()


@pytest.mark.parametrize("p", [0.5, 0, -2, math.nan, math.inf])
def test_attention_power(p):
    with pytest.raises(HyperParameterError, match=r"p = .*at least 1"):
        losses.attention_l2(draw(2, 3, 4, 4), draw(2, 3, 4, 4), p=p)
    with pytest.raises(HyperParameterError, match=r"p = .*at least 1"):
        losses.attention_map(draw(2, 3, 4, 4), p=p)


def test_attention_choices():
    x = draw(2, 3, 4, 4)
    with pytest.raises(HyperParameterError, match="no kind 'sum_pov' in attention_l2; near: sum_pow"):
        losses.attention_l2(x, x, kind="sum_pov")
    with pytest.raises(HyperParameterError, match="no form 'mean' in attention_l2; there are: paper, benchmark"):
        losses.attention_l2(x, x, form="mean")


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 4, 4)])
def test_maps_need_four_dimensions(shape):
    with pytest.raises(ShapeError, match=r"\[batch, channels, height, width\]; the student is"):
        losses.attention_l2(draw(*shape), draw(2, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"\[batch, channels, height, width\]; the teacher is"):
        losses.nst_mmd(draw(2, 3, 4, 4), draw(*shape))
    with pytest.raises(ShapeError, match=r"\[batch, channels, height, width\]; the input is"):
        losses.attention_map(draw(*shape))


def test_map_says_what_is_not_finite():
    x = draw(2, 3, 4, 4)
    x[1, 0, 0, 0], x[1, 1, 2, 2] = math.nan, math.inf
    with pytest.raises(
        NonFiniteError,
        match=r"attention_map is non-finite for 1 of 2 samples \(rows 1\): the input holds 1 NaN and 1 inf",
    ):
        losses.attention_map(x)


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        (lambda s, t: losses.attention_l2(s, t, kind="sum_pow"), 1e12),
        (lambda s, t: losses.attention_l2(s, t, kind="sum"), 1e30),
        (losses.nst_mmd, 1e30),
    ],
)
def test_lengths_that_overflow_are_no_maps_of_zeros(loss, size):
    """Finite features whose squares are not: divided by infinity they would look like a dead layer."""
    s, t = draw(2, 3, 4, 4, dtype=torch.float32), draw(2, 5, 4, 4, seed=1, dtype=torch.float32)
    with pytest.raises(NonFiniteError, match=r"for 2 of 2 samples .*the inputs are finite, but too large for float32"):
        loss(s * size, t)
    assert bool(torch.isfinite(loss((s * size).double(), t.double())).all())


# --- neuron selectivity


@pytest.mark.parametrize("kernel", KERNELS)
def test_nst_does_not_change(kernel):
    s, t = draw(3, 6, 4, 5), draw(3, 4, 4, 5, seed=1)

    def loss(s, t):
        return losses.nst_mmd(s, t, kernel=kernel)

    value = loss(s, t)
    order, places = torch.randperm(6), torch.randperm(20)
    scale = draw(3, 6, 1, 1, seed=2).abs() + 0.1
    torch.testing.assert_close(loss(s[:, order], t), value)
    torch.testing.assert_close(loss(s * scale, t), value)
    torch.testing.assert_close(loss(torch.cat([s, s], 1), t), value)
    torch.testing.assert_close(loss(*(x.flatten(2)[:, :, places].view(x.shape) for x in (s, t))), value)
    sign = torch.tensor([1.0, -1, 1, 1, -1, -1], dtype=s.dtype).view(1, 6, 1, 1)
    assert torch.allclose(loss(s * sign, t), value) == (kernel == "poly")
    assert (value > 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 40, 2, 2)])
def test_nst_of_equal_sets_is_zero(kernel, shape, dtype):
    t = draw(*shape, dtype=dtype)
    close = 1e-6 if dtype == torch.float32 else 1e-12
    assert torch.equal(losses.nst_mmd(t, t, kernel=kernel), torch.zeros(2, dtype=dtype))
    assert losses.nst_mmd(t.flip(1), t, kernel=kernel).abs().max() < close
    assert losses.nst_mmd(torch.cat([t, t], 1), t, kernel=kernel).abs().max() < close
    assert gradient(lambda s, t: losses.nst_mmd(s, t, kernel=kernel), t, t).abs().max() < 100 * close


@pytest.mark.parametrize(
    "shapes", [((3, 5, 4, 4), (3, 9, 4, 4)), ((3, 33, 2, 3), (3, 17, 2, 3)), ((3, 1, 3, 3), (3, 64, 3, 3))]
)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_both_routes_of_the_polynomial_agree(shapes, dtype, close):
    q, p = (torch.nn.functional.normalize(draw(*x, dtype=dtype).flatten(2), dim=2) for x in shapes)
    routes = (maps._poly_by_positions, maps._poly_by_channels)
    a, b = (route(q, p) for route in routes)
    torch.testing.assert_close(a, b, rtol=0, atol=close)
    g, h = (gradient(route, q, p) for route in routes)
    torch.testing.assert_close(g, h, rtol=0, atol=close)
    torch.testing.assert_close(losses.nst_mmd(*(draw(*x, dtype=dtype) for x in shapes)), a, rtol=0, atol=close)


def test_polynomial_is_the_distance_of_gram_matrices():
    s, t = draw(2, 5, 3, 3), draw(2, 7, 3, 3, seed=1)
    grams = []
    for x in (s, t):
        rows = x.flatten(2) / x.flatten(2).norm(dim=2, keepdim=True)
        grams.append(torch.einsum("bci,bcj->bij", rows, rows) / x.shape[1])
    torch.testing.assert_close(losses.nst_mmd(s, t), (grams[0] - grams[1]).pow(2).sum((1, 2)))


def test_linear_is_the_distance_of_mean_maps():
    s, t = draw(2, 5, 3, 3), draw(2, 7, 3, 3, seed=1)
    means = []
    for x in (s, t):
        units = [[row / row.square().sum().sqrt() for row in sample.reshape(len(sample), 9)] for sample in x]
        means.append([sum(rows) / len(rows) for rows in units])
    want = [float(((a - b) ** 2).sum()) for a, b in zip(*means, strict=True)]
    assert losses.nst_mmd(s, t, kernel="linear").tolist() == pytest.approx(want, rel=1e-6)


class Largest(TorchDispatchMode):
    """Notes the largest array that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("channels", "side"), [(8, 16), (32, 4)])
def test_no_array_over_channels_channels_positions(kernel, channels, side):
    s = draw(2, channels, side, side, dtype=torch.float32).requires_grad_()
    t = draw(2, 2 * channels, side, side, dtype=torch.float32)
    with Largest() as seen:
        losses.nst_mmd(s, t, kernel=kernel).sum().backward()
    assert seen.elements <= max(t.numel(), 2 * (2 * channels) ** 2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dead_channels_are_harmless(kernel, dtype):
    s, t = draw(2, 4, 3, 3, dtype=dtype), draw(2, 5, 3, 3, seed=1, dtype=dtype)
    s[:, 1], t[:, 2] = 0, 0

    def loss(s, t):
        return losses.nst_mmd(s, t, kernel=kernel)

    assert torch.isfinite(loss(s, t)).all()
    grad = gradient(loss, s, t)
    assert (grad[:, 1] == 0).all()
    assert 0 < grad.abs().max() < 10
    nothing = torch.zeros_like(s)
    assert torch.equal(gradient(loss, nothing, torch.zeros_like(t)), nothing)


def test_gaussian_with_all_points_equal():
    x = torch.ones(2, 3, 4, 4)
    assert losses.nst_mmd(x, x[:, :1], kernel="gaussian").abs().max() < 1e-6


def test_nst_sizes():
    s, t = draw(2, 3, 8, 4), draw(2, 5, 4, 4, seed=1)
    want = losses.nst_mmd(s.view(2, 3, 4, 2, 4).mean(3), t)
    torch.testing.assert_close(losses.nst_mmd(s, t), want)
    assert not torch.allclose(losses.nst_mmd(s, t, resize="interpolate"), losses.nst_mmd(t, s, resize="interpolate"))
    x = draw(2, 3, 4, 4)
    assert torch.equal(losses.nst_mmd(x, t, resize="interpolate"), losses.nst_mmd(x, t))


def test_nst_choices():
    x = draw(2, 3, 4, 4)
    with pytest.raises(HyperParameterError, match="no kernel 'gausian' in nst_mmd; near: gaussian"):
        losses.nst_mmd(x, x, kernel="gausian")
    with pytest.raises(HyperParameterError, match="no resize 'crop' in nst_mmd; there are: pool, interpolate"):
        losses.nst_mmd(x, x, resize="crop")
