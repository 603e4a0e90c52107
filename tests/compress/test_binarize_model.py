"""Making a whole network binary: which layers, what becomes of the network given, storage, export, and what is refused."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from limbeck.compress.binarize import Binarize
from limbeck.compress.binary import BinaryConv, BinaryLinear, pack, packed_bytes, settle, unpack
from limbeck.compress.structure import describe, rebuild
from limbeck.compressor import findings, is_compressor
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError, WeightsError
from limbeck.models import build
from limbeck.models.weights import packed
from limbeck.phase import Batch

FORMS = ("bnn", "bwn", "xnor")
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def resnet(seed=0):
    torch.manual_seed(seed)
    net = build("resnet8", classes=10, in_channels=1, size=8)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return net


def shuffled(net):
    """The network in eval mode with BatchNorms as after some training."""
    net.train()
    with torch.no_grad():
        for k in range(3):
            net(X + k / 10)
    return net.eval()


def everything(model):
    """All that could be changed about a network, and the random numbers."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [
        (p.training, p._modules.keys(), sorted(vars(p)), len(p._forward_hooks), len(p._forward_pre_hooks))
        for p in model.modules()
    ]
    parameters = [(id(p), p.requires_grad, p.grad) for p in model.parameters()]
    return state, str(flags), parameters, torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


@pytest.mark.parametrize("form", FORMS)
def test_the_network_given_is_left_alone(form):
    net = resnet()
    net.layer1.eval()
    net.fc.weight.requires_grad_(False)
    net(X).sum().backward()
    state, *others = everything(net)
    new = Binarize(form)(net, example=X, calibration=[Batch(X), Batch(X[:1])])
    after, *others_after = everything(net)
    assert all(torch.equal(state[k], after[k]) for k in state)
    assert others == others_after
    assert new.training
    assert not new.layer1.training
    assert all(not part.training for part in new.layer1.modules())
    assert not new.fc.weight.requires_grad
    assert all(p.grad is None for p in new.parameters())
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in new.parameters()}


