"""Bad input of the scores, by the words of the message."""

from __future__ import annotations

import pytest
import torch

from limbeck import scores
from limbeck.errors import (
    HyperParameterError,
    NameUnknown,
    NonFiniteError,
    ShapeError,
    TensorTypeError,
)

W = torch.ones(4, 3)
V = torch.ones(4)
ONE = {  # every score that looks at one tensor
    "l1": scores.l1,
    "l2": scores.l2,
    "fpgm": scores.fpgm,
    "slimming": scores.slimming,
    "apoz": scores.apoz,
    "mean_activation": scores.mean_activation,
    "fisher": scores.fisher,
    "moments": scores.moments,
    "thinet": scores.thinet,
    "unit_norm": scores.unit_norm,
    "std_mask": lambda w: scores.std_mask(w, 1.0),
}


@pytest.mark.parametrize("name", ONE)
def test_what_is_no_tensor_of_numbers(name):
    with pytest.raises(TensorTypeError, match="is int64; a floating-point tensor is needed"):
        ONE[name](torch.ones(4, 3, dtype=torch.int64))
    with pytest.raises(TensorTypeError, match="is a list; a floating-point tensor is needed"):
        ONE[name]([1.0])
    with pytest.raises(ShapeError, match=r"is empty: it has the shape \[0, 3\]"):
        ONE[name](torch.ones(0, 3))
    bad = W.clone()
    bad[0, 0], bad[1, 1] = torch.nan, torch.inf
    with pytest.raises(NonFiniteError, match="is non-finite: it holds 1 NaN and 1 inf among 12 values"):
        ONE[name](bad)


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "apoz", "mean_activation"])
def test_a_vector_has_no_filters(name):
    with pytest.raises(ShapeError, match=r"has the shape \[4\]; at least 2 dimensions are needed"):
        ONE[name](V)


@pytest.mark.parametrize(
    "call",
    [
        lambda: scores.taylor(W, W[:2]),
        lambda: scores.taylor_weight(W, W[:2]),
        lambda: scores.taylor_gate(V, V, V, V[:2]),
        lambda: scores.obd(W, W[:2]),
        lambda: scores.ticket("large_final", W, W[:2]),
        lambda: scores.spearman(V, V[:2]),
        lambda: scores.oracle(V, V[:2]),
    ],
)
def test_both_shapes_are_named(call):
    with pytest.raises(ShapeError, match=r"the shapes differ: .*\[4.*\].*\[2"):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scores.slimming_threshold([V], 1.0), r"ratio = 1.0: in \[0, 1\)"),
        (lambda: scores.slimming_threshold([V], float("nan")), r"ratio = nan: in \[0, 1\), and finite"),
        (lambda: scores.slimming_threshold([], 0.5), "no layers"),
        (lambda: scores.std_mask(W, -1.0), "q = -1.0: zero or more"),
        (lambda: scores.dropout_rescale(1.0, kept=1, whole=2), r"rate = 1.0: in \[0, 1\)"),
        (lambda: scores.dropout_rescale(0.5, kept=3, whole=2), "kept = 3: between 0 and the 2 there were"),
        (lambda: scores.obd(-W, W), "obd: h is -1 somewhere"),
        (lambda: scores.lasso(W.T @ W, V[:3], -1.0), "penalty = -1.0: zero or more"),
        (lambda: scores.lasso_channels(torch.eye(3), V[:3], 0), "keep = 0: between 1 and the 3 channels"),
        (lambda: scores.thinet(W, 4), "remove = 4: between 0 and the 3 channels there are"),
        (lambda: scores.thinet_scales(W, torch.tensor([], dtype=torch.int64)), "keep is empty"),
        (lambda: scores.lowest(V, 5), "count = 5: between 0 and the 4 there are"),
        (lambda: scores.random(0, 1), "n = 0: at least 1"),
        (lambda: scores.ticket("large_final", V, V, alpha=0.0), "alpha = 0.0: more than zero"),
    ],
)
def test_settings_outside_their_range(call, words):
    with pytest.raises(HyperParameterError, match=words):
        call()


def test_the_rest():
    with pytest.raises(NameUnknown, match="no criterion 'large_finale'; near: large_final"):
        scores.ticket("large_finale", V, V)
    with pytest.raises(ShapeError, match=r"lasso: gram is \[3, 3\] and moment \[4\]"):
        scores.lasso(torch.eye(3), V, 0.1)
    with pytest.raises(ShapeError, match="one response a row"):
        scores.moments(W, torch.ones(3))
    with pytest.raises(ShapeError, match="the second scores are all 1; equal scores have no order"):
        scores.spearman(torch.arange(4.0), V)
    with pytest.raises(ShapeError, match="at least two values"):
        scores.spearman(V[:1], V[:1])
    with pytest.raises(NonFiniteError, match="lowest"):
        scores.lowest(torch.tensor([1.0, torch.nan]), 1)
    with pytest.raises(ShapeError, match="one score each"):
        scores.lowest(W, 1)
