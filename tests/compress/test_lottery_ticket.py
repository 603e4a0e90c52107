"""Lottery tickets: what is kept, what is put back, and that nothing leaks from one round into another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.compress.lottery import CONTROLS, Decide, LotteryTicket, Replant, Scores, Supermask, Ticket
from limbeck.compress.masking import density, layer_densities, masks_of, settle
from limbeck.compress.masking.tickets import values
from limbeck.compress.masks import Mask
from limbeck.compress.structure import describe, rebuild
from limbeck.compressor import findings, is_compressor
from limbeck.course import STUDENT, Gathering, Lesson, Operation, is_course, lessons_of
from limbeck.errors import HyperParameterError, LimbeckError, ShapeError

X = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3)
    )


def state(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def trained(model, steps=6, each=lambda model: None):
    """A copy, trained with everything that brings masked weights back where masks leak."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05)
    for _ in range(steps):
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
        each(model)
    return model


def run(course, start, each=lambda model: None):
    """The lessons of a course in a row, as a runner does them: every result by its name."""
    shelf = {STUDENT: start}
    for part in lessons_of(course):
        assert not isinstance(part, Gathering)
        if isinstance(part, Operation):
            result = part.how(shelf[part.student], example=X, beside=tuple(shelf[name] for name in part.beside))
        else:
            assert part.method is None
            result = trained(shelf[part.student], each=each)
            for step in part.training.get("snapshots", ()):
                shelf[f".{part.name}@{step}"] = trained(shelf[part.student], steps=step)
        shelf[f".{part.name}"] = result
    return shelf


# -- known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "left"), [(7, 0.2097), (10, 0.1074)])
def test_density_after_rounds(rounds, left):
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
    ticket = Ticket(output_rate=0.2)
    new = copy.deepcopy(model)
    for _ in range(rounds):
        new = ticket(new, example=torch.zeros(1, 100), beside=(model,))
    assert density(new) == pytest.approx(left, abs=0.0005)


def test_the_output_layer_loses_half_as_much():
    new = Ticket(rate=0.2)(net(1), example=X, beside=(net(0),))
    assert {k: round(v, 3) for k, v in layer_densities(new).items()} == {"0": 0.806, "4": 0.8, "6": 0.9}  # 29 of 36
    new = Ticket(rate=0.2, scope="global")(net(1), example=X, beside=(net(0),))
    assert sum(int((~m).sum()) for m in masks_of(new).values()) == (36 + 1280 + 60) // 5
    new = Ticket(rate=0.2, scope="global", output_rate=0.0)(net(1), example=X, beside=(net(0),))
    assert layer_densities(new)["6"] == 1.0


def test_rewound_to_the_first_weights_bit_for_bit():
    """With the three faults that public code has: shared biases, pruned scales, statistics that stay as trained."""
    first = net()
    kept = state(first)
    final = trained(first)
    assert not torch.equal(final[1].running_mean, first[1].running_mean)
    new = Ticket(rate=0.5)(final, example=X, beside=(first,))
    found, masks = state(settle(new)), masks_of(new)
    assert sorted(masks) == ["0", "4", "6"]
    for name, value in kept.items():
        layer = name.removesuffix(".weight")
        expected = (
            torch.where(masks[layer], value, torch.zeros_like(value)) if layer in masks and "weight" in name else value
        )
        assert torch.equal(found[name], expected), name
    trained(new)
    assert same(state(first), kept)
    again = trained(copy.deepcopy(new))
    assert not torch.equal(again[6].bias, first[6].bias)
    assert torch.equal(first[6].bias, kept["6.bias"])


