"""Decoupled distillation and variational information distillation as methods."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from mini_driver import images, moment, run, stage

from limbeck import losses
from limbeck.connectors import Guess
from limbeck.errors import HyperParameterError, NameUnknown, ShapeError, TapError, TargetError
from limbeck.methods import DKD, KD, VID, preset
from limbeck.settings import Ramp


class Fixed(torch.nn.Module):
    """A network that always says the same."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor(scores))

    def forward(self, x):
        return self.scores.expand(len(x), -1)


def said(student, teacher, classes=3):
    return stage(Fixed(*student), Fixed(*teacher), batch=images(classes=classes))


# -- DKD --------------------------------------------------------------------------------------------


def test_the_two_parts_have_weights_of_their_own():
    cast = said((0.0, 0.0, 0.0), (4 * math.log(4.0), 0.0, 0.0))  # at T = 4: (2/3, 1/6, 1/6)
    (phase,) = DKD(alpha=2.0, beta=3.0, soft=0.5, hard=0.25).phases(cast)
    ((player, terms),) = run(phase, cast.example)
    assert player == "student"
    assert {name: term.weight for name, term in terms.items()} == {"ce": 0.25, "tckd": 1.0, "nckd": 1.5}
    for i, y in enumerate(cast.example.targets.tolist()):
        p = 2 / 3 if y == 0 else 1 / 6
        right = p * math.log(3 * p) + (1 - p) * math.log((1 - p) * 3 / 2)
        rest = 0.0 if y == 0 else 4 / 5 * math.log(8 / 5) + 1 / 5 * math.log(2 / 5)
        assert terms["tckd"].value[i].item() == pytest.approx(16 * right, abs=1e-5)
        assert terms["nckd"].value[i].item() == pytest.approx(16 * rest, abs=1e-5)


def test_the_terms_add_up_to_the_loss():
    cast = stage()
    (phase,) = DKD(soft=1.0, hard=0.0).phases(cast)
    ((_, terms),) = run(phase, cast.example)
    cast.models["student"].train()
    s = cast.models["student"](cast.example.inputs)
    t = cast.models["teacher"].eval()(cast.example.inputs)
    want = losses.dkd(s, t, targets=cast.example.targets, temperature=4.0, alpha=1.0, beta=8.0)
    torch.testing.assert_close(sum(term.weight * term.value for term in terms.values()), want)


@pytest.mark.parametrize(("epoch", "part"), [(0.0, 0.0), (5.0, 0.25), (20.0, 1.0), (200.0, 1.0)])
def test_the_warm_up(epoch, part):
    (phase,) = DKD().phases(stage())
    ((_, terms),) = run(phase, stage().example, moment(epoch, 240.0))
    assert [terms[name].weight for name in ("ce", "tckd", "nckd")] == pytest.approx([1.0, part, 8 * part])


def test_a_part_without_weight_is_left_out():
    cast = stage()
    for method, names in ((DKD(alpha=0.0), ["ce", "nckd"]), (DKD(beta=0.0, hard=0.0), ["tckd"])):
        (phase,) = method.phases(cast)
        ((_, terms),) = run(phase, cast.example)
        assert list(terms) == names


