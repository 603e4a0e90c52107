"""Knowledge review: the fusion by hand, and how levels are chosen."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn
from torch.nn import functional as F

from limbeck.connectors import Review
from limbeck.errors import HyperParameterError, ShapeError, TapError, TargetError
from limbeck.methods import ReviewKD, preset
from limbeck.settings import Ramp
from limbeck.taps import look


def enlarge(x, size):
    """Nearest neighbours, index by index."""
    rows = [i * x.shape[2] // size[0] for i in range(size[0])]
    columns = [j * x.shape[3] // size[1] for j in range(size[1])]
    return x[:, :, rows][:, :, :, columns]


def test_fusion_by_hand():
    torch.manual_seed(0)
    ours, theirs = [(3, 8, 8), (4, 4, 4), (5, 1, 1)], [(6, 8, 8), (7, 8, 8), (8, 1, 1)]
    review = Review(ours, theirs).eval()
    maps = [torch.randn(2, *size) for size in ours]
    with torch.no_grad():
        have = review(maps)
        want, rest = [], None
        for i in (2, 1, 0):
            level = review.levels[i]
            x = level.enter[1](F.conv2d(maps[i], level.enter[0].weight))
            if rest is not None:
                rest = enlarge(rest, ours[i][1:])
                weights = torch.sigmoid(F.conv2d(torch.cat([x, rest], 1), level.weigh[0].weight, level.weigh[0].bias))
                x = x * weights[:, :1] + rest * weights[:, 1:]
            rest = enlarge(x, theirs[i][1:])
            want.insert(0, level.leave[1](F.conv2d(rest, level.leave[0].weight, padding=1)))
    assert review.levels[2].weigh is None
    for a, b, size in zip(have, want, theirs, strict=True):
        assert tuple(a.shape) == (2, *size)
        torch.testing.assert_close(a, b)


def test_the_common_width_is_the_deepest_layers_up_to_512():
    assert Review([(3, 4, 4), (5, 2, 2)], [(6, 4, 4), (7, 2, 2)]).levels[0].enter[0].out_channels == 5
    assert Review([(3, 4, 4), (600, 1, 1)], [(6, 4, 4), (7, 1, 1)]).levels[0].enter[0].out_channels == 512


def test_deep_layers_learn_from_early_ones_and_not_the_other_way_round():
    cast = stage()
    (phase,) = ReviewKD(hard=0.0, weight=1.0, pairs=[("layer1", "layer1"), ("layer2", "layer2")]).phases(cast)  # pyright: ignore[reportArgumentType]
    student = cast.models["student"]

    def step(models, batch, when):
        for update in phase.step(models, batch, when):
            yield update._replace(terms={"review/layer1": update.terms["review/layer1"]})

    run(dataclasses.replace(phase, step=step), cast.example)
    assert all(p.grad is not None for p in student.layer2.parameters())  # layer2 helps to match the teacher's layer1

    def last(models, batch, when):
        for update in phase.step(models, batch, when):
            yield update._replace(terms={"review/layer2": update.terms["review/layer2"]})

    review = phase.modules["review"]
    review.zero_grad(set_to_none=True)
    run(dataclasses.replace(phase, step=last), cast.example)
    assert all(p.grad is None for p in review.levels[0].parameters())


def test_terms_and_their_values():
    cast = stage()
    (phase,) = ReviewKD(weight=2.0).phases(cast)
    assert phase.trains == {"student": ("student", "review")}
    assert phase.stops == {"teacher"}
    assert phase.notes[0] == "pairs (chosen by depth): layer1 -> layer1, layer2 -> layer2, fc:in -> fc:in"
    ((_, terms),) = run(phase, cast.example)
    assert list(terms) == ["ce", "review/layer1", "review/layer2", "review/fc:in"]
    student = cast.models["student"].train()
    with torch.no_grad():
        one = student.layer1(cast.example.inputs)
        two = student.layer2(one)
        review = phase.modules["review"].train()
        out = review([one, two, student.pool(two)[:, :, None, None]])
    seen = look(cast.models["teacher"], cast.example.inputs, ["layer1", "pool"]).taps
    plain = (out[2].flatten(1) - seen["pool"]).square().mean(1)
    torch.testing.assert_close(terms["review/fc:in"].value, plain)
    total, whole = (out[0] - seen["layer1"]).square().mean((1, 2, 3)), 1.0
    for level, count in ((4, 0.5), (2, 0.25), (1, 0.125)):
        pooled = F.adaptive_avg_pool2d(out[0], level) - F.adaptive_avg_pool2d(seen["layer1"], level)
        total, whole = total + count * pooled.square().mean((1, 2, 3)), whole + count
    torch.testing.assert_close(terms["review/layer1"].value, total / whole)
    assert {t.weight for name, t in terms.items() if name != "ce"} == {2.0}


def test_the_weight_warms_up_over_twenty_epochs():
    cast = stage()
    (phase,) = ReviewKD().phases(cast)
    weights = [run(phase, cast.example, moment(e, 240))[0][1]["review/layer1"].weight for e in (0, 5, 20, 100)]
    assert weights == pytest.approx([0.0, 0.25, 1.0, 1.0])
    assert preset("review_kd", "paper").weight == Ramp(start=0.0, end=5.0, epochs=20)


def test_it_can_be_learnt():
    cast = stage()
    (phase,) = ReviewKD(hard=0.0, weight=1.0).phases(cast)
    path = [sum(t.value.mean().item() for t in run(phase, cast.example, lr=0.1)[0][1].values()) for _ in range(30)]
    assert path[-1] < 0.7 * path[0]


def test_without_linear_layers_at_the_end_the_maps_are_enough():
    ending = nn.Sequential(
        OrderedDict(
            a=nn.Conv2d(1, 4, 3, 2, 1), b=nn.Conv2d(4, 3, 3, 2, 1), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()
        )
    )
    (phase,) = ReviewKD(weight=1.0).phases(stage(student=ending))
    assert not any("fc" in layer for layer in phase.taps["teacher"])
    assert run(phase, images())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"weight": -1.0}, "weight = -1.0"),
        ({"weight": 0.0, "hard": 0.0}, "all are zero"),
        ({"pairs": (("a", "b"), ("a", "b"))}, "is there 2 times"),
        ({"temperature": 0.0}, "temperature = 0.0"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        ReviewKD(**settings)


def test_bad_networks():
    with pytest.raises(
        ShapeError, match=r"pairs go from the input to the output: of the student, 'layer2' is 4x4 and 'layer1'"
    ):
        ReviewKD(pairs=(("layer2", "layer2"), ("layer1", "layer1"))).phases(stage())
    with pytest.raises(TapError, match=r"no layer 'layr2'.*near: layer2"):
        ReviewKD(pairs=(("layr2", "layer2"),)).phases(stage())
    tokens = nn.Sequential(OrderedDict(flat=nn.Flatten(2), mix=nn.Linear(64, 8), out=nn.Flatten(), fc=nn.Linear(8, 3)))
    with pytest.raises(ShapeError, match=r"maps .* or vectors; layer 'mix' of the teacher gives \[1, 8\] per sample"):
        ReviewKD(pairs=(("layer2", "mix"),)).phases(stage(teacher=tokens))
    with pytest.raises(TargetError, match=r"hard = 1.0 needs labels"):
        ReviewKD().phases(stage(batch=images(labels=False)))
    with pytest.raises(ShapeError, match="N_t != N_s"):
        ReviewKD(soft=1.0).phases(stage(teacher=net(5, 4)))
    with pytest.raises(
        ShapeError, match=r"of one sample a map \[4, 1, 1\] has one number in each channel: leave out a last"
    ):
        Review([(4, 1, 1)], [(4, 1, 1)])([torch.zeros(1, 4, 1, 1)])
    with pytest.raises(ShapeError, match="a layer of the teacher for each of the student's"):
        Review([(3, 4, 4)], [])
