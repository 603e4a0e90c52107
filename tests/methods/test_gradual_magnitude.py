"""Gradual magnitude pruning: the schedule by hand, and zeros that stay zeros."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from mini_driver import images, net, stage
from small_fit import train
from torch import nn

from limbeck.connectors.masks import Masks, largest
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown
from limbeck.methods import KD, GradualMagnitude, Sum
from limbeck.phase import Batch


def alive(model):
    """The part of the weights that is not zero, by layer."""
    return {
        name: float((m.weight.detach() != 0).double().mean())
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    }


def rounded(model, density):
    return {
        name: max(1, round(density * m.weight.numel())) / m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    }


def test_the_cubic_schedule():
    method = GradualMagnitude(density=0.2, initial=0.9, begin=0.25, end=0.75)
    found = [method.density_at(p) for p in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([1.0, 1.0, 0.9, 0.2 + 0.7 / 8, 0.2, 0.2])
    # the paper's form, with sparsities and steps: s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3
    sparsity = [0.8 + (0.1 - 0.8) * (1 - (t - 100) / (20 * 10)) ** 3 for t in range(100, 301, 10)]
    assert [1 - method.density_at(t / 400) for t in range(100, 301, 10)] == pytest.approx(sparsity)


def test_masks_keep_the_largest_and_only_shrink():
    w = torch.tensor([4.0, -3.0, 2.0, -1.0])
    every = torch.ones(4, dtype=torch.bool)
    assert largest([w], [every], 0.5, "layer")[0].tolist() == [True, True, False, False]
    gone = torch.tensor([False, True, True, True])
    assert largest([w], [gone], 0.75, "layer")[0].tolist() == [False, True, True, True]
    assert largest([w], [gone], 1.0, "layer")[0].tolist() == [False, True, True, True]


def test_one_ranking_for_all_layers_empties_none():
    big, small = torch.tensor([9.0, 8, 7, 6]), torch.tensor([0.1, 0.3, 0.2, 0.0])
    alive = [torch.ones(4, dtype=torch.bool)] * 2
    masks = largest([big, small], alive, 0.5, "global")
    assert masks[0].tolist() == [True, True, True, False]
    assert masks[1].tolist() == [False, True, False, False]
    assert [m.sum() for m in largest([big, small], alive, 0.5, "layer")] == [2, 2]


def test_masks_are_part_of_the_state():
    weight = nn.Parameter(torch.tensor([3.0, 1.0, 2.0]))
    masks = Masks([weight])
    masks([weight], 0.67)
    again = Masks([weight])
    again.load_state_dict(masks.state_dict())
    assert again.mask0.tolist() == [True, False, True]
    with torch.no_grad():
        weight.add_(1.0)
    again([weight])
    assert weight.tolist() == [4.0, 0.0, 3.0]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_is_gone_is_exactly_zero_after_every_update(scope):
    models, inside = {"student": net(4)}, []
    student = models["student"]

    def watch(module, args):
        if module.training:
            inside.append({n: m.weight.detach().clone() for n, m in module.named_modules() if n in names})

    names = alive(student)
    handle = student.register_forward_pre_hook(watch)
    train(GradualMagnitude(density=0.2, every=2, end=0.5, scope=scope), models, epochs=4)
    handle.remove()
    inside.append({n: m.weight.detach().clone() for n, m in student.named_modules() if n in names})
    for before, after in pairwise(inside):
        for name in names:
            gone = before[name] == 0
            assert bool((after[name][gone] == 0).all()), name  # momentum and decay bring nothing back
            assert bool((after[name][~gone] != before[name][~gone]).any())
    if scope == "layer":
        assert alive(student) == rounded(student, 0.2)
        counts = [sum(int((w == 0).sum()) for w in seen.values()) for seen in inside]
        assert counts[:2] == [0, 0]
        assert counts[2] > 0
        assert counts[10] == counts[-1]  # half of 20 updates
    else:
        total = sum(m.weight.numel() for n, m in student.named_modules() if n in names)
        assert sum(int((m.weight != 0).sum()) for n, m in student.named_modules() if n in names) == round(0.2 * total)


def test_the_number_of_zeros_follows_the_schedule():
    seen = []
    method = GradualMagnitude(density=0.1, every=5, end=1.0, begin=0.25)
    train(method, {"student": net(4)}, epochs=4, see=lambda s: seen.append(alive(s)["layer2.conv"]))
    n = 8 * 4 * 9
    assert seen == [1.0, *(round(method.density_at(p) * n) / n for p in (0.25, 0.5, 0.75, 1.0))]


def test_time_by_whole_epochs_where_nobody_knows_their_length():
    models = {"student": net(4)}
    train(GradualMagnitude(density=0.25, every=100), models, epochs=3, known=False)
    assert alive(models["student"]) == rounded(models["student"], 0.25)


def test_a_short_training_still_reaches_its_density():
    models = {"student": net(4)}
    train(GradualMagnitude(density=0.5, every=1000, end=1.0), models, epochs=1)
    assert alive(models["student"]) == rounded(models["student"], 0.5)


def test_biases_norms_and_skipped_layers_are_dense():
    models = {"student": net(4)}
    train(GradualMagnitude(density=0.1, skip=("fc", "layer1.*")), models, epochs=2)
    found = alive(models["student"])
    assert found["fc"] == found["layer1.conv"] == 1.0
    assert found["layer2.conv"] == rounded(models["student"], 0.1)["layer2.conv"]
    assert all(bool((p != 0).any()) for p in models["student"].parameters() if p.ndim == 1)


def test_beside_a_teacher_and_with_a_frozen_layer():
    models = {"student": net(4), "teacher": net(3)}
    frozen = models["student"].layer1.conv.weight.requires_grad_(False)
    before = frozen.clone()
    train(Sum(KD(), GradualMagnitude(density=0.2, hard=0.0)), models, epochs=2)
    assert torch.equal(frozen, before)
    assert alive(models["student"])["layer2.conv"] == rounded(models["student"], 0.2)["layer2.conv"]
    assert set(alive(models["teacher"]).values()) == {1.0}


def test_what_is_refused():
    with pytest.raises(HyperParameterError, match=r"density = 1.0: a part of the weights, in \(0, 1\)"):
        GradualMagnitude(density=1.0)
    with pytest.raises(HyperParameterError, match=r"initial = 0.1: between the density at the end \(0.5\) and 1"):
        GradualMagnitude(density=0.5, initial=0.1)
    with pytest.raises(HyperParameterError, match=r"begin = 1.0: a part of the phase, in \[0, 1\)"):
        GradualMagnitude(begin=1.0)
    with pytest.raises(HyperParameterError, match=r"end = 0.2: a part of the phase, after begin \(0.3\) and at most 1"):
        GradualMagnitude(begin=0.3, end=0.2)
    with pytest.raises(HyperParameterError, match="every = 0: at least 1 update"):
        GradualMagnitude(every=0)
    with pytest.raises(HyperParameterError, match="scope = 'net': one of layer, global"):
        GradualMagnitude(scope="net")
    with pytest.raises(NameUnknown, match="skip: no layer with weights 'fcc' in Sequential; near: fc"):
        GradualMagnitude(skip=("fcc",)).phases(stage(3))
    with pytest.raises(LimbeckError, match="has no linear layer or convolution to prune"):
        GradualMagnitude().phases(stage(nn.Sequential(nn.Flatten(), nn.LayerNorm(64))))
    with pytest.raises(LimbeckError, match="needs labels"):
        GradualMagnitude().phases(stage(3, batch=Batch(images().inputs)))
