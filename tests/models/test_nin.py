from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import layers, models, taps
from limbeck.errors import HyperParameterError

# (kernel, inside, outside, side of the map) of every convolution, from the description of the network
WIDE = [
    *((5, 3, 192, 32), (1, 192, 160, 32), (1, 160, 96, 32)),
    *((5, 96, 192, 16), (1, 192, 192, 16), (1, 192, 192, 16)),
    *((3, 192, 192, 8), (1, 192, 192, 8)),
]
THIN = [(k, c if c == 3 else c // 2, n // 2, side) for k, c, n, side in WIDE]


@pytest.mark.parametrize(("name", "convs", "printed"), [("nin", WIDE, 1.0e6), ("nin_thin", THIN, 0.2e6)])
def test_counts_are_those_made_by_hand(name, convs, printed):
    last = convs[-1][2]
    weights = sum(k * k * c * n for k, c, n, _ in convs)
    biases = sum(n for _, _, n, _ in convs)
    entry = models.zoo()[name]
    assert entry.parameters == weights + 3 * biases + 10 * last + 10  # BatchNorm has two more per channel
    # one fully connected layer behind the mean, where the original has it before
    assert entry.macs == sum(k * k * c * n * side**2 for k, c, n, side in convs) + 10 * last
    assert round(entry.parameters / 1e6, 1) == printed / 1e6


def test_the_wide_one_has_the_count_of_the_original():
    with torch.device("meta"):
        net = models.build("nin", classes=10)
    norms = sum(p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(p.numel() for p in net.parameters()) - norms == 966_986


def test_taps():
    torch.manual_seed(0)
    net = models.build("nin_thin", classes=10)
    found = taps.shapes(net, torch.zeros(2, 3, 32, 32), ["layer1", "down1", "layer2", "down2", "layer3", "pool", "fc"])
    assert [shape[1:] for shape in found.values()] == [
        (48, 32, 32),
        (48, 16, 16),
        (96, 16, 16),
        (96, 8, 8),
        (96, 8, 8),
        (96,),
        (10,),
    ]
    assert [name for name, _ in layers.stage_ends(net, torch.zeros(2, 3, 32, 32))] == ["layer1", "layer2", "layer3"]


def test_the_mean_may_come_before_the_last_layer():
    torch.manual_seed(0)
    net = models.build("nin_thin", classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    fc = net.get_submodule("fc")
    maps = nn.functional.conv2d(taps.look(net, x, ["layer3"]).taps["layer3"], fc.weight[:, :, None, None], fc.bias)
    assert torch.allclose(maps.mean((2, 3)), net(x), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_any_size(size):
    net = models.build("nin_thin", classes=3, in_channels=2, size=size).eval()
    out = net(torch.randn(2, 2, size, size))
    assert out.shape == (2, 3)
    assert out.isfinite().all()


def test_dropout():
    net = models.build("nin_thin", classes=10, dropout=0.5)
    assert [name for name, part in net.named_modules() if isinstance(part, nn.Dropout)] == ["drop1", "drop2"]
    with pytest.raises(HyperParameterError, match=r"dropout = 1\.0: a probability from 0 to below 1"):
        models.build("nin", classes=10, dropout=1.0)
