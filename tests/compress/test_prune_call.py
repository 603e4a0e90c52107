"""Prune as a compressor and as a course."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.compress.prune import BY, Prune
from limbeck.compress.pruning.arithmetic import macs_of
from limbeck.compress.pruning.compare import moved_by
from limbeck.compress.pruning.graph import groups
from limbeck.compress.pruning.judge import NAMES
from limbeck.compress.pruning.surgery import removed
from limbeck.compress.structure import describe, rebuild
from limbeck.compressor import findings, is_compressor, tell
from limbeck.course import STUDENT, Lesson, Operation, lessons_of
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError
from limbeck.models import build
from limbeck.models.macs import count_macs
from limbeck.phase import Batch

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet8", classes=10)


def batches(count: int = 2) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [
        Batch(2 + torch.randn(8, 3, 32, 32, generator=draw), torch.randint(0, 10, (8,), generator=draw))
        for _ in range(count)
    ]


def widths(model: nn.Module) -> list[int]:
    return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_the_names_of_scores() -> None:
    assert BY == NAMES


def test_needs_no_torch_to_be_read() -> None:
    code = "import sys, limbeck.compress.prune as p; p.Prune(macs=0.5); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the contract


def test_input_stays_and_result_is_a_plain_network(net: nn.Module) -> None:
    net.layer1.eval()
    net.stem[0].weight.requires_grad_(False)
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    held = [sorted(vars(m)) for m in net.modules()]
    random = torch.random.get_rng_state()
    prune = Prune(macs=0.5)
    assert is_compressor(prune)
    less = prune(net, example=X, calibration=batches())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert modes == [m.training for m in net.modules()] == [m.training for m in less.modules()]
    assert held == [sorted(vars(m)) for m in net.modules()]
    assert not less.stem[0].weight.requires_grad
    F.cross_entropy(less.train()(X), torch.tensor([0, 1, 2, 3])).backward()
    less.eval()
    with torch.no_grad():
        expected = less(X)
        assert torch.equal(copy.deepcopy(less)(X), expected)
        exported = torch.export.export(less, (X,)).module()
        assert torch.allclose(exported(X), expected, atol=1e-5)
    again = rebuild(net, json.loads(json.dumps(describe(net, less))))
    again.load_state_dict(less.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(X), expected)


def test_what_it_says(net: nn.Module) -> None:
    tell(net, "an older word")
    said = findings(Prune(keep=0.5)(net, example=X))
    assert "an older word" not in said.notes
    assert said.details["widths"]["layer3.0.conv1"] == [64, 32]
    before, after = said.details["macs"]
    assert before == count_macs(net, X)
    assert f"{after:,}" in said.notes[0]
    assert "50.0% of the channels stay, 50.0% were asked for" in said.notes
    json.dumps(said.details)


def test_attention_says_what_is_left_whole() -> None:
    net = build("timm:vit_tiny_patch16_224", classes=3, size=32)
    said = findings(Prune(macs=0.7, scope="global")(net, example=torch.randn(1, 3, 32, 32)))
    assert any(note.startswith("left whole: patch_embed.proj") for note in said.notes)
    assert said.details["macs"][1] <= 0.7 * said.details["macs"][0]
    assert {name.rsplit(".", 1)[1] for name in said.details["widths"]} == {"qkv", "fc1"}


def test_any_head_runs(net: nn.Module) -> None:
    class Named(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(pixels)}

    less = Prune(keep=0.5)(Named(net), example={"pixels": X})
    assert less(pixels=X)["logits"].shape == (4, 10)


# -- targets


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("multiple", ["auto", 1])
@pytest.mark.parametrize("macs", [0.7, 0.3, 3_000_000])
def test_macs_are_met_from_below(net: nn.Module, scope: str, multiple: object, macs: float) -> None:
    less = Prune(macs=macs, scope=scope, multiple=multiple)(net, example=X)
    whole, got = count_macs(net, X), count_macs(less, X)
    target = macs if macs > 1 else macs * whole
    assert 0.93 * target <= got <= target
    if multiple == "auto":
        steps = {16: 2, 32: 4, 64: 8}
        assert all(new % steps[old] == 0 for old, new in zip(widths(net), widths(less), strict=True))
    assert less(X).shape == (4, 10)


def uneven(matters: bool) -> nn.Module:
    """Two layers of about ones; three quarters of the first one's filters are small, and matter, or hardly do."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(1 + 0.1 * torch.rand_like(layer.weight))
            layer.bias.zero_()
        model[0].weight[4:] *= 0.01
        if matters:  # and of the second layer only the largest filter does
            model[2].weight[:, 4:] *= 10_000.0
            model[2].weight[15] *= 2
            model[4].weight[:, :15] = 0.0
    return model


