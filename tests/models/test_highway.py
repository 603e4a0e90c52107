from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import layers, models, taps
from limbeck.errors import HyperParameterError, ShapeError
from limbeck.models.highway import HighwayLayer

GATES = ("transform_weight", "transform_bias", "carry_weight", "carry_bias")


def make(**options) -> nn.Module:
    torch.manual_seed(0)
    return models.build("highway", classes=3, in_channels=6, size=1, **options)


def shut(net: nn.Module, transform: float, carry: float) -> None:
    """Gates that no longer look at their input; 1000 is 1 after a sigmoid in float32, and -1000 is 0."""
    with torch.no_grad():
        for name, value in (("transform", transform), ("carry", carry)):
            getattr(net, f"{name}_weight").zero_()
            getattr(net, f"{name}_bias").fill_(value)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(net: nn.Module, x: np.ndarray) -> np.ndarray:
    w = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    h = x @ w["project.weight"].T + w["project.bias"] if "project.weight" in w else x
    k = 1
    while f"layer{k}.weight" in w:
        t = sigmoid(h @ w["transform_weight"].T + w["transform_bias"])
        c = sigmoid(h @ w["carry_weight"].T + w["carry_bias"])
        h = sigmoid(h @ w[f"layer{k}.weight"].T + w[f"layer{k}.bias"]) * t + h * c
        k += 1
    return h @ w["fc.weight"].T + w["fc.bias"]


@pytest.mark.parametrize("width", [4, 6])
def test_the_formula(width):
    net = make(layers=3, width=width).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    assert np.allclose(net(x).detach().numpy(), by_hand(net, x.numpy()), atol=1e-12)


def test_carry_alone_is_the_identity():
    net = make(layers=4, width=6)
    shut(net, transform=-1000.0, carry=1000.0)
    x = torch.randn(5, 6)
    found = taps.look(net, x, ["layer1", "layer4"]).taps
    assert torch.equal(found["layer1"], x)
    assert torch.equal(found["layer4"], x)


def test_transform_alone_is_a_plain_network():
    net = make(layers=3, width=6)
    shut(net, transform=1000.0, carry=-1000.0)
    h = x = torch.randn(5, 6)
    for k in (1, 2, 3):
        part = net.get_submodule(f"layer{k}")
        h = torch.sigmoid(h @ part.weight.T + part.bias)
    assert torch.allclose(net(x), net.get_submodule("fc")(h), atol=1e-6)


def test_carry_is_not_tied_to_transform():
    net = make(layers=1, width=6)
    shut(net, transform=1000.0, carry=1000.0)
    x = torch.randn(5, 6)
    layer = net.get_submodule("layer1")
    expected = torch.sigmoid(x @ layer.weight.T + layer.bias) + x
    assert torch.allclose(taps.look(net, x, ["layer1"]).taps["layer1"], expected, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 10])
def test_gates_cost_the_same_at_any_depth(layers):
    wide = 5
    net = make(layers=layers, width=wide)
    sizes = {name: p.numel() for name, p in net.named_parameters()}
    assert sum(sizes[name] for name in GATES) == 2 * (wide**2 + wide)
    everything = 2 * (wide**2 + wide) + layers * (wide**2 + wide) + (6 * wide + wide) + (wide * 3 + 3)
    assert sum(sizes.values()) == everything
    macs = wide**2 * 3 * layers + 6 * wide + wide * 3
    assert models.count_macs(net, torch.zeros(2, 6)) == macs


def test_gates_are_shared():
    net = make(layers=3, width=6)
    grads = []
    for tap in ("layer1", "layer3"):
        net.zero_grad()
        with taps.capture(net, tap) as seen:
            net(torch.ones(2, 6))
        seen[tap].sum().backward()
        grads.append([getattr(net, name).grad.clone() for name in GATES])
    assert all(g.any() for g in grads[0])
    assert all(not torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_a_projection_only_where_it_is_needed():
    assert "project.weight" not in make(width=6).state_dict()
    assert make(width=4).state_dict()["project.weight"].shape == (4, 6)


def test_pictures_and_vectors():
    net = models.build("highway", classes=3, in_channels=2, size=4)
    x = torch.randn(5, 2, 4, 4)
    assert torch.equal(net(x), net(x.flatten(1)))
    with pytest.raises(ShapeError, match=r"takes 32 values per sample, not \[5, 2, 4, 5\]"):
        net(torch.randn(5, 2, 4, 5))


def test_layers_are_found_and_begin_by_carrying():
    net = make(layers=5, width=4)
    assert [name for name, _ in layers.hidden_layers(net, torch.zeros(2, 6))] == [
        "project",
        *(f"layer{k}" for k in range(1, 6)),
    ]
    assert torch.equal(net.get_parameter("transform_bias"), torch.full((4,), -1.0))
    assert torch.equal(net.get_parameter("carry_bias"), torch.ones(4))


def test_relu_layers():
    torch.manual_seed(0)
    layer, h = HighwayLayer(4, "relu"), torch.randn(3, 4)
    out = layer(h, torch.ones(3, 4), torch.zeros(3, 4))
    assert torch.equal(out, (h @ layer.weight.T + layer.bias).clamp(min=0))
    assert make(layers=2, activation="relu")(torch.randn(2, 6)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers = 0: a whole number, 1 or more"),
        ({"layers": 2.5}, "layers = 2.5: a whole number, 1 or more"),
        ({"width": 0}, "width = 0: a whole number, 1 or more"),
        ({"activation": "tanh"}, "activation = 'tanh': one of sigmoid, relu"),
        ({"gate_bias": float("nan")}, "gate_bias = nan: a number from -100 to 100, and finite"),
        ({"depth": 3}, "its options: layers, width, activation, gate_bias"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(HyperParameterError) as caught:
        make(**options)
    assert message in str(caught.value)
