"""Scores of groups of channels: each against its definition, computed another way on a small network."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from limbeck import scores
from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.judge import NAMES, judge, judge_what_can_be, needs_data, needs_labels
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError, TargetError
from limbeck.phase import Batch


def ones(n):
    return tuple((i,) for i in range(n))


def net(act=nn.ReLU, norm=True, seed=0):
    """[B, 2, 6, 6] -> 3 scores: conv1 (5), conv2 (4, stride 2), flattened into fc."""
    torch.manual_seed(seed)
    parts = OrderedDict(conv1=nn.Conv2d(2, 5, 3, padding=1))
    if norm:
        parts["norm1"] = nn.BatchNorm2d(5)
    parts.update(act1=act(), conv2=nn.Conv2d(5, 4, 3, 2, 1), act2=act(), flat=nn.Flatten(), fc=nn.Linear(36, 3))
    model = nn.Sequential(parts)
    if norm:
        nn.init.normal_(model.norm1.weight)
        nn.init.normal_(model.norm1.bias)
        model.norm1.running_mean.normal_()
        model.norm1.running_var.uniform_(0.5, 2)
    return model


def groups(norm=True):
    first = [Member("conv1", "out", ones(5)), Member("conv2", "in", ones(5))]
    if norm:
        first.insert(1, Member("norm1", "norm", ones(5)))
    flat = tuple(tuple(range(9 * c, 9 * c + 9)) for c in range(4))
    return [
        Group("conv1", 5, tuple(first)),
        Group("conv2", 4, (Member("conv2", "out", ones(4)), Member("fc", "in", flat))),
    ]


def batches(n=3, size=8, labels=True):
    gen = torch.Generator().manual_seed(1)
    return [
        Batch(torch.randn(size, 2, 6, 6, generator=gen), torch.randint(3, (size,), generator=gen) if labels else None)
        for _ in range(n)
    ]


def score(by, model=None, found_groups=None, data=None, **more):
    model = net() if model is None else model
    given = (groups() if found_groups is None else found_groups) if by != "slimming" else (found_groups or groups()[:1])
    if by == "taylor_gate" and found_groups is None:
        given = groups()[:1]
    return judge(model, by, given, example=batches()[0].inputs, calibration=batches() if data is None else data, **more)


def inner(model, x):
    """What goes into conv2 and fc, with the history of both, and the scores."""
    model = model.eval()
    a = model.act1(model.norm1(model.conv1(x)))
    b = model.flat(model.act2(model.conv2(a)))
    return a, b, model.fc(b)


@pytest.mark.parametrize("by", NAMES)
def test_one_number_for_each_channel_and_the_model_as_it_was(by):
    model = net().train()
    model.act2.eval()
    model.conv2.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    random = torch.random.get_rng_state()
    found = score(by, model)
    for name, values in found.items():
        assert values.shape == ({"conv1": 5, "conv2": 4}[name],)
        assert values.dtype == torch.float64
        assert torch.isfinite(values).all()
        assert len(values.unique()) > 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert [p.requires_grad for p in model.conv2.parameters()] == [False, True]
    assert torch.equal(model.fc.weight.grad, torch.ones_like(model.fc.weight))
    assert model.conv1.weight.grad is None
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())
    again = score(by, model)
    assert all(torch.equal(values, again[name]) for name, values in found.items())


@pytest.mark.parametrize("by", ["l1", "l2", "fpgm"])
def test_filters_are_those_of_the_leader(by):
    model = net()
    found = score(by, model)
    assert torch.allclose(found["conv1"], getattr(scores, by)(model.conv1.weight.detach().double()))
    assert torch.allclose(found["conv2"], getattr(scores, by)(model.conv2.weight.detach().double()))


def test_coupled_producers_are_added_and_depthwise_ones_are_not():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "a": nn.Conv2d(3, 4, 3),
            "b": nn.Conv2d(2, 4, 1),
            "deep": nn.Conv2d(4, 4, 3, groups=4),
            "c": nn.Conv2d(4, 2, 1),
        }
    )
    turned = ((3,), (2,), (1,), (0,))
    coupled = Group(
        "a",
        4,
        (
            Member("a", "out", ones(4)),
            Member("b", "out", turned),
            Member("deep", "out", ones(4)),
            Member("c", "in", ones(4)),
        ),
    )
    found = judge(model, "l1", [coupled], example=None)["a"]
    a, b = model.a.weight.detach(), model.b.weight.detach()
    known = [float(a[i].abs().sum() + b[3 - i].abs().sum()) for i in range(4)]
    assert found.tolist() == pytest.approx(known, rel=1e-6)


def test_heads_take_several_rows_each_and_transposed_convolutions_columns():
    model = nn.ModuleDict({"qkv": nn.Linear(3, 6), "up": nn.ConvTranspose2d(2, 3, 2)})
    heads = Group("qkv", 2, (Member("qkv", "out", ((0, 2, 4), (1, 3, 5))),))
    up = Group("up", 3, (Member("up", "out", ones(3)),))
    found = judge(model, "l1", [heads, up], example=None)
    w = model.qkv.weight.detach().abs().sum(1)
    assert found["qkv"].tolist() == pytest.approx([float(w[0::2].sum()), float(w[1::2].sum())], rel=1e-6)
    assert found["up"].tolist() == pytest.approx(model.up.weight.detach().abs().sum((0, 2, 3)).tolist(), rel=1e-6)


def test_slimming_takes_the_scales():
    model = net()
    assert torch.equal(score("slimming", model)["conv1"], model.norm1.weight.detach().abs().double())
    with pytest.raises(LimbeckError, match=r"slimming needs a batch normalisation .* and 'conv2' has none"):
        score("slimming", model, groups())


def test_random_differs_by_seed_and_by_group():
    a, b = score("random"), score("random", seed=1)
    assert not torch.equal(a["conv1"], b["conv1"])
    assert not torch.equal(a["conv1"][:4], a["conv2"])


def test_apoz_counts_the_zeros_in_front_of_the_consumer():
    model = net()
    found = score("apoz", model)
    x = torch.cat([batch.inputs for batch in batches()])
    a, b, _ = inner(model, x)
    zeros = [float((a[:, c] == 0).double().mean()) for c in range(5)]
    assert found["conv1"].tolist() == pytest.approx([1 - z for z in zeros])
    zeros = [float((b[:, 9 * c : 9 * c + 9] == 0).double().mean()) for c in range(4)]
    assert found["conv2"].tolist() == pytest.approx([1 - z for z in zeros])


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Tanh])
def test_apoz_refuses_what_is_never_zero(act):
    with pytest.raises(
        LimbeckError,
        match="group 'conv1': apoz counts activations that are exactly zero, and in what goes into 'conv2'",
    ):
        score("apoz", net(act))


def test_what_cannot_be_judged_is_told_beside_what_can():
    model = net()
    model.act2 = nn.GELU()
    told = {"example": batches()[0].inputs, "calibration": batches()}
    ours, found, why = judge_what_can_be(model, "apoz", groups(), **told)
    assert [g.name for g in ours] == list(found) == ["conv1"]
    assert torch.equal(found["conv1"], judge(net(), "apoz", groups()[:1], **told)["conv1"])
    assert list(why) == ["conv2"]
    assert why["conv2"].startswith(
        "apoz counts activations that are exactly zero, and in what goes into 'fc' there is none"
    )
    with pytest.raises(LimbeckError, match="group 'conv2': apoz counts"):
        judge(model, "apoz", groups(), **told)
    model.act1 = nn.SiLU()
    with pytest.raises(LimbeckError, match=r"group 'conv1': apoz counts .* Take a score that looks at something else"):
        judge_what_can_be(model, "apoz", groups(), **told)


class Read(nn.Module):
    """Its second layer's weights are used without a call of the layer, as a fused attention does."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(nn.functional.linear(self.first(x).relu(), self.second.weight).relu())


