"""Which channels go together: a network without them computes what the full one computes with them at zero."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.compress import Binarize, Prune
from limbeck.compress.pruning.graph import channel_graph, groups
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.surgery import masked, removed
from limbeck.compressor import findings
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown
from limbeck.models import build

SMALL = [
    *(
        "resnet8",
        "resnet8x4",
        "wrn_10_1",
        "vgg8",
        "mobilenet_v2",
        "shufflenet_v1",
        "shufflenet_v2",
        "resnet9",
        "nin_thin",
    ),
    *("mlp", "highway", "mimic", "fitnet1", "plain_4", "digits_cnn", "digits_mlp", "resnet56"),
]
OUTSIDE = [
    *("torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:shufflenet_v2_x1_0", "torchvision:densenet121"),
    *("torchvision:vit", "timm:convnext_atto", "timm:efficientnet_b0", "timm:vit_tiny_patch16_224"),
]


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    digits, outside = name.startswith("digits"), ":" in name
    size = 8 if digits else 32 if not outside or "vit" in name else 64
    if name == "torchvision:vit":  # vit_b_16's own class, but small
        model = torchvision.models.VisionTransformer(size, 16, 2, 2, 32, 64, num_classes=5)
        nn.init.normal_(model.heads.head.weight)
    else:
        model = build(name, classes=5, **({"size": size} if outside else {}))
    model = model.double().eval()
    with torch.no_grad():  # nothing that hides an error: no zeros, no ones
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.weight.uniform_(0.5, 1.5), part.bias.normal_(0, 0.3)
                part.running_mean.normal_(0, 0.3), part.running_var.uniform_(0.5, 1.5)
            if hasattr(part, "gamma") and isinstance(part.gamma, nn.Parameter):
                part.gamma.uniform_(0.5, 1.5)
    return model, torch.randn(2, 1 if digits else 3, size, size).double()


def third(found: tuple[Group, ...]) -> dict[str, list[int]]:
    draw = torch.Generator().manual_seed(3)
    return {g.name: torch.randperm(g.size, generator=draw)[: max(1, g.size // 3)].tolist() for g in found}


def silenced(model: nn.Module, found: tuple[Group, ...], gone: dict[str, list[int]]) -> nn.Module:
    """By hand, and only where channels come from: their activations are zero, and nobody's inputs are touched."""
    new = copy.deepcopy(model)
    with torch.no_grad():
        for group in found:
            for member in group.members:
                indices = [i for c in gone[group.name] for i in member.index[c]]
                if member.side == "in":
                    continue
                try:
                    part = new.get_submodule(member.module)
                except AttributeError:
                    new.get_parameter(member.module).transpose(0, member.dim)[indices] = 0
                    continue
                turned = getattr(part, "transposed", False)
                (part.weight.transpose(0, 1) if turned else part.weight)[indices] = 0
                if part.bias is not None:
                    part.bias[indices] = 0
    return new


def step(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(x), torch.tensor([1, 3])).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad


def close(a: Tensor, b: Tensor) -> bool:
    return (a - b).abs().max() <= 1e-9 * b.abs().max()


@pytest.mark.parametrize("name", [*SMALL, *OUTSIDE])
def test_removal_is_zeroing(name: str) -> None:
    model, x = network(name)
    found = groups(model, x)
    gone = third(found)
    less, zero = removed(model, found, gone), masked(model, found, gone)
    assert sum(p.numel() for p in less.parameters()) < 0.95 * sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        expected = zero(x)
        assert not close(expected, model(x))  # what went was worth something
        assert close(less(x), expected)
        if name != "highway":  # sigmoid(0) is not 0: there only the readers' weights silence a channel
            assert close(silenced(model, found, gone)(x), expected)
    step(less, x)
    step(zero, x)
    zero = masked(zero, found, gone)
    assert close(less(x), zero(x))


def test_groups_of_a_residual_network() -> None:
    model, x = network("resnet8")
    found = {g.name: g for g in groups(model, x)}
    assert {name: g.size for name, g in found.items()} == {
        "stem.0": 16,
        "layer1.0.conv1": 16,
        "layer2.0.conv1": 32,
        "layer2.0.conv2": 32,
        "layer3.0.conv1": 64,
        "layer3.0.conv2": 64,
    }
    stem = found["stem.0"]
    assert [m.module for m in stem.of("out")] == ["stem.0", "layer1.0.conv2"]
    assert [m.module for m in stem.of("norm")] == ["stem.1", "layer1.0.bn2"]
    assert {m.module for m in stem.of("in")} == {"layer1.0.conv1", "layer2.0.conv1", "layer2.0.shortcut.0"}
    assert {m.module for m in found["layer3.0.conv2"].of("in")} == {"fc"}


