"""Attacks on classifiers whose gradients are known, and the masking that a high temperature leaves."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import limbeck
from limbeck import attacks
from limbeck.attacks import fgsm, jacobian, jsma, robustness, unmask
from limbeck.errors import DataError, HyperParameterError, TargetError, TensorTypeError


class Linear(nn.Module):
    """Logits ``scale * W x``, with a batch norm and a dropout that must stay at rest."""

    def __init__(self, weight, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.scale = scale
        self.norm = nn.BatchNorm1d(len(weight[0]), eps=1e-30)  # nothing beside 1; torch 2.11 refuses zero
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        return self.scale * self.drop(self.norm(x.flatten(1))) @ self.weight.T


W = [[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, 1.0, -1.0], [-1.0, 0.5, -1.0, 2.0]]


@pytest.fixture
def model():
    return Linear(W)


def at(*rows):
    return torch.tensor(rows)


def test_it_is_a_room_of_the_package():
    assert limbeck.attacks is attacks


@pytest.mark.parametrize(("scale", "value"), [(1, 0.2227), (10, 4.54e-4), (100, 3.7e-42)])
def test_the_largest_derivative_falls_with_the_scale_of_the_logits(scale, value):
    """methods.md R6, in float64; the scale's own factor is in the derivative."""

    class Scaled(nn.Module):
        def forward(self, z):
            return scale * z

    z = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    assert jacobian(Scaled(), z).abs().max().item() == pytest.approx(value, rel=6e-3)
    assert jacobian(unmask(Scaled(), scale), z).abs().max().item() == pytest.approx(0.2227, rel=1e-3)


def test_the_jacobian_of_a_softmax_by_hand():
    z = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    p = [math.exp(v) for v in z[0].tolist()]
    p = [v / sum(p) for v in p]
    found = jacobian(nn.Identity(), z)
    for i in range(3):
        for j in range(3):
            assert found[0, i, j].item() == pytest.approx(p[i] * ((i == j) - p[j]), abs=1e-12)


def test_a_sign_step_by_hand(model):
    x, y = at([0.5, 0.5, 0.5, 0.05], [0.95, 0.2, 0.3, 0.4]), torch.tensor([1, 0])
    found = fgsm(model, x, y, eps=0.1)
    w = torch.tensor(W)
    for row in range(2):
        p = (w @ x[row]).softmax(0)
        gradient = w.T @ (p - nn.functional.one_hot(y[row], 3))
        for k in range(4):
            moved = float(x[row, k]) + 0.1 * math.copysign(1.0, gradient[k])
            assert float(found[row, k]) == pytest.approx(min(1.0, max(0.0, moved)), abs=1e-6)
    assert torch.equal(fgsm(model, x, y, eps=0), x)
    batch = [fgsm(model, x[k : k + 1], y[k : k + 1], eps=0.1) for k in range(2)]
    assert torch.equal(torch.cat(batch), found)  # each row by its own loss


def test_bounds_may_differ_from_channel_to_channel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 2))
    low, high = torch.tensor([-1.0, -2.0, 0.0]).view(3, 1, 1), torch.tensor([1.0, 3.0, 0.5]).view(3, 1, 1)
    x = low + torch.rand(5, 3, 2, 2) * (high - low)
    found = fgsm(net, x, torch.zeros(5, dtype=torch.int64), eps=0.4, low=low, high=high)
    assert bool(((found >= low) & (found <= high)).all())
    assert bool((found == low).any())
    assert bool((found == high.expand_as(x)).any())


def test_single_features_by_hand(model):
    # Towards class 1, on logits: a = (0, 1, 1, -1), b = sum of the other two = (0, -1.5, -0.5, 2): -a b is 1.5 and 0.5.
    x = at([0.9, 0.1, 0.1, 0.3])
    one = jsma(model, x, torch.tensor([1]), theta=0.4, gamma=0.25, at_once=1, of="logits")
    assert torch.allclose(one, at([0.9, 0.5, 0.1, 0.3]))
    two = jsma(model, x, torch.tensor([1]), theta=1.0, gamma=0.5, at_once=1, of="logits")
    assert model.eval()(two).argmax() == 1
    assert torch.allclose(two, at([0.9, 1.0, 0.1, 0.3]))  # the first was enough


def test_pairs_by_brute_force(model):
    x, w = at([0.9, 0.1, 0.1, 0.3]), torch.tensor(W)
    a, b = w[1], w[0] + w[2]
    best = max(
        ((p, q) for p in range(4) for q in range(p)),
        key=lambda k: (
            -float((a[k[0]] + a[k[1]]) * (b[k[0]] + b[k[1]]))
            if a[k[0]] + a[k[1]] > 0 and b[k[0]] + b[k[1]] < 0
            else -math.inf
        ),
    )
    found = jsma(model, x, torch.tensor([1]), theta=0.1, gamma=0.5, of="logits")
    changed = torch.nonzero((found != x)[0]).flatten().tolist()
    assert sorted(best) == changed == [1, 2]
    assert torch.allclose(found[0, changed], x[0, changed] + 0.1)