@pytest.mark.parametrize("matters", [True, False])
@pytest.mark.parametrize("target", [{"macs": 0.5}, {"macs": 0.5, "steps": 3, "soft": True, "step": 1}])
def test_of_two_ways_the_one_that_changes_answers_less_is_taken(matters: bool, target: dict[str, object]) -> None:
    model, x = uneven(matters), torch.rand(32, 8, generator=torch.Generator().manual_seed(0))
    told = {"example": x, "calibration": [x[:16], x[16:]]}
    before = copy.deepcopy(model.state_dict())
    found = {way: Prune(**target, scope=way, multiple=1)(model, **told) for way in ("layer", "global", "auto")}
    far = {way: moved_by(model, net, [Batch(x)]) for way, net in found.items()}
    best = "layer" if matters else "global"
    assert far["auto"] == far[best] < far["global" if matters else "layer"]
    (why,) = (note for note in findings(found["auto"]).notes if note.startswith("scope"))
    assert why.startswith(f"scope = '{best}', tried on calibration batches: outputs move by so much of their length: ")
    assert not any(note.startswith("scope") for note in findings(found["layer"]).notes)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("target", "looked"), [({"macs": 0.5}, 0), ({"keep": 0.5}, 1)])
def test_where_two_ways_cannot_be_compared_every_layer_loses_the_same_part(
    target: dict[str, float], looked: int
) -> None:
    model, x = uneven(False), torch.rand(32, 8)
    said = findings(Prune(**target, multiple=1)(model, example=x, calibration=[x] * looked))
    assert said.details["scope"] == "layer"
    assert len({new for _, new in said.details["widths"].values()}) == 1


def test_how_far_answers_move() -> None:
    class Both(nn.Module):
        def __init__(self, factor: float, extra: int = 0) -> None:
            super().__init__()
            self.factor, self.extra = factor, extra

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x[:, self.extra :] * self.factor, "b": x[:, :1], "ids": x.argmax(1)}

    x = torch.tensor([[3.0, 4.0]])
    for other, far in (
        (Both(1.0), 0.0),
        (Both(0.0), 5 / 34**0.5),
        (Both(1.0, 1), math.inf),
        (Both(math.nan), math.inf),
    ):
        assert moved_by(Both(1.0), other, [Batch(x)]) == pytest.approx(far)
    assert moved_by(Both(1.0), nn.Identity(), [Batch(x)]) == math.inf  # one tensor where there were two
    assert moved_by(Both(1.0), Both(0.0), [Batch(x), Batch(2 * x)]) == pytest.approx((125 / 170) ** 0.5)