class Counting(nn.Module):
    """A forward that keeps something, in a buffer and beside it, and draws."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))
        self.register_buffer("n", torch.zeros(()))
        self.last, self.sizes = None, []

    def forward(self, x):
        self.n += 1
        self.last = x.detach()
        self.sizes.append(len(x))
        return self.body(x) + 0 * random.random() * np.random.random()


def test_what_a_forward_keeps_is_not_changed():
    net = Counting()
    state, *others = everything(net)
    new = Binarize("bwn")(net, example=torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    after, *others_after = everything(net)
    assert all(torch.equal(state[k], after[k]) for k in state)
    assert others == others_after
    assert (net.last, net.sizes) == (None, [])
    assert findings(new).details["binary"] == ["body.2"]


def test_layers_with_hooks_stay_real():
    def net(hooked):
        parts = nn.Sequential(*(nn.Linear(16, 16) for _ in range(6)))
        if hooked:
            parts[1].register_forward_hook(lambda part, args, out: 2 * out)
            parts[2].register_forward_pre_hook(lambda part, args: None)
            parts[3].register_full_backward_hook(lambda part, inside, outside: None)
        return parts

    x = torch.randn(3, 16)
    new = Binarize("bwn")(net(True), example=x)
    told = findings(new)
    assert told.details["binary"] == ["4"]
    assert all(told.details["real"][name] == "it carries hooks, which would be lost" for name in "123")
    assert any("1 (it carries hooks" in note for note in told.notes)
    assert len(new[1]._forward_hooks) == len(new[2]._forward_pre_hooks) == len(new[3]._backward_hooks) == 1
    assert findings(Binarize("bwn")(net(False), example=x)).details["binary"] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("form", FORMS)
def test_all_layers_but_the_ends_are_binary(form):
    net = resnet()
    new = Binarize(form, fewest=2)(net, example=X)
    convs = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d)]
    found = [name for name, part in new.named_modules() if isinstance(part, (BinaryConv, BinaryLinear))]
    assert sorted(found) == sorted(set(convs) - {"stem.0"})
    assert type(new.fc) is nn.Linear
    told = findings(new).details
    assert sorted(told["binary"]) == sorted(found)
    assert told["real"] == {"stem.0": "the first layer", "fc": "the last layer"}
    assert (told["weight_bits"], told["activation_bits"]) == (1, 32 if form == "bwn" else 1)
    assert told["binary_weights"] == sum(net.get_submodule(name).weight.numel() for name in found)
    for name in found:  # real weights are the parameters, and start from those given
        assert torch.equal(new.get_submodule(name).weight, net.get_submodule(name).weight)
        assert not new.get_submodule(name).made["norm_after"]  # a BatchNorm follows in the network itself
    everywhere = Binarize(form, ends=True, fewest=2)(net, example=X)
    assert type(everywhere.stem[0]) is BinaryConv
    assert everywhere.stem[0].made["real_input"]
    assert everywhere.fc.made["real_input"] == (form == "bwn")
    assert everywhere.fc.made["norm_after"] == (form == "bnn")  # sums of signs are large; nothing scales these


def test_binary_weights_and_inputs_are_what_is_computed_with():
    net = resnet()
    new = Binarize("xnor")(net, example=X).eval()
    layer = new.layer2[0].conv2
    seen = {}
    handles = [
        layer.before.register_forward_hook(lambda m, a, y: seen.update(inside=y)),
        layer.register_forward_hook(lambda m, a, y: seen.update(out=y)),
    ]
    new(X)
    for handle in handles:
        handle.remove()
    signs = torch.where(seen["inside"] >= 0, 1.0, -1.0)
    weights = torch.where(layer.weight >= 0, 1.0, -1.0) * layer.weight.abs().mean((1, 2, 3), keepdim=True)
    scale = nn.functional.avg_pool2d(seen["inside"].abs().mean(1, keepdim=True), 3, 1, 1)
    torch.testing.assert_close(seen["out"], nn.functional.conv2d(signs, weights, padding=1) * scale)


def test_after_a_relu_signs_differ_nevertheless():
    """Without the BatchNorm in between, all signs behind a ReLU would be +1."""
    new = Binarize("bnn")(resnet(), example=X, calibration=[Batch(X)])
    seen = {}
    layer = new.layer2[0].conv1
    handles = [
        layer.register_forward_pre_hook(lambda m, a: seen.update(before=a[0])),
        layer.before.register_forward_hook(lambda m, a, y: seen.update(after=y)),
    ]
    new.eval()(X)
    for handle in handles:
        handle.remove()
    assert (seen["before"] >= 0).all()
    assert 0.3 < (seen["after"] >= 0).float().mean() < 0.7


def test_batch_statistics_from_calibration():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 20), nn.Linear(20, 2))
    batches = [Batch(torch.randn(6, 4)), Batch(torch.randn(6, 4)), Batch(torch.randn(1, 4))]
    new = Binarize("xnor", fewest=2)(net, example=batches[0].inputs, calibration=batches)
    inside = [net[0](batch.inputs) for batch in batches[:2]]
    norm = new[1].before
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in inside]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in inside]).mean(0))
    assert norm.momentum == 0.1
    assert not any("no calibration" in note for note in findings(new).notes)
    assert any(
        "no calibration" in n for n in findings(Binarize("xnor", fewest=2)(net, example=batches[0].inputs)).notes
    )


def test_what_the_user_is_told():
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 16, 1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    new = Binarize("xnor")(net, example=X)
    notes = findings(new).notes
    assert any("only the size is smaller" in note and "no faster" in note for note in notes)
    assert findings(new).details["real"]["3"].startswith("9 weights per filter: the scale of a filter costs")
    assert not any("max-pooling" in note for note in notes)  # 3 stays real
    new = Binarize("bnn", fewest=2)(net, example=X)
    assert any(note.startswith("the max-pooling 2 feeds the signs of 3") for note in findings(new).notes)
    assert not any("max-pooling" in note for note in findings(Binarize("bwn", fewest=2)(net, example=X)).notes)
    thin = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1), nn.Linear(1, 5), nn.Linear(5, 2))
    real = findings(Binarize("bwn", fewest=2)(thin, example=torch.randn(3, 4))).details["real"]
    assert real["2"] == "1 weight per filter: alpha = |w| is the weight itself"


def test_layers_that_stay_real_for_a_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.tied, self.odd, self.head = (
                nn.Linear(16, 16),
                nn.modules.linear.NonDynamicallyQuantizableLinear(16, 16),
                nn.Linear(16, 4),
            )
            self.spare, self.read = nn.Linear(16, 16), nn.Linear(16, 16)
            self.tied.weight = self.two.weight

        def forward(self, x):
            x = self.odd(self.tied(self.three(self.three(self.two(self.one(x))))))
            return self.head(nn.functional.linear(x, self.read.weight))

    new = Binarize("bnn")(Net(), example=torch.randn(3, 16))
    told = findings(new)
    assert told.details["binary"] == ["three"]
    assert "three run more than once per forward" in " ".join(told.notes)
    real = told.details["real"]
    assert real["two"] == real["tied"] == "its weight is shared with another layer"
    assert real["odd"].startswith("a NonDynamicallyQuantizableLinear")
    assert real["spare"] == real["read"] == "not called with the example: fused into another module, or unused"
    assert new.tied.weight is new.two.weight


def test_a_fused_transformer_layer_stays_real():
    """Its fast path would read the latent weights, past all signs; while hooks are set it is not taken."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    net = nn.Sequential(nn.Linear(16, 32), encoder, nn.Linear(32, 32), nn.Linear(32, 4))
    x = torch.randn(2, 5, 16)
    new = Binarize("xnor")(net, example=x).eval()
    assert findings(new).details["binary"] == ["2"]
    with torch.no_grad():
        fused = new(x)
    torch.testing.assert_close(fused, new(x).detach(), atol=1e-4, rtol=1e-4)


