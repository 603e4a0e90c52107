"""Gradient attention: a gradient worked out by hand, finite differences, and a loop over single samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from mini_driver import images, net, run, stage
from torch import nn

from limbeck.engine.loop import fit
from limbeck.engine.rehearsal import rehearse
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, ShapeError, TargetError, TensorTypeError
from limbeck.losses.gradients import input_gradient
from limbeck.methods import KD, GradientAttention, Sum, Supervised
from limbeck.phase import Batch, Cast
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))


class Scores(nn.Module):
    """Logits W x, with no bias."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return x @ self.weight.T


class Constant(nn.Module):
    """Logits that hang on the input by a factor of zero: the teacher of the golden value has J = 0."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return 0.0 * x + self.bias


def only(method, cast):
    (phase,) = method.phases(cast)
    return phase


def test_golden_value_and_its_gradient():
    student = Scores([[1.0, 0.0], [0.0, 1.0]])
    cast = Cast(
        models={"student": student, "teacher": Constant()},
        example=Batch(torch.tensor([[1.0, -1.0]]), torch.tensor([0])),
    )
    ((player, terms),) = run(only(GradientAttention(hard=0.0), cast), cast.example)
    assert player == "student"
    assert terms["gradient"].value.item() == pytest.approx(0.01420934, abs=1e-7)
    wanted = torch.tensor([[-0.01082175, 0.01082175], [0.01082175, -0.01082175]])
    assert torch.allclose(student.weight.grad, wanted, atol=1e-7)


def test_the_golden_gradient_of_the_input_itself():
    """||J|| / 2 with J = (-0.1192, 0.1192)."""
    cast = Cast(
        models={"student": Scores([[1.0, 0.0], [0.0, 1.0]]), "teacher": Constant()},
        example=Batch(torch.tensor([[1.0, -1.0]]), torch.tensor([0])),
    )
    ((_, terms),) = run(only(GradientAttention(norm="plain"), cast), cast.example)
    assert terms["gradient"].value.item() == pytest.approx(math.sqrt(2) * 0.11920292 / 2, abs=1e-7)


def double_net(seed, width=3, norm=False):
    torch.manual_seed(seed)
    made = net(width, norm=norm).double()
    for i, part in enumerate(made.modules()):  # smooth, so that finite differences have something to say
        for name, child in list(part.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(part, name, nn.Tanh())
        assert i < 100
    return made


def slope(model, x, y):
    """d CE / d x of one sample, by central differences."""
    found = torch.zeros_like(x)
    for i in range(x.numel()):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved.view(-1)[i] += sign * 1e-5
            with torch.no_grad():
                ends.append(-model(moved[None]).log_softmax(1)[0, y].item())
        found.view(-1)[i] = (ends[0] - ends[1]) / 2e-5
    return found


@pytest.mark.parametrize("kind", ["teacher", "symmetry", "penalty"])
def test_against_finite_differences_of_single_samples(kind):
    student, teacher = double_net(0), double_net(1, 4)
    batch = images(n=2)
    batch = Batch(batch.inputs.double(), batch.targets)
    cast = Cast(models={"student": student, "teacher": teacher}, example=batch)
    ((_, terms),) = run(only(GradientAttention(kind=kind), cast), batch)
    for row, (x, y) in enumerate(zip(batch.inputs, batch.targets.tolist(), strict=True)):
        ours = slope(student, x, y)
        theirs = {
            "teacher": lambda x=x, y=y: slope(teacher, x, y),
            "symmetry": lambda x=x, y=y: slope(student, x.flip(2), y).flip(2),
            "penalty": lambda x=x: torch.zeros_like(x),
        }[kind]()
        wanted = 0.5 * float((ours - theirs).square().sum())
        assert wanted > 1e-6
        assert terms["gradient"].value[row].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["teacher", "symmetry", "penalty"])
@pytest.mark.parametrize("norm", ["squared", "plain"])
def test_the_weights_get_the_gradient_of_the_gradient(kind, norm):
    student, teacher = double_net(0), double_net(1, 4)
    batch = images(n=3)
    batch = Batch(batch.inputs.double(), batch.targets)
    cast = Cast(models={"student": student, "teacher": teacher}, example=batch)
    phase = only(GradientAttention(kind=kind, norm=norm, hard=0.0), cast)
    run(phase, batch)
    weight = student.layer1.conv.weight
    have = weight.grad.view(-1)[4].item()
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.view(-1)[4] += sign * 1e-5
        ((_, terms),) = run(phase, batch)
        ends.append(terms["gradient"].value.mean().item())
        with torch.no_grad():
            weight.view(-1)[4] -= sign * 1e-5
    assert have == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_equal_networks_have_nothing_to_learn_and_the_plain_norm_is_no_trap():
    torch.manual_seed(0)
    student, teacher = net(3, norm=False), net(3, norm=False)
    teacher.load_state_dict(student.state_dict())
    for norm in ("squared", "plain"):
        cast = stage(student, teacher)
        ((_, terms),) = run(only(GradientAttention(norm=norm, hard=0.0), cast), cast.example)
        assert terms["gradient"].value.abs().max() == 0
        assert all(p.grad is None or not p.grad.any() for p in student.parameters())


def test_each_sample_counts_for_itself_without_batch_normalisation():
    cast = stage(net(3, norm=False), net(5, norm=False))
    phase = only(GradientAttention(), cast)
    ((_, whole),) = run(phase, cast.example)
    for i in range(6):
        one = Batch(cast.example.inputs[i : i + 1], cast.example.targets[i : i + 1])
        ((_, alone),) = run(phase, one)
        assert torch.allclose(alone["gradient"].value[0], whole["gradient"].value[i], rtol=1e-4, atol=1e-9)
    assert phase.notes == ()
    assert "batch normalisation mixes" in only(GradientAttention(), stage()).notes[0]


def test_inputs_and_teacher_stay_as_they_are():
    cast = stage()
    before = cast.example.inputs.clone()
    run(only(GradientAttention(soft=0.5), cast), cast.example)
    assert torch.equal(cast.example.inputs, before)
    assert not cast.example.inputs.requires_grad
    assert all(p.grad is None for p in cast.models["teacher"].parameters())


def test_terms_phases_and_who_is_there():
    cast = stage()
    ((_, terms),) = run(only(GradientAttention(soft=0.5, weight=3.0), cast), cast.example)
    assert list(terms) == ["ce", "gradient", "kd"]
    assert terms["gradient"].weight == 3.0
    assert list(only(GradientAttention(kind="penalty"), cast).modules) == ["student"]
    alone = Cast(models={"student": cast.models["student"]}, example=cast.example)
    ((_, terms),) = run(only(GradientAttention(kind="symmetry"), alone), cast.example)
    assert list(terms) == ["ce", "gradient"]


# -- with the engine ------------------------------------------------------------------------------


class Loader:
    """The same batches every epoch."""

    steps = 3

    def __init__(self, labels=True):
        self.batches = [images(n=4, seed=i, labels=labels) for i in range(3)]

    def epoch(self, epoch, rank=0, world=1, skip=0):
        yield from self.batches[skip:]


def trained(method=None, *, norm=False, **settings):
    torch.manual_seed(0)
    models = {"student": net(3, norm=norm), "teacher": net(5, norm=norm)}
    training = Training(**{"epochs": 2, "batch_size": 4, "optimizer": Optimizer(lr=0.05), **settings})
    fit(method or GradientAttention(weight=5.0), models, Loader(), training=training, team=CPU)
    return {key: value.detach().clone().contiguous() for key, value in models["student"].state_dict().items()}


def far(a, b):
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def test_it_moves_the_weights_elsewhere_than_labels_do():
    assert far(trained(), trained(Supervised())) > 1e-4


def test_parts_of_a_batch_and_memory_layout_change_nothing():
    straight = trained()
    assert far(straight, trained(accumulate=2)) < 1e-6
    assert far(straight, trained(channels_last=True)) < 1e-6


@pytest.mark.parametrize("norm", [False, True])
def test_bf16_comes_near(norm):
    moved = far(trained(norm=norm), trained(norm=norm, precision="bf16"))
    assert 0 < moved < 0.02


def test_what_would_be_compiled_runs_as_it_is(monkeypatch):
    """torch.compile has no second derivatives: the student is left out, the teacher is not."""
    compiler, asked = torch.compile, []

    def quick(model, **options):
        asked.append(model.model)
        return compiler(model, **{**options, "backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", quick)
    straight = trained()
    assert asked == []
    assert far(straight, trained(compile=True)) < 1e-6
    assert [part.fc.in_features for part in asked] == [10], "the teacher's width"


def test_only_modules_that_are_there_can_be_left_uncompiled():
    (phase,) = GradientAttention().phases(stage())
    assert phase.eager == {"student"}
    with pytest.raises(NameUnknown, match="no module 'pupil' in phase 'distill'"):
        replace(phase, eager=frozenset({"pupil"}))


def test_in_a_sum_the_student_stays_uncompiled_too():
    cast = stage()
    phase = only(Sum(KD(), GradientAttention(hard=0.0)), cast)
    assert phase.eager == {"student"}
    ((_, terms),) = run(phase, cast.example)
    assert list(terms) == ["ce", "kd", "gradient"]


def test_fused_attention_has_a_second_derivative_here():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.fc = nn.Linear(8, 24), nn.Linear(8, 3)

        def forward(self, x):
            q, k, v = self.qkv(x[:, 0]).chunk(3, dim=2)
            return self.fc(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))

    torch.manual_seed(0)
    cast = stage(Attends(), Attends())
    run(only(GradientAttention(hard=0.0), cast), cast.example)
    assert cast.models["student"].qkv.weight.grad.abs().max() > 0


def test_a_dry_run_without_gradients_goes_through():
    cast = stage()
    rehearse(GradientAttention(soft=0.5), cast.models, cast.example, 3)
    with torch.no_grad():
        assert only(GradientAttention(), cast)


# -- bad input --------------------------------------------------------------------------------------


def test_inputs_without_a_gradient():
    tokens = Batch(torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    cast = stage(batch=tokens)
    with pytest.raises(TensorTypeError, match="this one is int64: integers have no gradient"):
        GradientAttention().phases(cast)
    cast = stage(batch=Batch({"input_ids": tokens.inputs, "mask": tokens.inputs}, tokens.targets))
    with pytest.raises(TensorTypeError, match=r"this batch is a mapping of input_ids, mask\. Choose another"):
        GradientAttention().phases(cast)


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_labels_are_needed_whatever_they_count(hard):
    with pytest.raises(TargetError, match="this batch has none"):
        GradientAttention(hard=hard, soft=1.0).phases(stage(batch=images(labels=False)))


def test_symmetry_is_for_images():
    flat = Batch(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64))
    cast = Cast(models={"student": Scores([[1.0, 0.0], [0.0, 1.0]])}, example=flat)
    with pytest.raises(
        ShapeError, match=r"mirrors images \[batch, channels, height, width\]; these inputs are \[4, 2\]"
    ):
        GradientAttention(kind="symmetry").phases(cast)


def test_a_network_that_cuts_its_graph():
    class Cuts(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x):
            return self.fc(x.detach().flatten(1))

    cast = stage(Cuts(), 3)
    with pytest.raises(RuntimeError, match="does not depend on the network's input"):
        run(only(GradientAttention(), cast), cast.example)
    with pytest.raises(LimbeckError, match="does not depend on the network's input in a way that can be differ"):
        run(only(GradientAttention(), cast), cast.example)
    cast = stage()
    phase = only(GradientAttention(), cast)
    with torch.inference_mode(), pytest.raises(LimbeckError, match=r"torch\.inference_mode"):
        run(phase, Batch(cast.example.inputs.clone(), cast.example.targets))


def test_classes_and_settings():
    with pytest.raises(ShapeError, match="N_t != N_s"):
        GradientAttention().phases(stage(3, net(5, 4)))
    with pytest.raises(HyperParameterError, match="kind = 'mirror': one of teacher, symmetry, penalty"):
        GradientAttention(kind="mirror")
    with pytest.raises(HyperParameterError, match="norm = 'l1'"):
        GradientAttention(norm="l1")
    with pytest.raises(HyperParameterError, match="weight = -1"):
        GradientAttention(weight=-1.0)


def test_without_a_graph_there_is_no_gradient():
    x = torch.ones(2, 3, requires_grad=True)
    with torch.no_grad():
        value = x.sum(1)
    for kind in (LimbeckError, RuntimeError):
        with pytest.raises(kind, match="the network may cut its graph"):
            input_gradient(value, x, graph=False)
        with pytest.raises(kind, match="the network may cut its graph"):
            input_gradient(torch.ones(2, requires_grad=True), x, graph=False)