def test_what_costs_arithmetic_goes_earlier() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():  # filters of norm 1, 2, 3, 4 in both layers, so that only the arithmetic tells them apart
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.ones_like(layer.weight) * torch.arange(1.0, 5.0).view(4, 1, 1, 1))
    x, keep = torch.zeros(1, 1, 8, 8), {"keep": 0.5, "scope": "global", "multiple": 1}
    even = findings(Prune(**keep)(model, example=x)).details["widths"]
    assert even == {"0": [4, 2], "2": [4, 2]}
    # A channel of "0" costs 36 * 9 + 16 * 9 * 4 = 900, one of "2" 16 * 9 * 4 + 2 = 578: in millions of operations 0.0018
    # and 0.001156.  Over their root mean square (2.739) the norms are 0.3651, 0.7303, 1.0954, 1.4606.
    for flops, first in ((500.0, 2), (600.0, 1), (1800.0, 1)):  # 1.0954 - 0.0018 f < 0.7303 - 0.001156 f from 567 on
        told = findings(Prune(**keep, flops=flops)(model, example=x)).details["widths"]
        assert told == {"0": [4, first], "2": [4, 4 - first]}, flops


def test_counted_arithmetic_is_the_measured_one() -> None:
    for name in ("mobilenet_v2", "shufflenet_v1", "fitnet1", "mimic"):
        torch.manual_seed(0)
        model = build(name, classes=10)
        found = groups(model, X)
        gone = {g.name: list(range(0, g.size - 1, 3)) for g in found}
        count = macs_of(model, found, X)
        assert count({}) == count_macs(model, X)
        kept = {g.name: g.size - len(gone[g.name]) for g in found}
        assert count(kept) == count_macs(removed(model, found, gone), X)


def test_own_matrices_are_counted(net: nn.Module) -> None:
    """The layers of a highway network multiply by parameters of their own, which no arithmetic over layers sees."""
    highway = build("highway", classes=10)
    less = Prune(macs=0.5, multiple=1)(highway, example=X)
    assert 0.48 <= count_macs(less, X) / count_macs(highway, X) <= 0.5


def test_heads_that_only_run_in_training() -> None:
    net = torchvision.models.GoogLeNet(num_classes=5, aux_logits=True, init_weights=False)
    x = torch.randn(2, 3, 64, 64)
    less = Prune(keep=0.5)(net, example=x)
    assert less.aux1.conv.conv.out_channels == 64
    assert [t.shape for t in less.train()(x)] == [(2, 5)] * 3
    assert less.inception5b.branch1.conv.out_channels == 192  # a dropout behind it fixes nothing


def test_keep_by_layer_is_exact_without_steps(net: nn.Module) -> None:
    less = Prune(keep=0.9, multiple=1)(net, example=X)
    assert [int(w * 0.9) for w in widths(net)] == widths(less)
    assert widths(Prune(keep=1.0)(net, example=X)) == widths(net)


def test_keep_goes_by_the_score(net: nn.Module) -> None:
    less = Prune(keep=0.5, by="l1", residual=False)(net, example=X)
    norms = net.layer2[0].conv1.weight.detach().abs().sum((1, 2, 3)).tolist()
    best = sorted(sorted(range(32), key=lambda i: -norms[i])[:16])
    stay = net.layer2[0].conv1.weight[best]
    assert torch.equal(less.layer2[0].conv1.weight, stay)
    assert torch.equal(less.layer2[0].bn1.weight, net.layer2[0].bn1.weight[best])
    assert torch.equal(less.layer2[0].conv2.weight, net.layer2[0].conv2.weight[:, best])


def test_slimming_takes_one_percentile(net: nn.Module) -> None:
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.copy_(torch.rand(m.num_features, generator=draw))
    keep = ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1")
    less = Prune(keep=0.4, by="slimming", scope="global", multiple=1, residual=False)(net, example=X)
    gammas = torch.cat([net.get_submodule(k.replace("conv", "bn")).weight for k in keep]).detach()
    threshold = gammas.sort().values[int(0.6 * len(gammas))]
    for name in keep:
        bn = name.replace("conv", "bn")
        assert less.get_submodule(name).out_channels == int((net.get_submodule(bn).weight >= threshold).sum())