def test_one_module_in_two_places_stays_one():
    shared = nn.Linear(16, 16)
    net = nn.Sequential(nn.Linear(16, 16), shared, nn.ReLU(), shared, nn.Linear(16, 2))
    new = Binarize("xnor")(net, example=torch.randn(3, 16))
    assert new[1] is new[3]
    assert type(new[1]) is BinaryLinear
    x = torch.randn(3, 16)
    assert torch.equal(unpack(pack(new), Binarize("xnor")(net, example=x)).eval()(x), new.eval()(x))
    plain = settle(new)
    assert plain[1] is plain[3]


def test_layers_and_parts_to_keep():
    new = Binarize("xnor", keep=("layer1", "layer3.0.conv2"))(resnet(), example=X)
    real = {name for name, why in findings(new).details["real"].items() if why == "in keep"}
    assert {"layer1.0.conv1", "layer1.0.conv2", "layer3.0.conv2"} <= real
    assert all(name.startswith("layer1.") or name == "layer3.0.conv2" for name in real)
    assert type(new.layer1[0].conv1) is nn.Conv2d
    assert type(new.layer3[0].conv1) is BinaryConv


@pytest.mark.parametrize("form", FORMS)
def test_it_runs_and_copies_and_can_be_exported(form):
    new = shuffled(Binarize(form, ends=True)(resnet(), example=X))
    assert all(isinstance(v, torch.Tensor) for v in new.state_dict().values())
    y = new(X)
    assert y.shape == (8, 10)
    assert torch.equal(copy.deepcopy(new)(X), y)
    program = torch.export.export(new, (X,)).module()
    torch.testing.assert_close(program(X), y)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in new.modules())
    new.train()(X).sum().backward()
    assert all(p.grad is not None for p in new.parameters())


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_it_can_be_built_again(form, ends):
    net = resnet()
    new = shuffled(Binarize(form, ends=ends)(net, example=X))
    again = rebuild(net, json.loads(json.dumps(describe(net, new))))
    again.load_state_dict(new.state_dict())
    assert torch.equal(again.eval()(X), new(X))
    plain = settle(new)
    again = rebuild(new, json.loads(json.dumps(describe(new, plain))))
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again.eval()(X), new(X))


