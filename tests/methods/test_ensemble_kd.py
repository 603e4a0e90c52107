"""Several teachers, and teachers of finer classes, as methods."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from mini_driver import images, net, run, stage
from torch import nn

from limbeck.engine.loop import fit
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, NameUnknown, ShapeError, TargetError
from limbeck.methods import FEED, KD, EnsembleKD, GroupedKD
from limbeck.models import Ensemble, GroupedHead
from limbeck.phase import Batch, Cast
from limbeck.settings import Training


class Says(nn.Module):
    """The same probabilities for every sample; counts how often it is asked."""

    def __init__(self, *p):
        super().__init__()
        self.z, self.asked = nn.Parameter(torch.tensor(p).log()), 0

    def forward(self, x):
        self.asked += 1
        return self.z.expand(len(x), -1)


def only(method, cast):
    (phase,) = method.phases(cast)
    return phase


def several(student=None, teachers=None, batch=None):
    torch.manual_seed(0)
    teachers = teachers or [net(5), net(4), net(2)]
    models = {"student": student or net(3), **{f"teacher{i + 1}": t for i, t in enumerate(teachers)}}
    return Cast(models=models, example=batch or images(), classes=3)


def log(*p):
    return np.log(np.asarray(p))


@pytest.mark.parametrize(
    ("settings", "mean"),
    [
        ({}, (0.7, 0.3)),
        ({"averaging": "geometric"}, (0.75, 0.25)),
        ({"weights": (3.0, 1.0)}, (0.8, 0.2)),
        ({"weights": (0.0, 2.0)}, (0.5, 0.5)),
    ],
)
def test_golden_means(settings, mean):
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]))
    cast = several(Says(0.6, 0.4), [Says(0.9, 0.1), Says(0.5, 0.5)], batch)
    ((_, terms),) = run(only(EnsembleKD(temperature=1.0, **settings), cast), batch)
    wanted = sum(p * np.log(p / q) for p, q in zip(mean, (0.6, 0.4)))
    assert terms["kd"].value.tolist() == pytest.approx([wanted] * 2, abs=1e-6)
    assert (terms["kd"].weight, terms["ce"].weight) == (0.9, 0.1)
    assert np.allclose(terms["ce"].value.detach(), -log(0.6, 0.4), atol=1e-6)


def test_every_teacher_is_asked_once_per_batch():
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]))
    teachers = [Says(0.9, 0.1), Says(0.5, 0.5), Says(0.2, 0.8)]
    cast = several(Says(0.6, 0.4), teachers, batch)
    phase = only(EnsembleKD(), cast)
    for teacher in teachers:
        teacher.asked = 0
    run(phase, batch)
    assert [teacher.asked for teacher in teachers] == [1, 1, 1]
    run(only(EnsembleKD(soft=0.0, hard=1.0), cast), batch)
    assert [teacher.asked for teacher in teachers] == [2, 2, 2], "one look at their classes, and no step"


@pytest.mark.parametrize("averaging", ["arithmetic", "geometric"])
def test_one_teacher_is_kd(averaging):
    cast = stage()
    ((_, ours),) = run(only(EnsembleKD(averaging=averaging, weights=(5.0,)), cast), cast.example)
    ((_, plain),) = run(only(KD(), cast), cast.example)
    assert list(ours) == list(plain)
    assert all(torch.allclose(ours[k].value, plain[k].value, atol=1e-6) for k in plain)
    assert all(ours[k].weight == plain[k].weight for k in plain)


@pytest.mark.parametrize("averaging", ["arithmetic", "geometric"])
def test_a_network_that_is_an_ensemble_teaches_the_same_at_temperature_one(averaging):
    cast = several()
    ((_, ours),) = run(only(EnsembleKD(averaging=averaging, temperature=1.0), cast), cast.example)
    whole = Ensemble([cast.models[role] for role in cast.teachers], averaging)
    one = Cast(models={"student": cast.models["student"], "teacher": whole}, example=cast.example)
    ((_, plain),) = run(only(KD(temperature=1.0), one), cast.example)
    assert torch.allclose(ours["kd"].value, plain["kd"].value, atol=1e-5)


def test_notes_and_the_roles_in_the_phase():
    phase = only(EnsembleKD(weights=(1.0, 2.0, 0.5)), several())
    assert phase.frozen == ("teacher1", "teacher2", "teacher3")
    assert phase.notes == ("arithmetic mean of 3 teachers, weights 1 : 2 : 0.5",)


def test_with_the_engine_teachers_stay():
    cast = several()
    before = [{k: v.clone() for k, v in cast.models[r].state_dict().items()} for r in cast.teachers]

    class Loader:
        steps = 2

        def epoch(self, epoch, rank=0, world=1, skip=0):
            yield from [images(seed=1), images(seed=2)][skip:]

    start = cast.models["student"].fc.weight.detach().clone()
    training = Training(epochs=2, batch_size=6, accumulate=2)
    fit(EnsembleKD(), dict(cast.models), Loader(), training=training, team=Team(torch.device("cpu")))
    assert not torch.equal(start, cast.models["student"].fc.weight)
    for role, kept in zip(cast.teachers, before):
        assert all(torch.equal(v, kept[k]) for k, v in cast.models[role].state_dict().items())


def test_what_does_not_fit():
    with pytest.raises(NameUnknown, match="needs a teacher, and the stage names none"):
        EnsembleKD().phases(Cast(models={"student": net(3)}, example=images()))
    with pytest.raises(ShapeError, match=r"N_t != N_s.*student 3, teacher1 3, teacher2 4"):
        EnsembleKD().phases(several(teachers=[net(5), net(4, 4)]))
    with pytest.raises(ShapeError, match=r"1 logit per sample.*use sigmoid_kd"):
        EnsembleKD().phases(several(net(3, 1), [net(5, 1), net(4, 1)]))
    with pytest.raises(TargetError, match=r"hard = 0\.1 needs labels"):
        EnsembleKD().phases(several(batch=images(labels=False)))
    text = "weights = (1.0, 2.0): 2 for 3 teachers (teacher1, teacher2, teacher3); give one for each"
    with pytest.raises(HyperParameterError, match=re.escape(text)):
        EnsembleKD(weights=(1.0, 2.0)).phases(several())
    with pytest.raises(HyperParameterError, match=re.escape("2 for 1 teacher (teacher); give one")):
        EnsembleKD(weights=(1.0, 2.0)).phases(stage())


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"weights": (1.0, -1.0)}, "weights = (1.0, -1.0): each zero or more"),
        ({"weights": (0.0, 0.0)}, "weights = (0.0, 0.0): not all zero"),
        ({"weights": ()}, "weights = (): a list with one number for each teacher"),
        ({"weights": 2.0}, "weights = 2.0: a list with one number for each teacher"),
        ({"averaging": "median"}, "averaging = 'median': one of arithmetic, geometric"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"soft": 0.0, "hard": 0.0}, "all are zero"),
    ],
)
def test_settings(setting, text):
    with pytest.raises(HyperParameterError, match=re.escape(text)):
        EnsembleKD(**setting)
    assert EnsembleKD(weights=[1, 2]).weights == (1, 2)


# -- teachers of finer classes ----------------------------------------------------------------------------


def grouped(student=2, teacher=4, targets=(0, 1, 1, 0)):
    batch = Batch(images(n=4).inputs, torch.tensor(targets))
    torch.manual_seed(0)
    return Cast(models={"student": net(3, student), "teacher": net(5, teacher)}, example=batch)


HALVES = ((0, 2), (1, 3))


@pytest.mark.parametrize(("labels", "targets"), [("coarse", (0, 1, 1, 0)), ("fine", (2, 1, 3, 0))])
def test_sums_of_the_teacher_and_labels_of_either_kind(labels, targets):
    cast = grouped(targets=targets)
    phase = only(GroupedKD(groups=HALVES, labels=labels, temperature=2.0), cast)
    assert phase.notes == ("2 groups of the teacher's classes, of 2, 2",)
    ((_, terms),) = run(phase, cast.example)
    with torch.no_grad():
        fine = (cast.models["teacher"].eval()(cast.example.inputs).double() / 2).softmax(1).numpy()
        z = cast.models["student"].train()(cast.example.inputs).double()
    p = np.stack([fine[:, 0] + fine[:, 2], fine[:, 1] + fine[:, 3]], 1)
    q = (z / 2).softmax(1).numpy()
    assert np.allclose(terms["kd"].value.detach(), 4 * (p * np.log(p / q)).sum(1), atol=1e-5)
    hard = -z.log_softmax(1).numpy()[range(4), [0, 1, 1, 0]]
    assert np.allclose(terms["ce"].value.detach(), hard, atol=1e-5)


def test_each_class_alone_is_kd():
    cast = stage()
    ((_, ours),) = run(only(GroupedKD(), cast), cast.example)
    ((_, plain),) = run(only(KD(), cast), cast.example)
    assert all(torch.allclose(ours[k].value, plain[k].value, atol=1e-6) for k in ("ce", "kd"))


def test_the_other_way_a_student_of_fine_classes_that_is_asked_for_coarse_ones():
    """Plain KD on all classes; the wrapped student scores groups, and its weights are the student's own."""
    cast = grouped(student=4)
    run(only(KD(), cast), cast.example, lr=0.1)
    student = cast.models["student"].eval()
    asked = GroupedHead(student, HALVES)
    p = student(cast.example.inputs).softmax(1)
    assert torch.allclose(asked(cast.example.inputs).softmax(1)[:, 0], p[:, 0] + p[:, 2], atol=1e-6)


