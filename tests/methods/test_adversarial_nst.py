"""Adversarial selectivity transfer: the value of the game, who moves when, and going on after a stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck import losses
from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, Interrupted, ShapeError, TapError, TargetError
from limbeck.losses.adversarial import channel_points
from limbeck.methods import KD, AdversarialNST, Sum, preset
from limbeck.phase import Batch, Cast
from limbeck.settings import Optimizer, Ramp, Training
from limbeck.taps import Tapped

PAIR = (("layer2", "layer2"),)


def only(method, cast):
    (phase,) = method.phases(cast)
    return phase


def state(module):
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log_sigmoid(v):
    return -math.log1p(math.exp(-v))


# -- the loss -------------------------------------------------------------------------------------


def test_identical_sets_and_the_best_discriminator_give_minus_log_four():
    value = losses.adversarial_value(torch.zeros(2, 4), torch.zeros(2, 7))
    assert value.tolist() == pytest.approx([-math.log(4)] * 2)


def test_the_value_by_hand():
    s, t = [[0.5, -1.0]], [[2.0, 0.0, -3.0]]
    wanted = sum(map(log_sigmoid, t[0])) / 3 + sum(log_sigmoid(-v) for v in s[0]) / 2
    assert losses.adversarial_value(torch.tensor(s), torch.tensor(t)).item() == pytest.approx(wanted, rel=1e-6)


def test_no_discriminator_beats_one_half_on_identical_sets():
    """Over any scores of one shared set of points the value is at most -log 4."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        scores = 3 * torch.randn(1, 6, generator=generator)
        assert losses.adversarial_value(scores, scores).item() < -math.log(4)


def test_points_are_unit_vectors_over_positions():
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    q, p = channel_points(s, t)
    x = s.numpy().reshape(2, 3, 2, 2, 2, 2).mean((3, 5)).reshape(2, 3, 4)
    assert np.allclose(q.numpy(), x / np.linalg.norm(x, axis=2, keepdims=True), atol=1e-6)
    assert tuple(p.shape) == (2, 5, 4)
    q, p = channel_points(t, s, resize="interpolate")
    assert tuple(q.shape) == (2, 5, 16)
    assert tuple(p.shape) == (2, 3, 16)
    assert not channel_points(s, t.requires_grad_())[1].requires_grad


# -- the method -------------------------------------------------------------------------------------


def score_by_hand(judge, points):
    """The discriminator in NumPy: [B, C, P] -> [B, C]."""
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in judge.parameters())
    hidden = points @ w1.T + b1
    return (np.where(hidden > 0, hidden, 0.2 * hidden) @ w2.T + b2)[..., 0]


def points_by_hand(maps):
    flat = maps.detach().double().numpy().reshape(*maps.shape[:2], -1)
    length = np.linalg.norm(flat, axis=2, keepdims=True)
    return flat / np.where(length == 0, 1, length)


@pytest.mark.parametrize("generator", ["non_saturating", "value"])
def test_the_terms_of_both_players_by_hand(generator):
    student, teacher = net(3, norm=False), net(5, norm=False)
    cast = stage(student, teacher)
    phase = only(AdversarialNST(pairs=PAIR, generator=generator, weight=2.0), cast)
    updates = run(phase, cast.example)  # at a rate of zero both see the same discriminator
    assert [player for player, _ in updates] == ["discriminator", "student"]
    told, learnt = (terms for _, terms in updates)
    assert list(told) == ["real/layer2", "fake/layer2"]
    assert list(learnt) == ["ce", "gan/layer2"]
    maps = []
    for model in (student, teacher):
        with torch.no_grad():
            maps.append(model.layer2(model.layer1(cast.example.inputs)))
    judge = phase.modules["discriminator"]
    fake, real = (score_by_hand(judge, points_by_hand(m)) for m in maps)
    log = np.vectorize(log_sigmoid)
    assert np.allclose(told["real/layer2"].value.detach(), -log(real).mean(1), atol=1e-5)
    assert np.allclose(told["fake/layer2"].value.detach(), -log(-fake).mean(1), atol=1e-5)
    wanted = -log(fake).mean(1) if generator == "non_saturating" else log(real).mean(1) + log(-fake).mean(1)
    assert np.allclose(learnt["gan/layer2"].value.detach(), wanted, atol=1e-5)
    assert learnt["gan/layer2"].weight == 2.0


