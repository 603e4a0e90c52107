"""Networks that refer to their layers twice, behave otherwise while training, or cannot be copied."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compress.forms import latency_forms
from limbeck.compress.lowrank.fold import fold
from limbeck.compressor import findings
from limbeck.errors import LimbeckError, NameUnknown
from limbeck.models.macs import count_macs
from limbeck.models.swap import copied, refer_anew


class Listed(nn.Module):
    """Walks a plain list and a dict of layers that are registered under other names."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)
        self.walk, self.table, self.pair = [self.a, self.b], {"deep": {"fc": self.fc}}, (self.a, [self.b])

    def forward(self, x):
        for layer in self.walk:
            x = layer(x).relu()
        return self.table["deep"]["fc"](x.mean((2, 3)))


class Noisy(nn.Module):
    """Adds noise of fixed channels, only while training."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 3)

    def forward(self, x):
        x = self.a(x).relu()
        if self.training:
            x = x + 0.1 * torch.randn(1, 16, 1, 1)
        return self.b(x).mean((2, 3))


class Follower(nn.Module):
    """Holds a slow copy of its own network, which follows while training."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
        self.slow = copy.deepcopy(self.net)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                for slow, p in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                    slow.lerp_(p, 0.1)
        return self.net(x)


def images(n=4):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "how", [lk.Factorize(rank=1, measured=False), lk.Binarize("xnor", ends=True)], ids=["low", "one"]
)
def test_layers_in_plain_lists_are_exchanged_too(how):
    torch.manual_seed(0)
    net, x = Listed().eval(), images()
    before = net(x)
    new = how(net, example=x).eval()
    assert not torch.allclose(new(x), before, atol=1e-3), "the old layers would still run"
    assert new.walk == [new.a, new.b]
    assert new.table["deep"]["fc"] is new.fc
    assert new.pair == (new.a, [new.b])
    assert torch.equal(net(x), before)
    assert net.walk == [net.a, net.b]
    new.train()(x).sum().backward()
    assert all(p.grad is not None for p in new.parameters())


def test_references_may_go_in_circles():
    net, new = nn.Sequential(nn.ReLU()), nn.Tanh()
    net.ring = [net[0]]
    net.ring.append(net.ring)
    refer_anew(net, {net[0]: new})
    assert net.ring[0] is new
    assert net.ring[1] is net.ring


@pytest.mark.parametrize(
    ("net", "x", "how"),
    [
        (Noisy, images(), lk.Prune(keep=0.5)),
        (Follower, torch.randn(4, 6), lk.Prune(keep=0.5)),
        (Follower, torch.randn(4, 6), lk.Factorize(rank=2, measured=False)),
        (Follower, torch.randn(4, 6), lk.Binarize("xnor", ends=True, fewest=2)),
    ],
    ids=["noise", "pruned", "low", "one"],
)
def test_a_network_that_would_fail_in_training_is_refused_with_its_reason(net, x, how):
    torch.manual_seed(0)
    model = net()
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(
        LimbeckError, match=r"in train mode the smaller network fails with \w+: .*leave those layers out"
    ):
        how(model, example=x)
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())


