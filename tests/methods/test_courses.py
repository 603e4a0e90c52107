"""Born-again networks, label refinery, assistants, defensive distillation: their lessons, and what these compute."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck.course import STUDENT, TEACHER, Gathering, Lesson, is_taught, lessons_of
from limbeck.errors import DataError, HyperParameterError, ShapeError, TargetError
from limbeck.methods import (
    KD,
    BornAgain,
    ConfidenceWeighted,
    DarkKnowledgePermuted,
    DefensiveDistillation,
    LabelRefinery,
    StaticLabels,
    Supervised,
    TeacherAssistant,
)
from limbeck.methods.controls import confidence_shares, permute_others
from limbeck.phase import Batch, Cast
from limbeck.settings import Ramp


class Fixed(nn.Module):
    """A network that says its only parameter, whatever it sees."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x):
        return self.rows * 1.0


def fixed(student, teacher, targets=None):
    y = None if targets is None else torch.tensor(targets)
    example = Batch(torch.zeros(len(student), 1), y, torch.arange(len(student)))
    return Cast(models={"student": Fixed(student), "teacher": Fixed(teacher)}, example=example, rows=len(student))


def only(phases):
    (phase,) = phases
    return phase


def logs(rows):
    return [[math.log(p) for p in row] for row in rows]


def softmax(row, t=1.0):
    e = np.exp(np.asarray(row, dtype=np.float64) / t)
    return e / e.sum()


# -- born-again networks ---------------------------------------------------------------------------


def test_each_generation_learns_from_the_one_before():
    one, two, last, gathered = lessons_of(BornAgain())
    kd = KD(temperature=1.0, soft=1.0, hard=0.0)
    assert one == Lesson(name="1", method=kd, teachers=(TEACHER,), fresh=True)
    assert two == Lesson(name="2", method=kd, teachers=(".1",), fresh=True)
    assert last == Lesson(name="", method=kd, teachers=(".2",), fresh=True)
    assert gathered == Gathering(name="ensemble", members=(".1", ".2", "."), averaging="arithmetic")


def test_one_generation_is_one_distillation():
    assert lessons_of(BornAgain(generations=1, hard=1.0)) == (
        Lesson(method=KD(temperature=1.0, soft=1.0, hard=1.0), fresh=True),
    )


@pytest.mark.parametrize(
    ("control", "method"),
    [
        ("cwtm", ConfidenceWeighted(temperature=2.0)),
        ("dkpp", DarkKnowledgePermuted(temperature=2.0, soft=1.0, hard=0.0)),
    ],
)
def test_the_controls_replace_the_method(control, method):
    found = lessons_of(BornAgain(control=control, temperature=2.0, generations=2))
    assert [part.method for part in found if isinstance(part, Lesson)] == [method, method]


def test_the_gradient_is_that_of_the_cross_entropy_with_the_teacher():
    z_s, z_t = [[1.0, -0.5, 0.3]], [[0.2, 2.0, -1.0]]
    cast = fixed(z_s, z_t)
    method = lessons_of(BornAgain())[0]
    assert isinstance(method, Lesson)
    run(only(method.method.phases(cast)), cast.example)
    assert np.allclose(cast.models["student"].rows.grad.numpy(), softmax(z_s[0]) - softmax(z_t[0]), atol=1e-6)


def test_confidence_shares_golden_values():
    shares = confidence_shares(torch.tensor(logs([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])))
    assert shares.tolist() == pytest.approx([0.58333, 0.41667], abs=1e-5)
    assert shares.sum().item() == pytest.approx(1.0)
    assert confidence_shares(torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]])).tolist() == pytest.approx([1 / 3] * 3)
    half = confidence_shares(torch.tensor([[5.0, 0.0]], dtype=torch.bfloat16))
    assert half.dtype == torch.float32


def test_cwtm_is_the_weighted_sum_of_cross_entropies():
    z_s, y = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], [2, 1]
    cast = fixed(z_s, logs([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]), y)
    ((_, terms),) = run(only(ConfidenceWeighted().phases(cast)), cast.example)
    wanted = sum(w * -math.log(softmax(z)[k]) for w, z, k in zip((7 / 12, 5 / 12), z_s, y, strict=True))
    assert terms["cwtm"].value.mean().item() == pytest.approx(wanted, abs=1e-6)


