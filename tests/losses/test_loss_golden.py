"""Known answers: the numbers of the papers' worked examples, by hand and from the golden file."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from limbeck import losses

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "losses.json").read_text())


def title(case):
    return "-".join([case["loss"], *(f"{k}={v}" for k, v in case["options"].items())])


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 3e-5)])
@pytest.mark.parametrize("case", CASES, ids=title)
def test_golden_file(case, dtype, close):
    s = torch.tensor([case["student"]], dtype=dtype)
    t = torch.tensor([case["teacher"]])
    t = t.to(dtype) if t.is_floating_point() else t
    value = getattr(losses, case["loss"])(s, t, **case["options"])
    assert value.shape == (1,)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(case["value"], rel=close, abs=close)


def test_golden_file_is_what_its_script_makes():
    spec = importlib.util.spec_from_file_location("make_losses", GOLDEN / "make_losses.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.build()
    assert [title(c) for c in made] == [title(c) for c in CASES]
    for new, old in zip(made, CASES, strict=True):
        assert new["value"] == pytest.approx(old["value"], abs=1e-12)
        assert (new["student"], new["teacher"]) == (old["student"], old["teacher"])


def double(x):
    return torch.tensor([x], dtype=torch.float64)


UP, DOWN = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]
PRINTED_KD = {1: 1.15042077, 2: 1.28062667, 4: 1.31962991, 20: 1.33277808, 100: 1.33331111}


@pytest.mark.parametrize("temperature", PRINTED_KD)
def test_kd_printed_values(temperature):
    assert losses.kd_kl(double(UP), double(DOWN), temperature=temperature).item() == pytest.approx(
        PRINTED_KD[temperature], abs=6e-9
    )


@pytest.mark.parametrize(
    ("temperature", "outer", "close"), [(1, 0.57521038, 6e-9), (4, 0.65981496, 6e-9), (1000, 2 / 3, 1e-6)]
)
def test_kd_printed_gradients(temperature, outer, close):
    s = double(UP).requires_grad_()
    losses.kd_kl(s, double(DOWN), temperature=temperature).sum().backward()
    assert s.grad is not None
    assert s.grad[0].tolist() == pytest.approx([-outer, 0.0, outer], abs=close)


def test_kd_plus_teacher_entropy_is_the_cross_entropy_form():
    value = losses.kd_kl(double(UP), double(DOWN), temperature=4).item()
    assert value + 17.24959439 == pytest.approx(18.56922431, abs=2e-8)


def test_kd_benchmark_mix():
    hard = losses.cross_entropy(double(UP), torch.tensor([2])).item()
    soft = losses.kd_kl(double(UP), double(DOWN), temperature=4).item()
    assert 0.1 * hard + 0.9 * soft == pytest.approx(1.22842752, abs=1e-8)


def test_kd_tends_to_logit_matching():
    value = losses.kd_kl(double(UP), double(DOWN), temperature=1e4).item()
    assert value == pytest.approx(4 / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "value", "close"), [(1, 1.00684206, 6e-9), (4, 1.11631904, 6e-9), (1e3, 1.125, 1e-5)]
)
def test_two_classes_in_either_form(temperature, value, close):
    softmax = losses.kd_kl(double([0.0, 2.0]), double([0.0, -1.0]), temperature=temperature).item()
    sigmoid = losses.kd_sigmoid(double([2.0]), double([-1.0]), temperature=temperature).item()
    assert softmax == pytest.approx(value, abs=close)
    assert sigmoid == pytest.approx(softmax, abs=1e-9)


def test_logit_matching_printed_value():
    assert losses.logit_l2(double(UP), double(DOWN)).item() == 4.0


def test_hint_printed_values():
    r, u = double([[[2.0, 4.0], [6.0, 8.0]]]), double([[[2.0, 2.0], [6.0, 10.0]]])
    assert losses.hint_l2(r, u).item() == 4.0
    assert losses.hint_l2(r, u, form="benchmark").item() == 2.0


A_S = double([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]])
A_T = double([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
PRINTED_ATTENTION = [
    ("sum", 2, 0.67599297, 0.45696650, 0.11424163),
    ("max_pow", 1, 0.67599297, 0.45696650, 0.11424163),
    ("sum_pow", 1, 0.67599297, 0.45696650, 0.11424163),
    ("sum_pow", 2, 1.01324798, 1.02667147, 0.25666787),
    ("max_pow", 2, 1.01324798, 1.02667147, 0.25666787),
    ("sum_pow", 4, 1.32086350, 1.74468037, 0.43617009),
]


@pytest.mark.parametrize(("kind", "p", "norm", "square", "mean"), PRINTED_ATTENTION)
def test_attention_printed_values(kind, p, norm, square, mean):
    paper = losses.attention_l2(A_S, A_T, kind=kind, p=p).item()
    assert paper == pytest.approx(norm, abs=6e-9)
    assert paper**2 == pytest.approx(square, abs=1.5e-8)
    assert losses.attention_l2(A_S, A_T, kind=kind, p=p, form="benchmark").item() == pytest.approx(mean, abs=6e-9)


@pytest.mark.parametrize(
    ("kind", "p", "student", "teacher"),
    [
        ("sum", 1, [1, 1, 1, 2], [2, 1, 0, 1]),
        ("sum_pow", 2, [1, 1, 1, 4], [4, 1, 0, 1]),
        ("max_pow", 1, [1, 1, 1, 2], [2, 1, 0, 1]),
        ("max_pow", 2, [1, 1, 1, 4], [4, 1, 0, 1]),
    ],
)
def test_attention_maps_by_hand(kind, p, student, teacher):
    assert losses.attention_map(A_S, kind=kind, p=p).flatten().tolist() == student
    assert losses.attention_map(A_T, kind=kind, p=p).flatten().tolist() == teacher


def test_map_takes_absolute_values_first():
    x = double([[[-1.0, 2.0]], [[-3.0, -1.0]]])
    assert losses.attention_map(x, kind="sum").flatten().tolist() == [4, 3]
    assert losses.attention_map(x, kind="sum_pow", p=3).flatten().tolist() == [28, 9]
    assert losses.attention_map(x, kind="max_pow", p=3).flatten().tolist() == [27, 8]


@pytest.mark.parametrize(("kernel", "value"), [("linear", 0.36666667), ("poly", 0.5), ("gaussian", 0.19714960)])
def test_nst_printed_values(kernel, value):
    s = double([[[3.0, 4.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]])
    t = double([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 2.0]]])
    assert losses.nst_mmd(s, t, kernel=kernel).item() == pytest.approx(value, abs=6e-9)


def test_cross_entropy_by_hand():
    log_sum = math.log(math.exp(1) + math.exp(2) + math.exp(3))
    plain = losses.cross_entropy(double(UP), torch.tensor([2])).item()
    assert plain == pytest.approx(log_sum - 3, abs=1e-12)
    smooth = losses.cross_entropy(double(UP), torch.tensor([2]), label_smoothing=0.3).item()
    assert smooth == pytest.approx(log_sum - 0.7 * 3 - 0.3 * 2, abs=1e-12)