def test_a_network_that_never_ran_in_training_is_no_reason():
    class Strict(nn.Linear):
        def forward(self, x):
            if self.training:
                raise ValueError("for use only")
            return super().forward(x)

    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), Strict(20, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    assert lk.Prune(keep=0.5)(net, example=torch.randn(4, 6))[0].out_features < 20


def test_a_weight_that_is_read_outside_its_layer_stays_real():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.d, self.fc = nn.Linear(20, 12), nn.Linear(12, 12), nn.Linear(20, 5)

        def forward(self, x):
            z = self.d(self.e(x).relu()).relu()
            return self.fc(nn.functional.linear(z, self.e.weight.t()).relu())

    torch.manual_seed(0)
    new = lk.Binarize("bnn", ends=True, fewest=2)(Tied(), example=torch.randn(4, 20))
    assert type(new.e) is nn.Linear
    assert findings(new).details["real"] == {"e": "its weight is also read outside of the layer"}
    assert set(findings(new).details["binary"]) == {"d", "fc"}


def test_counting_and_factorizing_leave_random_numbers_alone():
    class Random(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    net, x = nn.Sequential(Random(6, 20), nn.ReLU(), nn.Linear(20, 3)), torch.randn(4, 6)
    before = torch.get_rng_state()
    count_macs(net, x)
    assert torch.equal(before, torch.get_rng_state())
    lk.Factorize(rank=2, measured=False)(net, example=x)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_network_that_cannot_be_copied_is_explained():
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 8, 3))
    with pytest.raises(LimbeckError, match=r"cannot be copied, .*: 0.weight. torch.nn.utils.weight_norm does so"):
        lk.Prune(keep=0.5)(net, example=images())


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("made", ["torch.export", "torch.jit"])
@pytest.mark.parametrize(
    "how", [lk.Prune(macs=0.5), lk.Factorize(energy=0.9), lk.Quantize("int8"), lk.Binarize("bwn"), lk.Mask(density=0.5)]
)
def test_a_program_that_an_exporter_made_is_refused(made, how):
    net, x = (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)).eval(),
        torch.randn(2, 3, 4, 4),
    )
    program = torch.export.export(net, (x,)).module() if made == "torch.export" else torch.jit.trace(net, x)
    with pytest.raises(
        LimbeckError, match=f"cannot change a network that {made} made.*Compress the network that it was made from"
    ):
        how(program, example=x, calibration=[x])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_copy_of_a_scripted_module_can_be_trained():
    net = nn.Sequential(torch.jit.script(nn.Linear(2, 2)))
    assert not all(p.is_leaf for p in copy.deepcopy(net).parameters()), "torch has mended it: copied() need not"
    assert all(p.is_leaf and p.requires_grad for p in copied(net).parameters())


def test_channels_that_a_score_cannot_judge_are_left_whole():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip
    new = lk.Prune(keep=0.5, by="slimming")(net, example=images())
    assert (new[0].out_channels, new[5].out_features) == (8, 32)
    assert "slimming needs a batch normalisation" in findings(new).details["left"]["5"]
    with pytest.raises(LimbeckError, match="slimming needs a batch normalisation"):
        lk.Prune(keep=0.5, by="slimming")(net[5:], example=torch.randn(4, 16))


def test_what_torchao_refuses_is_said_with_the_layer_and_what_to_try():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval(), images()
    net[0].register_forward_hook(lambda layer, args, output: 2 * output)
    with pytest.raises(
        LimbeckError, match=r"torchao cannot quantize .*usual cause \(0\): put what a hook .*mode=.weights"
    ):
        lk.Quantize("int8")(net, example=x, calibration=[lk.Batch(x)])
    small = lk.Quantize("int8", mode="weights")(net, example=x)
    torch.testing.assert_close(small(x), net(x), atol=0.05, rtol=0)


class Borrowing(nn.Module):
    """Reads the weight of its convolution in another way than the convolution does."""

    def __init__(self, read):
        super().__init__()
        self.a, self.read, self.b = nn.Conv2d(4, 8, 3, padding=1), read, nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.b(self.read(self.a(x).relu(), self.a.weight)).mean((2, 3))


@pytest.mark.parametrize(
    "read",
    [
        lambda x, w: nn.functional.conv2d(x, w.transpose(0, 1)),
        lambda x, w: nn.functional.conv_transpose2d(x, w),
        lambda x, w: nn.functional.conv2d(x, w[:4, :2], groups=4),
    ],
)
def test_prune_says_which_weight_is_tied(read):
    net = Borrowing(read).eval()
    with pytest.raises(LimbeckError, match=r"no channel .* a: "):
        lk.compress(net, lk.Prune(keep=0.5, by="l1"), example=torch.randn(2, 4, 6, 6))


