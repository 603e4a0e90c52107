"""The formulas of uniform quantization, against loops in Python."""

from __future__ import annotations

import math
import random

import pytest
import torch

from limbeck.compress.uniform import (
    Grid,
    affine,
    affine_between,
    dequantize,
    fake_quantize,
    quantize,
    symmetric,
)
from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError, TensorTypeError


def half_even(value):
    return round(value)  # Python's own, to the even neighbour


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_affine_by_hand(bits):
    values = [-1.3, -0.2, 0.0, 0.7, 2.9]
    x = torch.tensor(values, dtype=torch.float64)
    grid = affine(x, bits=bits)
    top = 2**bits - 1
    scale = (2.9 - -1.3) / top
    zero = half_even(1.3 / scale)
    assert float(grid.scale) == pytest.approx(scale, rel=1e-12)
    assert (int(grid.zero), grid.low, grid.high) == (zero, 0, top)
    expected = [min(max(half_even(v / scale) + zero, 0), top) for v in values]
    assert quantize(x, grid).tolist() == expected
    assert dequantize(quantize(x, grid), grid).tolist() == pytest.approx([scale * (q - zero) for q in expected])


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-4.0, -1.0), (0.0, 1.0)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_is_half_a_step_and_zero_is_zero(low, high, bits):
    random.seed(1)
    x = torch.tensor([low, high, *(random.uniform(low, high) for _ in range(500))], dtype=torch.float64)
    grid = affine(x, bits=bits)
    again = dequantize(quantize(x, grid), grid)
    assert float((again - x).abs().max()) <= float(grid.scale) / 2 * (1 + 1e-9)
    assert float(dequantize(quantize(torch.zeros(1, dtype=torch.float64), grid), grid)) == 0.0
    assert torch.equal(dequantize(quantize(again, grid), grid), again), "idempotent"
    span = max(high, 0.0) - min(low, 0.0)
    assert float(grid.scale) == pytest.approx(span / (2**bits - 1))


def test_symmetric_by_hand():
    x = torch.tensor([[0.5, -2.0, 0.9], [0.1, 0.0, -0.05]])
    whole = symmetric(x)
    assert float(whole.scale) == pytest.approx(2.0 / 127)
    assert (whole.low, whole.high, int(whole.zero)) == (-127, 127, 0)
    each = symmetric(x, axis=0, bits=4)
    assert each.scale.tolist() == pytest.approx([2.0 / 7, 0.1 / 7])
    assert quantize(x, each).tolist() == [[2, -7, 3], [7, 0, -4]]  # 1.75, -7, 3.15; 7, 0, -3.5 to even
    columns = symmetric(x, axis=-1)
    assert columns.scale.tolist() == pytest.approx([0.5 / 127, 2.0 / 127, 0.9 / 127])
    assert columns.axis == 1
    vector = symmetric(torch.tensor([1.0, -2.0]), axis=0)
    assert vector.scale.tolist() == pytest.approx([1 / 127, 2 / 127])


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_tensor_has_a_scale(value):
    x = torch.full((5,), value)
    for grid in (affine(x), symmetric(x), symmetric(x.reshape(5, 1), axis=0)):
        shaped = x.reshape(5, 1) if grid.axis is not None else x
        assert bool((grid.scale > 0).all())
        assert torch.allclose(dequantize(quantize(shaped, grid), grid), shaped)


def test_the_gradient_passes_straight_through_inside():
    grid = Grid(torch.tensor(0.5), torch.tensor(1), 0, 3)  # stands for -0.5, 0, 0.5, 1
    x = torch.tensor([-2.0, -0.6, -0.1, 0.3, 1.2, 1.4], requires_grad=True)
    y = fake_quantize(x, grid)
    y.backward(torch.arange(1.0, 7.0))
    assert y.tolist() == [-0.5, -0.5, 0.0, 0.5, 1.0, 1.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]  # cells end at -0.75 and 1.25
    assert torch.equal(y.detach(), dequantize(quantize(x, grid), grid))


def test_half_precision_is_measured_in_float32():
    x = torch.tensor([-1.0, 3.0], dtype=torch.bfloat16)
    assert affine(x).scale.dtype == torch.float32
    assert float(affine(x).scale) == pytest.approx(4 / 255)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_error_is_half_a_step_in_every_precision(kind, bits):
    x = torch.linspace(-0.3, 1, 1001).to(kind)
    for grid in (affine(x, bits=bits), symmetric(x, bits=bits)):
        apart = dequantize(quantize(x, grid), grid).double() - x.double()
        assert float((apart.abs() / grid.scale).max()) <= 0.505


def test_a_range_that_float32_can_hardly_hold():
    x = torch.tensor([-3e38, 3e38])
    grid = affine(x)
    assert bool(grid.scale.isfinite())
    assert torch.allclose(dequantize(quantize(x, grid), grid), x, rtol=0.01)


@pytest.mark.parametrize("bits", [0, -1, 17, 2.5, True])
def test_bits(bits):
    with pytest.raises(HyperParameterError, match="bits"):
        affine(torch.ones(2), bits=bits)


def test_bad_input():
    with pytest.raises(HyperParameterError, match="bits = 1: from 2 to 16"):
        symmetric(torch.ones(2), bits=1)
    with pytest.raises(HyperParameterError, match="low = 2 lies above high = 1"):
        affine_between(2.0, 1.0)
    with pytest.raises(NonFiniteError, match="1 of 2 values are non-finite"):
        affine(torch.tensor([1.0, math.nan]))
    with pytest.raises(NonFiniteError, match="non-finite"):
        affine_between(0.0, math.inf)
    with pytest.raises(NonFiniteError):
        quantize(torch.tensor([math.inf]), affine(torch.ones(2)))
    with pytest.raises(TensorTypeError, match="floating-point tensor, not int64"):
        symmetric(torch.arange(3))
    with pytest.raises(ShapeError, match=r"nothing to quantize in a tensor of shape \[0\]"):
        affine(torch.empty(0))
    with pytest.raises(HyperParameterError, match="axis = 2: the tensor has 2 dimensions"):
        symmetric(torch.ones(2, 2), axis=2)
