"""Neuron selection: statistics against NumPy, and who is chosen."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mini_driver import images, net, run, stage
from torch import nn

from limbeck.connectors import NeuronStatistics, select_neurons
from limbeck.errors import DataError, HyperParameterError, ShapeError, TapError, TargetError
from limbeck.methods import NeuronSelection, preset
from limbeck.phase import Batch
from limbeck.taps import look


def table(rows=200, seed=0):
    """Six columns: two that tell three classes apart, a copy of the first, its negative, a constant, and noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    first = y + 0.3 * rng.normal(size=rows)
    second = (y == 1) + 0.5 * rng.normal(size=rows)
    x = np.stack([first, second, 2 * first + 1, -first, np.full(rows, 7.3), rng.normal(size=rows)], 1)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def counted(x, y, *, k=3, mu=0.5, parts=3, classes=3):
    net = NeuronStatistics(x.shape[1], classes, k=k, mu=mu).train()
    for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
        assert net(a, b) is None
    return net.eval()


def test_statistics_are_those_of_numpy():
    x, y = table()
    net = counted(x, y, parts=4)
    rho = np.corrcoef(np.delete(x.double().numpy(), 4, 1).T)
    have = np.delete(np.delete(net.correlations.numpy(), 4, 0), 4, 1)
    assert np.allclose(have, rho, atol=1e-9)
    assert (net.correlations[4] == 0).all()
    for i in (0, 1, 2, 3, 5):
        column, labels = x[:, i].double().numpy(), y.numpy()
        groups = [column[labels == c] for c in range(3)]
        between = sum(len(g) * (g.mean() - column.mean()) ** 2 for g in groups)
        within = sum(((g - g.mean()) ** 2).sum() for g in groups)
        assert net.scores[i].item() == pytest.approx(between / (between + within), rel=1e-6)
    assert not torch.isfinite(net.scores[4])


def test_classes_that_never_come_change_nothing():
    x, y = table()
    few, many = counted(x, y), counted(x, y, classes=9)
    torch.testing.assert_close(few.scores, many.scores, equal_nan=True)


def test_of_neurons_that_agree_one_is_chosen_and_a_constant_never():
    x, y = table()
    for mu in (0.01, 0.5, 2.0):
        chosen = counted(x, y, k=6, mu=mu).selected.tolist()
        assert sorted({0, 2, 3} & set(chosen)) == [chosen[0]]
        assert chosen[0] in (0, 2, 3)  # the best column, or one of its copies
        assert 4 not in chosen
        assert set(chosen[1:]) == {1, 5}
    assert counted(x, y, k=3)(x).shape == (200, 3)
    assert counted(x, y, k=6)(x).shape == (200, 3)  # there are no more


def test_without_a_price_the_best_are_taken():
    scores = torch.tensor([0.3, 0.9, 0.1, 0.9, 0.5])
    rho = torch.ones(5, 5)
    assert select_neurons(scores, rho, 3, mu=0.0).tolist() == [1, 3, 4]
    assert select_neurons(scores, rho, 5, mu=0.0).tolist() == [1, 3, 4, 0, 2]
    assert select_neurons(scores, torch.eye(5), 5, mu=0.7).tolist() == [1, 3, 4, 0, 2]


def by_hand(scores, rho, k, mu):
    chosen = []
    while len(chosen) < k:
        worth = {
            i: scores[i] - mu * max([abs(rho[i][j]) for j in chosen], default=0.0)
            for i in range(len(scores))
            if i not in chosen
        }
        chosen.append(max(worth, key=lambda i: worth[i]))
    return chosen


@pytest.mark.parametrize("mu", [0.1, 0.6, 3.0])
def test_the_rule_by_hand(mu):
    gen = torch.Generator().manual_seed(1)
    scores, x = torch.rand(12, generator=gen), torch.randn(40, 12, generator=gen)
    rho = torch.corrcoef(x.T)
    assert select_neurons(scores, rho, 7, mu).tolist() == by_hand(scores.tolist(), rho.tolist(), 7, mu)


def test_correlations_that_are_no_numbers_count_as_none():
    rho = torch.eye(3)
    rho[0, 1] = rho[1, 0] = torch.nan
    assert select_neurons(torch.tensor([0.9, 0.8, 0.1]), rho, 2, mu=5.0).tolist() == [0, 1]