def test_for_probabilities_it_is_the_largest_gradients(model):
    x = at([0.9, 0.1, 0.1, 0.3])
    gradient = jacobian(model, x)[0, 1]
    found = jsma(model, x, torch.tensor([1]), theta=0.05, gamma=0.5)
    assert sorted(gradient.argsort(descending=True)[:2].tolist()) == torch.nonzero((found != x)[0]).flatten().tolist()


def test_downwards(model):
    x = at([0.9, 0.5, 0.5, 0.9])
    target = torch.tensor([1])
    found = jsma(model, x, target, theta=-1.0, gamma=0.25, at_once=1, of="logits")
    assert torch.allclose(found, at([0.9, 0.5, 0.5, 0.0]))  # -a b = 2 for the last feature, whose a is negative


def test_a_feature_at_its_bound_is_no_longer_chosen(model):
    x = at([0.9, 1.0, 0.1, 0.3])
    # features 1 (at the bound already) and 2 speak for class 1, so 2 is what is left
    found = jsma(
        Linear([[9.0, 0, 0, 0], W[1], W[2]]), x, torch.tensor([1]), theta=0.5, gamma=0.25, at_once=1, of="logits"
    )
    assert torch.allclose(found, at([0.9, 1.0, 0.6, 0.3]))


def test_never_more_features_than_allowed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    x = 0.5 * torch.rand(12, 1, 6, 6)
    target = (net(x).argmax(1) + 1) % 4
    for gamma, at_once in ((0.1, 2), (0.145, 1), (0.34, 2)):
        found = jsma(net, x, target, gamma=gamma, at_once=at_once)
        assert (found != x).flatten(1).sum(1).max() <= gamma * 36
        assert found.min() >= 0
        assert found.max() <= 1
    reached = net(found).argmax(1) == target
    assert 0 < reached.sum() <= 12
    alone = torch.cat([jsma(net, x[k : k + 1], target[k : k + 1], gamma=0.34) for k in range(12)])
    assert torch.allclose(alone, found)


def test_nothing_of_the_network_changes(model):
    model.train()
    model.norm.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.weight.grad = torch.ones_like(model.weight)
    x = at([0.9, 0.1, 0.1, 0.3], [0.1, 0.9, 0.9, 0.0])
    kept = x.clone()
    with torch.no_grad():  # the caller's own habit must not stop it
        fgsm(model, x, torch.tensor([0, 1]), eps=0.1)
        jsma(model, x, torch.tensor([1, 2]), gamma=0.5)
        robustness(model, x, torch.tensor([0, 1]), gamma=0.5)
        jacobian(model, x)
    assert [m.training for m in model.modules()] == [True, False, True]
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.weight.requires_grad
    assert torch.equal(x, kept)
    assert not x.requires_grad


def test_the_modes_are_put_back_after_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    broken = Broken()
    with pytest.raises(RuntimeError, match="no"):
        fgsm(broken, at([0.5, 0.5]), torch.tensor([0]), eps=0.1)
    assert broken.training


def test_robustness_by_hand():
    # Class 0 where the first feature is larger; one feature is enough to turn it.
    net = Linear([[1.0, 0.0], [0.0, 1.0]])
    x, y = at([0.6, 0.5], [1.0, 0.2], [0.1, 0.4]), torch.tensor([0, 0, 0])  # the last one is wrong to begin with
    found = robustness(net, x, y, eps=0.1, gamma=0.5, at_once=1)
    assert found.rows == 2
    assert found.fgsm_success == 0.5
    p = [1 / (1 + math.exp(-d)) for d in (0.1, 0.8)]
    assert found.gradient == pytest.approx(sum(1 - v for v in p) / 2, abs=1e-6)  # both entries are 1 - p in size
    assert found.zero == 0.0
    # the first row turns when its second feature becomes 1; in the second row that gives 1.0 against 1.0: a tie, no
    assert found.jsma_success == 0.5
    assert found.features == 1.0


