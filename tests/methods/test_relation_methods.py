"""Methods that compare the samples of a batch: which layers, which numbers, and what they refuse."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck import Sum
from limbeck.errors import HyperParameterError, ShapeError, TapError, TargetError
from limbeck.methods import CC, KD, PKT, RKD, SimilarityPreserving, preset
from limbeck.methods.batchwise import WITHIN
from limbeck.methods.heads import last_linear
from limbeck.settings import Ramp
from limbeck.taps import look

METHODS = [RKD, SimilarityPreserving, PKT, CC]
TERMS = {RKD: ["rkd_distance", "rkd_angle"], SimilarityPreserving: ["sp"], PKT: ["pkt"], CC: ["cc"]}
every = pytest.mark.parametrize("method", METHODS)


def terms_of(method, cast, when=None):
    (phase,) = method.phases(cast)
    ((player, terms),) = run(phase, cast.example, when)
    assert player == "student"
    return terms


def features(cast, layer_s="fc:in", layer_t="fc:in"):
    """What the step saw: the student in train mode, the teacher in eval mode."""
    student = copy.deepcopy(cast.models["student"]).train()
    with torch.no_grad():
        low = student.layer1(cast.example.inputs)
        high = student.layer2(low)
        ours = {"layer1": low, "layer2": high, "fc:in": student.pool(high)}[layer_s]
    theirs = look(cast.models["teacher"], cast.example.inputs, [layer_t]).taps[layer_t]
    return ours.flatten(1).double().numpy(), theirs.flatten(1).double().numpy()


# --- the numbers


def test_distances_by_hand():
    cast = stage()
    value = terms_of(RKD(), cast)["rkd_distance"].value.item()
    tables = []
    for x in features(cast):
        d = np.sqrt(((x[:, None] - x[None]) ** 2).sum(2))
        tables.append(d / d[d > 0].mean())
    apart = np.abs(tables[0] - tables[1])
    assert value == pytest.approx(np.where(apart < 1, apart**2 / 2, apart - 0.5).mean(), rel=1e-4)


@pytest.mark.parametrize("pair", [None, ("layer2", "layer2"), ("layer1", "fc:in")])
def test_similarities_by_hand(pair):
    cast = stage()
    value = terms_of(SimilarityPreserving(pair=pair), cast)["sp"].value.item()
    products = [x @ x.T for x in features(cast, *(pair or ("layer2", "layer2")))]
    rows = [g / np.linalg.norm(g, axis=1, keepdims=True) for g in products]
    assert value == pytest.approx(((rows[0] - rows[1]) ** 2).mean(), rel=1e-4)


def test_neighbours_by_hand():
    cast = stage()
    shares = []
    for x in features(cast):
        rows = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernel = (1 + rows @ rows.T) / 2
        np.fill_diagonal(kernel, 0)
        shares.append(kernel / kernel.sum(1, keepdims=True))
    q, p = (s[~np.eye(6, dtype=bool)] for s in shares)
    assert terms_of(PKT(), cast)["pkt"].value.item() == pytest.approx((p * np.log(p / q)).sum() / 6, rel=1e-3)


def test_kernels_by_hand():
    cast = stage()
    tables = []
    for x in features(cast):
        rows = x / np.linalg.norm(x, axis=1, keepdims=True)
        c = rows @ rows.T
        tables.append(np.exp(-1.4) * (1 + 1.4 * c + 1.4**2 / 2 * c**2 + 1.4**3 / 6 * c**3))
    value = terms_of(CC(gamma=0.7, order=3), cast)["cc"].value.item()
    assert value == pytest.approx(((tables[0] - tables[1]) ** 2).mean(), rel=1e-3)


def test_errors_by_hand_and_both_linear_layers_learn():
    cast = stage()
    (phase,) = CC(form="benchmark", features=4).phases(cast)
    assert phase.trains == {"student": ("student", "embed_student", "embed_teacher")}
    embed_s, embed_t = phase.modules["embed_student"], phase.modules["embed_teacher"]
    assert (embed_s.weight.shape, embed_t.weight.shape) == ((4, 6), (4, 10))
    ours, theirs = features(cast)
    weights = [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in (embed_s, embed_t)]
    (a, b), (c, d) = weights
    apart = np.abs(ours @ a.T + b - theirs @ c.T - d)
    ((_, terms),) = run(phase, cast.example, lr=0.1)
    assert terms["cc"].value.item() == pytest.approx((apart[:-1] * apart[1:]).sum(1).mean(), rel=1e-4)
    for module in (embed_s, embed_t):
        assert module.weight.grad is not None
        assert module.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in cast.models["teacher"].parameters())


# --- terms and weights


@every
def test_terms_and_weights(method):
    cast = stage()
    assert list(terms_of(method(), cast)) == ["ce", *TERMS[method]]
    assert list(terms_of(method(soft=0.5, hard=0.0), cast)) == [*TERMS[method], "kd"]
    assert terms_of(method(soft=0.5), cast)["kd"].weight == 0.5
    field = "distance" if method is RKD else "weight"
    falling = method(**{field: Ramp(start=2, end=0)})
    weights = [terms_of(falling, cast, moment(epoch, 10))[TERMS[method][0]].weight for epoch in (0, 5, 10)]
    assert weights == pytest.approx([2.0, 1.0, 0.0])
    off = terms_of(method(**{field: 0.0}), cast)
    assert TERMS[method][0] not in off


def test_usual_weights():
    cast = stage()
    terms = terms_of(RKD(), cast)
    assert (terms["rkd_distance"].weight, terms["rkd_angle"].weight) == (25.0, 50.0)
    assert terms_of(SimilarityPreserving(), cast)["sp"].weight == 3000.0
    assert [terms_of(PKT(form=f), cast)["pkt"].weight for f in ("paper", "benchmark")] == [500.0, 30000.0]
    assert [terms_of(CC(form=f), cast)["cc"].weight for f in ("paper", "benchmark")] == [100.0, 0.02]
    assert terms_of(CC(form="benchmark"), cast)["cc"].value.ndim == 0


@every
@pytest.mark.parametrize("name", ["paper", "benchmark"])
def test_presets_run(method, name):
    assert terms_of(preset(method, name), stage())


def test_published_numbers():
    assert preset("rkd", "benchmark") == RKD(distance=25.0, angle=50.0)
    assert preset("similarity_preserving", "benchmark").weight == 3000.0
    assert preset("pkt", "benchmark") == PKT(form="benchmark", weight=30000.0)
    assert preset("cc", "benchmark") == CC(form="benchmark", features=128, weight=0.02)
    assert preset("pkt", "paper").hard == 0.0


def test_without_weight_there_are_no_linear_layers():
    (phase,) = CC(form="benchmark", weight=0.0).phases(stage())
    assert set(phase.modules) == {"student", "teacher"}


@every
def test_in_a_sum(method):
    cast = stage()
    phases = Sum(KD(hard=0.0), method()).phases(cast)
    ((_, terms),) = run(phases[-1], cast.example)
    assert {"kd", "ce", *TERMS[method]} <= set(terms)


# --- layers


@every
def test_the_notes_say_what_is_compared_and_within_what(method):
    (phase,) = method().phases(stage())
    if method is SimilarityPreserving:
        assert phase.notes == ("pair (the last maps): layer2 [6, 4, 4] -> layer2 [10, 4, 4]", WITHIN)
    else:
        assert phase.notes == ("pair (what goes into the last linear layer): fc:in [6] -> fc:in [10]", WITHIN)
    (given,) = method(pair=["layer1", "layer2"]).phases(stage())
    assert given.notes[0] == "pair: layer1 [3, 8, 8] -> layer2 [10, 4, 4]"
    assert given.taps == {"student": ("layer1",), "teacher": ("layer2",)}
    for word in ("process", "accumulate"):
        assert word in WITHIN
        assert word in (method.__doc__ or "")


@every
def test_the_teacher_stops_at_its_tap_unless_its_scores_are_read(method):
    cast = stage()
    assert method().phases(cast)[0].stops == {"teacher"}
    assert method(soft=0.1).phases(cast)[0].stops == frozenset()


class Named(nn.Module):
    """A head among other linear layers, which is not the last to be defined."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.body = nn.Linear(64, 5)
        self.spare = nn.Linear(3, 3)
        self.extra = nn.Linear(5, 3)

    def forward(self, x):
        hidden = self.body(x.flatten(1)).relu()
        scores = self.head(hidden)
        return {"logits": scores, "other": self.extra(hidden)}