def test_cwtm_with_equal_confidence_is_plain_cross_entropy():
    z_s, y = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], [2, 1]
    cast = fixed(z_s, [[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]], y)
    ((_, weighted),) = run(only(ConfidenceWeighted().phases(cast)), cast.example)
    ((_, plain),) = run(only(Supervised().phases(cast)), cast.example)
    assert torch.allclose(weighted["cwtm"].value, plain["ce"].value, atol=1e-6)


def test_cwtm_needs_labels_and_two_columns():
    with pytest.raises(TargetError, match=r"has no labels .* cwtm weights labels"):
        ConfidenceWeighted().phases(stage(batch=images(labels=False)))
    with pytest.raises(TargetError, match="has no labels"):
        run(only(ConfidenceWeighted().phases(stage())), images(labels=False))
    with pytest.raises(ShapeError, match="1 logit per sample"):
        ConfidenceWeighted().phases(stage(student=net(3, 1), teacher=net(3, 1)))


def test_shuffling_keeps_the_first_and_the_sum():
    torch.manual_seed(1)
    z = torch.randn(500, 6)
    shuffled = permute_others(z, torch.Generator().manual_seed(2))
    assert torch.equal(shuffled.argmax(1), z.argmax(1))
    assert torch.equal(shuffled.amax(1), z.amax(1))
    assert torch.equal(shuffled.sort(1).values, z.sort(1).values)
    assert torch.allclose(shuffled.softmax(1).sum(1), torch.ones(500))
    assert torch.equal(permute_others(z, torch.Generator().manual_seed(2)), shuffled)
    assert not torch.equal(permute_others(z, torch.Generator().manual_seed(3)), shuffled)


def test_shuffling_is_uniform_and_differs_from_row_to_row():
    z = torch.tensor([[9.0, 1.0, 2.0, 3.0]]).expand(6000, 4)
    shuffled = permute_others(z, torch.Generator().manual_seed(0))
    kinds, counts = shuffled.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert all(880 <= n <= 1120 for n in counts.tolist())  # 1000 each; the bounds are four standard deviations away


def test_dkpp_by_hand_up_to_the_order():
    z_s, z_t, t = [[1.0, 0.0, -1.0]], [[3.0, 1.0, -1.0]], 2.0
    cast = fixed(z_s, z_t)
    ((_, terms),) = run(only(DarkKnowledgePermuted(temperature=t).phases(cast)), cast.example)
    q, found = softmax(z_s[0], t), []
    for order in ([0, 1, 2], [0, 2, 1]):
        p = softmax([z_t[0][k] for k in order], t)
        found.append(t * t * float((p * np.log(p / q)).sum()))
    value = terms["dkpp"].value.item()
    assert min(abs(value - f) for f in found) < 1e-6
    draws = {
        round(
            run(only(DarkKnowledgePermuted(temperature=t).phases(cast)), cast.example, when(k))[0][1][
                "dkpp"
            ].value.item(),
            5,
        )
        for k in range(20)
    }
    assert draws == {round(f, 5) for f in found}


def when(seed):
    return moment()._replace(generator=torch.Generator().manual_seed(seed))


# -- label refinery --------------------------------------------------------------------------------


def test_each_round_learns_from_the_round_before_and_from_no_label():
    kd = KD(temperature=1.0, soft=1.0, hard=0.0)
    assert lessons_of(LabelRefinery(rounds=2)) == (
        Lesson(name="1", method=kd, teachers=(TEACHER,), fresh=True),
        Lesson(name="", method=kd, teachers=(".1",), fresh=True),
    )
    static = lessons_of(LabelRefinery(rounds=3, labels="static"))
    assert [part.method for part in static if isinstance(part, Lesson)] == [StaticLabels()] * 3


def refine(z_s, z_t):
    cast = fixed(z_s, z_t)
    (lesson,) = lessons_of(LabelRefinery(rounds=1))
    assert isinstance(lesson, Lesson)
    ((_, terms),) = run(only(lesson.method.phases(cast)), cast.example)
    return terms["kd"].value.detach().double().numpy()


def test_a_sure_and_correct_refinery_is_the_label():
    rows, y = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], [2, 1]
    sure = (200.0 * torch.nn.functional.one_hot(torch.tensor(y), 3)).tolist()
    wanted = [-math.log(softmax(row)[k]) for row, k in zip(rows, y, strict=True)]
    assert refine(rows, sure) == pytest.approx(wanted, abs=1e-5)


