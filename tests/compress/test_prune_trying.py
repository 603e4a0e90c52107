"""Trying out what removal does: networks that hide it, take certain inputs only, or answer with more than numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compress.pruning.graph import channel_graph, groups
from limbeck.compress.pruning.surgery import masked, removed
from limbeck.compressor import findings
from limbeck.errors import LimbeckError

HALF = lk.Prune(keep=0.5, multiple=1)


class Answers(nn.Module):
    """Two layers; what comes out is up to a function of the logits."""

    def __init__(self, end, begin=lambda x: x, width=16):
        super().__init__()
        self.a, self.b, self.end, self.begin = nn.Linear(6, width), nn.Linear(width, 3), end, begin

    def forward(self, x):
        return self.end(self.b(self.a(self.begin(x)).relu()))


def same_as_zeroed(model, x):
    found = groups(model, x)
    gone = {g.name: range(0, g.size, 2) for g in found}
    torch.testing.assert_close(removed(model, found, gone)(x), masked(model, found, gone)(x), atol=1e-5, rtol=1e-4)
    return [g.name for g in found]


class CountsOnItsWidth(nn.Module):
    """What it divides by changes with its width; its end is a ReLU, which random weights leave at zero half of the time."""

    def __init__(self, inputs):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(inputs, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x):
        h = self.a(x).relu()
        return self.c(self.b(h / h.shape[1] ** 0.5).relu()).relu()


@pytest.mark.parametrize("inputs", range(3, 13))
def test_an_end_that_is_never_positive_hides_nothing(inputs):
    graph = channel_graph(CountsOnItsWidth(inputs), torch.randn(8, inputs))
    assert [g.name for g in graph.groups] == ["b"]
    assert graph.left["a"] == "the network did not run, or not rightly, when channels of it were removed"


def test_what_no_answer_shows_stays():
    with pytest.raises(LimbeckError, match=r"a: the outputs do not show whether the network is right without"):
        HALF(Answers(lambda z: z.argmax(1)), example=torch.randn(4, 6))


def test_a_step_that_gives_no_gradient_hides_nothing():
    net = Answers(lambda z: (100 * z).round())
    assert [g.name for g in groups(net, torch.randn(4, 6))] == ["a"]


@pytest.mark.parametrize(
    "end",
    [
        lambda z: {"logits": z, "class": z.argmax(1)},
        lambda z: (z, None, z > 0),
        lambda z: [z.to(torch.complex64)],
        lambda z: (z, torch.tensor(3)),
    ],
)
def test_classes_and_flags_beside_the_numbers(end):
    new = HALF(Answers(end), example=torch.randn(4, 6))
    assert new.a.out_features == 8


@pytest.mark.parametrize("by", ["l1", "random"])
@pytest.mark.parametrize(
    ("begin", "dtype"),
    [
        (lambda x: torch.log(x + 1e-6), torch.float32),
        (lambda x: x / int(bool(x.min() >= 0)), torch.float32),
        (lambda x: x if x.dtype == torch.float32 else 1 / 0, torch.float32),
        (lambda x: x.to(torch.bfloat16), torch.bfloat16),
    ],
)
def test_networks_that_take_certain_numbers_only(begin, dtype, by):
    net = Answers(lambda z: z.float(), begin).to(dtype)
    new = lk.Prune(keep=0.5, by=by)(net, example=torch.rand(4, 6))
    assert new.a.out_features == 8


class Frames(nn.Module):
    """Four frames of a film are four rows of its batch."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.b(self.a(x).relu()).relu().mean((2, 3))
        return self.c(h.view(-1, 4, h.shape[1]).mean(1))


@pytest.mark.parametrize("how", [{"keep": 0.5}, {"macs": 0.5}])
def test_a_batch_that_comes_in_fours(how):
    x = torch.randn(8, 3, 8, 8)
    new = lk.Prune(**how)(Frames(), example=x)
    before, after = findings(new).details["macs"]
    assert after < 0.6 * before
    assert new(x).shape == (2, 3)
    assert same_as_zeroed(Frames(), x) == ["a", "b"]