# -- a bit per weight ------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_packed_and_back_to_the_last_bit(form, ends):
    new = shuffled(Binarize(form, ends=ends)(resnet(), example=X))
    with torch.no_grad():
        new.layer2[0].conv1.weight[3] = 0  # a filter of zeros is allowed
    data = pack(new)
    other = Binarize(form, ends=ends)(resnet(seed=5), example=X)
    before = copy.deepcopy(other.state_dict())
    back = unpack(data, other).eval()
    assert torch.equal(back(X), new(X))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    assert pack(back) == data
    weights = back.layer2[0].conv2.weight.detach()
    assert all(len(row.abs().unique()) == 1 for row in weights)


@pytest.mark.parametrize("form", FORMS)
def test_packed_and_back_in_double_precision(form):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 1001), nn.ReLU(), nn.Linear(1001, 8)).double()
    x = torch.randn(16, 16, dtype=torch.float64)
    new = Binarize(form, ends=True)(net, example=x, calibration=[Batch(x)]).eval()
    back = unpack(pack(new), copy.deepcopy(new)).eval()
    assert torch.equal(back(x), new(x))
    assert pack(back) == pack(new)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_counted_and_are_less_than_a_25th_of_a_network_that_is_mostly_binary(form):
    net = nn.Sequential(
        nn.Conv2d(1, 512, 1), nn.ReLU(), nn.Conv2d(512, 512, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2)
    )
    new = Binarize(form)(net, example=X[:, :, :3, :3])
    told, data = findings(new).details, pack(new)
    assert told["packed_bytes"] == len(data) == packed_bytes(new)
    assert told["float_bytes"] == len(packed(net))
    stored = load(data)
    assert stored["2.weight.signs"].dtype == torch.uint8
    assert stored["2.weight.signs"].numel() == 512 * 512 * 9 // 8
    assert ("2.weight.scale" in stored) == (form != "bnn")
    assert len(data) - sum(v.numel() * v.element_size() for v in stored.values()) < 3000  # the table of contents
    assert len(data) * 25 <= told["float_bytes"]


def test_files_that_do_not_fit():
    new = Binarize("xnor")(resnet(), example=X)
    data = pack(new)
    with pytest.raises(WeightsError, match="these 10 bytes cannot be read as a safetensors file"):
        unpack(data[:10], new)
    with pytest.raises(
        WeightsError, match=r"does not fit resnet8: missing nothing; unexpected layer1\.0\.conv1\.weight\.scale"
    ):
        unpack(data, Binarize("bnn")(resnet(), example=X))
    wrong = load(data)
    wrong["layer2.0.conv1.weight.signs"] = wrong["layer2.0.conv1.weight.signs"][1:].clone()
    with pytest.raises(
        WeightsError, match=r"layer2\.0\.conv1\.weight \[32, 16, 3, 3\] in the network, \[575\] in the file"
    ):
        unpack(save(wrong), new)
    with pytest.raises(LimbeckError, match=r"has no binary layer to pack; limbeck\.save_weights stores real ones"):
        pack(resnet())
    with torch.no_grad():
        new.layer2[0].conv1.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layer2\.0\.conv1\.weight is non-finite: a sign would hide that"):
        pack(new)