def test_latency_is_met_by_measurement(net: nn.Module) -> None:
    wide = build("plain_4", classes=10)
    said = findings(Prune(latency=0.8, batch=4)(wide, example=X))
    note = next(n for n in said.notes if n.startswith("measured latency"))
    assert float(note.split()[2]) <= 0.8
    assert said.details["macs"][1] < said.details["macs"][0]


def test_layers_ignore_and_residual(net: nn.Module) -> None:
    less = Prune(keep=0.5, ignore=("stem", "layer2"), layers={"layer3.0.conv1": 0.25})(net, example=X)
    assert widths(less) == [16, 8, 16, 32, 32, 32, 16, 32, 32]
    less = Prune(keep=0.5, residual=False)(net, example=X)
    assert widths(less) == [16, 8, 16, 16, 32, 32, 32, 64, 64]
    less = Prune(keep=0.05, minimum=3, multiple=1)(net, example=X)
    assert set(widths(less)) == {3}


def test_named_layers_are_cut_where_the_budget_is_met_without_them(net: nn.Module) -> None:
    less = Prune(macs=10**12, layers={"layer3.0.conv1": 0.25})(net, example=X)
    assert widths(less) == [16 if i == 6 else w for i, w in enumerate(widths(net))]


def test_layers_that_a_score_says_nothing_about_stay_whole() -> None:
    model = build("mobilenet_v2", classes=10)  # whose narrow layers have no ReLU
    said = findings(Prune(macs=0.7, by="apoz")(model, example=X, calibration=batches()))
    assert said.details["macs"][1] <= 0.7 * said.details["macs"][0]
    left = {name for name, why in said.details["left"].items() if why.startswith("apoz counts")}
    assert left
    assert not left & set(said.details["widths"])
    assert any(note.startswith("left whole: ") and "apoz counts" in note for note in said.notes)


def test_thinet_fits_the_readers_anew(net: nn.Module) -> None:
    data = batches(2)
    settings = {"keep": 0.5, "by": "thinet", "residual": False, "recalibrate": False}
    fitted, left = (Prune(**settings, refit=refit)(net, example=X, calibration=data) for refit in (True, False))
    assert widths(fitted) == widths(left)
    assert not torch.equal(fitted.layer1[0].conv2.weight, left.layer1[0].conv2.weight)
    assert any("layers were fitted anew" in note for note in findings(fitted).notes)
    assert not any("fitted" in note for note in findings(left).notes)
    net.eval(), fitted.eval(), left.eval()
    with torch.no_grad():  # of the first block: behind it the inputs differ, too
        x = net.stem(data[0].inputs)
        want, new, old = (m.layer1(x) for m in (net, fitted, left))
    assert (new - want).square().sum() < (old - want).square().sum()


def test_batch_norm_is_estimated_anew(net: nn.Module) -> None:
    data = batches(3)
    less = Prune(keep=0.5)(net, example=X, calibration=data)
    first = less.stem[0]
    with torch.no_grad():
        outs = [first(b.inputs) for b in data]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outs]).mean(0)
    assert torch.allclose(less.stem[1].running_mean, mean, atol=1e-5)
    assert less.stem[1].momentum == 0.1
    off = Prune(keep=0.5, recalibrate=False)(net, example=X, calibration=data)
    assert torch.equal(off.stem[1].running_mean, torch.zeros(8))


# -- published counts (Li et al. 2017; built here as they built them)


def vgg16() -> nn.Module:
    parts: list[nn.Module] = []
    inside = 3
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in block:
            parts += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        parts.append(nn.MaxPool2d(2))
    head = (nn.Flatten(), nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 10))
    return nn.Sequential(*parts, *head)


def test_vgg16_pruned_a() -> None:
    net = vgg16()
    assert (count_macs(net, X), sum(p.numel() for p in net.parameters())) == (313_463_808, 14_987_722)
    convs = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    half = {convs[0]: 0.5, **dict.fromkeys(convs[7:], 0.5)}
    less = Prune(keep=1.0, layers=half)(net, example=X)
    assert widths(less) == [32, 64, 128, 128, 256, 256, 256, *[256] * 6]
    assert (count_macs(less, X), sum(p.numel() for p in less.parameters())) == (206_279_680, 5_397_034)


