"""Taps: what a network does inside, without changing it, and errors in words where that cannot be."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError, TapError
from limbeck.layers import hidden_layers, match, middle, stage_ends
from limbeck.models import build
from limbeck.phase import logits_of
from limbeck.taps import Tapped, capture, look, shapes


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            layer1=nn.Linear(4, 3), act=nn.ReLU(), drop=nn.Dropout(0.5), norm=nn.BatchNorm1d(3), fc=nn.Linear(3, 2)
        )
    )


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.spare, self.pair = nn.Linear(4, 4), nn.Linear(4, 4), Pairs()

    def forward(self, x):
        return self.pair(self.shared(self.shared(x)))["words"]


class Pairs(nn.Module):
    def forward(self, x):
        return {"words": "no tensor"}


# -- errors, by their text -----------------------------------------------------------------------


def test_a_missing_layer_is_named_with_its_neighbours_and_its_network():
    with pytest.raises(TapError) as error:
        Tapped(mlp(), ["layr1"])
    assert str(error.value) == "no layer 'layr1' in Sequential; near: layer1"
    with pytest.raises(TapError, match=r"no layer 'layer4' in resnet8; near: layer3, layer2, layer1"):
        Tapped(build("resnet8", classes=3), ["layer4"])
    with pytest.raises(TapError, match=r"no layer '' in Sequential; there are: layer1, act, drop, norm, fc"):
        Tapped(mlp(), [""])


def test_a_tap_error_is_a_key_error_whose_text_is_no_repr():
    error = TapError("no layer 'a'")
    assert isinstance(error, KeyError)
    assert isinstance(error, LimbeckError)
    assert str(error) == "no layer 'a'"


def test_a_wrong_side_is_an_error():
    with pytest.raises(TapError, match=r"tap 'fc:input': after the colon comes 'in' or 'out', not 'input'"):
        Tapped(mlp(), ["fc:input"])


def test_a_module_that_is_never_run_is_an_error():
    model = Twice()
    with pytest.raises(TapError) as error:
        Tapped(model, ["spare"])(torch.zeros(2, 4))
    assert str(error.value) == (
        "tap 'spare' did not run in the forward of Twice; the module exists, but this forward does not call it. "
        "Those that ran: none of the taps"
    )
    with pytest.raises(TapError, match="tap 'spare' did not run in the forward of Twice"), capture(model, "spare"):
        model(torch.zeros(2, 4))


def test_a_module_that_runs_twice_is_an_error():
    model = Twice()
    for use in (
        lambda: Tapped(model, ["shared"])(torch.zeros(2, 4)),
        lambda: look(model, torch.zeros(2, 4), ["shared"]),
    ):
        with pytest.raises(
            TapError, match=r"tap 'shared' ran twice in one forward of Twice .*tap a module that runs once"
        ):
            use()


def test_a_module_without_a_tensor_is_an_error():
    with pytest.raises(TapError, match="tap 'pair' gave a dict with no tensor in it; tap a module inside it"):
        look(Twice(), torch.zeros(2, 4), ["pair"])


def test_one_forward_after_another_starts_anew():
    window = Tapped(mlp().eval(), ["act"])
    a, b = window(torch.ones(2, 4)), window(torch.zeros(3, 4))
    assert a.taps["act"].shape == (2, 3)
    assert b.taps["act"].shape == (3, 3)


# -- values --------------------------------------------------------------------------------------


def test_taps_are_the_tensors_that_the_layers_give_and_take():
    model, x = mlp().eval(), torch.randn(5, 4)
    seen = Tapped(model, ["layer1", "act", "fc:in", "layer1:in", "act:out", "act"])(x)
    assert list(seen.taps) == ["layer1", "act", "fc:in", "layer1:in", "act:out"]
    assert torch.equal(seen.taps["layer1"], model.layer1(x))
    assert torch.equal(seen.taps["act"], model.layer1(x).clamp(min=0))
    assert torch.equal(seen.taps["act:out"], seen.taps["act"])
    assert torch.equal(seen.taps["layer1:in"], x)
    assert torch.equal(seen.taps["fc:in"], model.norm(seen.taps["act"]))
    assert torch.equal(seen.output, model.fc(seen.taps["fc:in"]))
    assert torch.equal(seen.logits, seen.output)


def test_gradients_flow_through_taps():
    model, x = mlp(), torch.randn(5, 4)
    Tapped(model, ["layer1"])(x).taps["layer1"].sum().backward()
    assert torch.allclose(model.layer1.weight.grad, x.sum(0).expand(3, 4))
    assert model.fc.weight.grad is None


class Overwriting(nn.Module):
    """A layer whose result is overwritten by what comes next, as in torchvision's networks."""

    def __init__(self, after):
        super().__init__()
        self.conv, self.after, self.fc = nn.Linear(4, 6), after, nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.after(self.conv(x)))