def test_a_borrowed_weight_is_named_as_tied():
    net = Borrowing(lambda x, w: nn.functional.conv_transpose2d(x, w)).eval()
    with pytest.raises(LimbeckError, match=r"computes with a\.weight in another way .*tied weight"):
        lk.compress(net, lk.Prune(keep=0.5, by="l1"), example=torch.randn(2, 4, 6, 6))


class Speaking(nn.Module):
    """A table, a transposed convolution, a recurrent layer and a linear one."""

    def __init__(self):
        super().__init__()
        self.table, self.up = nn.Embedding(10, 8), nn.ConvTranspose1d(8, 8, 3)
        self.gru, self.fc = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.gru(self.up(self.table(x).transpose(1, 2)).transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_int8_names_the_layers_that_it_never_takes(mode):
    made = lk.Quantize("int8", mode=mode)(Speaking().eval(), example=torch.randint(0, 10, (2, 5)))
    assert findings(made).notes[0] == "1 layer in int8, 3 in float: table, up, gru"


class Normed(nn.Module):
    """Normalises by each sample, or by each batch, whatever the mode."""

    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), norm, nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def small_batches():
    torch.manual_seed(0)
    return [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(2)]


def test_int8_training_keeps_norms_without_statistics_as_they_are():
    net = Normed(nn.InstanceNorm2d(8)).eval()
    (x, _), *_ = batches = small_batches()
    made = lk.compress(net, lk.Quantize("int8", mode="qat", epochs=1), batches, example=x[:2], device="cpu", quiet=True)
    assert (made(x) - net(x)).norm() < 0.2 * net(x).norm()


@pytest.mark.parametrize("mode", ["static", "dynamic", "qat"])
def test_int8_says_which_norm_it_cannot_fold(mode):
    net = Normed(nn.BatchNorm2d(8, track_running_stats=False)).eval()
    settings = {"epochs": 1} if mode == "qat" else {}
    with pytest.raises(
        LimbeckError, match=r"norm is a BatchNorm without running statistics .* into conv, cannot do without"
    ):
        lk.compress(net, lk.Quantize("int8", mode=mode, **settings), small_batches(), device="cpu", quiet=True)


def test_a_graph_that_cannot_be_is_told_in_the_error_alone(capfd):
    class Branching(Normed):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(LimbeckError, match="cannot make a graph of Branching"):
        lk.Quantize("int8", mode="weights")(Branching(nn.Identity()).eval(), example=torch.zeros(2, 3, 8, 8))
    assert "class GraphModule" not in capfd.readouterr().err


def test_a_weight_that_two_layers_share_is_named_as_tied():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    net[3].weight = net[1].weight
    with pytest.raises(
        LimbeckError, match=r"0: a convolution behind it computes with a tied weight: 1\.weight, 3\.weight are one;"
    ):
        lk.Prune(keep=0.5, by="l1")(net.eval(), example=torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(
    "how",
    [lk.Prune(keep=0.5), lk.Mask(), lk.Factorize(rank=2, measured=False), lk.Quantize("int8"), lk.Binarize("bwn")],
    ids=lambda how: type(how).__name__,
)
def test_layers_that_are_not_there_yet(how):
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4))
    with pytest.raises(
        LimbeckError, match=r"1.weight, .* are not there yet \(lazy\): run the network on a batch first"
    ):
        how(net, example=torch.randn(4, 3, 2, 2))


def test_a_part_with_a_hook_is_not_folded_away():
    net = lk.Factorize(rank=2, measured=False)(
        nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), example=torch.randn(2, 8)
    )
    net[0].down.register_forward_hook(lambda module, args, output: 2 * output)
    x = torch.randn(5, 8)
    folded = fold(net)
    assert isinstance(folded[2], nn.Linear)
    assert torch.allclose(folded(x), net(x), atol=1e-5)


def test_a_form_that_is_none():
    with pytest.raises(NameUnknown, match="no form 'eagr'; near: eager"):
        latency_forms(nn.Linear(4, 2), torch.zeros(3, 4), only=("eagr",))