def test_the_floor_is_the_refinerys_own_entropy():
    """The loss is the cross-entropy without the part that no student can change."""
    z_t = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]
    assert refine(z_t, z_t) == pytest.approx([0.0, 0.0], abs=1e-6)
    z_s = [[0.3, 0.1, -1.0], [2.0, 0.0, 0.0]]
    p, q = [softmax(z) for z in z_t], [softmax(z) for z in z_s]
    cross = [-(a * np.log(b)).sum() for a, b in zip(p, q, strict=True)]
    entropy = [-(a * np.log(a)).sum() for a in p]
    assert refine(z_s, z_t) == pytest.approx([c - h for c, h in zip(cross, entropy, strict=True)], abs=1e-6)


def test_labels_belong_to_the_crop_unless_they_are_static():
    """Two crops of the same rows: dynamic labels are two, static ones are one."""
    cast = stage(student=net(3), teacher=net(5))
    first = cast.example._replace(rows=torch.arange(6))
    second = first._replace(inputs=first.inputs.flip(-1))
    cast = Cast(models=cast.models, example=first, rows=6)
    teacher = cast.models["teacher"].eval()
    with torch.no_grad():
        wanted = [teacher(b.inputs).softmax(1) for b in (first, second)]
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3

    def labels_seen(method):
        phase = only(method.phases(cast))
        student = cast.models["student"]
        found = []
        for batch in (first, second):
            run(phase, batch)
            # The gradient of the loss with respect to the last bias is the mean of q - p.
            logits = copy.deepcopy(student).train()(batch.inputs)
            found.append(logits.softmax(1).mean(0) - student.fc.bias.grad)
        return found

    dynamic = labels_seen(KD(temperature=1.0, soft=1.0, hard=0.0))
    static = labels_seen(StaticLabels())
    for k in range(2):
        assert torch.allclose(dynamic[k], wanted[k].mean(0), atol=1e-5)
        assert torch.allclose(static[k], wanted[0].mean(0), atol=1e-5)


def test_a_row_keeps_its_first_label_wherever_it_comes_again():
    z_t = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]
    cast = fixed([[0.0, 0.0, 0.0]] * 2, z_t)
    phase = only(StaticLabels(temperature=2.0).phases(cast))
    ((_, before),) = run(phase, cast.example)
    cast.models["teacher"].rows.data.neg_()  # it says something else now
    ((_, after),) = run(phase, cast.example._replace(rows=torch.tensor([1, 0])))
    assert torch.allclose(after["kd"].value, before["kd"].value.flip(0), atol=1e-6)
    ((_, plain),) = run(only(KD(temperature=2.0, soft=1.0, hard=0.0).phases(fixed([[0.0] * 3] * 2, z_t))), cast.example)
    assert torch.allclose(before["kd"].value, plain["kd"].value, atol=1e-6)


def test_static_labels_need_to_know_the_rows():
    cast = stage()
    with pytest.raises(DataError, match=r"does not say which rows it holds .* limbeck.Batch\(inputs, targets, rows\)"):
        StaticLabels().phases(cast)
    rows = cast.example._replace(rows=torch.arange(6))
    with pytest.raises(DataError, match="this loader does not say how many there are: give it an attribute 'rows'"):
        StaticLabels().phases(Cast(models=cast.models, example=rows))
    phase = only(StaticLabels().phases(Cast(models=cast.models, example=rows, rows=6)))
    with pytest.raises(DataError, match="a batch holds rows 2 to 7 of data that has 6 rows: they count from 0 to 5"):
        run(phase, cast.example._replace(rows=torch.arange(2, 8)))


# -- assistants ------------------------------------------------------------------------------------


def test_every_hop_learns_from_the_one_before_and_no_other():
    kd = KD(temperature=4.0, soft=0.9, hard=0.1)
    assert lessons_of(TeacherAssistant(assistants=["large", "medium"])) == (
        Lesson(name="large", method=kd, student="large", teachers=(TEACHER,)),
        Lesson(name="medium", method=kd, student="medium", teachers=(".large",)),
        Lesson(name="", method=kd, student=STUDENT, teachers=(".medium",)),
    )


def test_without_assistants_it_is_kd():
    found = lessons_of(TeacherAssistant(temperature=2.0, soft=Ramp(start=1, end=0), hard=0.5))
    assert found == (Lesson(method=KD(temperature=2.0, soft=Ramp(start=1, end=0), hard=0.5)),)