# -- written out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_settled_it_computes_the_same_to_the_last_bit(form):
    new = shuffled(Binarize(form, ends=True)(resnet(), example=X))
    state = copy.deepcopy(new.state_dict())
    plain = settle(new)
    assert torch.equal(plain(X), new(X))
    assert all(torch.equal(v, state[k]) for k, v in new.state_dict().items())
    weights = plain.layer2[0].conv2.weight.detach()
    assert all(len(row.abs().unique()) == 1 for row in weights)
    assert (weights.abs() == 1).all() == (form == "bnn")
    assert not plain.training
    if form == "bwn":
        assert not any(isinstance(part, (BinaryConv, BinaryLinear)) for part in plain.modules())
        assert {k: v.shape for k, v in plain.state_dict().items()} == {
            k: v.shape for k, v in resnet().state_dict().items()
        }
    else:
        assert torch.equal(settle(plain)(X), plain(X))
    with pytest.raises(LimbeckError, match="has no binary layer to settle"):
        settle(resnet())


def test_a_single_layer_is_a_network_too():
    new = Binarize("bwn", ends=True)(nn.Linear(16, 4), example=torch.randn(2, 16))
    assert type(new) is BinaryLinear
    x = torch.randn(2, 16)
    assert type(settle(new)) is nn.Linear
    assert torch.equal(settle(new)(x), new(x))


# -- what is refused -------------------------------------------------------------------------------


def test_no_layer_between_the_ends():
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with pytest.raises(
        LimbeckError,
        match=r"no layer of Sequential can become binary: 0: the first layer; 2: the last layer\. With ends=True",
    ):
        Binarize("bnn")(net, example=torch.randn(2, 64))
    assert len(findings(Binarize("bnn", ends=True)(net, example=torch.randn(2, 64))).details["binary"]) == 2
    with pytest.raises(LimbeckError, match="Sequential has no layer with weights"):
        Binarize("bnn")(nn.Sequential(nn.ReLU()), example=torch.randn(2, 64))


def test_weights_that_are_no_numbers():
    net = resnet()
    with torch.no_grad():
        net.layer1[0].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(
        NonFiniteError, match=r"layer1\.0\.conv1\.weight is non-finite: it holds 1 NaN and 0 inf among 2304 values"
    ):
        Binarize()(net, example=X)


def test_a_network_that_is_binary_already():
    new = Binarize("bnn")(resnet(), example=X)
    with pytest.raises(
        LimbeckError,
        match=r"resnet8 is binary already \(layer1\.0\.conv1, .* \.\.\.\); binarize the network that it was made of",
    ):
        Binarize("xnor")(new, example=X)


def test_a_layer_to_keep_that_does_not_exist():
    with pytest.raises(NameUnknown, match=r"no layer 'layer1\.0\.conv3' in resnet8; near: layer1\.0\.conv"):
        Binarize(keep=("layer1.0.conv3",))(resnet(), example=X)
    with pytest.raises(HyperParameterError, match="keep = 'pool': neither a layer with weights nor a part"):
        Binarize(keep=("pool",))(resnet(), example=X)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"form": "tnn"}, "form = 'tnn': one of bnn, bwn, xnor"),
        ({"fewest": 1}, "fewest = 1: 2 or more: of a single weight its scale is the whole"),
        ({"fewest": 2.5}, "fewest = 2.5: a whole number"),
        ({"keep": "fc"}, "keep = 'fc': a list of names of layers"),
        ({"ends": 1}, "ends = 1: True or False"),
        ({"form": "xnor", "stochastic": True}, "stochastic = True: only form 'bnn' draws signs, and this is 'xnor'"),
    ],
)
def test_settings_outside_their_range(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        Binarize(**settings)


def test_presets_and_kind():
    for settings in Binarize.presets.values():
        assert is_compressor(Binarize(**settings))
    assert Binarize("bnn").form == "bnn"
    with pytest.raises(TypeError):
        Binarize("bnn", True)  # type: ignore[misc]


def test_reading_about_it_needs_no_torch():
    code = "import sys, limbeck.compress.binarize as b, limbeck.compress.binary; b.Binarize('bnn'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
