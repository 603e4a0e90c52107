from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import layers, models, taps
from limbeck.errors import HyperParameterError, ShapeError
from limbeck.models.maxout import Maxout, Shrink, maxout_conv, maxout_linear

# name -> (weights without biases as the paper counts them, its printed number, how far off ours may be)
PRINTED = {
    "maxout_cifar": (8_564_360, 9.0e6, 0.05),
    "fitnet1": (249_576, 250e3, 0.005),
    "fitnet2": (861_928, 862e3, 0.0005),
    "fitnet3": (1_503_304, 1.6e6, 0.065),
    "fitnet4": (2_544_712, 2.5e6, 0.02),
}
GROUPS = {
    "fitnet1": [[16] * 3, [32] * 3, [48, 48, 64]],
    "fitnet2": [[16, 32, 32], [48, 64, 80], [96, 96, 128]],
    "fitnet3": [[32, 48, 64, 64], [80] * 4, [128] * 3],
    "fitnet4": [[32, 32, 32, 48, 48], [80] * 6, [128] * 6],
}


def by_hand(groups, classes):
    """(weights, biases, multiply-accumulates at 32x32) of a FitNet, from its description alone."""
    weights = biases = macs = 0
    inside, positions = 3, 32 * 32
    for group in groups:
        for width in group:
            here = 2 * 9 * inside * width
            weights, biases, macs = weights + here, biases + 2 * width, macs + here * positions
            inside = width
        positions //= 4
    dense = inside * 1000 + 500 * classes
    return weights + dense, biases + 1000 + classes, macs + dense


def test_the_golden_pieces():
    assert Maxout(2)(torch.tensor([[1.0, 3.0, 2.0, -1.0]])).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize(("pieces", "wide"), [(1, 6), (2, 6), (3, 6), (5, 10)])
def test_a_unit_is_the_largest_of_its_pieces(pieces, wide):
    torch.manual_seed(0)
    x = torch.randn(2, wide, 3, 4)
    out = Maxout(pieces)(x)
    width = wide // pieces
    assert out.shape == (2, width, 3, 4)
    for c in range(width):
        for where in ((0, 0, 0), (1, 2, 3)):
            b, i, j = where
            assert out[b, c, i, j].item() == max(x[b, c + p * width, i, j].item() for p in range(pieces))


def test_a_linear_unit_is_the_largest_of_linear_functions():
    torch.manual_seed(0)
    layer, x = maxout_linear(3, 2, pieces=4).double(), torch.randn(5, 3, dtype=torch.float64)
    weight, bias = layer[0].weight.detach().numpy(), layer[0].bias.detach().numpy()
    for row, out in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        for unit in range(2):
            assert out[unit] == pytest.approx(max(row @ weight[unit + 2 * p] + bias[unit + 2 * p] for p in range(4)))


def test_two_pieces_can_be_an_absolute_value():
    layer = maxout_linear(1, 1)
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        layer[0].bias.zero_()
    x = torch.tensor([[-3.0], [0.5]])
    assert torch.equal(layer(x), x.abs())