def test_bad_selections():
    for k in (0, 4):
        with pytest.raises(HyperParameterError, match=rf"k = {k}: of 3 neurons one can select 1 to 3"):
            select_neurons(torch.ones(3), torch.eye(3), k, mu=0.5)
    with pytest.raises(HyperParameterError, match="mu = -1"):
        select_neurons(torch.ones(3), torch.eye(3), 1, mu=-1)
    with pytest.raises(ShapeError, match=r"the correlations of 3 neurons are \[3, 3\], not \[2, 2\]"):
        select_neurons(torch.ones(3), torch.eye(2), 1, mu=0.5)
    x, y = table()
    with pytest.raises(DataError, match="two classes are needed for that; the rows that were counted have only one"):
        counted(x, torch.zeros_like(y)).selected  # noqa: B018


def test_what_was_chosen_follows_what_is_counted_and_loaded():
    x, y = table()
    net, other = counted(x, y, k=1), NeuronStatistics(6, 3, k=1, mu=0.5).eval()
    first = net.selected.tolist()
    net.train()(100 * x[:, [5, 1, 2, 3, 4, 0]], y)  # now the last column is the one that tells classes apart
    assert net.eval().selected.tolist() != first
    with pytest.raises(DataError, match="have none"):
        other.selected  # noqa: B018
    other.load_state_dict(net.state_dict())
    assert other.selected.tolist() == net.selected.tolist()


# -- the method ------------------------------------------------------------------------------------------


def test_the_loss_is_half_the_sum_of_squares_to_the_selected_neurons():
    cast = stage(batch=images(24))
    first, second = NeuronSelection(k=4, mu=0.3).phases(cast)
    assert (first.epochs, first.stops, first.trains) == (1, {"teacher"}, {"statistics": ("neurons",)})
    assert run(first, cast.example) == []
    ((_, terms),) = run(second, cast.example)
    assert set(terms) == {"ce", "neurons"}
    chosen = second.modules["neurons"].selected.tolist()
    assert len(chosen) == 4
    student = cast.models["student"].train()
    with torch.no_grad():
        x = student.pool(student.layer2(student.layer1(cast.example.inputs)))
        guess = second.modules["regressor"](x)
    f = look(cast.models["teacher"], cast.example.inputs, ["pool"]).taps["pool"]
    want = [0.5 * sum((guess[b, i] - f[b, j]).item() ** 2 for i, j in enumerate(chosen)) for b in range(24)]
    assert terms["neurons"].value.tolist() == pytest.approx(want, rel=1e-4)
    assert terms["neurons"].weight == 1.0
    assert second.frozen == ("teacher", "neurons")


def test_all_neurons_are_a_hint_on_the_top_layer():
    cast = stage(batch=images(24))
    first, second = NeuronSelection(k=10, mu=0.0).phases(cast)
    run(first, cast.example)
    ((_, terms),) = run(second, cast.example)
    chosen = second.modules["neurons"].selected
    assert sorted(chosen.tolist()) == list(range(10))
    f = look(cast.models["teacher"], cast.example.inputs, ["pool"]).taps["pool"]
    student = cast.models["student"].train()
    with torch.no_grad():
        guess = second.modules["regressor"](student.pool(student.layer2(student.layer1(cast.example.inputs))))
    hint = 0.5 * (guess[:, chosen.argsort()] - f).square().sum(1)
    torch.testing.assert_close(terms["neurons"].value, hint, rtol=1e-4, atol=1e-6)


def test_fewer_than_asked_for_are_no_trouble():
    cast = stage(batch=images(24))
    with torch.no_grad():  # five channels, each twice
        conv, norm = cast.models["teacher"].layer2.conv, cast.models["teacher"].layer2.norm
        conv.weight[5:], conv.bias[5:] = conv.weight[:5], conv.bias[:5]
        assert norm.weight.eq(1).all()
    first, second = NeuronSelection(k=8).phases(cast)
    run(first, cast.example)
    ((_, terms),) = run(second, cast.example)
    assert len(second.modules["neurons"].selected) == 5
    assert torch.isfinite(terms["neurons"].value).all()