def test_a_whole_course_leaves_the_first_weights_alone_and_masks_hold_in_every_step():
    first = net()
    kept = state(first)

    def holds(model):
        for path, mask in masks_of(model).items():
            assert bool((model.get_submodule(path).weight[~mask] == 0).all())

    shelf = run(LotteryTicket(rounds=3, rate=0.4, controls=("reinit", "random")), first, each=holds)
    assert same(state(first), kept)
    assert [n for n in shelf if n not in (STUDENT,)] == [
        *(".0", ".mask1", ".mask1.reinit", ".1.reinit", ".mask1.random", ".1.random", ".1"),
        *(".mask2", ".mask2.reinit", ".2.reinit", ".mask2.random", ".2.random", ".2"),
        *(".mask3", ".mask3.reinit", ".3.reinit", ".mask3.random", ".3.random", "."),
    ]
    assert masks_of(shelf[".0"]) == {}  # round 0: all ones, by having none
    for k, before in ((1, ".mask0"), (2, ".mask1"), (3, ".mask2")):
        masks = masks_of(shelf[f".mask{k}"])
        for path, mask in masks.items():
            if k > 1:
                assert bool((masks_of(shelf[before])[path] | ~mask).all())
            smaller = shelf[f".{k - 1}"].get_submodule(path).weight.abs()
            alive = masks_of(shelf[before])[path] if k > 1 else torch.ones_like(mask)
            assert smaller[mask].min() >= smaller[alive & ~mask].max()
        assert torch.equal(masks_of(shelf[f".mask{k}.reinit"])["4"], masks["4"])
        shuffled = masks_of(shelf[f".mask{k}.random"])["4"]
        assert int(shuffled.sum()) == int(masks["4"].sum())
        assert not torch.equal(shuffled, masks["4"])
        assert same(masks_of(shelf[f".{k}" if k < 3 else "."]), masks)
        for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "6.bias"):
            assert torch.equal(state(shelf[f".mask{k}"])[name], kept[name])


def test_skipped_layers_keep_the_masks_that_they_had():
    first = Mask(sparsity=0.8)(net(), example=X)
    had = masks_of(first)
    shelf = run(LotteryTicket(rounds=2, rate=0.5, controls=("reinit", "random"), skip=("0", "6")), first)
    for name in (".mask1", ".mask2", ".mask2.reinit", ".mask2.random", "."):
        masks = masks_of(shelf[name])
        for path in ("0", "6"):
            assert torch.equal(masks[path], had[path]), name
            assert bool((shelf[name].get_submodule(path).weight[~had[path]] == 0).all()), name
        assert int(masks["4"].sum()) < int(had["4"].sum())
    assert torch.equal(shelf[".mask1"][6].weight, first[6].weight)
    rebuilt = rebuild(shelf[".1"], describe(shelf[".1"], shelf[".mask2"]))
    rebuilt.load_state_dict(shelf[".mask2"].state_dict())
    assert same(masks_of(rebuilt), masks_of(shelf[".mask2"]))


def test_a_skipped_layer_keeps_a_mask_that_only_the_trained_network_has():
    first, final = net(), Mask(sparsity=0.8)(net(), example=X)
    new = Ticket(rate=0.5, skip=("6",))(final, example=X, beside=(first,))
    mask = masks_of(final)["6"]
    assert torch.equal(masks_of(new)["6"], mask)
    assert torch.equal(new[6].weight[mask], first[6].weight[mask])


def test_the_mask_of_the_reinit_control_and_its_weights():
    first = net()
    shelf = run(LotteryTicket(rounds=1, controls=tuple(CONTROLS)), first)
    mask = masks_of(shelf[".mask1"])["4"]
    w0 = first[4].weight.detach()
    for name, (_, sign, shuffle) in CONTROLS.items():
        w = shelf[f".mask1.{name}"][4].weight.detach()
        own = masks_of(shelf[f".mask1.{name}"])["4"]
        assert torch.equal(own, mask) != shuffle
        assert bool((w[~own] == 0).all())
        if sign:
            assert torch.equal(w[own].sign(), w0[own].sign())
        else:
            assert 0.2 < (w[own].sign() == w0[own].sign()).float().mean() < 0.8


def test_where_weights_begin_again():
    w = torch.tensor([0.5, -1.0, 2.0, -4.0, 0.0, 3.0])
    mask = torch.tensor([True, True, False, True, False, True])
    assert torch.equal(values("rewind", True, w, mask, 0), w)
    assert torch.equal(values("rewind", False, w, mask, 0).abs(), w.abs())
    drawn = values("reinit", False, w, mask, 0)
    assert sorted(drawn.tolist()) == sorted(w.tolist())
    shuffled = values("reshuffle", False, w, mask, 3)
    assert sorted(shuffled[mask].tolist()) == [-4.0, -1.0, 0.5, 3.0]
    assert torch.equal(shuffled[~mask], w[~mask])
    signed = values("reshuffle", True, w, mask, 3)
    assert torch.equal(signed[mask].sign(), w[mask].sign())
    assert sorted(signed[mask].abs().tolist()) == [0.5, 1.0, 3.0, 4.0]
    alpha = w.double().std(correction=0)
    for sign in (True, False):
        assert values("constant", sign, w, mask, 0)[mask].abs().tolist() == pytest.approx([float(alpha)] * 4)
    assert torch.equal(values("constant", True, w, mask, 0).sign(), w.sign())