def test_groups_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"2 groups of the teacher's 4 classes, and a student that scores 3"):
        GroupedKD(groups=HALVES).phases(grouped(student=3))
    with pytest.raises(ShapeError, match=r"each class alone \(groups is not set\) of the teacher's 4 classes"):
        GroupedKD().phases(grouped())
    with pytest.raises(HyperParameterError, match=r"0 \.\.\. 4 belongs to exactly one group; left out: 4"):
        GroupedKD(groups=HALVES).phases(grouped(teacher=5))


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ((0, 1, 7, 2), "from 0 to 7; the groups have 0 ... 3"),
        ((0.0, 1.0, 1.0, 2.0), "class ids [batch] are integers; these are float32"),
    ],
)
def test_fine_labels_that_are_none(targets, text):
    cast = grouped(targets=targets)
    phase = only(GroupedKD(groups=HALVES, labels="fine"), cast)
    with pytest.raises(TargetError, match=re.escape(text)):
        run(phase, cast.example)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (((0, 1), (1, 2)), "class 1 is there twice"),
        (((0, 1),), "two groups at least"),
        (((0, 1), ()), "group 1 is empty"),
        (((0, -1), (2,)), "whole numbers, zero or more"),
        ("odd", "a list of lists of class ids"),
        ((0, 1), "a list of lists of class ids"),
        (((0.5,), (1,)), "whole numbers"),
    ],
)
def test_group_settings(groups, text):
    with pytest.raises(HyperParameterError, match=text):
        GroupedKD(groups=groups)


@pytest.mark.parametrize("method", [EnsembleKD(), FEED()])
def test_no_teacher_is_an_unknown_name_and_a_wrong_value(method):
    cast = stage()
    alone = Cast(models={"student": cast.models["student"]}, example=cast.example)
    text = "needs a teacher, and the stage names none; it has: student"
    for kind in (NameUnknown, HyperParameterError, KeyError, ValueError):
        with pytest.raises(kind, match=text):
            method.phases(alone)
