"""Where BatchNorm must not be folded into the layer before it, and constants that torchao forgets in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compress.int8.prepare import converted, prepared
from limbeck.models import build
from limbeck.models.swap import copied

IMAGES, ROWS = torch.Size((32, 8, 10, 10)), torch.Size((64, 8))


def conv() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


class Before(nn.Module):
    """Pre-activation: what the layer says goes into BatchNorm, and past it."""

    def __init__(self, layer, norm):
        super().__init__()
        self.a, self.bn, self.b, self.fc = layer(), norm(8), layer(), nn.Linear(8, 5)

    def forward(self, x):
        y = self.a(x)
        y = y + self.b(self.bn(y).relu())
        return self.fc(y if y.ndim == 2 else y.amax((2, 3)))


class Shared(nn.Module):
    """One convolution, or two with one weight, with another BatchNorm behind each use."""

    def __init__(self, tied):
        super().__init__()
        self.c, self.one, self.two = conv(), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.d = conv() if tied else self.c
        self.d.weight = self.c.weight

    def forward(self, x):
        return self.two(self.d(self.one(self.c(x)).relu()))


class Fork(nn.Module):
    """Two BatchNorms behind one layer."""

    def __init__(self, layer):
        super().__init__()
        self.c, self.one, self.two = layer(), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.c(x)
        return self.two(y) + self.one(y).relu()


class Again(nn.Module):
    """One BatchNorm behind two convolutions."""

    def __init__(self, eps):
        super().__init__()
        self.c, self.d, self.norm = conv(), conv(), nn.BatchNorm2d(8, eps=eps)

    def forward(self, x):
        return self.norm(self.d(self.norm(self.c(x)).relu()))


def trained(net, x):
    """As after a training: statistics that fit, and scales that are no ones."""
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine:
                norm.weight.uniform_(0.5, 2)
        for _ in range(40):
            net.train()(x)
    return net.eval()


def off(a, b):
    return float((a - b).norm() / b.norm())


CASES = {
    "pre-activation": (lambda: Before(conv, nn.BatchNorm2d), IMAGES),
    "linear": (lambda: Before(lambda: nn.Linear(8, 8), nn.BatchNorm1d), ROWS),
    "shared": (lambda: Shared(False), IMAGES),
    "tied": (lambda: Shared(True), IMAGES),
    "fork": (lambda: Fork(conv), IMAGES),
    "again": (lambda: Again(1e-5), IMAGES),
    "again, eps": (lambda: Again(0.1), IMAGES),
}


DYNAMIC = [(case, "dynamic") for case in ("pre-activation", "linear")]  # these have linear layers
TRAINED = [(case, "qat") for case in ("pre-activation", "tied", "again, eps")]


@pytest.mark.parametrize(("case", "mode"), [*((case, "static") for case in CASES), *DYNAMIC, *TRAINED])
def test_who_else_reads_a_layer_or_uses_its_weight_gets_what_it_had(case, mode):
    make, shape = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(shape)
    net = trained(make(), x)
    with torch.no_grad():
        if mode != "qat":
            small = lk.Quantize(mode=mode)(net, example=x, calibration=[x])
        else:
            ready = prepared(net, x, [x]).eval()
            assert off(ready(x), net(x)) < 0.04
            small = converted(ready, x)
            assert off(small(x), ready(x)) < 1e-3
        assert off(small(x), net(x)) < 0.04


def test_a_transposed_convolution_is_a_layer_too():
    torch.manual_seed(0)
    x = torch.randn(IMAGES)
    net = trained(nn.Sequential(Fork(lambda: nn.ConvTranspose2d(8, 8, 3, padding=1)), conv()), x)
    with torch.no_grad():
        assert off(lk.Quantize("int8")(net, example=x, calibration=[x])(x), net(x)) < 0.04


def test_a_network_of_the_zoo_that_adds_before_it_normalises():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    net = trained(build("wrn_10_1", classes=10), x)
    with torch.no_grad():
        assert off(lk.Quantize("int8")(net, example=x, calibration=[x])(x), net(x)) < 0.06


def test_a_plain_network_is_folded_as_before():
    net = trained(nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(), nn.BatchNorm2d(8)), torch.randn(IMAGES))
    small = lk.Quantize("int8")(net, example=torch.randn(IMAGES), calibration=[torch.randn(IMAGES)])
    left = {str(node.target) for node in small.body.graph.nodes}
    assert not any("batch_norm" in name or "clone" in name for name in left)


def test_training_knows_eps_and_momentum():
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16, eps=1e-3, momentum=0.01)),
        torch.randn(32, 3, 8, 8),
    )
    with torch.no_grad():
        net[0].weight.mul_(0.05)
        net[1].momentum = None
        net.train()(x)
        net[1].momentum = 0.01
        ready = prepared(net.eval(), x, [x]).eval()
        assert off(ready(x), net(x)) < 0.03
        small = converted(ready, x)
        assert off(small(x), net(x)) < 0.03
        assert off(small(x), ready(x)) < 1e-4
        # One step in training moves the statistics as those of the float network.
        float_net = copied(net).train()
        float_net(x + 1)
        ready.train()(x + 1)
        name = next(name for name, _ in ready.named_buffers() if name.endswith("running_mean"))
        moved, wanted = (
            dict(ready.named_buffers())[name] - net[1].running_mean,
            float_net[1].running_mean - net[1].running_mean,
        )
    assert off(moved, wanted) < 0.05


def test_training_takes_a_normalisation_without_weights():
    torch.manual_seed(0)
    x = torch.randn(IMAGES)
    net = trained(nn.Sequential(conv(), nn.BatchNorm2d(8, affine=False), nn.ReLU(), conv()), x)
    with torch.no_grad():
        ready = prepared(net, x, [x])
        assert off(ready.eval()(x), net(x)) < 0.04
        assert off(converted(ready, x)(x), net(x)) < 0.04
    assert net[1].weight is None
    learnt = {name for name, p in ready.named_parameters() if p.requires_grad}
    assert len(learnt) == 4  # weights and biases of the two convolutions: nothing new is trained