class Padded(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.stride, self.pad = stride, (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + short)


def resnet56() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [
        Padded(inside if k == 0 else outside, outside, stride if k == 0 else 1)
        for inside, outside, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        for k in range(9)
    ]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("prune", "skip", "macs", "parameters"),
    [((0.1, 0.1, 0.1), (16, 20, 38, 54), 0.104, 0.094), ((0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54), 0.276, 0.137)],
)
def test_resnet56(prune: tuple[float, ...], skip: tuple[int, ...], macs: float, parameters: float) -> None:
    net = resnet56()
    layers = {}
    for block in range(27):
        conv = 2 * block + 2  # counted from 1, the stem being the first
        if conv not in skip:
            layers[f"{3 + block}.conv1"] = 1 - prune[block // 9]
    less = Prune(keep=1.0, multiple=1, layers=layers, residual=False)(net, example=X)
    old, new = (sum(p.numel() for p in m.parameters()) for m in (net, less))
    assert old == 853_018
    assert 1 - count_macs(less, X) / count_macs(net, X) == pytest.approx(macs, abs=6e-4)
    assert 1 - new / old == pytest.approx(parameters, abs=8e-4)


# -- the course


def test_lessons_go_step_by_step(net: nn.Module) -> None:
    assert Prune(keep=0.5).lessons() == ()
    parts = lessons_of(Prune(keep=0.25, steps=2, residual=False, epochs=3))
    assert [(type(p), p.name, p.student) for p in parts] == [
        (Operation, "prune1", STUDENT),
        (Lesson, "train1", ".prune1"),
        (Operation, "prune2", ".train1"),
        (Lesson, "", ".prune2"),
    ]
    assert parts[1].training == {"epochs": 3}
    assert parts[3].training == {}
    assert all(p.beside == (STUDENT,) for p in parts if isinstance(p, Operation))
    one = parts[0].how(net, example=X, beside=(net,))
    two = parts[2].how(one, example=X, beside=(net,))
    assert widths(one)[1] == 8
    assert widths(two)[1] == 4
    assert widths(two) == widths(Prune(keep=0.25, residual=False)(net, example=X))


def test_macs_on_the_way_are_parts_of_the_original(net: nn.Module) -> None:
    whole = count_macs(net, X)
    parts = [p for p in Prune(macs=0.36 * whole, steps=2).lessons() if isinstance(p, Operation)]
    one = parts[0].how(net, example=X, beside=(net,))
    two = parts[1].how(one, example=X, beside=(net,))
    assert 0.55 * whole < count_macs(one, X) <= 0.6 * whole
    assert 0.33 * whole < count_macs(two, X) <= 0.36 * whole
    assert findings(two).details["macs"][0] == whole


def test_soft_pruning_zeroes_and_lets_come_back(net: nn.Module) -> None:
    parts = lessons_of(Prune(keep=0.75, steps=2, soft=True, by="fpgm", residual=False))
    assert [type(p) for p in parts] == [Operation, Lesson, Operation]
    soft = parts[0].how(net, example=X, beside=(net,))
    assert widths(soft) == widths(net)
    zero = (soft.layer2[0].conv1.weight == 0).flatten(1).all(1)
    assert int(zero.sum()) == 8
    assert bool((soft.layer2[0].bn1.weight != 0).all())
    nn.init.constant_(soft.layer2[0].bn1.bias, 0.3)  # where the shift is not above 0 the ReLU lets no gradient through
    F.cross_entropy(soft.train()(X), torch.tensor([0, 1, 2, 3])).backward()
    assert bool(soft.layer2[0].conv1.weight.grad[zero].any())  # so that they can
    last = parts[2].how(soft, example=X, beside=(net,))
    assert last.layer2[0].conv1.out_channels == 24


# -- bad input


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "exactly one of keep, macs and latency says how much stays; given: none of them"),
        ({"keep": 0.5, "macs": 0.5}, "given: keep = 0.5, macs = 0.5"),
        ({"keep": 0.0}, r"keep = 0.0: a part of the channels, in \(0, 1\]"),
        ({"keep": 1.5}, "keep = 1.5"),
        ({"keep": float("nan")}, "keep = nan"),
        ({"macs": -1}, "macs = -1: a part"),
        ({"latency": 0}, "latency = 0"),
        ({"keep": 0.5, "by": "l3"}, "by = 'l3': one of l1, l2"),
        ({"keep": 0.5, "by": "laso"}, "by = 'laso': one of l1, .*; near: lasso"),
        ({"keep": 0.5, "scope": "all"}, "scope = 'all': one of layer, global, auto"),
        ({"keep": 0.5, "scope": "global", "flops": -1}, "flops = -1: 0 or more"),
        (
            {"keep": 0.5, "flops": 0.001},
            "flops = 0.001: 0 with scope = 'auto'; scope = 'global' ranks channels of different layers",
        ),
        ({"keep": 0.5, "multiple": 0}, "multiple = 0"),
        ({"keep": 0.5, "minimum": 0}, "minimum = 0"),
        ({"keep": 0.5, "ignore": "fc"}, "ignore = 'fc': a list of names of layers"),
        ({"keep": 0.5, "layers": {"fc": 0}}, r"layers\['fc'\] = 0"),
        ({"keep": 0.5, "layers": ["fc"]}, r"layers = \['fc'\]: layers and the part of each"),
        ({"keep": 0.5, "ignore": None}, "ignore = None: a list of names"),
        ({"macs": 1}, r"macs = 1: a part in \(0, 1\), or a number above 1"),
        ({"keep": 0.5, "soft": True}, "soft = True: soft pruning takes steps of 2 or more"),
        ({"keep": 0.5, "steps": 2, "step": 3}, "step = 3: from 1 to steps = 2"),
        ({"keep": 0.5, "epochs": 0}, "epochs = 0"),
    ],
)
def test_bad_settings(settings: dict[str, object], text: str) -> None:
    with pytest.raises(HyperParameterError, match=text):
        Prune(**settings)