def test_the_last_linear_layer_is_the_one_that_gives_the_scores():
    x = torch.randn(4, 1, 8, 8)
    model = Named().train()
    assert last_linear(model, x) == "head"
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert last_linear(net(3), x) == "fc"
    assert last_linear(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), x) is None
    twice = nn.Linear(64, 64)
    assert last_linear(nn.Sequential(nn.Flatten(), twice, twice), x) is None


def test_networks_without_the_usual_layer():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 3))
    (phase,) = SimilarityPreserving().phases(stage(student=flat))
    assert phase.taps == {"student": ("3:in",), "teacher": ("layer2",)}
    convolutional = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (phase,) = RKD().phases(stage(student=convolutional))
    assert phase.taps["student"] == ("1",)
    assert run(phase, images())
    bare = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(
        TapError, match=r"the student \(Sequential\) has neither a linear layer .* pair=\(student layer"
    ):
        RKD().phases(stage(student=bare))


# --- what they refuse


@every
def test_bad_settings(method):
    first = "distance" if method is RKD else "weight"
    for changes, text in (
        ({first: -1.0}, rf"{first} = -1\.0: a loss weight is zero or more"),
        ({"hard": float("nan")}, "hard = nan: a loss weight"),
        ({"temperature": 0.0}, r"temperature = 0\.0: a temperature is more than zero"),
        ({"pair": ("layer1",)}, r"pair = \('layer1',\): a pair is \(student layer, teacher layer\)"),
        ({"pair": "fc"}, "pair = 'fc': a pair is"),
    ):
        with pytest.raises(HyperParameterError, match=text):
            method(**changes)
    zero = {"distance": 0.0, "angle": 0.0} if method is RKD else {"weight": 0.0}
    with pytest.raises(HyperParameterError, match="all are zero, so nothing would be learnt"):
        method(hard=0.0, **zero)


