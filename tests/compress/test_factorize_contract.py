"""What every compressor owes: the model given keeps every bit, the one made runs, copies, exports; bad input is told."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from limbeck import models
from limbeck.compress.factorize import Factorize
from limbeck.compress.lowrank.fold import fold
from limbeck.compress.structure import describe, rebuild
from limbeck.compressor import Compressor, findings, is_compressor
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError
from limbeck.phase import Batch


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(24 * 9, 40),
        nn.ReLU(),
        nn.Linear(40, 5),
    )


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HOWS = [
    Factorize(energy=0.5, measured=False),
    Factorize(rank=2, measured=False),
    Factorize(macs=0.5, measured=True),
    Factorize(vbmf=True, kind="spatial", measured=False),
    Factorize(rank=1, kind="dominant", measured=False, batch=2),
]


def everything(model):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    switches = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: part.training for name, part in model.named_modules()}
    held = {name: sorted(vars(part)) for name, part in model.named_modules()}
    hooks = {name: len(part._forward_hooks) for name, part in model.named_modules()}
    return state, (switches, modes, held, hooks, repr(model))


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_model_given_keeps_everything_and_the_new_one_works(how):
    model = small()
    model[1].eval()
    model[9].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    state, rest = everything(model)
    seeds = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), torch.get_num_threads()
    new = how(model, example=X)
    assert torch.equal(torch.get_rng_state(), seeds[0])
    assert random.getstate() == seeds[1]
    assert (np.random.get_state()[1] == seeds[2]).all()
    assert torch.get_num_threads() == seeds[3]
    after, same = everything(model)
    assert rest == same
    assert all(torch.equal(value, after[key]) for key, value in state.items())
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert findings(model).notes == []

    assert not {id(p) for p in model.parameters()} & {id(p) for p in new.parameters()}
    assert new.training
    assert not new[1].training
    assert all(not p.requires_grad for p in new[9].parameters() if p.ndim > 1)
    json.dumps(findings(new).details)
    assert all(type(value) is torch.Tensor for value in new.state_dict().values())
    new(X).sum().backward()
    twin = copy.deepcopy(new).eval()
    new.eval()
    assert torch.equal(twin(X), new(X))
    program = torch.export.export(new, (X,))
    assert torch.allclose(program.module()(X), new(X), atol=1e-5)
    told = json.loads(json.dumps(describe(model, new)))
    again = rebuild(model, told)
    again.load_state_dict(new.state_dict())
    assert repr(again) == repr(new)
    assert torch.equal(again.eval()(X), new(X))
    assert all(type(part).__module__.startswith("torch.nn") for part in new.modules())


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "shufflenet_v1"])
def test_networks_of_the_zoo(name):
    torch.manual_seed(0)
    model = models.build(name, classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    new = Factorize(energy=0.9, measured=False)(model, example=x)
    told = findings(new).details
    assert any(line["decision"] == "factorized" for line in told["layers"])
    assert models.macs.count_macs(new, x) == told["macs"]["after"] < told["macs"]["before"]
    assert torch.allclose(fold(new)(x), new(x), atol=1e-4)
    assert not new.training
    assert sum(p.numel() for p in new.parameters()) == told["parameters"]["after"]


def test_a_layer_alone_a_mapping_and_a_module_that_stands_twice():
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    new = Factorize(rank=3, measured=False)(layer, example=torch.randn(2, 30))
    assert [type(part) for part in new] == [nn.Linear, nn.Linear]
    (line,) = findings(new).details["layers"]
    assert (line["layer"], line["ranks"]) == ("", [3])

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(30, 30)
            self.second = self.first

        def forward(self, x, y):
            return {"score": self.first(x) + self.second(input=y)}

    model, example = Twice(), {"x": torch.randn(2, 30), "y": torch.randn(2, 30)}
    new = Factorize(rank=4, measured=False)(model, example=example)
    assert new.first is new.second
    (line,) = findings(new).details["layers"]
    assert (line["layer"], line["macs"], line["macs_after"]) == ("first", 2 * 900, 2 * 4 * 60)
    assert findings(new).details["macs"] == {"before": 1800, "after": 480}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.body(self.table(x)))


class Direct(nn.Module):
    """Uses the weight of `unseen` only past its forward, that of `seen` both ways."""

    def __init__(self):
        super().__init__()
        self.seen, self.unseen, self.plain = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.plain(nn.functional.linear(x, self.unseen.weight)) + self.seen(x)


def hooked():
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    net[0].register_forward_hook(print_nothing)
    return net


def print_nothing(*_):
    return None


def left(model, x, **options):
    new = Factorize(rank=2, measured=False, **options)(model, example=x)
    notes = {note.split(" is left alone: ")[0]: note for note in findings(new).notes if " is left alone: " in note}
    return new, notes


def test_layers_that_must_not_be_exchanged_are_left_alone_and_named():
    x = torch.randn(3, 16)
    new, notes = left(Tied(), torch.tensor([[1, 2, 3]]))
    assert list(notes) == ["head"]
    assert "shares a parameter" in notes["head"]
    assert new.head.weight is new.table.weight

    new, notes = left(Direct(), x)
    assert list(notes) == ["unseen"]
    assert "did not run" in notes["unseen"]

    new, notes = left(hooked(), x)
    assert "carries hooks" in notes["0"]
    assert len(new[0]._forward_hooks) == 1

    new, notes = left(nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 16)), x)
    assert "parametrized" in notes["0"]
    assert type(new[1]) is nn.Sequential

    masked = prune.random_unstructured(nn.Linear(16, 16), "weight", 0.5)
    masked._forward_pre_hooks.clear()  # a masked module cannot be copied with its mask applied
    masked.weight = masked.weight.detach()
    _, notes = left(nn.Sequential(masked, nn.Linear(16, 16)), x)
    assert "made anew in every forward" in notes["0"]

    class Own(nn.Linear):
        pass

    _, notes = left(nn.Sequential(Own(16, 16), nn.Linear(16, 16), nn.Conv1d(1, 1, 1)), x[:, None])
    assert "a Own, whose forward may do more" in notes["0"]
    assert "a Conv1d; only nn.Linear and nn.Conv2d" in notes["2"]

    _, notes = left(nn.Sequential(Own(16, 16), nn.Linear(16, 16)), x, ignore=["0"])
    assert notes == {}


def test_attention_reads_its_weights_itself():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    model = nn.Sequential(encoder, nn.Linear(16, 16))
    new, notes = left(model, torch.randn(2, 5, 16))
    assert sorted(notes) == [f"0.layers.0.{name}" for name in ("linear1", "linear2", "self_attn", "self_attn.out_proj")]
    assert "nn.MultiheadAttention are packed" in notes["0.layers.0.self_attn"]
    assert "nn.TransformerEncoderLayer reads its weight directly" in notes["0.layers.0.linear1"]
    for mode in (True, False):
        new.train(mode)(torch.randn(2, 5, 16))
    assert type(new[1]) is nn.Sequential


def test_a_network_that_reads_a_layer_it_also_runs():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            return self.fc(x.to(self.fc.weight.dtype))

    _, notes = left(Reads(), torch.randn(2, 16))
    assert notes["fc"].startswith("fc is left alone: the forward asks what kind of layer it is, or what it has")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "nothing given: exactly one of energy, rank, macs and vbmf"),
        ({"energy": 0.5, "rank": 3}, "energy and rank given: exactly one"),
        ({"macs": 0.5, "vbmf": True}, "macs and vbmf given"),
        ({"energy": 0.0}, r"energy = 0.0: a part to keep, in \(0, 1\]"),
        ({"energy": 1.01}, "energy = 1.01"),
        ({"energy": float("nan")}, "energy = nan.*finite"),
        ({"energy": "high"}, "energy = 'high'"),
        ({"rank": 0}, "rank = 0: a whole number, 1 or more"),
        ({"rank": -2}, "rank = -2"),
        ({"rank": 1.0}, "rank = 1.0"),
        ({"rank": True}, "rank = True"),
        ({"macs": 1.0}, r"macs = 1.0: a part to keep, in \(0, 1\)"),
        ({"macs": 0}, "macs = 0"),
        ({"vbmf": 1}, "vbmf = 1"),
        ({"vbmf": True, "weaken": 1.5}, r"weaken = 1.5: in \[0, 1\]"),
        ({"energy": 0.5, "weaken": 0.5}, "weaken = 0.5: only together with vbmf"),
        ({"vbmf": True, "kind": "dominant"}, "kind = 'dominant': vbmf finds ranks of whole layers"),
        ({"energy": 0.5, "kind": "cp"}, "kind = 'cp': one of auto, svd"),
        ({"energy": 0.5, "layers": "fc"}, "layers = 'fc': a list of names"),
        ({"energy": 0.5, "ignore": [1]}, r"ignore = \[1\]"),
        ({"energy": 0.5, "measured": "yes"}, "measured = 'yes'"),
        ({"energy": 0.5, "batch": 0}, "batch = 0: 1 or more"),
        ({"energy": 0.5, "batch": 1.5}, "batch = 1.5: a whole number"),
    ],
)
def test_settings_that_are_refused(options, text):
    with pytest.raises(HyperParameterError, match=text):
        Factorize(**options)


def test_models_and_names_that_are_refused():
    how = {"energy": 0.5, "measured": False}
    with pytest.raises(LimbeckError, match=r"a ReLU without nn.Linear and nn.Conv2d has nothing"):
        Factorize(**how)(nn.ReLU(), example=X)
    model = models.build("resnet8", classes=10)
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(NameUnknown, match="no layer 'layr1' in resnet8; near: layer1"):
        Factorize(**how, layers=["layr1"])(model, example=x)
    with pytest.raises(NameUnknown, match="no layer to ignore 'fcc' in resnet8; near: fc"):
        Factorize(**how, ignore=["fcc"])(model, example=x)
    with pytest.raises(HyperParameterError, match=r"'pool' is a Sequential without nn.Linear and nn.Conv2d"):
        Factorize(**how, layers=["pool"])(model, example=x)
    with pytest.raises(HyperParameterError, match=r"macs = 1e-06: with the smallest ranks 0.0\d+ of the arithmetic"):
        Factorize(macs=1e-6, measured=False)(model, example=x)


def test_numbers_that_are_no_numbers():
    model = small()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"3.weight is non-finite: it holds 1 NaN and 0 inf"):
        Factorize(energy=0.5, measured=False)(model, example=X)

    with pytest.raises(NonFiniteError, match="the output of this Sequential on the example, before anything"):
        Factorize(energy=0.5, measured=False)(small(), example=X * float("inf"))
    model = small()
    with torch.no_grad():
        model[3].bias[0] = -float("inf")  # behind a ReLU no output tells of it
    with pytest.raises(NonFiniteError, match=r"3.bias is non-finite"):
        Factorize(energy=0.5, measured=False)(model, example=X)

    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x).nan_to_num()

    hides = Hides()
    with torch.no_grad():
        hides.fc.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"fc.weight is non-finite: it holds 0 NaN and 1 inf"):
        Factorize(energy=0.5, measured=False)(hides, example=torch.ones(2, 4))


def test_it_is_a_compressor_and_is_made_without_torch():
    how = Factorize(**Factorize.presets["paper"])
    assert isinstance(how, Compressor)
    assert is_compressor(how)
    assert (how.vbmf, how.kind) == (True, "tucker")
    assert Factorize(energy=0.5, layers=["a"]).layers == ("a",)
    code = "import sys; from limbeck.compress.factorize import Factorize; Factorize(energy=0.5); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_statistics_are_estimated_anew_where_there_are_batches():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    batches = [Batch(torch.randn(8, 3, 8, 8) + 1) for _ in range(3)]
    for batch in batches:
        net(batch.inputs)
    settings = {"rank": 2, "kind": "tucker", "layers": ("0",), "measured": False}
    anew = Factorize(**settings)(net, example=batches[0].inputs, calibration=batches)
    told = findings(anew).notes
    assert "the statistics of BatchNorm were estimated anew on the calibration batches" in told
    with torch.no_grad():
        means = torch.stack([anew[0](batch.inputs).mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(anew[1].running_mean, means)
    assert anew[1].momentum == 0.1
    assert anew.training
    as_they_were = (
        Factorize(**settings)(net, example=batches[0].inputs),
        Factorize(**settings, recalibrate=False)(net, example=batches[0].inputs, calibration=batches),
        Factorize(**settings | {"rank": 27})(net, example=batches[0].inputs, calibration=batches),  # no less arithmetic
    )
    for small in as_they_were:
        assert torch.equal(small[1].running_mean, net[1].running_mean)
