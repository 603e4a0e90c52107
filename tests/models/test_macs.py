from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.errors import LimbeckError


def by_hand(widths: list[int], blocks: int, *, pre: bool, classes: int = 10) -> int:
    """Multiply-accumulates of a three-stage residual network, from its description alone."""
    side, total = 32, 32 * 32 * 9 * 3 * widths[0]
    inside = widths[0]
    for stage, width in enumerate(widths[1:]):
        for block in range(blocks):
            if stage > 0 and block == 0:
                side //= 2
            total += side * side * 9 * inside * width + side * side * 9 * width * width
            if inside != width:
                total += side * side * inside * width
            inside = width
    assert pre in (True, False)  # where BatchNorm stands changes nothing
    return total + inside * classes


def test_macs_are_those_counted_by_hand():
    x = torch.zeros(1, 3, 32, 32)
    assert models.count_macs(models.build("resnet20", classes=10), x) == by_hand([16, 16, 32, 64], 3, pre=False)
    assert models.count_macs(models.build("wrn_16_2", classes=10), x) == by_hand([16, 32, 64, 128], 2, pre=True)
    assert models.zoo()["resnet20"].macs == 40_813_184
    assert models.zoo()["wrn_16_2"].macs == by_hand([16, 32, 64, 128], 2, pre=True)


def test_macs_are_per_sample():
    net = models.build("digits_cnn", classes=10)
    one, five = torch.zeros(1, 1, 8, 8), torch.zeros(5, 1, 8, 8)
    assert models.count_macs(net, one) == models.count_macs(net, five) == models.zoo()["digits_cnn"].macs


def test_attention_is_counted_and_the_fast_path_comes_back():
    dim, length, heads, wide = 32, 7, 4, 48
    layer = nn.TransformerEncoderLayer(dim, heads, wide, batch_first=True)
    before = torch.backends.mha.get_fastpath_enabled()
    projections = 4 * length * dim * dim
    products = 2 * length * length * dim
    feed = 2 * length * dim * wide
    assert models.count_macs(layer, torch.zeros(2, length, dim)) == projections + products + feed
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_are_counted(kind, gates):
    layer = kind(5, 6, num_layers=2, bidirectional=True, batch_first=True)
    first, second = gates * 6 * (5 + 6), gates * 6 * (12 + 6)
    assert models.count_macs(layer, torch.zeros(3, 9, 5)) == 9 * 2 * (first + second)
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_a_recurrent_layer_may_be_called_by_keyword():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 6, batch_first=True)

        def forward(self, x):
            return self.lstm(input=x)[0]

    assert models.count_macs(Named(), torch.zeros(3, 9, 5)) == 9 * 4 * 6 * (5 + 6)


def test_products_with_vectors_and_of_two_inputs():
    class Vector(nn.Module):
        def __init__(self):
            super().__init__()
            self.v = nn.Parameter(torch.ones(7))

        def forward(self, x):
            return x @ self.v + torch.dot(self.v, self.v)

    assert (
        models.count_macs(Vector(), torch.zeros(7, 7)) == 7 + 1
    )  # the product of v with itself once for seven samples
    assert models.count_macs(nn.Bilinear(3, 4, 5), {"input1": torch.zeros(2, 3), "input2": torch.zeros(2, 4)}) == 60


@pytest.mark.parametrize(
    ("product", "rows", "macs"),
    [
        (lambda x, w: torch.addmv(torch.zeros(4), w, x[0]), 1, 4 * 6),
        (lambda x, w: torch.addbmm(torch.zeros(1, 4), x.unsqueeze(1), w.t().expand(3, 6, 4)), 3, 4 * 6),
        (lambda x, w: torch.vdot(x[0], w[0]), 1, 6),
    ],
)
def test_products_under_other_names(product, rows, macs):
    class Does(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 6))

        def forward(self, x):
            return product(x, self.w)

    assert models.count_macs(Does(), torch.ones(rows, 6)) == macs


def test_a_mapping_becomes_keyword_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(4, 3)

        def forward(self, left, right):
            return self.a(left) + self.b(right)

    assert models.count_macs(Two(), {"left": torch.zeros(2, 2), "right": torch.zeros(2, 4)}) == 6 + 12


def test_bad_batches():
    with pytest.raises(LimbeckError, match="the batch is empty; one sample or more is needed"):
        models.count_macs(nn.Linear(2, 2), torch.zeros(0, 2))
    with pytest.raises(LimbeckError, match="a str holds no batch; give a tensor"):
        models.count_macs(nn.Linear(2, 2), "x")


@pytest.mark.parametrize("kind", ["orthogonal", "spectral_norm", "weight_norm"])
def test_what_makes_a_weight_is_not_counted(kind):
    """An orthogonal weight takes a matrix product to be made, once for a batch of any size."""
    made = getattr(nn.utils.parametrizations, kind)(nn.Linear(8, 8))
    net = nn.Sequential(made, nn.Linear(8, 3)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert models.count_macs(net, torch.zeros(1, 8)) == models.count_macs(net, torch.zeros(5, 8)) == 64 + 24
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert made.weight is not made.weight  # nothing is kept for later


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm"])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_what_the_older_hooks_do_is_not_counted(kind):
    made = getattr(nn.utils, kind)(nn.Linear(8, 8))
    net = nn.Sequential(made, nn.Linear(8, 3)).train()
    hooks, state = list(made._forward_pre_hooks), {name: value.clone() for name, value in net.state_dict().items()}
    assert models.count_macs(net, torch.zeros(1, 8)) == models.count_macs(net, torch.zeros(5, 8)) == 64 + 24
    assert list(made._forward_pre_hooks) == hooks
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_program_of_torch_export_is_counted_in_its_own_mode():
    net = nn.Sequential(nn.Linear(8, 4), nn.Dropout(), nn.Linear(4, 3)).eval()
    program = torch.export.export(net, (torch.zeros(2, 8),)).module()
    assert models.count_macs(program, torch.zeros(2, 8)) == 32 + 12
