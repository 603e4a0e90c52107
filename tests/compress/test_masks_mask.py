"""Masks: what they keep, that they hold, and that the network they were made of stays as it was."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from limbeck.compress.masking import Masked, density, layer_densities, masks_of, settle
from limbeck.compress.masking.choose import remove, remove_among
from limbeck.compress.masking.plant import plant
from limbeck.compress.masks import CRITERIA, Mask
from limbeck.compress.structure import describe, rebuild
from limbeck.compressor import findings, is_compressor
from limbeck.course import Lesson, Operation, is_course, lessons_of
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError, ShapeError
from limbeck.models import build


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
    )


X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def state(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def train(model, steps=8, **options):
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, **options})
    model.train()
    for _ in range(steps):
        nn.functional.cross_entropy(model(X), torch.arange(8) % 5).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield model


# -- what stays ------------------------------------------------------------------------------------


def test_the_smallest_weights_of_each_layer_go():
    model = net()
    new = Mask(sparsity=0.75)(model, example=X)
    for path in ("0", "3", "6"):
        weight = model.get_submodule(path).weight.detach().flatten().tolist()
        gone = sorted(range(len(weight)), key=lambda i: (abs(weight[i]), i))[: math.floor(0.75 * len(weight))]
        found = (new.get_submodule(path).weight.flatten() == 0).nonzero().flatten().tolist()
        assert found == sorted(gone)
    assert layer_densities(new) == {"0": 0.25, "3": 0.25, "6": 0.25}
    assert density(new) == 0.25
    assert density(model) == 1.0


def test_all_layers_together_by_one_order():
    model = net()
    with torch.no_grad():
        model[3].weight *= 0.001  # all of it is small: it would be emptied
    new = Mask(sparsity=0.9, scope="global")(model, example=X)
    masks = masks_of(new)
    whole = sum(m.numel() for m in masks.values())
    assert sum(int((~m).sum()) for m in masks.values()) == math.floor(0.9 * whole)
    assert int(masks["3"].sum()) == 1  # its best weight stays
    assert int(model[3].weight.abs().argmax()) == int(masks["3"].flatten().int().argmax())
    kept = torch.cat([model.get_submodule(p).weight[masks[p]].abs() for p in ("0", "6")])
    gone = torch.cat([model.get_submodule(p).weight[~masks[p]].abs() for p in ("0", "6")])
    assert kept.min() >= gone.max()


def test_equal_weights_the_lower_index_goes_and_the_count_is_exact():
    equal, alive = torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool)
    assert remove(equal, alive, 3).flatten().tolist() == [False] * 3 + [True] * 7
    masks = remove_among({"a": torch.zeros(4), "b": torch.zeros(6)}, {"a": alive[0][:4], "b": alive.flatten()[:6]}, 8)
    assert [int(m.sum()) for m in masks.values()] == [1, 1]
    with pytest.raises(HyperParameterError, match="9 of 10 weights cannot go: each of the 2 layers keeps one"):
        remove_among({"a": torch.zeros(4), "b": torch.zeros(6)}, {"a": alive[0][:4], "b": alive.flatten()[:6]}, 9)


def test_below_q_standard_deviations():
    model = nn.Linear(5, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]]))
    new = Mask(q=1.0)(model, example=torch.zeros(1, 5))
    assert new.weight.tolist() == [[-2.0, 0.0, 0.0, 0.0, 2.0]]
    with pytest.raises(
        HyperParameterError, match=r"nothing would be left of layer '' \(5 of its 5 weights are alive\)"
    ):
        Mask(q=1.5)(model, example=torch.zeros(1, 5))
    # the deviation of the two that are left is 2: both stay, where that of all five would say so as well only below 1.42
    assert Mask(q=1.0)(new, example=torch.zeros(1, 5)).weight.tolist() == new.weight.tolist()


def test_nothing_to_remove_is_identity():
    model = net()
    new = Mask(sparsity=0.0)(model, example=X)
    assert all(bool(m.all()) for m in masks_of(new).values())
    assert torch.equal(new(X), model(X))


def test_layers_of_their_own_and_the_output():
    new = Mask(density=0.1, layers={"0": 0.0}, output=0.5)(net(), example=X)
    assert {k: round(v, 2) for k, v in layer_densities(new).items()} == {"0": 1.0, "3": 0.1, "6": 0.5}
    new = Mask(sparsity=0.5, scope="global", output=0.25)(net(), example=X)
    masks = masks_of(new)
    assert layer_densities(new)["6"] == 0.75
    assert int(masks["0"].sum() + masks["3"].sum()) == (36 + 216) // 2
    new = Mask(sparsity=0.5, skip=("0", "6"))(net(), example=X)
    assert list(masks_of(new)) == ["3"]


def test_biases_and_normalisation_are_never_touched():
    model = net()
    new = Mask(sparsity=0.9)(model, example=X)
    for path in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.bias", "6.bias"):
        assert torch.equal(state(new)[path], state(model)[path])
    assert sorted(masks_of(new)) == ["0", "3", "6"]


def test_masking_again_prunes_survivors_only():
    model = net()
    once = Mask(sparsity=0.5, by="random", seed=3)(model, example=X)
    twice = Mask(sparsity=0.75)(once, example=X)
    before, after = masks_of(once), masks_of(twice)
    for path in before:
        assert bool((before[path] | ~after[path]).all())  # nobody came back
        assert layer_densities(twice)[path] == 0.25
        survivors = model.get_submodule(path).weight[before[path]].abs()
        assert (
            model.get_submodule(path).weight[after[path]].abs().min()
            >= survivors.sort().values[len(survivors) // 2 - 1]
        )
    back = Mask(sparsity=0.25)(twice, example=X)
    assert layer_densities(back) == layer_densities(twice)
    assert "0 stays as it is: 27 of its 36 weights were gone already, more than asked for" in findings(back).notes


def test_random_masks_follow_the_seed():
    masks = [masks_of(Mask(sparsity=0.5, by="random", seed=s)(net(), example=X))["6"] for s in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    torch.manual_seed(11)
    one = masks_of(Mask(sparsity=0.5, by="random")(net(11), example=X))["6"]
    torch.manual_seed(12)
    assert not torch.equal(one, masks_of(Mask(sparsity=0.5, by="random")(net(12), example=X))["6"])


def test_criteria_that_look_back():
    before, after = net(0), net(1)
    new = Mask(sparsity=0.5, by="movement")(after, example=X, beside=(before,))
    moved = (after[6].weight - before[6].weight).abs()
    mask = masks_of(new)["6"]
    assert moved[mask].min() >= moved[~mask].max()
    with pytest.raises(HyperParameterError, match="by = 'movement' needs the weights from before training"):
        Mask(by="movement")(after, example=X)
    narrow = nn.Sequential(*[copy.deepcopy(m) for m in before])
    narrow[6] = nn.Linear(96, 4)
    with pytest.raises(ShapeError, match=r"layer '6' had the shape \[4, 96\] before training and has \[5, 96\] now"):
        Mask(by="movement")(after, example=X, beside=(narrow,))


def test_the_names_of_the_criteria_are_those_of_the_scores():
    from limbeck.scores.tickets import CRITERIA as known

    assert set(CRITERIA) == set(known)


def test_dropout_follows_the_connections_before_it():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 2), nn.Dropout(0.0))
    new = Mask(density=0.25, dropout=True)(model, example=torch.zeros(1, 8))
    assert (new[1].p, new[3].p, model[1].p) == (0.25, 0.0, 0.5)
    assert "1 drops 0.25 instead of 0.5, since 0 lost connections" in findings(new).notes


# -- that they hold --------------------------------------------------------------------------------


def test_masked_weights_are_zero_after_every_step_of_momentum_and_decay():
    new = Mask(sparsity=0.8)(net(), example=X)
    masks = masks_of(new)
    first = state(new)
    for model in train(new):
        for path, mask in masks.items():
            assert bool((model.get_submodule(path).weight[~mask] == 0).all())
            assert bool((model.state_dict()[f"{path}.parametrizations.weight.original"][~mask] == 0).all())
    assert same(masks_of(new), masks)
    assert not torch.equal(
        first["6.parametrizations.weight.original"], state(new)["6.parametrizations.weight.original"]
    )


def test_they_hold_whatever_is_written_into_the_weight():
    new = Mask(sparsity=0.5)(net(), example=X)
    mask = masks_of(new)["6"]
    new[6].weight = torch.full((5, 96), 7.0)
    assert bool((new[6].weight[~mask] == 0).all())
    assert bool((new[6].weight[mask] == 7).all())
    with torch.no_grad():
        new[6].parametrizations.weight.original.fill_(float("nan"))
    assert bool((new[6].weight[~mask] == 0).all())  # a product would have made them no numbers


def test_no_gradient_outside_the_mask():
    new = Mask(sparsity=0.5)(net(), example=X)
    new(X).square().sum().backward()
    mask = masks_of(new)["6"]
    grad = new[6].parametrizations.weight.original.grad
    assert bool((grad[~mask] == 0).all())
    assert bool((grad[mask] != 0).any())


def test_deepcopy_after_a_forward_pass_and_export_and_state():
    new = Mask(sparsity=0.5)(net(), example=X).eval()
    out = new(X)
    twin = copy.deepcopy(new)
    assert torch.equal(twin(X), out)
    list(train(twin))
    assert same(masks_of(twin), masks_of(new))
    assert torch.equal(new.eval()(X), out)
    exported = torch.export.export(new, (X,)).module()
    assert torch.allclose(exported(X), out)
    assert all(isinstance(v, torch.Tensor) for v in new.state_dict().values())


def test_settled_is_plain_and_computes_the_same():
    model = net()
    new = Mask(sparsity=0.5)(model, example=X)
    plain = settle(new)
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(plain.eval()(X), copy.deepcopy(new).eval()(X))
    assert int((plain[6].weight == 0).sum()) == 240
    assert masks_of(new)
    assert not masks_of(plain)
    torch.export.export(plain, (X,))


def test_built_anew_from_its_description():
    model = build("resnet8", classes=10, in_channels=1, size=8)
    new = Mask(sparsity=0.7, scope="global")(model, example=X)
    again = rebuild(model, describe(model, new))
    again.load_state_dict(new.state_dict())
    assert torch.equal(again.eval()(X), copy.deepcopy(new).eval()(X))
    resting = copy.deepcopy(model)
    plant(resting.fc, torch.rand(resting.fc.weight.shape) > 0.5, torch.randn(resting.fc.weight.shape))
    again = rebuild(model, describe(model, resting))
    again.load_state_dict(resting.state_dict())
    assert torch.equal(again.eval()(X), copy.deepcopy(resting).eval()(X))


def test_weights_may_rest_elsewhere_than_at_zero():
    layer = nn.Linear(4, 1)
    mask, rest = torch.tensor([[True, False, True, False]]), torch.tensor([[9.0, 8.0, 7.0, 6.0]])
    plant(layer, mask, rest)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        layer(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    assert layer.weight[~mask].tolist() == [8.0, 6.0]
    with pytest.raises(ShapeError, match=r"the mask has the shape \[2, 4\] and the weight \[1, 4\]"):
        plant(layer, torch.ones(2, 4, dtype=torch.bool))


# -- the network before ----------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_network_before_keeps_every_bit(training):
    model = net().train(training)
    model[1].eval()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, modes = state(model), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    new = Mask(sparsity=0.5, by="random")(model, example=X)
    assert torch.equal(random, torch.get_rng_state())
    assert same(before, state(model))
    assert modes == [m.training for m in model.modules()]
    assert not model[3].weight.requires_grad
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert type(model[0]) is nn.Conv2d
    assert not hasattr(model, "limbeck_findings")
    assert not any(m._forward_hooks for m in [*model.modules(), *new.modules()])
    assert new.training == training
    assert not new[1].training
    assert not new[3].parametrizations.weight.original.requires_grad
    for mode in (True, False):
        assert new.train(mode)(X).shape == (8, 5)


def test_what_it_says():
    told = findings(Mask(sparsity=0.75)(net(), example=X))
    assert told.details["density"] == 0.25
    assert told.details["densities"] == {"0": 0.25, "3": 0.25, "6": 0.25}
    assert told.notes[0] == "25 % of the weights under masks are left"
    assert told.notes[-1].startswith("masks by themselves save no time and no bytes")


def test_shared_and_unused_weights_are_left_alone_with_a_word():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.idle = nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    new = Mask(sparsity=0.5)(Tied(), example=torch.zeros(1, 4))
    assert list(masks_of(new)) == ["c"]
    assert new.a.weight is new.b.weight
    notes = findings(new).notes
    assert "a has no mask: its weight is shared (a.weight, b.weight), and a mask would part them" in notes
    assert "idle has no mask: the example does not call it" in notes


# -- steps -----------------------------------------------------------------------------------------


def test_several_steps_are_a_course():
    mask = Mask(sparsity=0.875, steps=3, epochs=2)
    assert is_course(mask)
    assert is_compressor(mask)
    assert not is_course(Mask())
    parts = lessons_of(mask)
    assert [(type(p), p.name, p.student) for p in parts] == [
        (Operation, "mask1", "student"),
        (Lesson, "1", ".mask1"),
        (Operation, "mask2", ".1"),
        (Lesson, "2", ".mask2"),
        (Operation, "mask3", ".2"),
        (Lesson, "", ".mask3"),
    ]
    assert [p.how.share for p in parts if isinstance(p, Operation)] == pytest.approx([0.5, 0.75, 0.875])
    assert [dict(p.training) for p in parts if isinstance(p, Lesson)] == [{"epochs": 2}, {"epochs": 2}, {}]


def test_steps_that_look_back_leave_it_to_the_stage_to_say_at_what():
    parts = Mask(sparsity=0.8, steps=2, by="movement").lessons()
    assert [p.beside for p in parts if isinstance(p, Operation)] == [(), ()]  # never at what is masked: nothing moved


@pytest.mark.parametrize(
    ("schedule", "shares"), [("linear", [0.2, 0.4, 0.6, 0.8]), ("cubic", [0.4625, 0.7, 0.7875, 0.8])]
)
def test_schedules(schedule, shares):
    parts = Mask(sparsity=0.8, steps=4, schedule=schedule, output=0.4).lessons()
    assert [p.how.share for p in parts if isinstance(p, Operation)] == pytest.approx(shares)
    assert [p.how.output for p in parts if isinstance(p, Operation)] == pytest.approx([s / 2 for s in shares])


def test_several_steps_cannot_be_called_at_once():
    with pytest.raises(HyperParameterError, match="steps = 2: several steps need training between them"):
        Mask(steps=2)(net(), example=X)


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"sparsity": 1.0}, r"sparsity = 1.0: a part of the weights, in \[0, 1\)"),
        ({"sparsity": -0.1}, "sparsity = -0.1"),
        ({"sparsity": float("nan")}, "sparsity = nan: .*finite"),
        ({"density": 0.0}, r"density = 0.0: in \(0, 1\]"),
        ({"density": 0.1, "sparsity": 0.9}, "sparsity and density are both given"),
        ({"q": -1.0}, "q = -1.0: standard deviations, zero or more"),
        ({"q": 1.0, "scope": "global"}, "scope = 'global': q looks at magnitudes, layer by layer"),
        ({"by": "magnitud"}, r"no criterion 'magnitud' in Mask\(by=...\); near: magnitude"),
        ({"scope": "all"}, "scope = 'all': one of layer, global"),
        ({"layers": {"fc": 1.0}}, r"layers.fc = 1.0: a part of the weights, in \[0, 1\)"),
        ({"layers": {"fc": None}}, r"layers.fc = None"),
        ({"output": 1.5}, "output = 1.5"),
        ({"steps": 0}, "steps = 0: at least 1"),
        ({"epochs": 0}, "epochs = 0: at least 1"),
    ],
)
def test_settings_outside_their_range(given, text):
    with pytest.raises(HyperParameterError, match=text):
        Mask(**given)


def test_models_that_cannot_be_masked():
    with pytest.raises(NameUnknown, match=r"no layer '7' in this model; .*0, 3, 6"):
        Mask(skip=("7",))(net(), example=X)
    with pytest.raises(NameUnknown, match="no layer 'fc' in this model"):
        Mask(layers={"fc": 0.5})(net(), example=X)
    with pytest.raises(LimbeckError, match="ReLU has no convolution and no linear layer to mask"):
        Mask()(nn.ReLU(), example=X)
    tiny = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    before = copy.deepcopy(tiny)
    with torch.no_grad():
        before[1].weight *= -1
    with pytest.raises(HyperParameterError, match="nothing would be left of layer '1'"):
        Mask(by="large_final_same_sign")(tiny, example=torch.zeros(1, 4), beside=(before,))
    bad = net()
    with torch.no_grad():
        bad[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"3\.weight is non-finite: it holds 1 NaN and 0 inf among 216 values"):
        Mask()(bad, example=X)
    normed = net()
    nn.utils.parametrizations.weight_norm(normed[6])
    with pytest.raises(LimbeckError, match="the weight of 6 is parametrized already, and not by a mask of limbeck"):
        Mask()(normed, example=X)
    with pytest.raises(ShapeError, match=r"the mask has the shape \[3\] and its weights \[4\]"):
        remove(torch.zeros(4), torch.ones(3, dtype=torch.bool), 1)


def test_a_layer_with_one_weight_is_never_emptied():
    new = Mask(sparsity=0.99)(nn.Linear(4, 1), example=torch.zeros(1, 4))
    assert int(new.weight.count_nonzero()) == 1


def test_without_torch():
    code = (
        "import sys\nimport limbeck.compress.masks, limbeck.compress.lottery, limbeck.compress.masking\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_part_says_how_it_was_made():
    part = Masked([2, 3], rests=True, dtype="float64")
    assert Masked(**part.made).rest.dtype == torch.float64
    assert Masked(**Masked([2]).made).rest is None


def test_the_output_is_the_last_layer_even_where_it_has_no_mask():
    model, x = (
        nn.Sequential(nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 4)),
        torch.zeros(2, 8),
    )
    new = Mask(sparsity=0.8, output=0.1, skip=("4",))(model, example=x)
    assert layer_densities(new) == {"0": pytest.approx(0.2), "2": pytest.approx(0.2)}
    assert any("output holds for no layer" in note for note in findings(new).notes)
    assert not any("output holds" in note for note in findings(Mask(sparsity=0.8, output=0.1)(model, example=x)).notes)


def test_a_path_counts_before_a_pattern():
    model, x = nn.Sequential(nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 4)), torch.zeros(2, 8)
    for layers in ({"2": 0.0, "*": 0.75}, {"*": 0.75, "2": 0.0}):
        assert layer_densities(Mask(sparsity=0.5, layers=layers)(model, example=x)) == {"0": 0.25, "2": 1.0}


def test_dropouts_go_by_the_layer_right_before_them():
    x = torch.zeros(2, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    assert Mask(sparsity=0.75, skip=("2",), dropout=True)(model, example=x)[3].p == 0.5
    assert Mask(sparsity=0.75, dropout=True)(model, example=x)[3].p == 0.25
    flat = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(576, 4))
    assert Mask(sparsity=0.75, dropout=True)(flat, example=torch.zeros(2, 3, 8, 8))[1].p == 0.25


def test_what_has_no_effect_is_told():
    model, x = nn.Sequential(nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 4)), torch.zeros(2, 8)
    sparse = Mask(sparsity=0.9)(model, example=x)
    notes = findings(Mask(sparsity=0.5, scope="global")(sparse, example=x)).notes
    assert any("2 layers of one order stay as they are" in note for note in notes)

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x):
            return nn.functional.linear(x, self.a.weight)

    with pytest.raises(LimbeckError, match="to mask; a has no mask: the example does not call it"):
        Mask()(Functional(), example=x)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"skip": "fc"}, r"skip = 'fc': a list of names of layers, such as \['fc'\]"),
        ({"skip": None}, "skip = None: a list of names"),
        ({"layers": ["fc"]}, r"layers = \['fc'\]: layers and the part of each"),
        ({"by": "random", "seed": "a"}, "seed = 'a': a whole number"),
        ({"q": 0.5, "steps": 2, "schedule": "cubic"}, "schedule = 'cubic': q looks at magnitudes"),
    ],
)
def test_more_settings_that_are_refused(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        Mask(**settings)