def test_each_player_moves_its_own_and_the_student_sees_the_discriminator_moved():
    cast = stage()
    phase = only(AdversarialNST(hard=0.0), cast)
    judges = [role for role in phase.modules if role.startswith("discriminator")]
    assert judges == ["discriminator1", "discriminator2"]
    assert phase.trains == {"discriminator": tuple(judges), "student": ("student",)}
    players = {role: Tapped(m, phase.taps[role]) if role in phase.taps else m for role, m in phase.modules.items()}
    step = phase.step(players, cast.example, moment())
    told = next(step)
    sum(term.value.mean() for term in told.terms.values()).backward()
    assert all(p.grad is None for p in cast.models["student"].parameters()), "the student is a constant to it"
    with torch.no_grad():
        for role in judges:
            for p in phase.modules[role].parameters():
                p.fill_(0.0)
    learnt = next(step).terms
    for role in players:
        if role in phase.taps:
            players[role].close()
    for term in learnt.values():
        assert torch.allclose(term.value, torch.full((6,), math.log(2.0)))  # D = 1/2 everywhere
    assert next(step, None) is None
    params = list(cast.models["student"].parameters())
    torch.autograd.backward(sum(t.value.mean() for t in learnt.values()), inputs=params)
    assert not any(p.grad is not None and p.grad.any() for p in params), (
        "a discriminator that says nothing teaches nothing"
    )


def test_a_discriminator_alone_learns_to_tell_them_apart_and_not_where_there_is_nothing_to_tell():
    def game(twins):
        torch.manual_seed(0)
        student, teacher = net(4, norm=False), net(4, norm=False)
        if twins:
            teacher.load_state_dict(student.state_dict())
        cast = stage(student, teacher)
        phase = only(AdversarialNST(pairs=PAIR, hard=0.0, weight=0.0, soft=1.0), cast)
        judge = phase.modules["discriminator"]
        optimizer = torch.optim.Adam(judge.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            (_, told), _ = run(phase, cast.example)
            optimizer.step()
        return sum(float(term.value.detach().mean()) for term in told.values())

    assert game(twins=True) == pytest.approx(math.log(4), abs=0.02)
    assert game(twins=False) < 0.7


def test_an_all_zero_channel_is_a_point_like_any_other():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.fc = nn.Conv2d(1, 3, 1), nn.Linear(3, 3)
            with torch.no_grad():
                self.maps.weight.zero_()
                self.maps.bias.zero_()

        def forward(self, x):
            return self.fc(self.maps(x).mean((2, 3)))

    cast = stage(Dead(), 3)
    updates = run(only(AdversarialNST(pairs=[("maps", "layer2")]), cast), cast.example)
    assert all(torch.isfinite(term.value).all() for _, terms in updates for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in cast.models["student"].parameters())


def test_layers_sizes_notes_and_the_teachers_end():
    cast = stage(3, net(5, shrink=4))
    phase = only(AdversarialNST(pairs=[("layer2", "layer2"), ("layer2", "layer1")], hidden=7), cast)
    assert {r: m[0].weight.shape for r, m in phase.modules.items() if r.startswith("disc")} == {
        "discriminator1": (7, 4),
        "discriminator2": (7, 16),
    }
    assert phase.stops == {"teacher"}
    assert phase.notes == (
        "pairs: layer2 -> layer2, layer2 -> layer1",
        "a discriminator for each: 43, 127 weights",
    )
    (_, told), (_, learnt) = run(phase, cast.example)
    assert [name for name in told if name.startswith("real")] == ["real/layer2->layer2", "real/layer2->layer1"]
    assert list(learnt) == ["ce", "gan/layer2->layer2", "gan/layer2->layer1"]
    grown = only(AdversarialNST(pairs=PAIR, resize="interpolate", soft=0.9), cast)
    assert grown.modules["discriminator"][0].in_features == 4
    assert grown.stops == frozenset()
    assert list(run(grown, cast.example)[1][1]) == ["ce", "gan/layer2", "kd"]


def test_the_discriminator_has_an_optimizer_of_its_own():
    assert only(AdversarialNST(), stage()).optimizers["discriminator"].betas == (0.5, 0.999)
    own = Optimizer(kind="sgd", lr=0.3)
    assert only(AdversarialNST(discriminator_optimizer=own), stage()).optimizers == {"discriminator": own}
    assert preset("adversarial_nst", "paper").generator == "value"


def test_in_a_sum_the_game_goes_on_beside_the_other_method():
    cast = stage()
    updates = run(only(Sum(AdversarialNST(pairs=PAIR, hard=0.0), KD()), cast), cast.example, lr=0.01)
    assert [(player, list(terms)) for player, terms in updates] == [
        ("AdversarialNST.discriminator", ["real/layer2", "fake/layer2"]),
        ("student", ["gan/layer2", "ce", "kd"]),
    ]


# -- with the engine ----------------------------------------------------------------------------------


class Loader:
    steps = 4

    def epoch(self, epoch, rank=0, world=1, skip=0):
        for i in range(skip, 4):
            yield images(n=6, seed=10 * epoch + i)


class StopsAt:
    steps = 4

    def __init__(self, stop, at):
        self.stop, self.left, self.looked = stop, at, False

    def epoch(self, epoch, rank=0, world=1, skip=0):
        dry, self.looked = not self.looked, True
        for batch in Loader().epoch(epoch, rank, world, skip):
            if not dry:
                self.left -= 1
                self.stop.asked = self.left <= 0
            yield batch


def go(folder=None, *, stop_at=None, epochs=3, **settings):
    torch.manual_seed(0)
    models, stop = {"student": net(3), "teacher": net(5)}, Stop()
    training = Training(
        **{"epochs": epochs, "batch_size": 6, "optimizer": Optimizer(lr=0.05), "checkpoint": 1e3, **settings}
    )
    found = None
    try:
        found = fit(
            AdversarialNST(weight=Ramp(start=0.5, end=2.0)),
            models,
            Loader() if stop_at is None else StopsAt(stop, stop_at),
            training=training,
            team=Team(torch.device("cpu")),
            folder=folder,
            stop=stop,
        )
    except Interrupted:
        assert stop_at is not None
    return found, state(models["student"]), state(models["teacher"])


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 11])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(stop_at, tmp_path):
    """The discriminators and both optimizers are in the checkpoint, too."""
    _, straight, _ = go(tmp_path / "a")
    found, left, _ = go(tmp_path / "b", stop_at=stop_at)
    assert found is None
    assert not same(left, straight)
    _, again, _ = go(tmp_path / "b")
    assert same(again, straight)
    assert (tmp_path / "a" / "steps.jsonl").read_text().count('"discriminator/real') == 24  # two pairs