def test_presets_of_dkd():
    assert preset("dkd", "paper") == preset("dkd", "benchmark") == DKD()
    imagenet = preset("dkd", "imagenet")
    assert (imagenet.temperature, imagenet.beta, imagenet.soft) == (1.0, 0.5, Ramp(start=0.0, end=1.0, epochs=1))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: a temperature is more than zero"),
        ({"alpha": -1.0}, "alpha = -1.0: a loss weight is zero or more"),
        ({"beta": math.nan}, "beta = nan: a loss weight is zero or more, and finite"),
        ({"alpha": 0.0, "beta": 0.0}, "alpha, beta: all are zero, so nothing would be learnt"),
        ({"soft": 0.0, "hard": 0.0}, "soft, hard: all are zero"),
    ],
)
def test_settings_of_dkd_outside_their_ranges(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        DKD(**settings)


def test_dkd_needs_labels_and_two_classes():
    cast = stage()
    unlabelled = cast.example._replace(targets=None)
    text = "decoupled distillation needs labels, with hard=0 too: .* kd with hard=0 learns from the teacher alone"
    with pytest.raises(TargetError, match=text):
        DKD(hard=0.0).phases(dataclasses.replace(cast, example=unlabelled))
    (phase,) = DKD().phases(cast)
    with pytest.raises(TargetError, match=text):
        run(phase, unlabelled)
    with pytest.raises(ShapeError, match=r"1 logit per sample.*no other class than the target; use sigmoid_kd"):
        DKD().phases(stage(Fixed(1.0), Fixed(2.0)))
    with pytest.raises(ShapeError, match="N_t != N_s: the teacher scores 2 classes and the student 3"):
        DKD().phases(said((0.0, 0.0, 0.0), (1.0, 2.0)))
    with pytest.raises(NameUnknown, match="needs a teacher"):
        DKD().phases(dataclasses.replace(cast, models={"student": cast.models["student"]}))


# -- VID --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.01, 1.0, 5.0, 80.0])
def test_the_first_variance(variance):
    _, found = Guess(3, 4, variance=variance)(torch.zeros(1, 3, 2, 2))
    assert found.tolist() == pytest.approx([variance] * 4, rel=1e-4)
    assert found.requires_grad


def guessed(guess, x):
    """Three layers of dot products at every position."""
    for i, layer in enumerate(guess.mean[::2]):
        weight = layer.weight.detach().double().numpy()[:, :, 0, 0]
        assert layer.bias is None
        x = np.einsum("oc,bchw->bohw", weight, x)
        x = x if i == 2 else np.maximum(x, 0.0)
    return x


def pooled(x, size):
    b, c, h, w = x.shape
    return x.reshape(b, c, size, h // size, size, w // size).mean((3, 5))


@pytest.mark.parametrize("form", ["paper", "benchmark"])
@pytest.mark.parametrize("pair", [("layer1", "layer2"), ("layer2", "layer1"), ("layer2", "layer2")])
def test_the_value_by_hand(pair, form):
    """Maps of 8x8 (3 and 5 channels) and 4x4 (6 and 10): the larger one is pooled, the student's before the guess."""
    cast = stage()
    (phase,) = VID(pairs=(pair,), form=form, soft=0.4).phases(cast)
    seen = {}
    for role, layer in zip(("student", "teacher"), pair, strict=True):
        module = cast.models[role].get_submodule(layer)
        module.register_forward_hook(lambda m, a, out, role=role: seen.update({role: out.detach().double().numpy()}))
    ((_, terms),) = run(phase, cast.example)
    name = f"vid/{pair[0]}"
    assert list(terms) == ["ce", name, "kd"]
    size = min(seen["student"].shape[2], seen["teacher"].shape[2])
    s, t = pooled(seen["student"], size), pooled(seen["teacher"], size)
    element = 0.5 * ((guessed(phase.modules["guess1"], s) - t) ** 2 / 5.0 + math.log(5.0))
    want = element.mean((1, 2, 3))
    have = terms[name].value.detach().numpy() * terms[name].weight
    np.testing.assert_allclose(have, want, rtol=1e-4)  # the weight of the paper's form makes both equal
    assert terms[name].weight == pytest.approx(1.0 if form == "benchmark" else 1.0 / t[0].size)


def test_stage_ends_are_the_usual_pairs_and_the_guesses_learn_with_the_student():
    cast = stage()
    (phase,) = VID().phases(cast)
    assert phase.trains == {"student": ("student", "guess1", "guess2")}
    assert phase.notes == (
        "pairs (chosen by depth): layer1 -> layer1, layer2 -> layer2",
        f"guesses: {3 * 5 + 2 * 25 + 5 + 6 * 10 + 2 * 100 + 10} weights",
    )
    assert phase.stops == {"teacher"}
    run(phase, cast.example)
    for role in ("guess1", "guess2"):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in phase.modules[role].parameters())
    assert all(p.grad is None for p in cast.models["teacher"].parameters())


def test_interpolation_brings_the_students_map_to_the_teachers_size():
    cast = stage()
    (phase,) = VID(pairs=(("layer2", "layer1"),), resize="interpolate", form="paper").phases(cast)
    ((_, terms),) = run(phase, cast.example)
    assert terms["vid/layer2"].weight == pytest.approx(1 / (5 * 8 * 8))


def test_a_channel_that_cannot_be_told_gets_a_large_variance():
    guess = Guess(1, 2, variance=1.0)
    gen = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(guess.parameters(), lr=0.05)
    for _ in range(200):
        s = torch.rand(16, 1, 2, 2, generator=gen)
        t = torch.cat([2 * s, 3 * torch.randn(16, 1, 2, 2, generator=gen)], 1)
        mean, variance = guess(s)
        optimizer.zero_grad()
        losses.vid_nll(mean, t, variance=variance, form="benchmark").mean().backward()
        optimizer.step()
    told, noise = guess(s)[1].tolist()
    assert told < 0.3
    assert noise > 3.0


def test_presets_of_vid():
    assert preset("vid", "benchmark") == VID(weight=1.0)
    assert preset("vid", "paper") == VID(form="paper")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"form": "sum"}, "form = 'sum': one of paper, benchmark"),
        ({"resize": "crop"}, "resize = 'crop': one of pool, interpolate"),
        ({"variance": 0.0}, "variance = 0.0: more than 1e-5"),
        ({"variance": math.inf}, "variance = inf: more than 1e-5, and finite"),
        ({"weight": -1.0}, "weight = -1.0: a loss weight is zero or more"),
        ({"weight": 0.0, "hard": 0.0}, "weight, hard, soft: all are zero"),
        ({"temperature": -4.0}, "temperature = -4.0"),
        ({"pairs": ["layer1"]}, "pairs = 'layer1': a pair is"),
    ],
)
def test_settings_of_vid_outside_their_ranges(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        VID(**settings)


def test_vid_compares_maps():
    with pytest.raises(ShapeError, match=r"variational information distillation compares feature maps .* layer 'pool'"):
        VID(pairs=(("pool", "layer2"),)).phases(stage())
    with pytest.raises(TapError, match="no layer 'layer3'"):
        VID(pairs=(("layer3", "layer2"),)).phases(stage())
    with pytest.raises(TargetError, match="labels"):
        VID().phases(stage(batch=images(labels=False)))
    assert VID(hard=0.0).phases(stage(batch=images(labels=False)))


def test_dkd_of_two_classes_is_kd():
    cast = stage(classes=2, batch=images(classes=2))
    ((_, a),) = run(DKD(hard=0.0, soft=1.0).phases(cast)[0], cast.example)
    ((_, b),) = run(KD(hard=0.0, soft=1.0).phases(cast)[0], cast.example)
    torch.testing.assert_close(a["tckd"].value, b["kd"].value, atol=1e-5, rtol=1e-4)
    assert a["nckd"].value.abs().max() < 1e-6


def test_averages_of_half_precision_are_taken_in_full():
    gen = torch.Generator().manual_seed(0)
    s, t = (torch.randn(2, 3, n, n, generator=gen).bfloat16() for n in (4, 8))
    for resize in ("pool", "interpolate"):
        ours, theirs = VID(resize=resize)._same_size(s, t)
        wanted = VID(resize=resize)._same_size(s.float(), t.float())
        assert torch.equal(ours, wanted[0])
        assert torch.equal(theirs, wanted[1])