@pytest.mark.parametrize("given", [True, False], ids=["with example", "without"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("after", [nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)], ids=["relu", "dropout"])
def test_a_tap_keeps_what_a_later_layer_overwrites(after, training, given):
    torch.manual_seed(0)
    model, x = Overwriting(after).train(training), torch.randn(8, 4)
    with Tapped(model, ["conv"], example=x if given else None) as window:
        seen = window(x)
        assert torch.equal(seen.taps["conv"], F.linear(x, model.conv.weight, model.conv.bias))
        seen.taps["conv"].sum().backward()
        assert torch.allclose(model.conv.weight.grad, x.sum(0).expand(6, 4))
    with capture(model, "conv") as told:
        model(x)
    assert torch.equal(told["conv"], F.linear(x, model.conv.weight, model.conv.bias))


def test_only_what_is_overwritten_is_copied():
    model, x = Overwriting(nn.ReLU(inplace=True)), torch.randn(8, 4)
    window = Tapped(model, ["conv", "fc"], example=x)
    assert window._copied == {"conv"}


class Sneaky(nn.Module):
    """Overwrites by a function, and only in training: no rehearsal in eval mode can see it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(4, 6)

    def forward(self, x):
        return F.dropout(self.conv(x), 0.5, self.training, inplace=True)


def test_a_tap_that_was_overwritten_unseen_is_an_error_and_no_wrong_number():
    x = torch.randn(8, 4)
    window = Tapped(Sneaky(), ["conv"], example=x)
    window.eval()(x)
    with pytest.raises(TapError, match="tap 'conv' was overwritten by a later layer of Sneaky, in training mode only"):
        window.train()(x)
    assert Tapped(Sneaky(), ["conv"]).train()(x).taps["conv"].shape == (8, 6)


def test_the_rehearsal_works_in_inference_mode():
    x = torch.randn(2, 4)
    with torch.inference_mode():
        assert Tapped(mlp().eval(), ["act"], example=torch.randn(2, 4))(x).taps["act"].shape == (2, 3)


# -- nothing stays behind ------------------------------------------------------------------------


def test_hooks_are_gone_after_close():
    model = mlp()
    with Tapped(model, ["layer1", "fc:in"]):
        assert hooks(model) == 2
    assert hooks(model) == 0
    with capture(model, "act"):
        assert hooks(model) > 0
    assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="stop here"), capture(model, "act"):
        raise RuntimeError("stop here")
    assert hooks(model) == 0


def test_a_tap_that_does_not_exist_leaves_no_hook_of_the_others():
    model = mlp()
    with pytest.raises(TapError):
        Tapped(model, ["layer1", "nowhere"])
    assert hooks(model) == 0
    with pytest.raises(TapError):
        look(model, torch.zeros(2, 4), ["layer1", "nowhere"])
    assert hooks(model) == 0
    with pytest.raises(TapError):
        Tapped(Twice(), ["spare"], example=torch.zeros(2, 4))


@pytest.mark.parametrize("broken", [False, True])
def test_a_look_restores_modes_and_buffers(broken):
    model = mlp().train()
    model.norm.eval()
    before, modes = state(model), [m.training for m in model.modules()]
    x = torch.randn(6, 5 if broken else 4)
    for use in (lambda: look(model, x, ["act"]), lambda: shapes(model, x, ["act"]), lambda: hidden_layers(model, x)):
        if broken:
            with pytest.raises(RuntimeError):
                use()
        else:
            use()
        assert same(before, state(model))
        assert modes == [m.training for m in model.modules()]
        assert hooks(model) == 0
        assert all(p.grad is None for p in model.parameters())


def test_a_look_leaves_the_random_numbers():
    model = Overwriting(nn.Dropout(0.5, inplace=True)).train()
    before = torch.random.get_rng_state()
    look(model, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), ["conv"])
    with Tapped(model, ["conv"], example=torch.zeros(2, 4)):
        pass
    assert torch.equal(before, torch.random.get_rng_state())


def test_parameters_and_keys_stay_the_models_own():
    model = mlp()
    keys = list(model.state_dict())
    window = Tapped(model, ["act"])
    assert {id(p) for p in window.parameters()} == {id(p) for p in model.parameters()}
    assert list(model.state_dict()) == keys


# -- stop ----------------------------------------------------------------------------------------


def test_stop_runs_nothing_after_the_last_tap():
    model, ran = mlp().eval(), []
    for name in ("act", "norm", "fc"):
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    seen = Tapped(model, ["layer1", "act"], stop=True)(torch.zeros(2, 4))
    assert seen.output is None
    assert set(seen.taps) == {"layer1", "act"}
    assert ran == ["act"]
    with pytest.raises(LimbeckError, match="NoneType"):
        _ = seen.logits


def test_stop_without_taps_runs_to_the_end():
    assert Tapped(mlp(), [], stop=True)(torch.zeros(2, 4)).output.shape == (2, 2)


def test_a_rehearsal_looks_past_the_stop():
    """The layer that overwrites comes after the last tap: the stop must not hide it from the rehearsal."""
    window = Tapped(Overwriting(nn.ReLU(inplace=True)), ["conv"], example=torch.zeros(2, 4), stop=True)
    assert window._copied == {"conv"}
    assert window(torch.zeros(2, 4)).output is None


# -- compiled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_window_gives_its_taps_without_a_graph_break(backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = Overwriting(nn.ReLU(inplace=True)), torch.randn(8, 4)
    with Tapped(model, ["conv", "fc:in"], example=x) as window:
        plain = window(x)
        fast = torch.compile(window, backend=backend, fullgraph=True)
        for _ in range(2):
            seen = fast(x)
            assert torch.allclose(seen.output, plain.output)
            assert all(torch.allclose(seen.taps[k], plain.taps[k]) for k in ("conv", "fc:in"))
        seen.taps["conv"].sum().backward()
    assert torch.allclose(model.conv.weight.grad, x.sum(0).expand(6, 4), atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "ran before"])
def test_taps_of_a_model_that_came_compiled(warm):
    torch._dynamo.reset()
    model, x = mlp().eval(), torch.randn(5, 4)
    fast = torch.compile(model, backend="eager")
    if warm:
        fast(x)
    wanted = model.act(model.layer1(x))
    with Tapped(fast, ["act"]) as window:
        assert window.was_compiled
        assert torch.equal(window(x).taps["act"], wanted)
    assert torch.equal(look(fast, x, ["act"]).taps["act"], wanted)
    assert shapes(fast, x, ["fc:in"]) == {"fc:in": (5, 3)}
    with capture(fast, "act") as seen:
        fast(x)
        assert torch.equal(seen["act"], wanted)
    assert hooks(model) == 0
    assert torch.equal(fast(x), model(x))
    assert match_text(fast, x) is not None
    torch._dynamo.reset()


def match_text(model, x):
    with pytest.raises(TapError) as error:
        match(model, model, x)
    return error.value


def test_taps_inside_a_part_that_was_compiled_in_place():
    torch._dynamo.reset()
    model, x = nn.Sequential(OrderedDict(body=mlp(), head=nn.Linear(2, 2))).eval(), torch.randn(5, 4)
    model.body.compile(backend="eager")
    model(x)
    compiled = model.body._compiled_call_impl
    wanted = model.body.act(model.body.layer1(x))
    with Tapped(model, ["body.act"]) as window:
        assert torch.equal(window(x).taps["body.act"], wanted)
    assert model.body._compiled_call_impl is compiled
    with capture(model, "body.act") as seen:
        model(x)
        assert torch.equal(seen["body.act"], wanted)
    assert model.body._compiled_call_impl is compiled
    with pytest.raises(TapError):
        Tapped(model, ["body.nowhere"])
    assert model.body._compiled_call_impl is compiled
    torch._dynamo.reset()


# -- outputs that are no tensor ------------------------------------------------------------------


@dataclass
class Output:
    """As Hugging Face models return it."""

    logits: torch.Tensor
    loss: None = None


class Returning(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.body, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.body(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: {"logits": y, "hidden": y.new_zeros(1)},
        lambda y: {"scores": y},
        lambda y: (y, y.new_zeros(2)),
        lambda y: [y],
        lambda y: Output(y),
        lambda y: (Output(y), 3),
    ],
    ids=["dict", "dict of one", "tuple", "list", "object", "nested"],
)
def test_logits_in_whatever_a_model_returns(wrap):
    model, x = Returning(wrap), torch.randn(5, 4)
    seen = Tapped(model, ["body"])(x)
    assert torch.equal(seen.logits, seen.taps["body"])
    assert type(seen.output) is type(wrap(x))


def test_outputs_without_logits_are_named():
    with pytest.raises(LimbeckError, match="returned a dict with the keys a, b; limbeck looks for 'logits'"):
        logits_of({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(LimbeckError, match="returned a str, in which limbeck finds no logits"):
        logits_of("nothing")


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.mask = nn.Linear(4, 3), nn.Identity()

    def forward(self, *, input_ids, attention_mask):
        return self.words(input_ids) * self.mask(input=attention_mask)


def test_a_mapping_becomes_keyword_arguments():
    inputs = {"input_ids": torch.ones(5, 4), "attention_mask": torch.zeros(5, 1)}
    seen = Tapped(Keywords(), ["words", "mask:in"], example=inputs)(inputs)
    assert seen.output.abs().sum() == 0
    assert torch.equal(seen.taps["mask:in"], inputs["attention_mask"])


def test_the_first_tensor_of_what_a_layer_returns():
    model = nn.Sequential(OrderedDict(lstm=nn.LSTM(4, 3, batch_first=True)))
    seen = Tapped(model, ["lstm"])(torch.zeros(5, 7, 4))
    assert seen.taps["lstm"].shape == (5, 7, 3)


def test_capture_follows_the_last_forward():
    model = mlp().eval()
    with capture(model, "act") as seen:
        assert seen == {}
        model(torch.ones(2, 4))
        assert seen["act"].shape == (2, 3)
        assert seen["act"].requires_grad
        model(torch.ones(7, 4))
        assert seen["act"].shape == (7, 3)


# -- pairs that are chosen -----------------------------------------------------------------------


def ends(name, size, classes=3):
    return [(path, shape[1:]) for path, shape in stage_ends(quick(name, size, classes), torch.zeros(1, 3, size, size))]


def quick(name, size, classes=3):
    return build(name, classes=classes, in_channels=3, size=size)


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [
        ("resnet8", 32, [("layer1", (16, 32, 32)), ("layer2", (32, 16, 16)), ("layer3", (64, 8, 8))]),
        ("resnet20", 32, [("layer1", (16, 32, 32)), ("layer2", (32, 16, 16)), ("layer3", (64, 8, 8))]),
        (
            "torchvision:resnet18",
            64,
            [("layer1", (64, 16, 16)), ("layer2", (128, 8, 8)), ("layer3", (256, 4, 4)), ("layer4", (512, 2, 2))],
        ),
    ],
)
def test_stage_ends(name, size, wanted):
    assert ends(name, size) == wanted


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8", "torchvision:mobilenet_v2", "mobilenet_v2", "shufflenet_v2"])
def test_stages_shrink_and_are_real_taps(name):
    model, x = quick(name, 32), torch.zeros(1, 3, 32, 32)
    found = stage_ends(model, x)
    assert len(found) >= 3
    sizes = [shape[2] * shape[3] for _, shape in found]
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] > 1
    assert shapes(model, x, [path for path, _ in found]) == dict(found)


@pytest.mark.parametrize(
    ("student", "teacher", "size", "wanted"),
    [
        ("resnet8", "resnet20", 32, (("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3"))),
        (
            "torchvision:resnet18",
            "torchvision:resnet34",
            64,
            (("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3"), ("layer4", "layer4")),
        ),
        ("resnet8", "torchvision:resnet18", 64, (("layer1", "layer1"), ("layer2", "layer3"), ("layer3", "layer4"))),
        ("torchvision:resnet18", "resnet8", 64, (("layer1", "layer1"), ("layer3", "layer2"), ("layer4", "layer3"))),
    ],
)
def test_pairs_of_common_networks(student, teacher, size, wanted):
    assert match(quick(student, size), quick(teacher, size), torch.zeros(1, 3, size, size)) == wanted


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("resnet8", "wrn_16_2"), ("vgg8", "resnet20"), ("torchvision:mobilenet_v2", "wrn_16_2"), ("mobilenet_v2", "vgg8")],
)
def test_every_stage_of_the_shorter_network_gets_one_partner_in_order(student, teacher):
    a, b, x = quick(student, 32), quick(teacher, 32), torch.zeros(1, 3, 32, 32)
    pairs = match(a, b, x)
    ours, theirs = [p for p, _ in stage_ends(a, x)], [p for p, _ in stage_ends(b, x)]
    assert len(pairs) == min(len(ours), len(theirs))
    assert [ours.index(s) for s, _ in pairs] == sorted({ours.index(s) for s, _ in pairs})
    assert [theirs.index(t) for _, t in pairs] == sorted({theirs.index(t) for _, t in pairs})
    assert pairs[-1] == (ours[-1], theirs[-1])


def test_a_network_without_maps_is_an_error_that_says_what_to_do():
    with pytest.raises(TapError) as error:
        match(build("mlp", classes=3), build("resnet8", classes=3), torch.zeros(1, 3, 32, 32))
    assert str(error.value) == (
        "the student (mlp) returns no [batch, channels, height, width] maps from any module (but maybe from a patch "
        "embedding), so no layers can be chosen; name them: pairs=[(student layer, teacher layer)]"
    )
    with pytest.raises(TapError, match=r"the teacher \(Sequential\) returns no"):
        match(
            build("resnet8", classes=3, in_channels=1, size=8),
            nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
            torch.zeros(1, 1, 8, 8),
        )


class Transformer(nn.Module):
    """Patches, tokens, two blocks, and the mean of the tokens."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)))

    def forward(self, x):
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def test_a_patch_embedding_is_no_stage():
    x, vit, cnn = torch.zeros(2, 1, 8, 8), Transformer(), build("digits_cnn", classes=3, in_channels=1, size=8)
    assert stage_ends(vit, x) == []
    for pair in ((vit, cnn), (cnn, vit)):
        with pytest.raises(TapError, match=r"\(Transformer\) returns no .* name them: pairs="):
            match(*pair, x)
    ours, theirs = middle(vit, Transformer(), x)
    assert ours == theirs
    assert ours.startswith("blocks")


def test_the_middle_of_two_networks():
    x = torch.zeros(1, 3, 32, 32)
    assert middle(quick("resnet8", 32), quick("resnet20", 32), x) == ("layer2", "layer2")
    deep = build("mlp", classes=3, hidden=[8] * 5)
    flat = build("mlp", classes=3)
    assert [n for n, _ in hidden_layers(flat, x)] == ["layer1", "layer2"]
    assert middle(flat, deep, x) == ("layer1", "layer3")
    with pytest.raises(TapError, match="the student has no hidden layer that limbeck can tap by itself"):
        middle(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), flat, x)


