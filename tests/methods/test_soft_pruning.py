"""Soft filter pruning: which filters are zero, and when."""

from __future__ import annotations

import pytest
import torch
from mini_driver import images, net, run, stage
from small_fit import train
from torch import nn

from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown
from limbeck.methods import KD, SoftFilterPruning, Sum
from limbeck.methods.soft_pruning import least_filters
from limbeck.phase import Batch, Moment


def zeros(model):
    """How many filters are zero, by layer."""
    return {
        name: int((m.weight.detach().flatten(1).abs().sum(1) == 0).sum())
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    }


def test_the_least_filters_by_each_score():
    weight = torch.tensor([[1.0, -1, 0, 2], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, -3], [9, 9, 9, 9]])
    assert least_filters(weight, 0.5, by="l1").tolist() == [1, 2]
    weight = torch.tensor([[1.0, 0], [0, 1], [1, 1], [5, 5]])
    assert least_filters(weight, 0.75, by="l1").tolist() == [0]
    assert least_filters(weight, 0.75, by="fpgm").tolist() == [2]


def test_some_go_by_norm_and_the_rest_by_distance_among_what_is_left():
    weight = torch.tensor([[0.0, 0.1], [4, 0], [0, 4], [3, 3], [9, 9]])
    # without the mixture [1, 0], nearest to the median, would go first
    assert least_filters(weight, 0.6, by="fpgm", mix=0.2).tolist() == [0, 3]
    left = weight[1:]
    distances = [sum(float((a - b).norm()) for b in left) for a in left]
    assert min(range(4), key=distances.__getitem__) == 2  # the third of those left: filter 3


@pytest.mark.parametrize(("keep", "count"), [(0.7, 3), (0.71, 2), (0.05, 9), (0.999, 0)])
def test_counts_are_rounded_down_and_one_filter_stays(keep, count):
    assert len(least_filters(torch.randn(10, 3), keep)) == count


def test_every_epoch_ends_with_zeros_and_in_between_they_grow():
    models, seen, inside = {"student": net(5)}, [], []
    student = models["student"]
    handle = student.register_forward_pre_hook(lambda m, args: inside.append(zeros(m)) if m.training else None)
    train(SoftFilterPruning(keep=0.6), models, epochs=3, see=lambda s: seen.append(zeros(s)))
    handle.remove()
    none, pruned = {"layer1.conv": 0, "layer2.conv": 0}, {"layer1.conv": 2, "layer2.conv": 4}
    assert seen == [none, pruned, pruned, pruned]  # before training, and after each epoch
    assert zeros(student) == pruned
    assert inside == [none] * 5 + ([pruned] + [none] * 4) * 2  # the first forward of an epoch sees them, then they grow


def test_only_some_epochs_and_always_the_last():
    seen = []
    train(SoftFilterPruning(keep=0.6, every=2), {"student": net(5)}, epochs=5, see=lambda s: seen.append(zeros(s)))
    assert [found["layer1.conv"] for found in seen] == [0, 0, 2, 0, 2, 2]


def test_where_nobody_knows_how_long_an_epoch_is_the_last_one_is_pruned_throughout():
    models, seen = {"student": net(5)}, []
    train(SoftFilterPruning(keep=0.6), models, epochs=3, known=False, see=lambda s: seen.append(zeros(s)))
    assert [found["layer1.conv"] for found in seen] == [0, 0, 0, 2]


def test_one_step_an_epoch():
    seen = []
    train(SoftFilterPruning(keep=0.6), {"student": net(5)}, epochs=2, batches=1, see=lambda s: seen.append(zeros(s)))
    assert [found["layer1.conv"] for found in seen] == [0, 2, 2]


def test_parts_of_a_batch_do_not_prune_twice():
    whole, parts = {"student": net(5, norm=False)}, {"student": net(5, norm=False)}
    parts["student"].load_state_dict(whole["student"].state_dict())
    for models, n in ((whole, 1), (parts, 2)):
        train(SoftFilterPruning(keep=0.4, by="fpgm"), models, epochs=2, accumulate=n)
    assert zeros(whole["student"]) == zeros(parts["student"]) == {"layer1.conv": 3, "layer2.conv": 6}


def test_beside_a_teacher():
    models = {"student": net(5), "teacher": net(3)}
    train(Sum(KD(), SoftFilterPruning(keep=0.6, hard=0.0)), models, epochs=2)
    assert zeros(models["student"]) == {"layer1.conv": 2, "layer2.conv": 4}
    assert zeros(models["teacher"]) == {"layer1.conv": 0, "layer2.conv": 0}


def test_what_is_left_whole():
    cast = stage(5)
    (phase,) = SoftFilterPruning(keep=0.6, skip=("layer1.*",)).phases(cast)
    run(phase, cast.example)
    assert zeros(cast.models["student"]) == {"layer1.conv": 0, "layer2.conv": 4}
    assert phase.notes == ("4 filters in 1 convolutions are zeroed after each pruning, by l2",)
    scores = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    (phase,) = SoftFilterPruning(keep=0.5).phases(stage(scores))
    run(phase, images())
    assert zeros(scores) == {"0": 3, "1": 0, "2": 0}


def test_frozen_convolutions_are_left_alone():
    cast = stage(5)
    cast.models["student"].layer1.conv.weight.requires_grad_(False)
    (phase,) = SoftFilterPruning().phases(cast)
    run(phase, cast.example)
    assert zeros(cast.models["student"]) == {"layer1.conv": 0, "layer2.conv": 3}


def test_when_it_is_due():
    def due(step, steps, epochs=4.0, **settings):
        return SoftFilterPruning(**settings)._due(Moment(None, step / steps, epochs, step, steps))

    assert [step for step in range(12) if due(step, 3)] == [2, 5, 8, 11]
    assert [step for step in range(12) if due(step, 3, every=3)] == [8, 11]


def test_what_is_refused():
    with pytest.raises(HyperParameterError, match=r"keep = 1.0: a part of the filters, in \(0, 1\)"):
        SoftFilterPruning(keep=1.0)
    with pytest.raises(HyperParameterError, match="by = 'l3': one of l1, l2, fpgm"):
        SoftFilterPruning(by="l3")
    with pytest.raises(HyperParameterError, match=r"mix = 0.5: in \[0, 1 - keep\], which is \[0, 0.4\]"):
        SoftFilterPruning(keep=0.6, by="fpgm", mix=0.5)
    with pytest.raises(HyperParameterError, match=r"mix = 0.1: 0, unless by = 'fpgm'"):
        SoftFilterPruning(mix=0.1)
    with pytest.raises(HyperParameterError, match="every = 0: at least 1 epoch"):
        SoftFilterPruning(every=0)
    with pytest.raises(HyperParameterError, match="skip = 'conv1': a list of names"):
        SoftFilterPruning(skip="conv1")
    with pytest.raises(NameUnknown, match=r"skip: no layer with weights 'layer1.cnv' in Sequential; near: layer1.conv"):
        SoftFilterPruning(skip=("layer1.cnv",)).phases(stage(5))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(LimbeckError, match=r"has none to prune .* take gradual_magnitude"):
        SoftFilterPruning().phases(stage(flat))
    with pytest.raises(LimbeckError, match="needs labels"):
        SoftFilterPruning().phases(stage(5, batch=Batch(images().inputs)))