# -- defensive distillation ------------------------------------------------------------------------


def test_both_trainings_are_at_the_temperature_and_the_second_sees_no_label():
    teacher, last = lessons_of(DefensiveDistillation(temperature=10.0))
    assert isinstance(teacher, Lesson)
    assert isinstance(last, Lesson)
    assert (teacher.name, teacher.teachers, teacher.student, teacher.fresh) == ("teacher", (), STUDENT, False)
    assert teacher.method == Supervised(temperature=10.0)
    assert (last.name, last.teachers, last.student, last.fresh) == ("", (".teacher",), STUDENT, True)
    assert not is_taught(DefensiveDistillation())


def test_the_teachers_loss_is_at_the_temperature():
    rows, y, t = [[1.0, 2.0, 3.0], [0.5, -1.0, 0.0]], [2, 1], 5.0
    lesson = lessons_of(DefensiveDistillation(temperature=t))[0]
    assert isinstance(lesson, Lesson)
    cast = fixed(rows, rows, y)
    ((_, terms),) = run(only(lesson.method.phases(cast)), cast.example)
    wanted = [-math.log(softmax(row, t)[k]) for row, k in zip(rows, y, strict=True)]
    assert terms["ce"].value.tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_second_loss_has_no_squared_temperature():
    z_s, z_t, t = [[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]], 4.0
    lesson = lessons_of(DefensiveDistillation(temperature=t))[-1]
    assert isinstance(lesson, Lesson)
    cast = fixed(z_s, z_t)
    ((_, terms),) = run(only(lesson.method.phases(cast)), cast.example)
    assert list(terms) == ["kd"]
    p, q = softmax(z_t[0], t), softmax(z_s[0], t)
    assert sum(w * v.mean().item() for v, w in terms.values()) == pytest.approx((p * np.log(p / q)).sum(), abs=1e-7)
    # methods.md R3.1: the un-scaled gradient at T = 4 is (q - p) / 4
    golden = [-0.04123843, 0.0, 0.04123843]
    assert cast.models["student"].rows.grad.tolist()[0] == pytest.approx(golden, abs=1e-7)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BornAgain(generations=0), "generations = 0: 1 or more"),
        (lambda: BornAgain(generations=2.5), "generations = 2.5: a whole number"),
        (lambda: BornAgain(control="both"), "control = 'both': 'cwtm', 'dkpp', or nothing at all"),
        (lambda: BornAgain(control="cwtm", hard=1.0), "hard = 1.0: 0 with control = 'cwtm'"),
        (lambda: BornAgain(control="cwtm", soft=0.5), "soft = 0.5: 1 with control = 'cwtm'"),
        (lambda: BornAgain(soft=0, hard=0), "soft, hard: all are zero"),
        (lambda: ConfidenceWeighted(temperature=-1), "temperature = -1: a temperature is more than zero"),
        (lambda: DarkKnowledgePermuted(soft=0), "soft, hard: all are zero"),
        (lambda: LabelRefinery(rounds=0), "rounds = 0: 1 or more"),
        (lambda: LabelRefinery(labels="frozen"), "labels = 'frozen': one of dynamic, static"),
        (lambda: StaticLabels(temperature=float("inf")), "temperature = inf"),
        (lambda: TeacherAssistant(assistants="medium"), r"assistants = 'medium': a list of names, such as \[medium\]"),
        (lambda: TeacherAssistant(assistants=("a", "a")), "assistants: 'a' is there 2 times; once is enough"),
        (lambda: TeacherAssistant(assistants=("student",)), "'student' always means the stage's own student"),
        (lambda: TeacherAssistant(assistants=("teacher",)), "'teacher' always means the stage's own teacher"),
        (lambda: TeacherAssistant(assistants=(".1",)), "'.1' is no name of a model"),
        (lambda: TeacherAssistant(temperature=0), "temperature = 0"),
        (lambda: DefensiveDistillation(temperature=0.5), "temperature = 0.5: 1 or more"),
        (lambda: DefensiveDistillation(temperature=float("nan")), "temperature = nan: 1 or more"),
        (lambda: Supervised(temperature=0), "temperature = 0: a temperature is more than zero"),
    ],
)
def test_settings_outside_their_range(make, words):
    with pytest.raises(HyperParameterError, match=words):
        make()