class OptionA(nn.Module):
    """The CIFAR shortcut without weights: every second pixel, and channels of zeros on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = (
            nn.Conv2d(a, b, 3, s, 1) for a, b, s in ((3, 8, 1), (8, 16, 2), (16, 16, 1))
        )
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.conv2(F.relu(self.conv1(x)))
        return self.fc(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).mean((2, 3)))


def test_zero_padded_shortcut() -> None:
    model, x = OptionA().double(), torch.randn(2, 3, 8, 8).double()
    found = {g.name: g for g in groups(model, x)}
    assert {name: g.size for name, g in found.items()} == {"conv1": 16, "stem": 8}
    conv2 = next(m for m in found["stem"].of("out") if m.module == "conv2")
    assert conv2.index == tuple((c,) for c in range(4, 12))  # the padded eight have nothing to go with
    gone = {"conv1": [0, 3], "stem": [1, 2, 7]}
    assert close(removed(model, tuple(found.values()), gone)(x), silenced(model, tuple(found.values()), gone)(x))


def test_a_convolution_that_is_the_classifier_keeps_its_classes() -> None:
    model = build("torchvision:squeezenet1_1", classes=7, size=64)
    graph = channel_graph(model, torch.randn(2, 3, 64, 64))
    assert graph.left["classifier.1"] == "it is the output of the network"
    assert all(m.module != "classifier.1" for g in graph.groups for m in g.of("out"))
    less = removed(model, graph.groups, third(graph.groups))
    assert less(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_heads_of_an_attention() -> None:
    model, x = network("timm:vit_tiny_patch16_224")
    found = groups(model, x)
    heads = [g for g in found if g.name.endswith("qkv")]
    assert len(heads) == 12
    assert {g.size for g in heads} == {3}
    less = removed(model, found, {"blocks.0.attn.qkv": [1]})
    attention = less.get_submodule("blocks.0.attn")
    assert (attention.num_heads, attention.attn_dim, attention.head_dim) == (2, 128, 64)
    assert groups(less, x)[0].size == 2  # and again


def test_grouped_convolutions_stay_even() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 18, 3, groups=3), nn.ReLU(), nn.Conv2d(18, 2, 1)).double()
    x = torch.randn(2, 3, 6, 6).double()
    found = {g.name: g for g in groups(model, x)}
    assert {n: g.size for n, g in found.items()} == {"0": 4, "1": 6}
    assert found["0"].members[0].index[1] == (1, 5, 9)
    gone = {"0": [1], "1": [0, 5]}
    less = removed(model, tuple(found.values()), gone)
    assert (less[1].in_channels, less[1].out_channels, less[1].groups) == (9, 12, 3)
    assert close(less(x), silenced(model, tuple(found.values()), gone)(x))


def test_flattening_takes_all_positions() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(36, 3))
    (group,) = groups(model, torch.randn(2, 1, 3, 3))
    assert group.of("in")[0].index[1] == tuple(range(9, 18))


class Stubborn(nn.Module):
    """Counts on a width that it has written down."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        assert y.shape[1] == 8
        return self.three(F.relu(self.two(F.relu(y))))


def test_what_breaks_the_network_is_left_whole() -> None:
    graph = channel_graph(Stubborn(), torch.randn(2, 4))
    assert [g.name for g in graph.groups] == ["two"]
    assert graph.left["one"] == "the network did not run, or not rightly, when channels of it were removed"


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).cumsum(1))


def test_nothing_can_go() -> None:
    with pytest.raises(LimbeckError, match=r"no channel of this Unknown can be removed\. one: it goes through cumsum"):
        groups(Unknown(), torch.randn(2, 4))
    with pytest.raises(LimbeckError, match="no channel of this Linear can be removed"):
        groups(nn.Linear(3, 2), torch.randn(2, 3))


def test_a_layer_whose_weight_is_computed_is_named() -> None:
    norm = nn.utils.parametrizations.weight_norm
    with pytest.raises(
        LimbeckError,
        match=r"0: its weight is made anew .*; 2: it is the output .*\. The weights of 0 are .* mask afterwards",
    ):
        groups(nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4))
    net = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    found = channel_graph(net, torch.randn(2, 4))
    assert [group.name for group in found.groups] == ["4"]
    assert found.left["2"] == "its weight is made anew in every forward"


class Steps(nn.Module):
    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        self.memory = nn.LSTM(4, 6, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) if wide else nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.memory(x)[0][:, -1])


def test_recurrent_layers_are_named_with_the_reason() -> None:
    x = torch.randn(2, 5, 4)
    with pytest.raises(
        LimbeckError, match=r"this Steps can be removed\. memory: a recurrent layer, whose states come back"
    ):
        groups(Steps(wide=False), x)
    new = Prune(keep=0.5, by="l1", multiple=1)(Steps(wide=True), example=x)
    assert new(x).shape == (2, 3)
    assert any(note.startswith("left whole: memory: a recurrent layer") for note in findings(new).notes)


