from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck.errors import HyperParameterError, NameUnknown, ShapeError, TapError
from limbeck.methods import FitNets, preset
from limbeck.phase import Batch, Cast
from limbeck.settings import Optimizer, Ramp, divide_epochs
from limbeck.taps import look


def passing():
    """A network that taps as "hint" exactly what goes in, and scores by its sum."""
    return nn.Sequential(
        OrderedDict(hint=nn.Identity(), flat=nn.Flatten(), fc=nn.Linear(4, 3, bias=False)),
    )


def golden_cast():
    class Constant(nn.Module):
        """Returns [2, 2, 6, 10] as a 1x2x2 map, whatever goes in."""

        def __init__(self):
            super().__init__()
            self.hint = nn.Identity()
            self.fc = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return self.fc(self.hint(x * 0 + torch.tensor([[2.0, 2.0], [6.0, 10.0]])).flatten(1))

    x = torch.tensor([[[[2.0, 4.0], [6.0, 8.0]]]])
    return Cast(models={"student": passing(), "teacher": Constant()}, example=Batch(x, torch.tensor([1])))


def identity_regressor(phase):
    conv = phase.modules["regressor"][0]
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.zero_()
    return phase


@pytest.mark.parametrize(("form", "value", "weight"), [("paper", 4.0, 0.25), ("benchmark", 2.0, 1.0)])
def test_golden_hint_values(form, value, weight):
    cast = golden_cast()
    hint, _ = FitNets(pair=("hint", "hint"), form=form).phases(cast)
    ((player, terms),) = run(identity_regressor(hint), cast.example)
    assert (player, list(terms)) == ("student", ["hint"])
    assert terms["hint"].value.tolist() == [value]
    assert terms["hint"].weight == weight  # one over the four units, or the mean square as it is


def test_the_hint_is_half_the_sum_of_squares_over_all_units():
    cast = stage()
    hint, _ = FitNets(pair=("layer2", "layer1"), hint_weight=1.0).phases(cast)  # 6x4x4 -> 5x8x8, transposed
    regressor = hint.modules["regressor"]
    student, teacher = cast.models["student"], cast.models["teacher"]
    ((_, terms),) = run(hint, cast.example)
    with torch.no_grad():
        student.train()
        guess = regressor(student.layer2(student.layer1(cast.example.inputs))).double().numpy()
    target = look(teacher, cast.example.inputs, ["layer1"]).taps["layer1"].double().numpy()
    wanted = [0.5 * sum((a - b) ** 2 for a, b in zip(g.flat, t.flat, strict=True)) for g, t in zip(guess, target)]
    assert np.allclose(terms["hint"].value.detach().numpy(), wanted, rtol=1e-4)
    assert terms["hint"].weight == 1.0


def test_hints_train_the_layers_up_to_the_guided_one_only():
    cast = stage()
    student = cast.models["student"]
    after = {name: value.clone() for name, value in student.state_dict().items() if not name.startswith("layer1")}
    hint, _ = FitNets(pair=("layer1", "layer1")).phases(cast)
    assert hint.stops == {"student", "teacher"}
    run(hint, cast.example, lr=0.1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.layer1.conv.parameters())
    assert all(p.grad is None for part in (student.layer2, student.fc) for p in part.parameters())
    assert all(p.grad is not None for p in hint.modules["regressor"].parameters())
    assert all(p.grad is None for p in cast.models["teacher"].parameters())
    # neither weights nor batch statistics behind the guided layer have moved
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in after.items())


def test_the_second_stage_is_labels_and_falling_kd_without_hints():
    cast = stage()
    _, distill = FitNets().phases(cast)
    assert "regressor" not in distill.modules
    assert distill.taps == {"student": (), "teacher": ()}
    ((_, terms),) = run(distill, cast.example, moment(50, 100))
    assert set(terms) == {"ce", "kd"}
    student, teacher = cast.models["student"].train(), cast.models["teacher"].eval()
    with torch.no_grad():
        z_s, z_t = (m(cast.example.inputs).double().numpy() / 3.0 for m in (student, teacher))
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (z_t, z_s))
    kl = (p * np.log(p / q)).sum(1)
    # the paper's lambda * H(p, q) has no T^2: the term's weight takes it out again
    assert terms["kd"].weight * terms["kd"].value.mean().item() == pytest.approx(2.5 * kl.mean(), rel=1e-4)
    ((_, squared),) = run(FitNets(tau_squared=True).phases(cast)[1], cast.example, moment(50, 100))
    assert squared["kd"].weight == 2.5


def test_lambda_falls_from_four_to_one():
    cast = stage()
    _, distill = preset("fitnets", "paper", tau_squared=True).phases(cast)
    weights = [run(distill, cast.example, moment(e, 1000))[0][1]["kd"].weight for e in (0, 100, 250, 500, 700)]
    assert weights == pytest.approx([4.0, 3.4, 2.5, 1.0, 1.0])


def test_epochs_are_divided_between_the_stages():
    phases = FitNets(hint_share=0.25).phases(stage())
    assert [p.name for p in phases] == ["hint", "distill"]
    assert divide_epochs(40, [p.share for p in phases]) == [10, 30]


