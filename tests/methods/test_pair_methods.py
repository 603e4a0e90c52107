"""Attention transfer and neuron selectivity transfer: pairs of maps beside the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck.errors import HyperParameterError, ShapeError, TapError, TargetError
from limbeck.methods import NST, AttentionTransfer
from limbeck.settings import Ramp
from limbeck.taps import look


def maps(cast, layer_s, layer_t):
    """Both networks' maps as the step saw them: the student in train mode, the teacher in eval mode."""
    student, x = cast.models["student"], cast.example.inputs
    with torch.no_grad():
        student.train()
        out = student.layer1(x)
        ours = {"layer1": out, "layer2": student.layer2(out)}[layer_s]
    theirs = look(cast.models["teacher"], x, [layer_t]).taps[layer_t]
    return ours.double().numpy(), theirs.double().numpy()


def unit(v):
    return v / max(np.sqrt((v**2).sum()), 1e-12)


def halved(x):
    """2x2 means."""
    return np.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)


def attention(ours, theirs, form):
    out = []
    for a, b in zip(ours, theirs, strict=True):
        d = unit((a**2).sum(0).ravel()) - unit((b**2).sum(0).ravel())
        out.append(np.sqrt((d**2).sum()) if form == "paper" else (d**2).mean())
    return out


def selectivity(ours, theirs):
    out = []
    for a, b in zip(ours, theirs, strict=True):
        q, p = ([unit(c.ravel()) for c in x] for x in (a, b))
        mean = lambda xs, ys: np.mean([np.dot(x, y) ** 2 for x in xs for y in ys])  # noqa: E731
        out.append(mean(p, p) + mean(q, q) - 2 * mean(p, q))
    return out


@pytest.mark.parametrize(("form", "weights"), [("paper", [1, 1]), ("benchmark", [1000, 1000])])
def test_attention_terms_by_hand(form, weights):
    cast = stage()
    (phase,) = AttentionTransfer(form=form).phases(cast)
    assert phase.notes == ("pairs (chosen by depth): layer1 -> layer1, layer2 -> layer2",)
    ((player, terms),) = run(phase, cast.example)
    assert player == "student"
    assert list(terms) == ["ce", "at/layer1", "at/layer2"]
    for layer, weight in zip(("layer1", "layer2"), weights, strict=True):
        wanted = attention(*maps(cast, layer, layer), form)
        assert np.allclose(terms[f"at/{layer}"].value.detach().numpy(), wanted, atol=1e-5)
        assert terms[f"at/{layer}"].weight == pytest.approx(weight)


def test_a_given_beta_counts_half_in_the_papers_form():
    cast = stage()
    pairs = [("layer2", "layer2")]
    assert run(AttentionTransfer(pairs=pairs, weight=0.1).phases(cast)[0], cast.example)[0][1][
        "at/layer2"
    ].weight == pytest.approx(0.05)
    falling = AttentionTransfer(pairs=pairs, weight=Ramp(start=2, end=0)).phases(cast)[0]
    weights = [run(falling, cast.example, moment(e, 10))[0][1]["at/layer2"].weight for e in (0, 5, 10)]
    assert weights == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("pair", [("layer2", "layer1"), ("layer1", "layer2")])
def test_the_larger_map_is_pooled_to_the_smaller(pair):
    cast = stage()
    (phase,) = AttentionTransfer(pairs=[pair]).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    ours, theirs = (x if x.shape[-1] == 4 else halved(x) for x in maps(cast, *pair))
    assert np.allclose(terms[f"at/{pair[0]}"].value.detach().numpy(), attention(ours, theirs, "paper"), atol=1e-5)


@pytest.mark.parametrize(("form", "weight"), [("paper", 25.0), ("benchmark", 50.0)])
def test_selectivity_terms_by_hand(form, weight):
    cast = stage()
    (phase,) = NST(form=form).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    assert list(terms) == ["ce", "nst/layer1", "nst/layer2"]
    for layer in ("layer1", "layer2"):
        wanted = selectivity(*maps(cast, layer, layer))
        assert np.allclose(terms[f"nst/{layer}"].value.detach().numpy(), wanted, atol=1e-5)
        assert terms[f"nst/{layer}"].weight == weight


def test_options_reach_the_loss():
    cast = stage()

    def value(method):
        terms = run(method.phases(cast)[0], cast.example)[0][1]
        return terms[next(name for name in terms if "/" in name)].value.mean().item()

    pairs = [("layer2", "layer1")]
    for family in (
        [NST(pairs=pairs, kernel=kernel) for kernel in ("linear", "poly", "gaussian")],
        [NST(pairs=pairs, resize=resize) for resize in ("pool", "interpolate")],
        [AttentionTransfer(pairs=pairs, kind=kind) for kind in ("sum", "sum_pow", "max_pow")],
        [AttentionTransfer(pairs=pairs, p=p) for p in (1.0, 2.0, 4.0)],
    ):
        values = [value(method) for method in family]
        assert len({round(v, 7) for v in values}) == len(values)


