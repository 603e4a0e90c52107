from __future__ import annotations

import numpy as np
import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck.errors import HyperParameterError, ShapeError, TargetError
from limbeck.methods import KD, LogitMatching, SigmoidKD, Supervised
from limbeck.phase import Batch, Cast
from limbeck.settings import Ramp


def scores(logits):
    """Networks that return fixed logits, by their only parameter."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor(logits))

        def forward(self, x):
            return self.logits * 1.0

    return Fixed()


def fixed(student, teacher, targets):
    y = None if targets is None else torch.tensor(targets)
    models = {"student": scores(student), "teacher": scores(teacher)}
    return Cast(models=models, example=Batch(torch.zeros(len(student), 1), y))


def softmax(z):
    e = np.exp(np.asarray(z, dtype=np.float64))
    return e / e.sum()


def total(terms):
    return sum(weight * value.double().mean().item() for value, weight in terms.values())


def only(phases):
    (phase,) = phases
    return phase


def test_kd_golden_values_of_the_mix():
    cast = fixed([[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]], [2])
    ((player, terms),) = run(only(KD().phases(cast)), cast.example)
    assert player == "student"
    assert terms["kd"].value.item() == pytest.approx(1.31962991, abs=1e-6)
    assert total(terms) == pytest.approx(1.22842752, abs=1e-6)  # 0.1 CE + 0.9 T^2 KL at T = 4
    unscaled = KD(soft=1.0, hard=0.0)
    run(only(unscaled.phases(cast)), cast.example)
    grad = cast.models["student"].logits.grad
    assert torch.allclose(grad, torch.tensor([[-0.65981496, 0.0, 0.65981496]]), atol=1e-6)


def test_supervised_is_smoothed_cross_entropy():
    rows, y = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], [2, 1]
    cast = fixed(rows, rows, y)
    ((_, terms),) = run(only(Supervised(label_smoothing=0.3).phases(cast)), cast.example)
    wanted = []
    for row, target in zip(rows, y, strict=True):
        q = softmax(row)
        wanted.append(-sum((0.7 * (k == target) + 0.1) * np.log(q[k]) for k in range(3)))
    assert np.allclose(terms["ce"].value.detach().numpy(), wanted, atol=1e-6)
    assert terms["ce"].weight == 1.0


def test_supervised_learns_multi_hot_labels_when_scores_are_independent():
    rows = [[1.0, -2.0, 0.5]]
    cast = fixed(rows, rows, [0])
    batch = Batch(cast.example.inputs, torch.tensor([[1.0, 0.0, 1.0]]))
    ((_, terms),) = run(only(Supervised(sigmoid=True).phases(cast)), batch)
    sigmoid = [1 / (1 + np.exp(-z)) for z in rows[0]]
    wanted = -(np.log(sigmoid[0]) + np.log(1 - sigmoid[1]) + np.log(sigmoid[2]))
    assert terms["bce"].value.item() == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(HyperParameterError, match="0 with sigmoid scores"):
        Supervised(sigmoid=True, label_smoothing=0.1)


def test_kd_without_hard_labels_takes_unlabelled_batches():
    cast = stage(batch=images(labels=False))
    ((_, terms),) = run(only(KD(hard=0.0, soft=1.0).phases(cast)), images(labels=False))
    assert list(terms) == ["kd"]


@pytest.mark.parametrize("method", [KD(), SigmoidKD(), LogitMatching(hard=0.5), KD(hard=Ramp(start=1, end=0))])
def test_hard_labels_that_are_missing_say_what_to_do(method):
    words = "needs labels, and this batch has none .* set hard=0 to learn from the teacher alone"
    with pytest.raises(TargetError, match=words):
        method.phases(stage(batch=images(labels=False)))
    labels = torch.nn.functional.one_hot(images().targets, 3) if isinstance(method, SigmoidKD) else images().targets
    phase = method.phases(stage(batch=Batch(images().inputs, labels)))[-1]  # a later batch may miss them, too
    with pytest.raises(TargetError, match=words):
        run(phase, images(labels=False))


def test_supervised_without_labels_says_so():
    cast = stage(batch=images(labels=False))
    with pytest.raises(TargetError, match=r"no labels .* learns from nothing else"):
        run(only(Supervised().phases(cast)), cast.example)


def test_ramps_move_the_weights():
    cast = fixed([[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]], [2])
    phase = only(KD(soft=Ramp(start=4, end=1, epochs=500)).phases(cast))
    weights = [run(phase, cast.example, moment(e, 1000))[0][1]["kd"].weight for e in (0, 100, 250, 500, 900)]
    assert weights == pytest.approx([4.0, 3.4, 2.5, 1.0, 1.0])


def test_sigmoid_kd_on_one_logit():
    cast = fixed([[2.0]], [[-1.0]], [1])
    ((_, terms),) = run(only(SigmoidKD(temperature=4.0).phases(cast)), cast.example)
    assert terms["kd"].value.item() == pytest.approx(1.11631904, abs=1e-6)
    assert terms["bce"].value.item() == pytest.approx(np.log1p(np.exp(-2.0)), abs=1e-6)
    assert (terms["kd"].weight, terms["bce"].weight) == (0.9, 0.1)


def test_sigmoid_kd_sums_over_the_labels():
    z_s, z_t, y = [[0.3, -1.2, 2.0]], [[1.0, 0.0, -2.0]], [[1.0, 0.0, 1.0]]
    cast = fixed(z_s, z_t, y)
    ((_, terms),) = run(only(SigmoidKD(temperature=2.0).phases(cast)), cast.example)
    kl = bce = 0.0
    for a, b, label in zip(z_s[0], z_t[0], y[0], strict=True):
        q, p, now = (1 / (1 + np.exp(-v)) for v in (a / 2, b / 2, a))
        kl += p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        bce -= label * np.log(now) + (1 - label) * np.log(1 - now)
    assert terms["kd"].value.item() == pytest.approx(4 * kl, abs=1e-6)
    assert terms["bce"].value.item() == pytest.approx(bce, abs=1e-6)


def test_a_single_logit_is_sent_to_the_sigmoid_form():
    cast = fixed([[2.0]], [[-1.0]], [1])
    with pytest.raises(ShapeError, match=r"1 logit per sample, .* 2 or more; use sigmoid_kd"):
        KD().phases(cast)


@pytest.mark.parametrize("method", [KD(), SigmoidKD(), LogitMatching()])
def test_other_classes_are_refused_before_training(method):
    cast = stage(student=net(3, 4), teacher=net(5, 3))
    with pytest.raises(ShapeError, match="N_t != N_s: the teacher scores 3 classes and the student 4"):
        method.phases(cast)


def test_plain_logit_matching_golden_value():
    cast = fixed([[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]], None)
    ((_, terms),) = run(only(LogitMatching(standardize=False).phases(cast)), cast.example)
    assert list(terms) == ["logits"]
    assert terms["logits"].value.item() == pytest.approx(4.0)


def test_logit_matching_compares_in_units_of_the_teachers_spread():
    cast = stage(student=net(3), teacher=net(5))
    statistics, distill = LogitMatching().phases(cast)
    assert (statistics.name, statistics.epochs, statistics.trains) == (
        "statistics",
        1,
        {"statistics": ("standardize",)},
    )
    assert not list(statistics.modules["standardize"].parameters())
    assert distill.frozen == ("teacher", "standardize")
    parts = [images(7, seed=1), images(3, seed=2)]
    for part in parts:
        assert run(statistics, part) == []  # nothing to optimize
    teacher = cast.models["teacher"].eval()
    with torch.no_grad():
        seen = np.concatenate([teacher(part.inputs).double().numpy() for part in parts])
        z_t = teacher(cast.example.inputs).double().numpy()
        student = cast.models["student"].train()
        z_s = student(cast.example.inputs).double().numpy()
    ((_, terms),) = run(distill, cast.example)
    a, b = ((z - seen.mean(0)) / seen.std(0) for z in (z_s, z_t))
    assert np.allclose(terms["logits"].value.detach().numpy(), 0.5 * ((a - b) ** 2).sum(1), rtol=1e-4)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    torch.manual_seed(0)
    teacher = net(4, norm=False)
    student = net(4, norm=False)
    student.load_state_dict(teacher.state_dict())
    cast = stage(student=student, teacher=teacher)
    for method in (KD(hard=0.0), SigmoidKD(hard=0.0), LogitMatching(standardize=False)):
        ((_, terms),) = run(method.phases(cast)[-1], cast.example)
        assert total(terms) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KD(temperature=0), "temperature = 0: a temperature is more than zero"),
        (lambda: SigmoidKD(temperature=float("nan")), "temperature = nan"),
        (lambda: KD(soft=-0.1), "soft = -0.1: a loss weight is zero or more"),
        (lambda: KD(soft=0, hard=0), "soft, hard: all are zero, so nothing would be learnt"),
        (lambda: LogitMatching(soft=0), "soft, hard: all are zero"),
        (lambda: KD(label_smoothing=1.0), r"label_smoothing = 1.0: in \[0, 1\)"),
        (lambda: Supervised(label_smoothing=-0.1), "label_smoothing = -0.1"),
    ],
)
def test_settings_outside_their_range(make, words):
    with pytest.raises(HyperParameterError, match=words):
        make()


def test_single_logits_without_a_column():
    cast = fixed([2.0, -1.0], [1.0, 1.0], [1, 0])
    ((_, terms),) = run(only(SigmoidKD().phases(cast)), cast.example)
    assert terms["kd"].value.shape == terms["bce"].value.shape == (2,)
    with pytest.raises(ShapeError, match="use sigmoid_kd"):
        KD().phases(cast)
