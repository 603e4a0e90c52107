"""Pre-regression: the hint as an excess cross-entropy, then labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mini_driver import images, net, run, stage

from limbeck.errors import HyperParameterError, ShapeError, TapError, TargetError
from limbeck.methods import FitNets, PreRegression, preset
from limbeck.settings import Optimizer, Ramp, divide_epochs
from limbeck.taps import look


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_the_hint_is_the_cross_entropy_above_the_targets_entropy(mode):
    cast = stage()
    hint, _ = PreRegression(pair=("layer2", "layer1"), mode=mode, hint_temperature=0.5).phases(cast)
    ((player, terms),) = run(hint, cast.example)
    assert (player, list(terms)) == ("student", ["hint"])
    student = cast.models["student"].train()
    with torch.no_grad():
        guess = (
            hint.modules["regressor"](student.layer2(student.layer1(cast.example.inputs))).double().flatten(1).numpy()
        )
    target = look(cast.models["teacher"], cast.example.inputs, ["layer1"]).taps["layer1"].double().flatten(1).numpy()
    a, b = guess / 0.5, target / 0.5
    if mode == "softmax":
        q, p = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
        want = -(p * np.log(q)).sum(1) + (p * np.log(p)).sum(1)
    else:
        q, p = (1 / (1 + np.exp(-x)) for x in (a, b))
        crossed, entropy = (-(p * np.log(r) + (1 - p) * np.log(1 - r)).sum(1) for r in (q, p))
        want = crossed - entropy
    assert np.allclose(terms["hint"].value.detach().numpy(), want, rtol=1e-3)
    units = 5 * 8 * 8
    assert terms["hint"].weight == pytest.approx({"softmax": 1.0, "sigmoid": 1 / units}[mode])


def test_hints_train_the_layers_up_to_the_guided_one_only():
    cast = stage()
    student = cast.models["student"]
    hint, _ = PreRegression(pair=("layer1", "layer1")).phases(cast)
    run(hint, cast.example, lr=0.1)
    assert all(p.grad is not None for p in student.layer1.parameters())
    assert all(p.grad is None for part in (student.layer2, student.fc) for p in part.parameters())
    assert all(p.grad is not None for p in hint.modules["regressor"].parameters())


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_the_hint_falls(mode):
    cast = stage()
    hint, _ = PreRegression(mode=mode, hint_weight=1.0 if mode == "softmax" else 0.003).phases(cast)
    path = [run(hint, cast.example, lr=0.3)[0][1]["hint"].value.mean().item() for _ in range(40)]
    assert path[-1] < 0.8 * path[0]


def test_labels_come_after_the_hints_and_the_teacher_only_if_asked():
    cast = stage()
    hint, distill = PreRegression(hint_share=0.25).phases(cast)
    assert divide_epochs(40, [hint.share, distill.share]) == [10, 30]
    assert set(distill.modules) == {"student"}
    assert [list(terms) for _, terms in run(distill, cast.example)] == [["ce"]]
    _, taught = PreRegression(soft=Ramp(start=1.0, end=0.0)).phases(cast)
    assert set(taught.modules) == {"student", "teacher"}
    assert [list(terms) for _, terms in run(taught, cast.example)] == [["ce", "kd"]]


def test_pair_and_regressor_are_those_of_fitnets():
    for form in ("paper", "benchmark"):
        torch.manual_seed(0)
        mine = PreRegression(regressor=form).phases(stage())[0]
        theirs = FitNets(regressor=form).phases(stage())[0]
        assert mine.notes == theirs.notes
        assert str(mine.modules["regressor"]) == str(theirs.modules["regressor"])
    own = Optimizer(kind="adamw", lr=0.01)
    assert PreRegression(hint_optimizer=own).phases(stage())[0].optimizers == {"student": own}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mode": "softmaxx"}, "mode = 'softmaxx': 'softmax' or 'sigmoid'"),
        ({"hint_temperature": 0.0}, "hint_temperature = 0.0: a temperature is more than zero"),
        ({"hint_temperature": float("inf")}, "hint_temperature = inf"),
        ({"hint_share": 0.0}, "hint_share = 0.0"),
        ({"hint_weight": 0.0}, "hint_weight"),
        ({"hard": 0.0}, "hard, soft: all are zero"),
        ({"hard": -1.0}, "hard = -1.0"),
        ({"regressor": "x"}, "regressor = 'x'"),
        ({"activation": "gelu"}, "activation = 'gelu': one of auto"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        PreRegression(**settings)


def test_bad_networks():
    with pytest.raises(TapError, match=r"no layer 'layr1'.*near: layer1"):
        PreRegression(pair=("layr1", "layer1")).phases(stage())
    with pytest.raises(ShapeError, match="no regressor from the student's"):
        PreRegression(pair=("layer1", "fc")).phases(stage())
    with pytest.raises(TargetError, match=r"hard = 1.0 needs labels"):
        PreRegression().phases(stage(batch=images(labels=False)))
    with pytest.raises(ShapeError, match="N_t != N_s"):
        PreRegression(soft=1.0).phases(stage(teacher=net(5, 4)))


@pytest.mark.parametrize("name", ["paper", "benchmark"])
def test_presets_run(name):
    cast = stage()
    for phase in preset("pre_regression", name).phases(cast):
        assert run(phase, cast.example)


@pytest.mark.parametrize("share", ["x", float("nan"), 0, 1])
def test_a_share_is_a_part(share):
    with pytest.raises(HyperParameterError, match=r"hint_share = .*: a part of the epochs"):
        PreRegression(hint_share=share)