@pytest.mark.parametrize("by", ["oracle", "taylor", "apoz", "mean_activation", "lasso", "thinet"])
def test_a_layer_whose_weights_are_used_without_it_is_not_judged_by_its_inputs(by):
    pairs = [("first", "second"), ("second", "last")]
    found = [Group(a, 6, (Member(a, "out", ones(6)), Member(b, "in", ones(6)))) for a, b in pairs]
    data = [Batch(torch.randn(8, 4), torch.randint(3, (8,)))]
    ours, rated, why = judge_what_can_be(Read(), by, found, example=data[0].inputs, calibration=data)
    assert [g.name for g in ours] == list(rated) == ["second"]
    assert "'second'" in why["first"]
    assert "never ran as a" in why["first"]


def test_the_oracle_passes_over_heads_that_run_in_training_alone():
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.beside = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            h = self.first(x).relu()
            return (self.last(h), self.beside(h)) if self.training else self.last(h)

    torch.manual_seed(0)
    model, data = Headed(), [Batch(torch.randn(8, 4), torch.randint(3, (8,)))]
    out, last, beside = (
        Member("first", "out", ones(6)),
        Member("last", "in", ones(6)),
        Member("beside", "in", ones(6)),
    )
    told = {"example": data[0].inputs, "calibration": data}
    alone = judge(model, "oracle", [Group("first", 6, (out, last))], **told)["first"]
    both = judge(model, "oracle", [Group("first", 6, (out, last, beside))], **told)["first"]
    assert torch.equal(alone, both)
    assert (alone > 0).any()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with pytest.raises(LimbeckError, match="'beside' never ran"):
        judge(model, "oracle", [Group("first", 6, (out, beside))], **told)