@pytest.mark.parametrize("form", ["bwn", "xnor", "bnn"])
def test_a_binary_network_is_refused_for_its_computed_weights(form: str) -> None:
    model, x = build("resnet8", classes=5), torch.randn(4, 3, 32, 32)
    with pytest.raises(LimbeckError, match="the weights of a convolution behind it are computed, not stored"):
        groups(Binarize(form)(model, example=x), x)


class Into(nn.Module):
    """Elementwise operations that write where they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), self.two(x)
        if torch.is_grad_enabled():
            return self.three(a * b.ge(0))
        return self.three(torch.mul(a, torch.ge(b, 0, out=torch.empty_like(b)), out=torch.empty_like(a)))


def test_channels_are_followed_into_an_out() -> None:
    model, x = Into().double().eval(), torch.randn(5, 4).double()
    with torch.no_grad():
        (group,) = groups(model, x)
        assert [(m.module, m.side) for m in group.members] == [("one", "out"), ("two", "out"), ("three", "in")]
        gone = {group.name: [1, 6]}
        assert close(removed(model, [group], gone)(x), masked(model, [group], gone)(x))


def test_tied_layers_stay() -> None:
    layer = nn.Linear(6, 6)
    model = nn.Sequential(nn.Linear(4, 6), layer, nn.ReLU(), layer, nn.Linear(6, 2))
    (group,) = groups(model, torch.randn(2, 4))  # one module twice: in and out are one
    assert {(m.module, m.side) for m in group.members} == {("0", "out"), ("1", "in"), ("1", "out"), ("4", "in")}


def test_parameters_beside_layers_go_along() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.PReLU(4), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(2, 1, 3, 3).double()
    (group,) = groups(model, x)
    assert [m.module for m in group.of("norm")] == ["1.weight"]
    less = removed(model, [group], {"0": [2]})
    assert less[1].num_parameters == 3
    assert close(less(x), silenced(model, (group,), {"0": [2]})(x))


def test_nothing_is_left_on_the_model() -> None:
    model, x = network("resnet8")
    model.layer1[0].conv1.weight.requires_grad_(False)
    model.layer2.eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    keys = [sorted(vars(m)) for m in model.modules()]
    random = torch.random.get_rng_state()
    found = groups(model, x)
    less = removed(model, found, third(found))
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()] == [m.training for m in less.modules()]
    assert keys == [sorted(vars(m)) for m in model.modules()]
    assert not less.layer1[0].conv1.weight.requires_grad
    assert less.layer1[0].conv2.weight.requires_grad


def test_bad_input() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    found = groups(model, torch.zeros(2, 4))
    with pytest.raises(HyperParameterError, match="0: all its 6 channels would go"):
        removed(model, found, {"0": range(6)})
    with pytest.raises(HyperParameterError, match="and there are 0 to 5"):
        masked(model, found, {"0": [6]})
    with pytest.raises(NameUnknown, match="no group of channels '2'"):
        removed(model, found, {"2": [0]})


def test_parameter_arithmetic() -> None:
    """Layers a-b-c have (a + c) * b weights, and (a + c) * (b - 1) without one hidden neuron."""
    for kernel, before, after in ((1, 18, 12), (3, 162, 108)):
        model = nn.Sequential(nn.Conv2d(4, 3, kernel, bias=False), nn.ReLU(), nn.Conv2d(3, 2, kernel, bias=False))
        less = removed(model, groups(model, torch.zeros(1, 4, 8, 8)), {"0": [1]})
        assert [sum(p.numel() for p in m.parameters()) for m in (model, less)] == [before, after]


@dataclass
class Answer:
    logits: torch.Tensor
    features: list[torch.Tensor]


class Deep(nn.Module):
    """Answers with tensors in a list in an object, or adds them while it trains."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1), nn.Linear(24, 4)
        self.always = always

    def forward(self, x: torch.Tensor) -> Any:
        x = self.a(x).relu()
        y = self.fc(self.b(x).relu().mean((2, 3)))
        if self.always:
            return Answer(y, [x])
        return (y, x) if self.training else y


@pytest.mark.parametrize("always", [True, False])
def test_outputs_stay_however_deep_and_whenever_they_come(always: bool) -> None:
    graph = channel_graph(Deep(always), torch.randn(2, 3, 8, 8))
    assert [(group.name, group.size) for group in graph.groups] == [("b", 24)]
    assert graph.left["a"] == "it is the output of the network"


def test_inference_mode_hides_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with torch.inference_mode():
        assert [group.name for group in groups(net, torch.randn(2, 3, 8, 8))] == ["0"]
        less = Prune(keep=0.5)(net, example=torch.randn(2, 3, 8, 8))
    assert less[0].out_channels == 4
    assert not less[0].weight.is_inference()
