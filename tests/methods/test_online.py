"""Students that learn together: the numbers worked out by hand, and what their formulas imply."""

from __future__ import annotations

import copy

import pytest
import torch
from mini_driver import images, moment, net, run
from torch import nn

from limbeck.engine.loop import fit
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, LimbeckError, ShapeError, TargetError
from limbeck.methods import Cohort, MutualLearning, Supervised
from limbeck.phase import Batch, Cast, Moment
from limbeck.settings import Optimizer, Ramp, Schedule, Training

Z1, Z2 = (2.0, 0.0, 0.0), (0.0, 1.0, 0.0)
# methods.md R9, worked out for y = 0
CE1, CE2, KL12, KL21 = 0.23954477, 1.55144471, 0.77936505, 0.84033382


class Fixed(nn.Module):
    """A network that always says the same, and counts how often it is asked."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))
        self.asked = 0

    def forward(self, x):
        self.asked += 1
        return 1.0 * self.scores.expand(len(x), -1)  # no view of the weights, which move


def cast_of(*models, batch=None):
    roles = ["student", *(f"peer{k}" for k in range(2, len(models) + 1))]
    return Cast(models=dict(zip(roles, models, strict=True)), example=batch or images())


def fixed(*scores, target=0, n=1):
    return cast_of(*(Fixed(*s) for s in scores), batch=Batch(torch.zeros(n, 1), torch.full((n,), target)))


def only(phases):
    (phase,) = phases
    return phase


def totals(updates):
    return {player: sum(w * v.double().mean().item() for v, w in terms.values()) for player, terms in updates}


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
def test_golden_losses_of_two(schedule):
    cast = fixed(Z1, Z2)
    (one, first), (two, second) = run(only(MutualLearning(schedule=schedule).phases(cast)), cast.example)
    assert (one, two) == ("student", "peer2")
    assert first["ce"].value.item() == pytest.approx(CE1, abs=1e-6)
    assert first["mutual"].value.item() == pytest.approx(KL21, abs=1e-6)
    assert second["ce"].value.item() == pytest.approx(CE2, abs=1e-6)
    assert second["mutual"].value.item() == pytest.approx(KL12, abs=1e-6)
    found = totals([(one, first), (two, second)])
    assert found["student"] == pytest.approx(1.07987854, abs=1e-6)
    assert found["peer2"] == pytest.approx(2.33080977, abs=1e-6)


def test_swapping_the_roles_swaps_the_losses():
    for method in (MutualLearning(schedule="simultaneous", temperature=2.0), Cohort(), Cohort(over="others")):
        one = totals(run(only(method.phases(fixed(Z1, Z2))), fixed(Z1, Z2).example))
        two = totals(run(only(method.phases(fixed(Z2, Z1))), fixed(Z1, Z2).example))
        assert one["student"] == pytest.approx(two["peer2"], abs=1e-6)
        assert one["peer2"] == pytest.approx(two["student"], abs=1e-6)


def test_three_students_average_their_peers():
    z3 = (0.0, 0.0, -1.0)
    cast = fixed(Z1, Z2, z3)
    updates = dict(run(only(MutualLearning(schedule="simultaneous").phases(cast)), cast.example))
    p = [torch.tensor(z, dtype=torch.float64).softmax(0).tolist() for z in (Z1, Z2, z3)]

    def kl(a, b):
        return sum(x * (torch.tensor(x).log() - torch.tensor(y).log()).item() for x, y in zip(a, b, strict=True))

    for k, player in enumerate(("student", "peer2", "peer3")):
        wanted = sum(kl(p[other], p[k]) for other in range(3) if other != k) / 2
        assert updates[player]["mutual"].value.item() == pytest.approx(wanted, abs=1e-6)


def test_the_cohorts_mean_by_hand():
    z3, t = (0.0, 0.0, -1.0), 3.0
    p = [torch.tensor([v / t for v in z], dtype=torch.float64).softmax(0) for z in (Z1, Z2, z3)]
    for over, members in (("all", [0, 1, 2]), ("others", [0, 2])):
        cast = fixed(Z1, Z2, z3)
        updates = dict(run(only(Cohort(over=over, temperature=t).phases(cast)), cast.example))
        m = sum(p[k] for k in members) / len(members)
        wanted = t * t * (m * (m / p[1]).log()).sum().item()
        assert updates["peer2"]["community"].value.item() == pytest.approx(wanted, abs=1e-6)


def test_a_cohort_of_two_over_the_others_is_mutual_learning():
    ends = []
    for method in (Cohort(over="others"), MutualLearning(schedule="simultaneous")):
        torch.manual_seed(0)
        cast = cast_of(net(3), net(4))
        phase = only(method.phases(cast))
        for _ in range(3):
            run(phase, cast.example, lr=0.1)
        ends.append({f"{role}.{k}": v for role, m in cast.models.items() for k, v in state(m).items()})
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [MutualLearning(schedule="simultaneous"), Cohort(), Cohort(over="others")])
def test_identical_students_stay_identical_and_learn_as_if_alone(method):
    torch.manual_seed(0)
    one = net(3)
    cast = cast_of(one, copy.deepcopy(one))
    phase = only(method.phases(cast))
    alone = cast_of(copy.deepcopy(one))
    lonely = only(Supervised().phases(alone))
    for _ in range(3):
        for _, terms in run(phase, cast.example, lr=0.1):
            assert abs(terms.get("mutual", terms.get("community")).value).max() < 1e-6
        run(lonely, cast.example, lr=0.1)
    assert same(state(cast.models["student"]), state(cast.models["peer2"]))
    for key, value in state(alone.models["student"]).items():
        torch.testing.assert_close(cast.models["student"].state_dict()[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "method", [MutualLearning(weight=0), MutualLearning(weight=0, schedule="simultaneous"), Cohort(weight=0)]
)
def test_without_weight_everybody_learns_alone(method):
    torch.manual_seed(0)
    start = [net(3), net(4)]
    cast = cast_of(*copy.deepcopy(start))
    phase = only(method.phases(cast))
    for _ in range(2):
        assert all(list(terms) == ["ce"] for _, terms in run(phase, cast.example, lr=0.1))
    for model, role in zip(start, ("student", "peer2"), strict=True):
        alone = cast_of(model)
        for _ in range(2):
            run(only(Supervised().phases(alone)), cast.example, lr=0.1)
        assert same(state(model), state(cast.models[role]))  # running statistics, too


def test_in_sequence_each_sees_those_before_it_moved():
    cast = fixed(Z1, Z2, Z1)
    phase = only(MutualLearning().phases(cast))
    one, two, three = cast.models.values()
    before = one.scores.detach().clone()
    asked = [m.asked for m in (one, two, three)]
    updates = dict(run(phase, cast.example, lr=0.5))
    assert [m.asked - a for m, a in zip((one, two, three), asked, strict=True)] == [2, 2, 1]
    moved = one.scores.detach().softmax(0)
    assert not torch.equal(one.scores, before)
    z2, z3 = torch.tensor(Z2), torch.tensor(Z1)
    wanted = [(p * (p.log() - z2.log_softmax(0))).sum().item() for p in (moved, z3.softmax(0))]
    assert updates["peer2"]["mutual"].value.item() == pytest.approx(sum(wanted) / 2, abs=1e-6)
    # The second has moved as well by the time the third looks.
    seen = [(p * (p.log() - z3.log_softmax(0))).sum().item() for p in (moved, two.scores.detach().softmax(0))]
    assert updates["peer3"]["mutual"].value.item() == pytest.approx(sum(seen) / 2, abs=1e-6)


def test_at_once_nobody_sees_another_moved():
    cast = fixed(Z1, Z2)
    asked = [m.asked for m in cast.models.values()]
    phase = only(MutualLearning(schedule="simultaneous").phases(cast))
    extra = [m.asked - a for m, a in zip(cast.models.values(), asked, strict=True)]  # the look at the networks
    found = dict(run(phase, cast.example, lr=0.5))
    assert [m.asked - a for m, a in zip(cast.models.values(), asked, strict=True)] == [e + 1 for e in extra]
    assert found["peer2"]["mutual"].value.item() == pytest.approx(KL12, abs=1e-6)


@pytest.mark.parametrize("method", [MutualLearning(), MutualLearning(schedule="simultaneous"), Cohort()])
def test_no_gradient_reaches_a_peer(method):
    cast = fixed(Z1, Z2, n=4)
    phase = only(method.phases(cast))
    models = dict(phase.modules)
    from limbeck.taps import Tapped

    wrapped = {role: Tapped(m) for role, m in models.items()}
    for update in phase.step(wrapped, cast.example, moment()):
        for m in models.values():
            m.scores.grad = None
        sum(w * v.mean() for v, w in update.terms.values()).backward()
        assert [role for role, m in models.items() if m.scores.grad is not None] == [update.player]


def test_an_exchange_every_third_step():
    cast = fixed(Z1, Z2)
    phase = only(Cohort(every=3).phases(cast))
    seen = []
    for step in range(7):
        when = Moment(torch.Generator().manual_seed(0), 0.0, 1.0, step)
        seen.append("community" in run(phase, cast.example, when)[0][1])
    assert seen == [True, False, False, True, False, False, True]


def test_a_ramp_starts_without_the_others():
    cast = fixed(Z1, Z2)
    phase = only(MutualLearning(weight=Ramp(start=0.0, end=2.0)).phases(cast))
    assert [run(phase, cast.example, moment(e, 4.0))[0][1]["mutual"].weight for e in (0.0, 2.0, 4.0)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("method", [MutualLearning(), Cohort()])
def test_one_student_is_not_enough(method):
    words = "needs two or more students, and here is one: a stage of kind 'together' .* limbeck.train_together"
    with pytest.raises(HyperParameterError, match=words):
        method.phases(Cast(models={"student": net(3), "teacher": net(4)}, example=images()))


@pytest.mark.parametrize("method", [MutualLearning(), Cohort()])
def test_students_that_do_not_fit_together(method):
    with pytest.raises(ShapeError, match=r"different numbers of classes \(student 3, peer2 4\)"):
        method.phases(cast_of(net(3, 3), net(3, 4)))
    with pytest.raises(ShapeError, match="1 logit per sample"):
        method.phases(cast_of(net(3, 1), net(3, 1)))


def test_without_labels_the_user_is_warned():
    cast = cast_of(net(3), net(4), batch=images(labels=False))
    assert "only copy each other" in only(MutualLearning(hard=0).phases(cast)).notes[0]
    assert only(MutualLearning().phases(cast_of(net(3), net(4)))).notes == ()
    with pytest.raises(TargetError, match="needs labels"):
        Cohort().phases(cast)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MutualLearning(schedule="parallel"), "schedule = 'parallel': one of sequential, simultaneous"),
        (lambda: MutualLearning(temperature=0), "temperature = 0: a temperature is more than zero"),
        (lambda: MutualLearning(weight=0, hard=0), "weight, hard: all are zero"),
        (lambda: Cohort(weight=-1.0), "weight = -1.0: a loss weight is zero or more"),
        (lambda: Cohort(over="some"), "over = 'some': one of all, others"),
        (lambda: Cohort(every=0), "every = 0: 1"),
        (lambda: Cohort(every=1.5), "every = 1.5: a whole number"),
        (lambda: Cohort(every=2, hard=0), "every = 2 with hard = 0: between two exchanges"),
    ],
)
def test_settings_outside_their_range(make, words):
    with pytest.raises(HyperParameterError, match=words):
        make()


class Same:
    """The same batch, several times per epoch."""

    steps = None

    def __init__(self, batch, times=2):
        self.batch, self.times = batch, times

    def epoch(self, epoch, rank=0, world=1, skip=0):
        return iter([self.batch] * (self.times - skip))


def trained(models, method, **changes):
    training = Training(
        epochs=2,
        batch_size=6,
        optimizer=Optimizer(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0),
        schedule=Schedule(kind="constant"),
        **changes,
    )
    return fit(method, models, Same(images()), training=training, team=Team(torch.device("cpu")))


@pytest.mark.parametrize("method", [MutualLearning(), Cohort(every=2)])
def test_the_engine_trains_all_of_them_as_the_small_driver_does(method):
    torch.manual_seed(0)
    start = {"student": net(3), "peer2": net(4)}
    by_engine, by_driver = copy.deepcopy(start), copy.deepcopy(start)
    trained(by_engine, method)
    phase = only(method.phases(Cast(models=by_driver, example=images())))
    for step in range(4):
        run(phase, images(), Moment(torch.Generator(), 0.0, 1.0, step), lr=0.1)
    for role, model in start.items():
        assert not same(state(model), state(by_engine[role]))
        for key, value in state(by_driver[role]).items():
            torch.testing.assert_close(by_engine[role].state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_give_the_same_where_nothing_is_counted_over_it():
    torch.manual_seed(0)
    start = {"student": net(3, norm=False), "peer2": net(4, norm=False)}
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    trained(whole, MutualLearning())
    trained(parts, MutualLearning(), accumulate=3)
    for role in start:
        for key, value in state(whole[role]).items():
            torch.testing.assert_close(parts[role].state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_students_that_share_weights_are_refused():
    shared = net(3)
    with pytest.raises(LimbeckError, match="'student' and 'peer2' train the same weights"):
        trained({"student": shared, "peer2": shared}, MutualLearning())