def test_the_top_layers_are_found_or_named():
    first, _ = NeuronSelection().phases(stage())
    assert first.notes == ("pair (the top hidden layers): fc:in [6] -> fc:in [10], of which at most 5 are selected",)
    convolutional = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    with pytest.raises(TapError, match=r"the teacher \(Sequential\) does not end with a linear layer .* name layers"):
        NeuronSelection().phases(stage(teacher=convolutional))
    assert NeuronSelection(pair=("pool", "flat"), k=3).phases(stage(teacher=convolutional))
    with pytest.raises(ShapeError, match=r"layer 'layer2' of the student gives \[6, 4, 4\] per sample"):
        NeuronSelection(pair=("layer2", "pool")).phases(stage())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"k": 0}, "k = 0: at least 1 neuron"),
        ({"k": 2.5}, "k = 2.5: a whole number"),
        ({"k": True}, "k = True: a whole number"),
        ({"mu": -0.1}, "mu = -0.1: zero or more"),
        ({"mu": float("nan")}, "mu = nan"),
        ({"weight": -1.0}, "weight = -1.0"),
        ({"weight": 0.0, "hard": 0.0}, "all are zero"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        NeuronSelection(**settings)


def test_bad_data():
    with pytest.raises(
        HyperParameterError, match="k = 11: layer 'fc:in' of the teacher has 10 neurons; select 1 to 10"
    ):
        NeuronSelection(k=11).phases(stage())
    with pytest.raises(TargetError, match=r"needs labels to find the neurons .* hard=0"):
        NeuronSelection(hard=0.0).phases(stage(batch=images(labels=False)))
    with pytest.raises(TargetError, match="needs labels as a tensor; these targets are list"):
        NeuronSelection(hard=0.0).phases(stage(batch=images()._replace(targets=[0, 1, 2])))
    batch = images()
    with pytest.raises(TargetError, match=r"one class id per sample; these targets are \[6, 3\] int64"):
        NeuronSelection().phases(stage(batch=Batch(batch.inputs, nn.functional.one_hot(batch.targets, 3))))
    cast = stage()
    first, _ = NeuronSelection().phases(cast)
    with pytest.raises(TargetError, match=r"targets from 0 to 3; with 3 classes they must be in \[0, 3\)"):
        run(first, Batch(batch.inputs, torch.tensor([0, 1, 2, 3, 0, 1])))
    single = stage(batch=Batch(batch.inputs, torch.zeros(6, dtype=torch.int64)))
    first, second = NeuronSelection().phases(single)
    run(first, single.example)
    with pytest.raises(DataError, match="only one"):
        run(second, single.example)
    with pytest.raises(ShapeError, match="N_t != N_s"):
        NeuronSelection(soft=1.0).phases(stage(teacher=net(5, 4)))


@pytest.mark.parametrize("name", ["paper", "benchmark"])
def test_presets_run(name):
    cast = dataclasses.replace(stage(), classes=3)
    first, second = preset("neuron_selection", name).phases(cast)
    run(first, cast.example)
    assert run(second, cast.example)


def test_a_layer_that_is_dead_is_an_error_in_words():
    cast = stage(batch=images(24))
    with torch.no_grad():
        norm = cast.models["teacher"].layer2.norm
        norm.weight.zero_()
        norm.bias.zero_()
    first, second = NeuronSelection().phases(cast)
    run(first, cast.example)
    with pytest.raises(
        DataError, match=r"none of the 10 neurons of the teacher's layer varies .* has the teacher been"
    ):
        run(second, cast.example)


def test_which_neurons_were_chosen_is_kept():
    cast = stage(batch=images(24))
    with torch.no_grad():  # five channels, each twice
        conv = cast.models["teacher"].layer2.conv
        conv.weight[5:], conv.bias[5:] = conv.weight[:5], conv.bias[:5]
    first, second = NeuronSelection(k=8).phases(cast)
    run(first, cast.example)
    run(second, cast.example)
    assert second.keeps == ("selection",)
    kept = second.modules["selection"].state_dict()
    assert list(kept) == ["neurons"]
    assert kept["neurons"].dtype == torch.int64
    assert kept["neurons"].tolist() == [*second.modules["neurons"].selected.tolist(), -1, -1, -1]
    assert NeuronSelection(weight=0.0).phases(cast)[1].keeps == ()