@pytest.mark.parametrize("form", ["paper", "benchmark"])
def test_one_stage_adds_the_hint_to_the_labels(form):
    cast = stage()
    (phase,) = FitNets(pair=("layer2", "layer2"), stages="one", soft=0.0, form=form).phases(cast)
    assert phase.trains == {"student": ("student", "regressor")}
    assert phase.stops == {"teacher"}
    ((_, terms),) = run(phase, cast.example)
    assert set(terms) == {"ce", "hint"}
    assert terms["hint"].weight == pytest.approx({"paper": 1 / (10 * 4 * 4), "benchmark": 1.0}[form])
    heavy = FitNets(pair=("layer2", "layer2"), stages="one", soft=0.0, form=form, hint_weight=100.0).phases(cast)[0]
    assert run(heavy, cast.example)[0][1]["hint"].weight == 100.0
    with_kd = FitNets(pair=("layer2", "layer2"), stages="one").phases(cast)[0]
    assert set(run(with_kd, cast.example)[0][1]) == {"ce", "kd", "hint"}
    assert with_kd.stops == frozenset()


def test_hint_training_is_stable_at_the_learning_rates_of_sgd():
    torch.manual_seed(0)
    cast = stage(student=net(4), teacher=net(8), batch=images(64))
    hint, _ = FitNets().phases(cast)
    optimizer = torch.optim.SGD(
        [p for name in hint.trains["student"] for p in hint.modules[name].parameters()],
        lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4,
    )  # fmt: skip
    path = []
    for _ in range(30):
        optimizer.zero_grad()
        ((_, terms),) = run(hint, cast.example)
        path.append(terms["hint"].value.mean().item())
        optimizer.step()
    assert np.isfinite(path).all()
    assert path[-1] < 0.7 * path[0]


def test_notes_say_what_was_chosen():
    hint, _ = FitNets().phases(stage())
    assert hint.notes[0].startswith("pair (the middle of both): layer1 [3, 8, 8] -> layer1 [5, 8, 8]")
    assert hint.notes[1] == "regressor: 20 weights, activation relu"
    named, _ = FitNets(pair=["layer2", "layer2"]).phases(stage())
    assert named.notes[0].startswith("pair: layer2 [6, 4, 4] -> layer2 [10, 4, 4]")
    rising = FitNets(soft=Ramp(start=1, end=4)).phases(stage())[1]
    assert "soft rises during training; the paper lets it fall" in rising.notes


def test_the_regressor_ends_as_the_teachers_layer_does():
    def activations(method):
        return [type(m) for m in method.phases(stage())[0].modules["regressor"]][1:]

    assert activations(FitNets(pair=("layer1", "layer1"))) == [nn.ReLU]
    assert activations(FitNets(pair=("layer1", "layer1.conv"))) == []
    assert activations(FitNets(pair=("layer1", "layer1"), activation="tanh")) == [nn.Tanh]
    benchmark = FitNets(pair=("layer1", "layer1.conv"), regressor="benchmark")
    assert activations(benchmark) == [nn.BatchNorm2d, nn.ReLU]


def test_hints_between_vectors():
    def mlp(width):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3))

    hint, _ = FitNets().phases(stage(student=mlp(4), teacher=mlp(9)))
    assert isinstance(hint.modules["regressor"][0], nn.Linear)
    assert hint.notes[0].startswith("pair (the middle of both): 2 [4] -> 2 [9]")


def test_a_hint_optimizer_replaces_the_stages():
    rms = Optimizer(kind="rmsprop", lr=0.005)
    hint, distill = FitNets(hint_optimizer=rms).phases(stage())
    assert hint.optimizers == {"student": rms}
    assert distill.optimizers == {}


def test_a_layer_that_the_student_has_not():
    with pytest.raises(TapError, match="no layer 'layer3' in Sequential; near: layer"):
        FitNets(pair=("layer3", "layer1")).phases(stage())
    with pytest.raises(ShapeError, match=r"student's \[6, 4, 4\] to the teacher's \[3\]"):
        FitNets(pair=("layer2", "fc")).phases(stage())


def test_other_classes_are_refused_before_the_hints():
    with pytest.raises(ShapeError, match="N_t != N_s"):
        FitNets().phases(stage(student=net(3, 4), teacher=net(5, 3)))
    # hints and labels alone need no equal classes
    assert FitNets(stages="one", soft=0.0).phases(stage(student=net(3, 4), teacher=net(5, 3)))


def test_a_missing_teacher_is_named():
    with pytest.raises(NameUnknown, match="needs a teacher, and the stage names none; it has: student"):
        FitNets().phases(Cast(models={"student": net(3)}, example=images()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pair": "layer1"}, r"pair = 'layer1': a pair is \(student layer, teacher layer\)"),
        ({"pair": ("a", "b", "c")}, "pair = "),
        ({"stages": "three"}, "stages = 'three': 'two' or 'one'"),
        ({"hint_share": 1.0}, "hint_share = 1.0"),
        ({"hint_weight": 0.0}, "hint_weight: all are zero"),
        ({"hint_weight": -1.0}, "hint_weight = -1.0: a loss weight is zero or more"),
        ({"temperature": -3.0}, "temperature = -3.0"),
        ({"soft": 0.0, "hard": 0.0}, "soft, hard: all are zero"),
        ({"form": "sum"}, "form = 'sum'"),
        ({"regressor": "fc"}, "regressor = 'fc'"),
        ({"activation": "gelu"}, "activation = 'gelu': one of auto, relu, tanh, sigmoid, none"),
        ({"stages": "one", "hint_optimizer": Optimizer()}, "only with two stages"),
    ],
)
def test_settings_outside_their_range(settings, words):
    with pytest.raises(HyperParameterError, match=words):
        FitNets(**settings)


@pytest.mark.parametrize("share", ["x", float("nan"), 0, 1])
def test_a_share_is_a_part(share):
    with pytest.raises(HyperParameterError, match=r"hint_share = .*: a part of the epochs"):
        FitNets(hint_share=share)
