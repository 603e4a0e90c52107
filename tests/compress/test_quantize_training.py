"""Training with the rounding in place: it learns, it is what int8 will be, and it goes on after a stop to the same bits."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from limbeck.compress.int8 import Prepared, Quantized, rebuild_prepared
from limbeck.compress.quantize import Convert, Prepare, Quantize
from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import HyperParameterError, Interrupted, LimbeckError, ShapeError
from limbeck.methods import KD, Supervised
from limbeck.models import load_weights, save_weights
from limbeck.phase import Batch
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))
QAT = Quantize(mode="qat")


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            layer1=nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
            layer2=nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1)),
            fc=nn.Linear(8, 3),
        )
    )


class Data:
    """Batches whose class shows in the mean; can be entered in the middle, and can ask for a stop."""

    def __init__(self, stop=None, after=0):
        generator = torch.Generator().manual_seed(7)
        self.y = torch.randint(3, (48,), generator=generator)
        self.x = torch.randn(48, 1, 8, 8, generator=generator) + self.y.reshape(-1, 1, 1, 1) - 1.0
        self.rows, self.steps, self.stop, self.left = 48, 4, stop, after

    def epoch(self, epoch, rank=0, world=1, skip=0):
        order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(12)[skip:]:
            self.left -= 1
            if self.stop is not None and self.left < 0:
                self.stop.asked = True
            yield Batch(self.x[rows], self.y[rows], rows)


def go(models, folder=None, method=None, data=None, epochs=3):
    stop = Stop()
    data = data or Data()
    if data.left:
        data.stop = stop
    training = Training(epochs=epochs, batch_size=12, optimizer=Optimizer(lr=0.02), checkpoint=1000.0)
    return fit(
        method or Supervised(), models, data, training=training, name="s", team=CPU, folder=folder, classes=3, stop=stop
    )


def state(model):
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def data():
    return Data()


@pytest.fixture(scope="module")
def net(data):
    model = build()
    go({"student": model}, epochs=4)
    return model


@pytest.fixture(scope="module")
def ready(net, data):
    before = state(net), torch.get_rng_state()
    made = Prepare(settings=QAT)(net, example=data.x[:12], calibration=[Batch(data.x[:24]), Batch(data.x[24:])])
    assert same(state(net), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert isinstance(made, Prepared)
    assert made.training == net.training
    return made


@pytest.fixture(scope="module")
def trained(ready, net):
    model = copy.deepcopy(ready)
    found = go({"student": model, "teacher": net}, method=KD())
    return model, found


def loss(model, data):
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(data.x), data.y))


def test_it_begins_near_the_float_network(net, ready, data):
    net.eval()
    ready.eval()
    with torch.no_grad():
        one, two = ready(data.x), net(data.x)
    assert 0 < float((one - two).norm() / two.norm()) < 0.05
    assert ready(data.x[:1]).shape == (1, 3)


def test_training_changes_weights_and_lowers_the_loss(ready, trained, data):
    model, _ = trained
    assert loss(model, data) < loss(ready, data)
    names = dict(model.named_parameters())
    assert set(names) == {f"body.{name}" for name, _ in build().named_parameters()}
    assert all(not torch.equal(p, ready.get_parameter(name)) for name, p in names.items())
    scales = {k: v for k, v in state(model).items() if k.endswith(".scale")}
    assert len(scales) >= 6
    assert any(not torch.equal(v, ready.state_dict()[k]) for k, v in scales.items()), "ranges follow"


def test_integers_equal_the_rounding(trained, net, data):
    model, _ = trained
    model.eval()
    before = state(model)
    made = Convert(settings=QAT)(model, example=data.x[:12])
    assert same(state(model), before)
    assert isinstance(made, Quantized)
    assert made.facts["layers"] == {"int8": ["layer1.0", "layer2.0", "fc"], "float": []}
    assert not any("batch_norm" in node.name for node in made.body.graph.nodes)
    assert not [k for k, v in made.state_dict().items() if v.is_floating_point() and v.ndim > 1]
    assert made.float_parameters == sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        one, two = made(data.x), model(data.x)
    assert float((one - two).norm() / two.norm()) < 0.002
    assert torch.equal(made(data.x[:1]).argmax(1), one[:1].argmax(1))


def test_evaluation_moves_nothing(trained, data):
    model, _ = trained
    model.eval()
    before = state(model)
    first = model(data.x * 50)
    assert same(state(model), before)
    assert torch.equal(model(data.x * 50), first), "no dropout either"
    model.train()
    assert same(state(model), before), "a mode is no part of the state"
    copy.deepcopy(model)(data.x)
    assert same(state(model), before)
    one, two = copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(3)
    one(data.x)
    for part in two.modules():  # as modes are put back at times, flag by flag
        part.training = False
    two(data.x)
    assert not same(state(one), before)
    assert same(state(two), before)


def test_rebuilt_and_loaded_it_is_the_same(trained, data, tmp_path):
    model, _ = trained
    made = rebuild_prepared(build(seed=9), model.made, data.x[:5])
    assert made.made == model.made == {"skip": [], "reduce_range": False}
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(made, tmp_path / "w.safetensors")
    assert same(state(made), state(model))
    assert torch.equal(made.eval()(data.x), model.eval()(data.x))
    go({"student": made}, epochs=1)
    other = copy.deepcopy(model)
    go({"student": other}, epochs=1)
    assert same(state(made), state(other)), "and trains on to the same bits"


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_stopped_and_resumed_to_the_same_bits(ready, net, trained, stop_at, tmp_path):
    straight = copy.deepcopy(ready)
    go({"student": straight, "teacher": net}, method=KD(), folder=tmp_path / "a")
    stopped = copy.deepcopy(ready)
    with pytest.raises(Interrupted):
        go({"student": stopped, "teacher": net}, method=KD(), folder=tmp_path / "b", data=Data(after=stop_at))
    again = copy.deepcopy(ready)
    go({"student": again, "teacher": net}, method=KD(), folder=tmp_path / "b")
    assert same(state(again), state(straight))
    assert same(state(again), state(trained[0])), "with or without a folder"


def test_what_is_refused(net, data):
    with pytest.raises(HyperParameterError, match=r"quantization-aware training measures .*: give calibration batches"):
        Prepare(settings=QAT)(net, example=data.x[:4])
    with pytest.raises(LimbeckError, match="Sequential was not prepared for quantization-aware training"):
        Convert(settings=QAT)(net, example=data.x[:4])


def test_means_over_all_batches_are_refused_in_words(data):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.LazyLinear(3))
    net(data.x)
    with pytest.raises(LimbeckError, match=r'momentum = None in 1: .* set momentum .*, or use mode "static"'):
        Prepare(settings=QAT)(net, example=data.x[:4], calibration=[Batch(data.x)])


def test_a_batch_of_one_in_training(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4))
    with torch.no_grad():
        model[3].weight[0] = 0.0
    made = Prepare(settings=QAT)(model, example=data.x[:1], calibration=[Batch(data.x)])
    with pytest.raises(ShapeError, match="a training batch of 1 sample: BatchNorm after the pooling"):
        made.train()(data.x[:1])
    assert bool(torch.isfinite(made.eval()(data.x[:1])).all())
    assert bool(torch.isfinite(made.train()(data.x)).all())


class Part(nn.Module):
    """Does something between two layers that `what` says."""

    def __init__(self, what):
        super().__init__()
        self.what, self.depth = what, StochasticDepth(0.01, "row")
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, x):
        mean, x = x.mean(0).detach(), self.one(x).relu()
        if self.what == "depth":
            x = x + self.depth(x)
        if self.what == "dropout":
            x = F.rrelu(F.dropout(x, 0.5, self.training), training=self.training)
        if self.what == "always counts":
            self.seen = 0.9 * self.seen + mean
        if self.training and self.what == "noise":
            x = x + 1e-4 * torch.randn_like(x)
        if self.training and self.what == "scale":
            x = 1.1 * x
        if self.training and self.what == "counts":
            self.seen.add_(mean)
        return (self.two(x), x) if self.training and self.what == "more" else self.two(x)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("depth", r"random numbers are drawn in depth \(bernoulli_"),
        ("noise", r"random numbers are drawn in its own forward \(randn_like\)"),
        ("scale", r"gives outputs that are \d+\.\d% off"),
        ("counts", "it writes to seen"),
        ("more", r"its output has another form in training \(a tuple of 2 for a Tensor\)"),
        ("dropout", ""),
        ("always counts", ""),
    ],
)
def test_what_only_training_does_is_refused(what, text):
    torch.manual_seed(0)
    x, model = torch.randn(12, 6), Part(what)
    before, numbers = state(model), torch.get_rng_state()
    if text:
        with pytest.raises(LimbeckError, match=rf'what this Part does in training only .*{text}.* mode "static"'):
            Prepare(settings=QAT)(model, example=x, calibration=[Batch(x)])
    else:
        made = Prepare(settings=QAT)(model, example=x, calibration=[Batch(x)]).eval()
        with torch.no_grad():
            assert float((made(x) - model.eval()(x)).norm() / model(x).norm()) < 0.05
            assert torch.equal(made(x), made(x))
    assert same(state(model), before) or not text
    assert torch.equal(torch.get_rng_state(), numbers)