def test_only_the_largest_piece_learns():
    x = torch.tensor([[1.0, 3.0, 2.0, -1.0]], requires_grad=True)
    Maxout(2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_bad_pieces():
    with pytest.raises(ShapeError, match=r"maxout of 2 pieces needs \[batch, a multiple of them, ...\], not \[1, 3\]"):
        Maxout(2)(torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="not"):
        Maxout(2)(torch.zeros(4))
    for pieces in (0, -1, 1.5):
        with pytest.raises(HyperParameterError, match="pieces = "):
            Maxout(pieces)  # type: ignore[arg-type]
    with pytest.raises(HyperParameterError, match="pieces = 0"):
        maxout_conv(3, 4, pieces=0)


@pytest.mark.parametrize("name", PRINTED)
def test_weights_are_near_the_papers(name):
    exact, printed, off = PRINTED[name]
    with torch.device("meta"):
        weights = sum(p.numel() for p in models.build(name, classes=10).parameters() if p.ndim > 1)
    assert weights == exact
    assert abs(weights / printed - 1) < off


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("classes", [10, 100])
def test_counts_are_those_made_by_hand(name, classes):
    weights, biases, macs = by_hand(GROUPS[name], classes)
    with torch.device("meta"):
        net = models.build(name, classes=classes)
        assert sum(p.numel() for p in net.parameters()) == weights + biases
        assert models.count_macs(net, torch.empty(1, 3, 32, 32)) == macs


def test_the_teachers_counts_are_those_made_by_hand():
    filters = (3 * 64 * 192, 96 * 64 * 384, 192 * 25 * 384)
    dense = 192 * 9 * 2500 + 5000
    entry = models.zoo()["maxout_cifar"]
    assert entry.parameters == sum(filters) + 192 + 384 + 384 + dense + 2500 + 10
    assert entry.macs == sum(f * side**2 for f, side in zip(filters, (33, 15, 9), strict=True)) + dense


@pytest.mark.parametrize("name", PRINTED)
def test_hint_and_guided_layer_are_the_second_poolings(name):
    torch.manual_seed(0)
    net = models.build(name, classes=10)
    found = taps.shapes(net, torch.zeros(1, 3, 32, 32), ["layer2", "down2", "pool", "hidden"])
    width = 192 if name == "maxout_cifar" else GROUPS[name][1][-1]
    side = 7 if name == "maxout_cifar" else 8
    assert found["down2"] == (1, width, side, side)
    assert found["layer2"][2] == (15 if name == "maxout_cifar" else 16)
    assert found["hidden"] == (1, 500)
    assert len(found["pool"]) == 2


def test_the_middle_layers_are_found():
    torch.manual_seed(0)
    student, teacher = models.build("fitnet1", classes=10), models.build("maxout_cifar", classes=10)
    assert layers.middle(student, teacher, torch.zeros(1, 3, 32, 32)) == ("layer2", "layer2")


@pytest.mark.parametrize("size", [4, 5, 7, 16])
def test_small_pictures(size):
    with torch.device("meta"):
        net = models.build("maxout_cifar", classes=3, in_channels=1, size=size)
        assert net(torch.empty(2, 1, size, size)).shape == (2, 3)
        assert models.build("fitnet4", classes=3, size=1)(torch.empty(2, 3, 1, 1)).shape == (2, 3)


def test_a_window_is_no_larger_than_the_map():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert Shrink(4, 2)(x).tolist() == [[[[11.0]]]]
    big = torch.randn(1, 2, 33, 33)
    assert torch.equal(Shrink(4, 2)(big), nn.functional.max_pool2d(big, 4, 2, ceil_mode=True))


def test_weights_start_as_said():
    torch.manual_seed(0)
    small = models.build("fitnet2", classes=10, start="small")
    weights = torch.cat([p.flatten() for p in small.parameters() if p.ndim > 1])
    assert 0.0049 < weights.abs().max() <= 0.005
    assert weights.std().item() == pytest.approx(0.01 / 12**0.5, rel=0.01)
    assert all(not p.any() for p in small.parameters() if p.ndim == 1)
    scaled = models.build("fitnet2", classes=10)
    for part in scaled.modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 10_000:
            assert part.weight.std().item() == pytest.approx((9 * part.in_channels) ** -0.5, rel=0.05)
    x = torch.randn(8, 3, 32, 32)
    assert 0.1 < scaled(x).std().item() < 5
    assert small(x).std().item() < 1e-10  # why "scaled" is the default


def test_options():
    noisy = models.build("fitnet1", classes=10, dropout=0.5)
    layers = 9 + 2  # all but the first convolution, hidden and fc, are 8 + 2
    assert len([part for part in noisy.modules() if isinstance(part, nn.Dropout)]) == layers - 1
    teacher = models.build("maxout_cifar", classes=10, dropout=0.5)
    assert len([part for part in teacher.modules() if isinstance(part, nn.Dropout)]) == 4
    normed = models.build("fitnet1", classes=10, norm=True)
    assert len([part for part in normed.modules() if isinstance(part, nn.BatchNorm2d)]) == 9
    assert all(part.bias is None for part in normed.modules() if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout = 1.0: a probability from 0 to below 1"),
        ({"norm": "no"}, "norm = 'no': true or false"),
        ({"start": "tiny"}, "start = 'tiny': one of scaled, small"),
        ({"pieces": 3}, "no option 'pieces' in network 'maxout_cifar'; its options: dropout, norm, start"),
        ({"size": 3}, "size = 3: 4 pixels or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(HyperParameterError) as caught:
        models.build("maxout_cifar", **{"classes": 10, **options})
    assert message in str(caught.value)


def test_a_small_one_learns():
    torch.manual_seed(0)
    net = models.build("fitnet1", classes=2, in_channels=1, size=8)
    x = torch.randn(32, 1, 8, 8)
    y = (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2))).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    first = last = 0.0
    for step in range(40):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.5 * first