def test_the_criteria_of_zhou():
    first, final = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -2.0, 0.1]]))
        final.weight.copy_(torch.tensor([[1.5, -1.0, -0.9]]))
    kept = {}
    for name in ("large_final", "magnitude_increase", "movement", "large_init", "large_final_same_sign"):
        new = Ticket(rate=0.34, output_rate=0.34, criterion=name)(final, example=torch.zeros(1, 3), beside=(first,))
        kept[name] = masks_of(new)[""].flatten().tolist()
        assert torch.equal(new.weight, torch.where(masks_of(new)[""], first.weight, torch.zeros(1, 3)))
    assert kept == {
        "large_final": [True, True, False],
        "magnitude_increase": [True, False, True],
        "movement": [False, True, True],
        "large_init": [True, True, False],
        "large_final_same_sign": [True, True, False],
    }


def test_where_masked_weights_rest():
    first, final = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -0.2, 0.5, 2.0]]))
        final.weight.copy_(torch.tensor([[3.0, 0.3, 0.1, 4.0]]))
    common = {"example": torch.zeros(1, 4), "beside": (first,)}

    def begin(masked, model=final, **more):
        return Ticket(rate=0.5, output_rate=0.5, masked=masked, **more)(model, **common)

    assert begin("zero").weight.tolist() == [[1.0, 0.0, 0.0, 2.0]]
    assert torch.equal(begin("freeze").weight, first.weight)
    # weight 1 moved away from zero, and rests where it was; weight 2 moved towards it
    found = begin("toward_zero")
    assert torch.equal(found.weight, torch.tensor([[1.0, -0.2, 0.0, 2.0]]))
    # another round: what rests already stays where it rests
    with torch.no_grad():
        found.weight = torch.tensor([[0.5, 9.0, 9.0, 5.0]])
    again = begin("toward_zero", model=found)
    assert torch.equal(again.weight, torch.tensor([[0.0, -0.2, 0.0, 2.0]]))
    assert masks_of(again)[""].tolist() == [[False, False, False, True]]


def test_back_to_a_later_step():
    course = LotteryTicket(rounds=2, rewind=3, controls=())
    parts = {part.name: part for part in lessons_of(course)}
    assert dict(parts["0"].training) == {"snapshots": (3,)}
    assert not parts["1"].training
    assert parts["mask1"].beside == parts["mask2"].beside == (".0@3",)
    model = net()
    shelf = run(course, model)
    late, ticket = state(shelf[".0@3"]), shelf[".mask2"]
    assert not torch.equal(late["4.weight"], model[4].weight)
    for name, value in state(settle(ticket)).items():
        mask = masks_of(ticket).get(name.removesuffix(".weight")) if name.endswith("weight") else None
        expected = late[name] if mask is None else torch.where(mask, late[name], torch.zeros_like(value))
        assert torch.equal(value, expected), name


# -- the contract ----------------------------------------------------------------------------------


def test_inputs_keep_every_bit():
    first, final = net(0), trained(net(0))
    final.eval()
    final[1].train()
    final[4].weight.requires_grad_(False)
    before, random = (state(first), state(final)), torch.get_rng_state()
    ticket = Ticket()(final, example=X, beside=(first,))
    for how in (Replant(), Replant(keep="rewind", sign=True, shuffle=True)):
        how(ticket, example=X, beside=(first,))
    assert torch.equal(random, torch.get_rng_state())
    assert same(state(first), before[0])
    assert same(state(final), before[1])
    assert first.training
    assert not final.training
    assert final[1].training
    assert not ticket.training
    assert ticket[1].training
    assert not ticket[4].parametrizations.weight.original.requires_grad
    assert ticket[6].parametrizations.weight.original.requires_grad
    assert not hasattr(first, "limbeck_findings")
    for mode in (True, False):
        assert ticket.train(mode)(X).shape == (12, 3)
    twin = copy.deepcopy(ticket).eval()
    assert torch.equal(twin(X), ticket.eval()(X))
    assert torch.allclose(torch.export.export(twin, (X,)).module()(X), twin(X))
    again = rebuild(final, describe(final, ticket))
    again.load_state_dict(ticket.state_dict())
    assert torch.equal(again.eval()(X), ticket(X))
    assert findings(ticket).details["density"] == density(ticket)