def test_bad_calls(net: nn.Module) -> None:
    with pytest.raises(NameUnknown, match=r"no layer 'layer1.0.conv'.*; near: layer1.0.conv"):
        Prune(keep=0.5, ignore=("layer1.0.conv",))(net, example=X)
    with pytest.raises(NameUnknown, match=r"no layer 'stam'.*near: stem"):
        Prune(keep=0.5, layers={"stam": 0.5})(net, example=X)
    with pytest.raises(LimbeckError, match="none is left: `ignore` names them all"):
        Prune(keep=0.5, ignore=("stem", "layer1", "layer2", "layer3"))(net, example=X)
    with pytest.raises(LimbeckError, match="layers: no channel that 'fc' makes can be removed"):
        Prune(keep=0.5, layers={"fc": 0.5})(net, example=X)
    with pytest.raises(HyperParameterError, match=r"macs = 0\.001: with every layer at its least width"):
        Prune(macs=0.001)(net, example=X)
    with pytest.raises(HyperParameterError, match="give calibration batches"):
        Prune(keep=0.5, by="apoz")(net, example=X)
    with torch.no_grad():
        net.fc.bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"fc\.bias is non-finite: it holds 1 NaN"):
        Prune(keep=0.5)(net, example=X)


def test_presets() -> None:
    for name, settings in Prune.presets.items():
        made = Prune(**{"keep": 0.5, **settings})
        assert dataclasses.asdict(made)["by"] == settings["by"], name


# -- what goes beyond layers ----------------------------------------------------------------------------