def test_every_chosen_tap_can_be_tapped_in_training():
    """In-place ReLUs of torchvision must not spoil what is chosen."""
    model, x = quick("torchvision:resnet18", 64), torch.randn(2, 3, 64, 64)
    paths = [path for path, _ in stage_ends(model, x)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = Tapped(model, paths, example=x).train()(x)
    assert all(bool((seen.taps[path] >= 0).all()) for path in paths)


def test_a_dropout_is_not_chosen():
    """In eval mode it returns what the layer before it gave; in training the tap would be noise."""

    def block(a, b):
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(a, b, 3, 2, 1), drop=nn.Dropout(0.5)))

    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 4, 3, 2, 1),
            drop=nn.Dropout(0.5),
            block=block(4, 6),
            flat=nn.Flatten(),
            fc=nn.Linear(24, 3),
        )
    )
    assert [name for name, _ in _chosen(model)] == ["block"]
    flat = nn.Sequential(OrderedDict(fc1=nn.Linear(8, 6), act=nn.ReLU(), drop=nn.Dropout(0.5), fc2=nn.Linear(6, 3)))
    assert [name for name, _ in hidden_layers(flat, torch.zeros(2, 8))] == ["act"]


def _chosen(model):
    return stage_ends(model, torch.zeros(2, 3, 8, 8))


def test_one_tap_may_be_given_as_it_is():
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(13)))
    assert list(shapes(net, torch.zeros(2, 4), "12")) == ["12"]
    with (
        pytest.raises(TapError, match=r"a tap is the path of a module, as text; \['1'\] is a list"),
        capture(net, ["1"]),
    ):
        pass
    assert not hooks(net)


def test_a_message_names_the_setting_that_the_method_has():
    from limbeck.layers import match

    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(TapError, match=r"no layers can be chosen; name them: pair=\(s, t\)"):
        match(plain, plain, torch.zeros(1, 1, 2, 2), setting="pair=(s, t)")