def test_courses_and_compressors():
    for course in (LotteryTicket(), Supermask()):
        assert is_course(course)
        assert is_compressor(course)
        with pytest.raises(LimbeckError, match="takes trainings between its steps, so it cannot be called"):
            course(net(), example=X)
    for how in (Ticket(), Replant(), Scores(), Decide()):
        assert is_compressor(how)
        assert not is_course(how)
    only = LotteryTicket(rounds=3, controls=("reinit",), controlled=(3,))
    assert [p.name for p in only.lessons() if isinstance(p, Lesson)] == ["0", "1", "2", "3.reinit", ""]


# -- supermasks ------------------------------------------------------------------------------------


def test_a_learned_supermask_trains_no_weight():
    first = net()
    scored = Scores(constant=False)(first, example=X)
    # Flags do not survive a run's files: whatever they say, only scores and normalisation may move.
    scored.requires_grad_(True)
    before = state(scored)
    after = state(trained(scored, steps=5))
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {
        *(f"{n}.parametrizations.weight.0.scores" for n in ("0", "4", "6")),
        *(f"1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }
    again = rebuild(first, describe(first, scored))
    again.load_state_dict(scored.state_dict())
    assert torch.equal(again.eval()(X), scored.eval()(X))


def test_scores_begin_at_one_half_and_weights_at_one_size():
    first = net()
    scored = Scores()(first, example=X)
    weight = scored[4].parametrizations.weight.original.detach()
    assert torch.equal(weight.sign(), first[4].weight.sign())
    assert torch.allclose(weight.abs(), first[4].weight.std(correction=0).expand_as(weight))
    torch.manual_seed(0)
    drawn = scored.train()[4].weight
    share = (drawn != 0).float().mean()
    assert 0.4 < share < 0.6
    assert torch.allclose(drawn.abs().max(), weight.abs().max() / share)  # rescaled by all / kept
    assert torch.equal(scored.eval()[4].weight, weight)  # one half stays: all of them


def test_a_learned_mask_learns_and_becomes_a_plain_one():
    course = Supermask(samples=2)
    parts = lessons_of(course)
    assert [p.name for p in parts] == ["scores", "learned", "sample1", "sample2", ""]
    first = net()
    scored = parts[0].how(first, example=X)
    optimizer = torch.optim.AdamW(scored.parameters(), lr=parts[1].training["optimizer"].lr, weight_decay=0.0)
    torch.manual_seed(0)
    for _ in range(60):
        nn.functional.cross_entropy(scored(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
    final = parts[-1].how(scored, example=X)
    untrained = nn.functional.cross_entropy(first.eval()(X), Y)
    assert nn.functional.cross_entropy(final.eval()(X), Y) < 0.5 * untrained
    assert torch.allclose(final(X), scored.eval()(X), atol=1e-5)
    assert 0.2 < density(final) < 0.8
    plain = settle(final)
    assert plain.state_dict().keys() == first.state_dict().keys()
    w, w0 = plain[4].weight, first[4].weight
    assert torch.equal(w[w != 0].sign(), w0[w != 0].sign())
    one, two = (part.how(scored, example=X) for part in parts[2:4])
    assert not torch.equal(masks_of(one)["4"], masks_of(two)["4"])
    assert torch.export.export(final, (X,)) is not None
    with pytest.raises(LimbeckError, match="this network has no scores to make masks of"):
        Decide()(first, example=X)
    with pytest.raises(LimbeckError, match="this network has masks already; settle them first"):
        Scores()(final, example=X)


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rate": 0.0}, r"rate = 0.0: a part of the surviving weights, in \(0, 1\)"),
        ({"rate": 1.0}, "rate = 1.0"),
        ({"rate": float("nan")}, "rate = nan"),
        ({"output_rate": 1.0}, "output_rate = 1.0"),
        ({"rounds": 0}, "rounds = 0: at least 1"),
        ({"rewind": -1}, "rewind = -1: optimizer steps, zero or more"),
        ({"rewind": 0.5}, "rewind = 0.5: a whole number"),
        ({"criterion": "large_finale"}, "no criterion 'large_finale'; near: large_final"),
        ({"keep": "rewound"}, "keep = 'rewound': one of rewind, reinit, reshuffle, constant"),
        ({"masked": "gone"}, "masked = 'gone': one of zero, freeze, toward_zero"),
        ({"controls": ("re-init",)}, r"no control 're-init' in LotteryTicket\(controls=...\); near: reinit"),
        ({"controls": ("reinit", "reinit")}, r"controls = \('reinit', 'reinit'\): each once"),
        ({"controlled": (8,)}, "controlled = 8: a round, from 1 to 7"),
        ({"alpha": 0.0}, "alpha = 0.0: more than zero"),
        ({"scope": "whole"}, "scope = 'whole': one of layer, global"),
    ],
)
def test_settings_outside_their_range(given, text):
    with pytest.raises(HyperParameterError, match=text):
        LotteryTicket(**given)


def test_more_rounds_than_there_are_weights():
    small = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    call = {"example": torch.zeros(1, 4), "beside": (small,)}
    text = r"rounds: 4 more at a rate of 0.5 leave less than one weight of layer '0', which has 8; at most 3 more"
    with pytest.raises(HyperParameterError, match=text):
        Ticket(rate=0.5, rounds=4)(small, **call)
    Ticket(rate=0.5, rounds=3)(small, **call)
    with pytest.raises(
        HyperParameterError, match=r"leave less than 2 weights of all layers with 2 to fill, which has 12"
    ):
        Ticket(rate=0.5, rounds=3, scope="global")(small, **call)


def test_the_first_weights_are_needed_and_must_fit():
    final = net()
    with pytest.raises(
        HyperParameterError, match="a lottery ticket needs the weights from before training, and was given none"
    ):
        Ticket()(final, example=X)
    with pytest.raises(HyperParameterError, match="a control of a lottery ticket needs the weights"):
        Replant()(final, example=X)
    other = net()
    other[6] = nn.Linear(20, 4)
    with pytest.raises(ShapeError, match=r"layer '6' had the shape \[4, 20\] before training and has \[3, 20\] now"):
        Ticket()(final, example=X, beside=(other,))
    with pytest.raises(LimbeckError, match="the network from before training has no layer '6': another network"):
        Ticket()(final, example=X, beside=(other[:5],))
    with pytest.raises(LimbeckError, match="layer '0' has no mask: a control takes that of a ticket"):
        Replant()(final, example=X, beside=(final,))


def test_a_skipped_output_leaves_its_rate_to_nobody():
    model = net()
    new = Ticket(rate=0.4, skip=("6",))(model, example=X, beside=(model,))
    assert layer_densities(new) == {"0": pytest.approx(0.6, abs=0.02), "4": pytest.approx(0.6)}
    new = Ticket(rate=0.4, output_rate=0.1, skip=("6",))(model, example=X, beside=(model,))
    assert layer_densities(new)["4"] == pytest.approx(0.6)
    assert any("output_rate holds for no layer" in note for note in findings(new).notes)
    whole = Ticket(rate=0.4)(model, example=X, beside=(model,))
    assert layer_densities(whole)["6"] == pytest.approx(0.8)


def test_normalisation_of_every_kind_learns_beside_scores():
    for norm in (nn.RMSNorm(16), nn.LayerNorm(16), nn.BatchNorm1d(16)):
        new = Scores()(nn.Sequential(nn.Linear(8, 16), norm, nn.Linear(16, 4)), example=torch.randn(4, 8))
        new(torch.randn(4, 8)).square().sum().backward()
        assert new[1].weight.grad is not None
        assert new[0].parametrizations.weight.original.grad is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: LotteryTicket(controls="reinit"),
            r"controls = 'reinit': a list of names of controls, such as \['reinit'\]",
        ),
        (lambda: LotteryTicket(controlled=3), r"controlled = 3: a list of rounds, such as \[1\]"),
        (lambda: LotteryTicket(sign="no"), "sign = 'no': True or False"),
        (lambda: LotteryTicket(seed=1.5), "seed = 1.5: a whole number"),
        (lambda: Supermask(seed=1.5), "seed = 1.5: a whole number"),
        (lambda: Supermask(skip="fc"), "skip = 'fc': a list of names of layers"),
    ],
)
def test_settings_of_another_kind_are_refused(make, text):
    with pytest.raises(HyperParameterError, match=text):
        make()


def test_scores_that_keep_nothing_say_what_helps():
    new = Scores()(net(), example=X)
    for name, p in new.named_parameters():
        if name.endswith("scores"):
            p.data.fill_(-1.0)
    with pytest.raises(HyperParameterError, match="train its scores for fewer epochs or with a lower lr"):
        Decide()(new, example=X)