def test_mean_activation():
    model = net()
    a, _, _ = inner(model, torch.cat([batch.inputs for batch in batches()]))
    assert torch.allclose(score("mean_activation", model)["conv1"], a.double().mean((0, 2, 3)).detach(), rtol=1e-5)


def test_taylor_by_single_samples():
    model = net()
    total = {"conv1": torch.zeros(5), "conv2": torch.zeros(4)}
    for batch in batches():
        for x, y in zip(batch.inputs, batch.targets, strict=True):
            a, b, logits = inner(model, x[None])
            g = torch.autograd.grad(nn.functional.cross_entropy(logits, y[None]), [a, b])
            total["conv1"] += (g[0] * a)[0].mean((1, 2)).abs().detach()
            total["conv2"] += (g[1] * b)[0].reshape(4, 9).mean(1).abs().detach()
    found = score("taylor", model)
    for name, values in total.items():
        assert torch.allclose(found[name].float(), values / values.norm(), rtol=1e-4), name


def test_the_gate_by_hand():
    model = net()
    total = torch.zeros(5)
    for batch in batches():
        model.zero_grad()
        nn.functional.cross_entropy(model.eval()(batch.inputs), batch.targets).backward()
        norm = model.norm1
        total += (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).detach() ** 2 / 3
    # the absolute value is of no consequence: squares are zero or more
    assert torch.allclose(score("taylor_gate", model)["conv1"].float(), total, rtol=1e-4)
    with pytest.raises(LimbeckError, match=r"taylor_gate needs a batch normalisation .* 'conv2' has none"):
        score("taylor_gate", model, groups())


def test_weights_times_gradients_in_eval_mode_are_no_noise():
    model = net().train()
    found = score("taylor_weight", model)["conv1"]
    total = torch.zeros(5)
    model = model.eval()
    for batch in batches():
        model.zero_grad()
        nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        total += (model.conv1.weight * model.conv1.weight.grad).sum((1, 2, 3)).detach() ** 2 / 3
    assert torch.allclose(found.float(), total, rtol=1e-4)
    assert float(found.max()) > 1e-8  # with batch statistics, some 1e-14