def test_bad_settings_of_the_kernel():
    for changes, text in (
        ({"form": "papers"}, "form = 'papers': one of paper, benchmark"),
        ({"gamma": 0.0}, r"gamma = 0\.0: more than zero"),
        ({"order": 0}, "order = 0: at least 1"),
        ({"order": 1.5}, r"order = 1\.5: a whole number"),
        ({"features": 0}, "features = 0: at least 1"),
    ):
        with pytest.raises(HyperParameterError, match=text):
            CC(**changes)
    with pytest.raises(HyperParameterError, match="form = 'code': one of paper, benchmark"):
        PKT(form="code")


@every
def test_unknown_layers(method):
    with pytest.raises(TapError, match="no layer 'layr1' in Sequential; near: layer1"):
        method(pair=("layr1", "layer1")).phases(stage())


@every
def test_small_batches(method):
    cast = stage()
    (phase,) = method().phases(cast)
    small = images(n=2)
    if method in (RKD, PKT):
        with pytest.raises(ShapeError, match=r"needs a batch of at least 3; this one has 2\. Leave out"):
            run(phase, small)
    else:
        assert run(phase, small)
    assert run(RKD(angle=0.0).phases(cast)[0], small)
    assert run(PKT(form="benchmark").phases(cast)[0], small)


@every
def test_labels_and_classes(method):
    unlabelled = images(labels=False)
    with pytest.raises(TargetError, match=r"hard = 1\.0 needs labels"):
        method().phases(stage(batch=unlabelled))
    assert run(method(hard=0.0).phases(stage(batch=unlabelled))[0], unlabelled)
    other = stage(teacher=net(5, classes=4))
    assert method().phases(other)  # features need no classes
    with pytest.raises(ShapeError, match="the teacher scores 4 classes and the student 3"):
        method(soft=0.5).phases(other)


def test_no_torch_before_they_run():
    code = (
        "import sys; from limbeck.methods import RKD, SimilarityPreserving, PKT, CC;"
        "RKD(), SimilarityPreserving(), PKT(), CC(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