class Attends(nn.Module):
    """An attention of its own, whose products shrink with its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 16)
        self.o, self.fc = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 5, -1) @ self.v(x)
        return self.fc(self.o(seen).mean(1))


class Twice(nn.Module):
    """A weight that is used by its layer and by the forward itself, or by the forward alone."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.called = called
        self.stem, self.a, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.a(x) if self.called else F.conv2d(x, self.a.weight, self.a.bias, padding=1)).relu()
        return self.fc(F.conv2d(x, self.a.weight, padding=2, dilation=2).relu().mean((2, 3)))


@pytest.mark.parametrize("target", [0.7, 0.5])
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (Attends, torch.randn(2, 32, 16)),
        (lambda: Twice(True), torch.randn(2, 3, 8, 8)),
        (lambda: Twice(False), torch.randn(2, 3, 8, 8)),
    ],
)
def test_arithmetic_that_no_layer_does_counts(make: type[nn.Module], x: Tensor, target: float) -> None:
    net = make()
    before, after = count_macs(net, x), count_macs(Prune(macs=target, multiple=1)(net, example=x), x)
    assert (target - 0.15) * before <= after <= target * before


def test_weights_that_no_layer_holds_are_judged() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u = nn.Parameter(torch.ones(8, 4)), nn.Parameter(torch.randn(3, 8))
            with torch.no_grad():
                self.w.mul_(torch.tensor([5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0, 4.0])[:, None])

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.w).relu(), self.u)

    for by in ("l1", "l2"):
        assert Prune(keep=0.5, by=by, multiple=1)(Bare(), example=torch.randn(2, 4)).w[:, 0].tolist() == [5, 6, 7, 8]


def test_layers_that_contradict_each_other(net: nn.Module) -> None:
    with pytest.raises(HyperParameterError, match=r"can only go together \(layer2.0.conv2, layer2.0.shortcut.0\)"):
        Prune(keep=1.0, layers={"layer2.0.conv2": 0.5, "layer2.0.shortcut.0": 0.25})(net, example=X)
    for named in ({"layer2": 0.75, "layer2.0.conv1": 0.25}, {"layer2.0.conv1": 0.25, "layer2": 0.75}):
        found = findings(Prune(keep=1.0, layers=named)(net, example=X)).details["widths"]
        assert (found["layer2.0.conv1"], found["layer2.0.conv2"]) == ([32, 8], [32, 24])


def test_what_settings_leave_whole_is_told(net: nn.Module) -> None:
    told = findings(Prune(keep=0.5, ignore=("layer2.0.shortcut",))(net, example=X))
    assert "ignore names it" in told.details["left"]["layer2.0.conv2"]
    assert any("layer2.0.conv2, layer2.0.shortcut.0: ignore" in note for note in told.notes)
    told = findings(Prune(keep=0.5, residual=False)(net, example=X))
    assert "residual = False" in told.details["left"]["layer1.0.conv2"]
    with pytest.raises(HyperParameterError, match=r"'layer2.0.conv2' makes can be removed: ignore names it"):
        Prune(keep=0.5, ignore=("layer2.0.shortcut",), layers={"layer2.0.conv2": 0.5})(net, example=X)


def test_numbers_that_are_none_in_calibration(net: nn.Module) -> None:
    bad = X.clone()
    bad[3, 0, 0, 0] = float("nan")
    with pytest.raises(
        NonFiniteError, match=r"the statistics of stem.1 came out as NaN or infinite on the calibration"
    ):
        Prune(keep=0.5)(net, example=X, calibration=[X, bad])
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    with pytest.raises(NonFiniteError, match="the network answers NaN on a calibration batch"):
        Prune(macs=0.5, multiple=1)(plain, example=X, calibration=[X, bad])


def test_a_time_that_cannot_be_taken_with_so_many_samples() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu().unflatten(0, (-1, 4)).mean(1))

    with pytest.raises(HyperParameterError, match="batch = 1: the network does not run on so many samples"):
        Prune(latency=0.7)(Frames(), example=torch.randn(8, 8))