def test_masked_and_unmasked():
    """Logits two hundred times as large: the same answers, no gradient, and all of it back when they are divided."""
    torch.manual_seed(0)
    w = torch.randn(5, 64)
    x = torch.rand(20, 64)
    plain, masked = (Linear(w.tolist(), scale) for scale in (1.0, 200.0))
    y = plain.eval()(x).argmax(1)
    open_, shut, again = (robustness(m, x, y, eps=0.1) for m in (plain, masked, unmask(masked, 200.0)))
    assert shut.zero > 0.5
    assert open_.zero == again.zero == 0.0
    assert shut.fgsm_success < 0.5 * open_.fgsm_success
    assert again.fgsm_success == open_.fgsm_success > 0.5
    assert shut.jsma_success < open_.jsma_success
    assert (again.jsma_success, again.features) == (open_.jsma_success, open_.features)


def test_where_nothing_is_reached_there_is_no_mean():
    net = Linear([[1.0, 0.0], [0.0, 1.0]], scale=1e6)
    found = robustness(net, at([1.0, 0.0]), torch.tensor([0]), gamma=0.5, at_once=1)
    assert (found.zero, found.fgsm_success, found.jsma_success) == (1.0, 0.0, 0.0)
    assert math.isnan(found.features)


def test_outputs_that_are_no_plain_tensor():
    class Wrapped(nn.Module):
        def forward(self, x):
            return {"logits": x}

    assert unmask(Wrapped(), 2)(at([4.0, 2.0])).tolist() == [[2.0, 1.0]]
    assert fgsm(Wrapped(), at([0.5, 0.5]), torch.tensor([0]), eps=0.25).tolist() == [[0.25, 0.75]]


X, Y = at([0.9, 0.1, 0.1, 0.3]), torch.tensor([0])


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: unmask(m, 0.5), HyperParameterError, "temperature = 0.5: 1 or more"),
        (lambda m: unmask(m, float("nan")), HyperParameterError, "temperature = nan: 1 or more"),
        (lambda m: fgsm(m, X, Y, eps=-0.1), HyperParameterError, "eps = -0.1: the size of a step, zero or more"),
        (lambda m: fgsm(m, X, Y, eps=float("inf")), HyperParameterError, "eps = inf"),
        (lambda m: fgsm(m, 3 * X, Y, eps=0.1), DataError, r"inputs from 0.3 to 2.7: some are outside \[low, high\]"),
        (
            lambda m: fgsm(m, X, Y, eps=0.1, low=1.0),
            HyperParameterError,
            "low = 1.0, high = 1.0: low must be below high",
        ),
        (lambda m: fgsm(m, X.long(), Y, eps=0.1), TensorTypeError, "the inputs are int64"),
        (lambda m: fgsm(m, X[:0], Y[:0], eps=0.1), DataError, r"the inputs are \[0, 4\]"),
        (lambda m: fgsm(m, X, Y.float(), eps=0.1), TargetError, "labels: one integer class id per input"),
        (lambda m: fgsm(m, X, torch.tensor([0, 1]), eps=0.1), TargetError, r"needed, \[1\]; these are \[2\]"),
        (lambda m: fgsm(m, X, Y + 3, eps=0.1), TargetError, r"labels from 3 to 3: the network has 3 classes, \[0, 3\)"),
        (lambda m: jsma(m, X, Y), TargetError, "no pair"),
        (
            lambda m: jsma(m, X, Y, gamma=0.5),
            TargetError,
            "row 0 has the target 0, which is the network's answer already",
        ),
        (lambda m: jsma(m, X, Y + 1, theta=0), HyperParameterError, "theta = 0: what a feature changes by, not zero"),
        (lambda m: jsma(m, X, Y + 1, gamma=1.5), HyperParameterError, "gamma = 1.5: the part of the features"),
        (lambda m: jsma(m, X, Y + 1, gamma=0.3), HyperParameterError, "no pair of the 4 features may change"),
        (lambda m: jsma(m, X, Y + 1, at_once=3), HyperParameterError, "at_once = 3: 1 or 2"),
        (lambda m: jsma(m, X, Y + 1, of="scores"), HyperParameterError, "of = 'scores': one of probabilities, logits"),
        (lambda m: jsma(m, 2 * X, Y + 1, gamma=0.5), DataError, "low=(0 - mean) / std"),
        (lambda m: robustness(m, X, Y + 1), DataError, "gets all 1 rows wrong"),
        (lambda m: robustness(m, X, Y - 1), TargetError, "labels from -1 to -1"),
    ],
)
def test_bad_input_is_named(model, call, kind, words):
    if words == "no pair":
        kind = HyperParameterError  # the default gamma leaves nothing of four features
    with pytest.raises(kind, match=words if words != "low=(0 - mean) / std" else re.escape(words)):
        call(model)


def test_the_example_on_the_page_runs():
    page = Path(__file__).parents[1] / "docs" / "attacks.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    values: dict = {}
    exec(code, values)
    plain, masked, again = (values[name] for name in ("plain", "masked", "again"))
    assert masked.zero > plain.zero
    assert again.fgsm_success > masked.fgsm_success
