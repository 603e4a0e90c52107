"""Courses, several teachers and several students from Python."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, RunFolderError

CLASSES = 3


def pairs(n=24, size=6):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=g)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    return [(x[i : i + size], y[i : i + size]) for i in range(0, n, size)]


def net(width=8, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, CLASSES))


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def quick(teacher, student, **more):
    return lk.distill(teacher, student, pairs(), quiet=True, device="cpu", **{"epochs": 2, **more})


def test_generations_start_afresh_and_follow_each_other():
    teacher, student = net(seed=1), net(seed=2)
    before = state(teacher)
    done = quick(teacher, student, method=lk.BornAgain(generations=3), evaluate=pairs())
    assert done is student
    assert list(student.lessons) == ["1", "2", "ensemble"]
    assert list(student.record.lessons) == ["1", "2", "ensemble"]
    assert same(before, state(teacher))
    generations = [state(student.lessons["1"]), state(student.lessons["2"]), state(student)]
    assert not any(same(a, b) for i, a in enumerate(generations) for b in generations[:i])
    x = pairs()[0][0]
    mean = torch.stack([m(x).softmax(1) for m in (*list(student.lessons.values())[:2], student)]).mean(0)
    torch.testing.assert_close(student.lessons["ensemble"](x).softmax(1), mean)
    assert student.record.lessons["ensemble"].after["student"]["n"] == 24
    assert (
        student.record.lessons["ensemble"].cost["student"]["parameters"]
        == 3 * student.record.cost["student"]["parameters"]
    )


def test_a_course_repeats_and_does_not_touch_the_callers_numbers():
    teacher, student = net(seed=1), net(seed=2)
    numbers = torch.random.get_rng_state()
    first = state(quick(teacher, student, method=lk.BornAgain(generations=2), seed=3))
    assert torch.equal(numbers, torch.random.get_rng_state())
    assert same(first, state(quick(net(seed=1), net(seed=9), method=lk.BornAgain(generations=2), seed=3))), (
        "the last generation starts from weights of its own, not from those of the student that was handed over"
    )


def test_each_generation_learns_from_the_one_before():
    teacher, student = net(seed=1), net(seed=2)
    quick(teacher, student, method=lk.BornAgain(generations=2), seed=3, epochs=40)
    second = copy.deepcopy(student)
    x = torch.cat([x for x, _ in pairs()])

    def gap(a, b):
        return float((a(x).softmax(1) - b(x).softmax(1)).abs().mean())

    with torch.no_grad():
        assert gap(student.lessons["1"], teacher) < gap(net(seed=7), teacher)
        assert gap(second, student.lessons["1"]) < gap(second, teacher)


def test_an_interrupted_course_goes_on(tmp_path):
    straight = state(quick(net(seed=1), net(seed=2), method=lk.BornAgain(generations=3)))

    class Stops(list):
        left = 9

        def __iter__(self):
            for item in super().__iter__():
                Stops.left -= 1
                if Stops.left == 0:
                    raise KeyboardInterrupt
                yield item

    method, more = lk.BornAgain(generations=3), {"epochs": 2, "quiet": True, "device": "cpu", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        lk.distill(net(seed=1), net(seed=2), Stops(pairs()), method=method, **more)
    again = net(seed=2)
    lk.distill(net(seed=1), again, pairs(), method=method, **more)
    assert same(straight, state(again))
    assert {p.name for p in (tmp_path / "run").iterdir() if p.is_dir()} == {"1", "2"}
    third = net(seed=2)
    lk.distill(net(seed=1), third, pairs()[:1], method=method, **more)  # finished: nothing is trained again
    assert same(straight, state(third))


def test_one_course_is_not_taken_for_another(tmp_path):
    def go(method, out="out"):
        return quick(net(seed=1), net(seed=2), method=method, out=tmp_path / out)

    go(lk.BornAgain(generations=2))
    for other in (lk.BornAgain(generations=3), lk.TeacherAssistant()):
        with pytest.raises(RunFolderError, match=r"holds another course, BornAgain\(generations=2"):
            go(other)
    with pytest.raises(RunFolderError, match="holds a course; choose another out"):
        go(lk.KD())
    go(lk.KD(), "plain")
    with pytest.raises(RunFolderError, match="holds a training that is no course"):
        go(lk.BornAgain(generations=1), "plain")


def test_a_network_of_the_zoo_starts_as_the_zoo_does():
    def made():
        return lk.build("mlp", classes=CLASSES, in_channels=4, size=1, hidden=[64])

    student, teacher = made(), made()
    still = lk.Training(epochs=1, optimizer=lk.Optimizer(lr=1e-9))
    data = [(x.reshape(-1, 4, 1, 1), y) for x, y in pairs()]
    lk.distill(teacher, student, data, method=lk.BornAgain(generations=2), training=still, quiet=True, device="cpu")
    spread = student.lessons["1"].layer1[0].weight.std()
    assert 0.8 < spread / made().layer1[0].weight.std() < 1.25
    assert student.lessons["1"].layer1[0].bias.abs().max() < 1e-6, "torch's own start has biases"


def test_what_is_frozen_draws_no_new_weights():
    student = net(seed=2)
    student[0].requires_grad_(False)
    before = state(student[0])
    quick(net(seed=1), student, method=lk.BornAgain(generations=2))
    assert same(before, state(student[0]))
    assert same(before, state(student.lessons["1"][0]))
    with pytest.raises(HyperParameterError, match="parts of the student are frozen"):
        quick(net(seed=1), student, method=lk.BornAgain(generations=2), fresh=net)


@pytest.mark.parametrize("made", [lambda: net(32), lambda: 3])
def test_what_fresh_makes_is_looked_at_before_anything_trains(made):
    with pytest.raises(HyperParameterError, match="fresh= must make a network like the student"):
        quick(net(seed=1), net(seed=2), method=lk.BornAgain(generations=2), fresh=made)


@pytest.mark.parametrize("teacher", [None, {"a": net()}, "resnet8", [net(), "x"]])
def test_teachers_are_networks(teacher):
    with pytest.raises(HyperParameterError, match="networks are torch modules"):
        quick(teacher, net(seed=2))


def test_assistants_are_handed_over_by_name():
    teacher, mid, student = net(16, seed=1), net(8, seed=2), net(4, seed=3)
    before = state(mid)
    quick(teacher, student, method=lk.TeacherAssistant(assistants=("mid",)), models={"mid": mid})
    assert student.lessons["mid"] is mid
    assert not same(before, state(mid))
    with pytest.raises(HyperParameterError, match="along a chain of assistants networks get smaller"):
        quick(net(4), net(2), method=lk.TeacherAssistant(assistants=("mid",)), models={"mid": net(30)})
    with pytest.raises(NameUnknown, match="no network 'mid' in models=; near: middle"):
        quick(teacher, student, method=lk.TeacherAssistant(assistants=("mid",)), models={"middle": mid})


def test_a_chain_without_assistants_is_kd():
    a, b = net(4, seed=3), net(4, seed=3)
    quick(net(16, seed=1), a, method=lk.TeacherAssistant())
    quick(net(16, seed=1), b, method=lk.KD())
    assert same(state(a), state(b))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.fc(x * self.scale)


def test_networks_that_cannot_draw_new_weights_are_made_anew():
    with pytest.raises(HyperParameterError, match=r"'the model itself' \(Odd\) cannot draw new weights.* give fresh="):
        quick(net(seed=1), Odd(), method=lk.BornAgain(generations=2))
    done = quick(net(seed=1), Odd(), method=lk.BornAgain(generations=2), fresh=Odd)
    assert isinstance(done.lessons["1"], Odd)


def test_a_course_in_the_wrong_function():
    with pytest.raises(HyperParameterError, match=r"BornAgain learns from a teacher; use limbeck\.distill"):
        lk.train(net(), pairs(), method=lk.BornAgain(), quiet=True)
    with pytest.raises(HyperParameterError, match=r"DefensiveDistillation trains its own teacher; use limbeck\.train"):
        quick(net(seed=1), net(), method=lk.DefensiveDistillation())
    done = lk.train(net(), pairs(), method=lk.DefensiveDistillation(temperature=5), epochs=1, quiet=True, device="cpu")
    assert list(done.lessons) == ["teacher"]


def test_several_teachers():
    teachers = [net(seed=1), net(seed=4)]
    student = quick(teachers, net(seed=2), method=lk.EnsembleKD(), evaluate=pairs())
    assert set(student.record.cost) == {"student", "teacher1", "teacher2"}
    with pytest.raises(NameUnknown, match="this method learns from one teacher, and the stage names 2; EnsembleKD"):
        quick(teachers, net(seed=2), method=lk.KD())
    with pytest.raises(LimbeckError, match="teacher and student are the same module"):
        quick([net(seed=1), student], student, method=lk.EnsembleKD())


def test_students_beside_each_other(tmp_path):
    def run(out=None):
        students = [net(seed=1), net(6, seed=2), net(seed=3)]
        return lk.train_together(students, pairs(), epochs=2, evaluate=pairs(), quiet=True, device="cpu", out=out)

    plain, kept = run(), run(tmp_path / "run")
    for a, b in zip(plain, kept, strict=True):
        assert same(state(a), state(b))
    assert set(plain[0].record.after) == {"student", "peer2", "peer3"}
    assert {p.name for p in (tmp_path / "run").glob("*.safetensors")} == {
        "last.safetensors",
        "peer2.safetensors",
        "peer3.safetensors",
    }
    again = run(tmp_path / "run")  # finished: the weights come from the files
    assert all(same(state(a), state(b)) for a, b in zip(plain, again, strict=True))
    with pytest.raises(HyperParameterError, match="two or more learn from each other"):
        lk.train_together([net()], pairs())
    one = net()
    with pytest.raises(LimbeckError, match="students are the same module"):
        lk.train_together([one, one], pairs())


def test_a_sum_from_python():
    student = quick(
        net(seed=1), net(seed=2), method=lk.Sum(lk.KD(hard=0.0), lk.LogitMatching(standardize=False), hard=1.0)
    )
    assert [phase["name"] for phase in student.record.phases] == ["distill"]