def test_a_forward_that_wants_targets_while_training():
    class Wants(Answers):
        def __init__(self):
            super().__init__(lambda z: z)
            self.unused = nn.Linear(4, 4)

        def forward(self, x, targets=None):
            assert targets is not None or not self.training
            return super().forward(x)

    assert HALF(Wants(), example=torch.randn(4, 6)).a.out_features == 8


def test_every_layer_of_a_broken_group_says_so():
    class Checks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            h = self.a(x) + self.b(x)
            if h.shape[1] != 8:
                raise ValueError("eight are wanted")
            return self.d(self.c(h.relu()).relu())

    left = channel_graph(Checks(), torch.randn(4, 6)).left
    assert left["a"] == left["b"] == "the network did not run, or not rightly, when channels of it were removed"


def test_a_compiled_network():
    net, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(4, 6)
    new = HALF(torch.compile(net, backend="eager"), example=x)
    assert type(new) is nn.Sequential
    torch.testing.assert_close(new(x), HALF(net, example=x)(x))


def test_normalisations_without_tensors_say_their_new_width():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8, affine=False, track_running_stats=False), nn.ReLU(), nn.Conv2d(8, 2, 3))  # fmt: skip
    new = HALF(net, example=torch.randn(4, 3, 12, 12))
    assert [m.num_features for m in new if hasattr(m, "num_features")] == [8, 4]


def test_a_squeeze_of_a_single_channel_is_told():
    class Squeezes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(self.a(x).mean((2, 3), keepdim=True).squeeze())

    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(LimbeckError, match=r"the smaller network fails with .*a squeeze.*`minimum`"):
        lk.Prune(keep=0.1)(Squeezes(), example=x)
    assert lk.Prune(keep=0.1, minimum=2)(Squeezes(), example=x)(x).shape == (4, 2)


# -- which layers are named -----------------------------------------------------------------------------


def test_ignoring_what_makes_no_channels_is_told():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))  # fmt: skip
    with pytest.raises(LimbeckError, match=r"ignore: '1', a BatchNorm2d, makes no channels; name the convolution"):
        lk.Prune(keep=0.5, ignore=["1"])(net, example=torch.randn(2, 3, 8, 8))


def test_a_layer_is_ignored_by_any_of_its_names():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
            self.head = nn.ModuleDict({"first": self.enc[2], "last": nn.Linear(16, 3)})

        def forward(self, x):
            return self.head["last"](self.enc(x))

    x = torch.randn(4, 6)
    for name in ("head", "head.first", "enc.2"):
        new = lk.Prune(keep=0.5, ignore=[name])(Shared(), example=x)
        assert (new.enc[0].out_features, new.enc[2].out_features) == (8, 16)
    layers = lk.Prune(keep=1.0, layers={"head.first": 0.5})(Shared(), example=x)
    assert (layers.enc[0].out_features, layers.enc[2].out_features) == (16, 8)


def test_nothing_to_remove_changes_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    x = torch.randn(16, 3, 8, 8) + 1
    new = lk.Prune(keep=1.0)(net, example=x, calibration=[(x, torch.zeros(16, dtype=torch.int64))])
    assert torch.equal(new.eval()(x), net(x))


def test_the_batch_that_is_timed_is_as_large_as_was_asked(monkeypatch):
    from limbeck.compress.pruning import targets

    sizes = set()
    real = targets.latency

    def watched(networks, inputs, **others):
        sizes.add(len(inputs))
        return real(networks, inputs, **others)

    monkeypatch.setattr(targets, "latency", watched)
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    lk.Prune(latency=0.999, batch=32)(net, example=torch.randn(8, 6))
    assert sizes == {32}


@pytest.mark.parametrize("by", ["lasso", "thinet"])
def test_a_layer_that_loses_nothing_is_fitted_to_nothing(by):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    data = [(torch.randn(32, 6), torch.randint(0, 3, (32,)))]
    new = lk.Prune(keep=0.5, by=by, layers={"0": 1.0}, multiple=1)(net, example=data[0][0], calibration=data)
    assert (new[0].out_features, new[2].out_features) == (8, 8)
    assert torch.equal(new[0].weight, net[0].weight)
