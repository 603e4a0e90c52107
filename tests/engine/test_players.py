"""Who trains, who is frozen, who moves first: the promises of `limbeck.phase`, tried with methods made up here."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from engine_small import Seeking, Toy, conv_net, flat_net, same, state
from torch import nn

from limbeck.engine.loop import fit
from limbeck.engine.rehearsal import rehearse
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown
from limbeck.methods import FitNets, Supervised
from limbeck.phase import Batch, Phase, Term, Update
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))
PLAIN = Optimizer(lr=0.05, momentum=0.0, nesterov=False, weight_decay=0.0)


def train(method, models, data=None, **training):
    settings = Training(**{"epochs": 1, "batch_size": 6, "optimizer": PLAIN, **training})
    return fit(method, models, data or Seeking(), training=settings, team=CPU)


@dataclass
class Steps:
    """One phase with the step, the owners and the modules that a test wants."""

    step: object
    trains: dict
    extra: dict
    taps: tuple = ("student",)
    optimizers: dict | None = None

    def phases(self, cast):
        return (
            Phase(
                name="made",
                modules={**cast.models, **self.extra},
                trains=self.trains,
                taps=dict.fromkeys(self.taps, ()),
                step=self.step,
                optimizers=self.optimizers or {},
            ),
        )


def test_a_plug_in_method_is_trained_like_any_other():
    models = {"student": conv_net(3), "teacher": conv_net(5, seed=1)}
    x = Seeking().x

    def gap():
        return float((models["student"].eval()(x) - models["teacher"].eval()(x)).square().sum(1).mean().detach())

    before = gap()
    train(Toy(), models, epochs=4)
    assert gap() < 0.5 * before


class Maker(nn.Module):
    """A generator of images: adds a pattern that it learns."""

    def __init__(self):
        super().__init__()
        self.pattern = nn.Parameter(torch.zeros(1, 1, 8, 8))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        return x + self.pattern


def test_two_players_take_turns_and_the_second_sees_the_first_moved():
    """As without data: a generator works against the student, through both networks, then the student learns."""
    seen = []
    student, teacher, maker = conv_net(3), conv_net(5, seed=1), Maker()
    teacher.train()
    frozen = state(teacher)

    def step(models, batch, moment):
        made = models["maker"](batch.inputs)
        gap = (models["student"](made).output - models["teacher"](made)).square().sum(1)
        pattern, weight = maker.pattern.detach().clone(), student.fc.weight.detach().clone()
        yield Update("maker", {"against": Term(-gap, 1.0)})
        seen.append((not torch.equal(pattern, maker.pattern), torch.equal(weight, student.fc.weight)))
        made = models["maker"](batch.inputs).detach()
        gap = (models["student"](made).output - models["teacher"](made)).square().sum(1)
        yield Update("student", {"gap": Term(gap)})
        seen.append((maker.pattern.grad is None, not torch.equal(weight, student.fc.weight)))

    method = Steps(step, {"maker": ("maker",), "student": ("student",)}, {"maker": maker})
    train(method, {"student": student, "teacher": teacher})
    assert seen == [(True, True)] * 8
    assert same(frozen, state(teacher)), "gradients went through it, and nothing stuck"
    assert all(p.grad is None for p in teacher.parameters())
    assert maker.pattern.abs().sum() > 0


def test_one_players_gradient_reaches_no_other_player():
    student, peer = flat_net(), flat_net(seed=1)

    def step(models, batch, moment):
        gap = (models["student"](batch.inputs).output - models["peer"](batch.inputs)).square().sum(1)
        yield Update("student", {"gap": Term(gap)})
        assert all(p.grad is None for p in peer.parameters())

    before = state(peer)
    train(Steps(step, {"student": ("student",), "peer": ("peer",)}, {"peer": peer}), {"student": student})
    assert same(before, state(peer))


def test_mutual_learning_equals_a_loop_by_hand():
    """Peer 2 learns from peer 1 as it is after its step: against plain autograd."""

    def loss(ours, theirs, y):
        kl = nn.functional.kl_div(ours.log_softmax(1), theirs.detach().softmax(1), reduction="none").sum(1)
        return nn.functional.cross_entropy(ours, y, reduction="none") + kl

    def step(models, batch, moment):
        for me, other in (("student", "peer"), ("peer", "student")):
            yield Update(me, {"all": Term(loss(models[me](batch.inputs), models[other](batch.inputs), batch.targets))})

    student, peer = flat_net(), flat_net(seed=1)
    method = Steps(step, {"student": ("student",), "peer": ("peer",)}, {"peer": peer}, taps=())
    from limbeck.settings import Schedule

    train(method, {"student": student}, schedule=Schedule(kind="constant"))
    a, b = flat_net(), flat_net(seed=1)
    for batch in Seeking().epoch(0):
        for me, other in ((a, b), (b, a)):
            grads = torch.autograd.grad(
                loss(me(batch.inputs), other(batch.inputs), batch.targets).mean(), list(me.parameters())
            )
            with torch.no_grad():
                for p, g in zip(me.parameters(), grads):
                    p -= 0.05 * g
    for one, two in ((student, a), (peer, b)):
        for key, value in two.state_dict().items():
            assert torch.allclose(one.state_dict()[key], value, atol=1e-6), key


def test_each_player_may_have_its_own_optimizer(tmp_path):
    student, peer = flat_net(), flat_net(seed=1)
    before = state(student), state(peer)

    def step(models, batch, moment):
        for me in ("student", "peer"):
            yield Update(me, {"ce": Term(nn.functional.cross_entropy(models[me](batch.inputs), batch.targets))})

    own = {"peer": Optimizer(lr=1e-12, momentum=0.0, nesterov=False, weight_decay=0.0)}
    method = Steps(step, {"student": ("student",), "peer": ("peer",)}, {"peer": peer}, taps=(), optimizers=own)
    train(method, {"student": student})
    assert not torch.allclose(before[0]["fc.weight"], student.fc.weight)
    assert torch.allclose(before[1]["fc.weight"], peer.fc.weight, atol=1e-9)


def test_modes_are_those_of_the_phase():
    modes = []
    student, extra = conv_net(3), nn.BatchNorm1d(3)

    def step(models, batch, moment):
        modes.append((student.layer1[1].training, models["extra"].training, models["teacher"].training))
        yield Update(
            "student", {"ce": Term(nn.functional.cross_entropy(models["student"](batch.inputs).output, batch.targets))}
        )

    teacher = conv_net(5, seed=1).train()
    student.eval()
    train(
        Steps(step, {"student": ("student", "extra")}, {"extra": extra}),
        {"student": student, "teacher": teacher},
        epochs=2,
    )
    assert modes == [(True, True, False)] * 8
    assert teacher.training
    assert not student.training


def refused(step, trains=None, extra=None, **more):
    with pytest.raises(LimbeckError) as error:
        train(Steps(step, trains or {"student": ("student",)}, extra or {}), {"student": flat_net()}, **more)
    return str(error.value)


def ce(models, batch):
    return Term(nn.functional.cross_entropy(models["student"](batch.inputs).output, batch.targets, reduction="none"))


def test_a_player_without_parameters_cannot_be_asked_for_a_step():
    def step(models, batch, moment):
        yield Update("empty", {"ce": ce(models, batch)})

    wanted = (
        "phase 'made' asks for a step of 'empty', who owns nothing that can be trained: "
        "all its parameters are frozen, or it is a quantized program, to be trained before Quantize"
    )
    assert refused(step, {"student": ("student",), "empty": ("extra",)}, {"extra": nn.ReLU()}) == wanted
    assert refused(step) == wanted, "nor can one that does not exist"


def test_a_loss_that_depends_on_nothing_that_is_trained():
    def step(models, batch, moment):
        yield Update("student", {"ce": Term(ce(models, batch).value.detach())})

    assert refused(step) == (
        "phase 'made': the loss of 'student' (ce) does not depend on anything that 'student' trains"
    )


def test_an_update_without_terms():
    def step(models, batch, moment):
        yield Update("student", {})

    assert refused(step) == "phase 'made': an update of 'student' came without terms"


def test_parts_of_a_batch_that_ask_for_different_players():
    def step(models, batch, moment):
        yield Update("student" if 0 in batch.targets else "peer", {"ce": ce(models, batch)})

    class Sorted(Seeking):
        def epoch(self, epoch, rank=0, world=1, skip=0):
            yield Batch(torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))

    text = refused(
        step, {"student": ("student",), "peer": ("peer",)}, {"peer": flat_net()}, data=Sorted(batches=1), accumulate=2
    )
    assert "asks for a step of 'student' for one part of a batch and of 'peer' for another" in text


def test_a_step_may_ask_for_nothing():
    student = flat_net()
    before = state(student)

    def step(models, batch, moment):
        models["student"](batch.inputs)
        yield from ()

    train(Steps(step, {"student": ("student",)}, {}), {"student": student})
    assert same(before, state(student))


# -- the contract itself -------------------------------------------------------------------------


def test_a_module_has_one_owner():
    net = flat_net()
    with pytest.raises(LimbeckError, match="module 'net' is owned by both 'a' and 'b'; a module has one owner"):
        Phase(name="p", modules={"net": net}, trains={"a": ("net",), "b": ("net",)}, taps={}, step=lambda *_: iter(()))


@pytest.mark.parametrize(
    "where", [{"trains": {"a": ("nett",)}}, {"taps": {"nett": ()}}, {"stops": frozenset({"nett"})}]
)
def test_what_a_phase_names_exists(where):
    given = {"trains": {}, "taps": {}, **where}
    with pytest.raises(NameUnknown, match=r"no module 'nett' in phase 'p'; near: net"):
        Phase(name="p", modules={"net": flat_net()}, step=lambda *_: iter(()), **given)


def test_the_frozen_ask_for_no_gradients():
    """Not only is nothing stored: the graph through the teacher is never made."""
    seen = []
    student, teacher, extra = flat_net(), flat_net(seed=1), flat_net(seed=2)

    def step(models, batch, moment):
        outputs = {role: models[role](batch.inputs) for role in ("teacher", "extra")}
        seen.append({role: y.requires_grad for role, y in outputs.items()})
        yield Update("student", {"ce": ce(models, batch)})

    method = Steps(step, {"student": ("student",)}, {"extra": extra})
    train(method, {"student": student, "teacher": teacher})
    assert seen == [{"teacher": False, "extra": False}] * 4
    assert all(p.requires_grad for net in (student, teacher, extra) for p in net.parameters())


def test_every_step_has_random_numbers_of_its_own():
    drawn = []

    def step(models, batch, moment):
        drawn.append((float(torch.rand(1, generator=moment.generator)), float(torch.rand(1))))
        yield Update("student", {"ce": ce(models, batch)})

    train(Steps(step, {"student": ("student",)}, {}), {"student": flat_net()}, epochs=3)
    assert len(drawn) == 12
    assert len({value for pair in drawn for value in pair}) >= 12
    assert len({own for own, _ in drawn}) == 12
    assert len({common for _, common in drawn}) == 12


def test_parameters_that_two_modules_of_a_player_share_move_once():
    def cross_entropy(models, batch, moment):
        yield Update(
            "student", {"ce": Term(nn.functional.cross_entropy(models["student"](batch.inputs).logits, batch.targets))}
        )

    alone, twice = flat_net(), flat_net()
    train(Steps(cross_entropy, {"student": ("student",)}, {}), {"student": alone})
    train(Steps(cross_entropy, {"student": ("student", "head")}, {"head": twice.fc}), {"student": twice})
    assert same(state(alone), state(twice))


@pytest.mark.parametrize(
    ("trains", "words"),
    [
        ({"student": ("student",), "other": ("head",)}, "train the same weights"),
        ({"student": ("student",)}, "nobody trains 'head', but 'student' trains some of its weights"),
    ],
)
def test_one_module_under_two_names_is_found(trains, words):
    student = flat_net()

    def step(models, batch, moment):
        yield Update("student", {"ce": Term(models["student"](batch.inputs).logits.mean())})

    with pytest.raises(LimbeckError, match=words):
        train(Steps(step=step, trains=trains, extra={"head": student.fc}), {"student": student})


def test_too_few_epochs_for_the_phases_are_refused():
    models = {"student": conv_net(2), "teacher": conv_net(4, seed=1)}
    with pytest.raises(HyperParameterError, match=r"epochs = 1: too few for the 2 phases .* left for 'hint'"):
        train(FitNets(), models, epochs=1)


def test_a_student_that_nobody_trains_is_refused():
    models = {"student": conv_net(3), "peer2": conv_net(3, seed=1)}
    text = "this method trains no peer2: such a student would end as it began"
    with pytest.raises(LimbeckError, match=text):
        fit(Supervised(), models, Seeking(), training=Training(epochs=1), team=Team(torch.device("cpu")))
    with pytest.raises(LimbeckError, match=text):
        rehearse(Supervised(), models, next(Seeking().epoch(0)), 3)