def test_obd_sums_over_samples_not_over_the_batch():
    model = net().eval()
    square = torch.zeros_like(model.conv1.weight)
    for batch in batches():
        for x, y in zip(batch.inputs, batch.targets, strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(x[None]), y[None]).backward()
            square += model.conv1.weight.grad**2
    model.zero_grad()
    known = (square / 24 * model.conv1.weight.detach() ** 2 / 2).sum((1, 2, 3))
    assert torch.allclose(score("obd", model)["conv1"].float(), known, rtol=1e-4)


def test_oracle_is_what_silencing_the_channel_does():
    model = net().eval()
    found = score("oracle", model)
    x, y = torch.cat([b.inputs for b in batches()]), torch.cat([b.targets for b in batches()])

    def change(cut):
        with torch.no_grad():
            return abs(float(nn.functional.cross_entropy(cut(x), y) - nn.functional.cross_entropy(model(x), y)))

    for c in range(5):
        cut = copy.deepcopy(model)
        nn.init.zeros_(cut.conv2.weight.data[:, c])
        assert float(found["conv1"][c]) == pytest.approx(change(cut), abs=1e-6)
    for c in range(4):
        cut = copy.deepcopy(model)
        nn.init.zeros_(cut.fc.weight.data[:, 9 * c : 9 * c + 9])
        assert float(found["conv2"][c]) == pytest.approx(change(cut), abs=1e-6)


class Half(nn.Module):
    """A parametrization: a layer computes with less than it stores."""

    def forward(self, weight):
        return weight * (torch.arange(len(weight)) != 2).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("by", ["l1", "taylor_weight", "obd"])
def test_a_masked_layer_is_judged_by_the_weights_that_it_computes_with(by):
    plain, masked = net(), net()
    plain.conv1.weight.data[2] = 0
    torch.nn.utils.parametrize.register_parametrization(masked.conv1, "weight", Half())
    found = score(by, masked)["conv1"]
    assert torch.allclose(found, score(by, plain)["conv1"])
    assert found[2] == 0
    assert bool(found[[0, 1, 3, 4]].gt(0).any())
    assert torch.nn.utils.parametrize.is_parametrized(masked.conv1)


def test_multi_hot_labels_and_a_single_logit():
    model = net()
    many = [Batch(b.inputs, nn.functional.one_hot(b.targets, 3)) for b in batches()]
    assert score("taylor", model, data=many)["conv1"].shape == (5,)
    model.fc = nn.Linear(36, 1)
    yes = [Batch(b.inputs, (b.targets > 0).long()) for b in batches()]
    assert score("obd", model, data=yes)["conv1"].shape == (5,)


@pytest.mark.parametrize("by", ["lasso", "thinet"])
def test_reconstruction_drops_what_the_next_layer_does_not_read(by):
    model = net()
    with torch.no_grad():
        model.norm1.bias.fill_(0.5)  # none of the others is dead
        model.conv2.bias.fill_(0.5)
        model.conv2.weight[:, 3] *= 1e-3
        model.fc.weight[:, 9:18] *= 1e-3
    found = score(by, model)
    assert found["conv1"].argmin() == 3
    assert found["conv2"].argmin() == 1
    if by == "thinet":
        assert sorted(found["conv1"].tolist()) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_lasso_drops_a_twin():
    model = net()
    with torch.no_grad():  # channel 4 says what channel 0 says, and the next layer reads both alike
        for p in (model.conv1.weight, model.conv1.bias, model.norm1.weight, model.norm1.bias):
            p[4] = p[0]
        model.norm1.running_mean[4], model.norm1.running_var[4] = (
            model.norm1.running_mean[0],
            model.norm1.running_var[0],
        )
        model.norm1.weight[4] *= 0.9
        model.norm1.bias[4] *= 0.9
        model.conv2.weight[:, 4] = model.conv2.weight[:, 0]
    assert score("lasso", model)["conv1"].argmin() == 4