def test_killed_at_every_step(tmp_path):
    _, straight, _ = go(tmp_path / "a")
    for _ in range(12):
        assert go(tmp_path / "b", stop_at=1)[0] is None
    assert same(go(tmp_path / "b")[1], straight)


@pytest.mark.parametrize(
    "how", [{"accumulate": 2}, {"channels_last": True}, {"precision": "bf16"}, {"ema": 0.5, "clip": 0.1}]
)
def test_it_trains_in_every_way_and_leaves_the_teacher(how):
    torch.manual_seed(0)
    before = state({"student": net(3), "teacher": net(5)}["teacher"])
    found, student, teacher = go(**how)
    assert found.epochs == 3
    assert same(teacher, before)
    assert all(torch.isfinite(v).all() for v in student.values() if v.is_floating_point())


# -- bad input ------------------------------------------------------------------------------------------


def test_a_single_position_says_nothing():
    cast = stage(3, net(5, shrink=8))
    with pytest.raises(ShapeError, match=r"the maps of 'layer2' \[4, 4\] and 'layer2' \[1, 1\] come to a single one"):
        AdversarialNST(pairs=PAIR).phases(cast)


def test_layers_and_labels():
    with pytest.raises(TapError, match="no layer 'layr2'"):
        AdversarialNST(pairs=[("layr2", "layer2")]).phases(stage())
    with pytest.raises(ShapeError, match="adversarial selectivity transfer compares feature maps"):
        AdversarialNST(pairs=[("fc", "layer2")]).phases(stage())
    unlabelled = stage(batch=images(labels=False))
    with pytest.raises(TargetError, match=r"hard = 1\.0 needs labels"):
        AdversarialNST().phases(unlabelled)
    assert len(run(only(AdversarialNST(hard=0.0), unlabelled), unlabelled.example)) == 2
    with pytest.raises(ShapeError, match="N_t != N_s"):
        AdversarialNST(soft=1.0).phases(stage(3, net(5, 4)))
    models = {"student": net(3), "teacher": net(5, 4)}
    assert AdversarialNST().phases(Cast(models=models, example=images())), "other classes, no KD"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"generator": "minimax"}, "generator = 'minimax': one of non_saturating, value"),
        ({"hidden": 0}, "hidden = 0: at least 1"),
        ({"hidden": 1.5}, "hidden = 1.5: a whole number"),
        ({"discriminator_optimizer": "adam"}, "discriminator_optimizer = 'adam': a limbeck.Optimizer"),
        ({"resize": "crop"}, "resize = 'crop'"),
        ({"weight": 0.0, "hard": 0.0}, "all are zero"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"pairs": ["layer1"]}, "a pair is"),
    ],
)
def test_settings(setting, text):
    with pytest.raises(HyperParameterError, match=text):
        AdversarialNST(**setting)
    assert Batch(None).targets is None