@pytest.mark.parametrize("method", [AttentionTransfer, NST])
def test_the_teacher_stops_at_its_last_tap_unless_its_scores_are_read(method):
    cast = stage()
    (phase,) = method().phases(cast)
    assert phase.stops == {"teacher"}
    (with_kd,) = method(soft=0.9, temperature=4.0).phases(cast)
    assert with_kd.stops == frozenset()
    ((_, terms),) = run(with_kd, cast.example)
    assert list(terms)[-1] == "kd"
    assert terms["kd"].weight == 0.9
    student, teacher = cast.models["student"].train(), cast.models["teacher"].eval()
    with torch.no_grad():
        z_s, z_t = (m(cast.example.inputs).double().numpy() / 4.0 for m in (student, teacher))
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (z_t, z_s))
    assert np.allclose(terms["kd"].value.detach().numpy(), 16 * (p * np.log(p / q)).sum(1), atol=1e-4)


@pytest.mark.parametrize("method", [AttentionTransfer, NST])
def test_without_labels(method):
    cast = stage(batch=images(labels=False))
    (phase,) = method(hard=0.0).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    assert all("/" in name for name in terms)
    with pytest.raises(TargetError, match="set hard=0"):
        method().phases(cast)


@pytest.mark.parametrize("method", [AttentionTransfer, NST])
def test_one_layer_may_learn_from_two(method):
    cast = stage()
    (phase,) = method(pairs=[["layer2", "layer1"], ["layer2", "layer2"]]).phases(cast)
    assert phase.taps == {"student": ("layer2",), "teacher": ("layer1", "layer2")}
    assert phase.notes == ("pairs: layer2 -> layer1, layer2 -> layer2",)
    names = [name for name in run(phase, cast.example)[0][1] if "/" in name]
    assert [name.partition("/")[2] for name in names] == ["layer2->layer1", "layer2->layer2"]


@pytest.mark.parametrize("method", [AttentionTransfer, NST])
def test_a_student_equal_to_its_teacher_costs_nothing(method):
    torch.manual_seed(0)
    teacher, student = net(4, norm=False), net(4, norm=False)
    student.load_state_dict(teacher.state_dict())
    cast = stage(student=student, teacher=teacher)
    ((_, terms),) = run(method(hard=0.0).phases(cast)[0], cast.example)
    assert max(value.abs().max().item() for value, _ in terms.values()) < 1e-6


@pytest.mark.parametrize("method", [AttentionTransfer, NST])
def test_layers_that_do_not_fit(method):
    with pytest.raises(TapError, match="no layer 'layr1' in Sequential; near: layer1"):
        method(pairs=[("layr1", "layer1")]).phases(stage())
    with pytest.raises(ShapeError, match=r"layer 'fc' of the teacher gives \[3\] per sample"):
        method(pairs=[("layer1", "fc")]).phases(stage())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(TapError, match=r"the student \(Sequential\) returns no .* maps .* name them"):
        method().phases(stage(student=flat))


@pytest.mark.parametrize("method", [AttentionTransfer, NST])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pairs": ("layer1", "layer1")}, r"pairs = 'layer1': a pair is \(student layer, teacher layer\)"),
        ({"pairs": "layer1"}, "pairs = 'layer1': a list of"),
        ({"pairs": [("a", "b"), ("a", "b")]}, r"\('a', 'b'\) is there 2 times"),
        ({"weight": -1.0}, "weight = -1.0: a loss weight is zero or more"),
        ({"weight": 0.0, "hard": 0.0}, "weight, hard, soft: all are zero"),
        ({"form": "code"}, "form = 'code': 'paper' or 'benchmark'"),
        ({"temperature": 0.0}, "temperature = 0.0"),
    ],
)
def test_settings_outside_their_range(method, settings, words):
    with pytest.raises(HyperParameterError, match=words):
        method(**settings)


def test_further_settings_outside_their_range():
    with pytest.raises(HyperParameterError, match=r"p = 0\.5: at least 1"):
        AttentionTransfer(p=0.5)
    with pytest.raises(HyperParameterError, match="kind = 'mean': one of sum, sum_pow, max_pow"):
        AttentionTransfer(kind="mean")
    with pytest.raises(HyperParameterError, match="kernel = 'rbf': one of linear, poly, gaussian"):
        NST(kernel="rbf")
    with pytest.raises(HyperParameterError, match="resize = 'crop'"):
        NST(resize="crop")