def test_what_is_refused():
    with pytest.raises(NameUnknown, match="no score 'fpgn'; near: fpgm"):
        score("fpgn")
    with pytest.raises(
        HyperParameterError, match=r"by = 'apoz': this score looks at data, .* give calibration batches"
    ):
        score("apoz", data=[])
    with pytest.raises(TargetError, match="by = 'obd': this score follows the loss, which needs labels"):
        score("obd", data=batches(labels=False))
    score("apoz", data=batches(labels=False))
    broken = net()
    broken.conv1.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="l1: the weight is non-finite: it holds 1 NaN"):
        score("l1", broken)
    unused = net()
    unused.spare = nn.Conv2d(5, 1, 1)  # is there, and never runs where anything is heard of it

    def forward(x):
        return nn.Sequential(*list(unused.children())[:-1])(x)

    unused.forward = forward
    alone = [Group("conv1", 5, (Member("conv1", "out", ones(5)), Member("spare", "in", ones(5))))]
    with pytest.raises(LimbeckError, match="'spare', which never ran as a module of its own"):
        score("apoz", unused, alone)
    nobody = [Group("conv1", 5, (Member("conv1", "out", ones(5)),))]
    with pytest.raises(LimbeckError, match="nothing of that kind takes these channels"):
        score("taylor", net(), nobody)


def test_which_scores_look_at_data():
    assert [by for by in NAMES if not needs_data(by)] == ["l1", "l2", "fpgm", "slimming", "random"]
    assert all(needs_data(by) for by in NAMES if needs_labels(by))
    with pytest.raises(NameUnknown):
        needs_data("nothing")


def test_only_so_many_batches_are_looked_at():
    seen = []

    def endless():
        while True:
            seen.append(1)
            yield batches()[0]

    score("mean_activation", data=endless())
    assert len(seen) == 10


class Calls(nn.Module):
    """Two layers; how the first one's channels reach the second is up to a function."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 6), nn.Linear(6, 3), how
        self.count = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, x):
        return self.how(self, x)


def of_calls(by, how, seed=0):
    torch.manual_seed(seed)
    pair = [Group("a", 6, (Member("a", "out", ones(6)), Member("b", "in", ones(6))))]
    data = [Batch(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
    return judge_what_can_be(Calls(how), by, pair, example=data[0].inputs, calibration=data)


WITH_DATA = ["apoz", "mean_activation", "taylor", "taylor_weight", "obd", "lasso", "thinet", "oracle"]


@pytest.mark.parametrize("by", WITH_DATA)
def test_a_layer_that_is_called_by_keyword_is_judged_all_the_same(by):
    _, found, _ = of_calls(by, lambda net, x: net.b(input=net.a(input=x).relu()))
    _, other, _ = of_calls(by, lambda net, x: net.b(net.a(x).relu()))
    assert torch.equal(found["a"], other["a"])


def test_taylor_adds_up_the_calls_of_a_layer():
    def enc(net, x):
        return net.b(net.a(x).relu())

    _, both, _ = of_calls("taylor", lambda net, x: 5 * enc(net, x) + 0.01 * enc(net, -x))
    _, large, _ = of_calls("taylor", lambda net, x: 5 * enc(net, x))
    _, small, _ = of_calls("taylor", lambda net, x: 0.01 * enc(net, -x))
    torch.testing.assert_close(both["a"], large["a"], atol=0.02, rtol=0)
    assert (both["a"] - small["a"]).abs().max() > 0.1


def test_taylor_takes_calls_that_cancel_for_nothing():
    def cancelled(net, x):
        h = net.a(x).relu()
        return net.b(h) - net.b(h)

    _, found, _ = of_calls("taylor", cancelled)
    assert float(found["a"].abs().max()) == 0.0


def test_taylor_names_what_has_no_gradient():
    def frozen(net, x):
        with torch.no_grad():
            h = net.a(x).relu()
        return net.b(h)

    with pytest.raises(
        LimbeckError, match=r"follows the gradient at what goes into 'b', and there is none \(torch.no_grad"
    ):
        of_calls("taylor", frozen)
