"""Forwards that ask what their layers are; layers by a second name; numbers that are none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limbeck as lk
from limbeck.compress.lowrank.fold import fold
from limbeck.compress.lowrank.layers import split
from limbeck.compressor import findings
from limbeck.errors import NonFiniteError


class Asks(nn.Module):
    """A ReLU behind each linear layer, and nothing behind anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)])
        self.free = nn.Linear(4, 64)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                x = x.relu()
        return self.out(self.free(x).relu())


def test_layers_that_a_forward_asks_about_stay() -> None:
    torch.manual_seed(0)
    net, x = Asks(), torch.randn(16, 32)
    new = lk.Factorize(rank=2, measured=False)(net, example=x)
    assert all(type(layer) is nn.Linear for layer in new.layers)
    assert isinstance(new.out, nn.Sequential)
    notes = "\n".join(findings(new).notes)
    assert "layers.0 is left alone: the forward asks what kind of layer it is" in notes
    assert "out is left alone" not in notes
    signs = lk.Binarize("bwn", fewest=2, ends=True)(net, example=x)
    assert all(type(layer) is nn.Linear for layer in signs.layers)
    assert type(signs.free) is not nn.Linear
    assert findings(signs).details["real"]["layers.1"].startswith("the forward asks what kind of layer it is")


def test_what_a_forward_reads_of_a_layer_is_found_before() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu()) / self.second.in_features

    new = lk.Factorize(rank=2, measured=False)(Reads(), example=torch.randn(8, 16))
    assert isinstance(new.first, nn.Sequential)
    assert type(new.second) is nn.Linear


def test_a_forward_that_writes_into_its_input_asks_nothing() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mul_(2))

    new = lk.Factorize(rank=2, measured=False)(Writes(), example=torch.randn(8, 64))
    assert isinstance(new.fc, nn.Sequential)


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.again = self.first
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(x).relu())


def test_a_layer_may_be_called_by_its_second_name() -> None:
    net, x = Twice(), torch.randn(8, 64)
    assert isinstance(lk.Factorize(rank=2, measured=False, layers=("again",))(net, example=x).first, nn.Sequential)
    left = lk.Factorize(rank=2, measured=False, ignore=("again",))(net, example=x)
    assert type(left.first) is nn.Linear
    kept = lk.Binarize("bwn", ends=True, keep=("again",))(net, example=x)
    assert type(kept.first) is nn.Linear
    assert type(kept.out) is not nn.Linear


def test_what_was_factorized_twice_is_folded_at_once() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(8, 32)
    net[0] = split(net[0], "svd", (8,))
    net[0][0] = split(net[0][0], "svd", (2,))
    back = fold(net)
    assert type(back[0]) is nn.Linear
    torch.testing.assert_close(back(x), net(x))


def damaged(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        {**dict(net.named_parameters()), **dict(net.named_buffers())}[name].view(-1)[0] = float("nan")
    return net


@pytest.mark.parametrize("name", ["4.weight", "4.bias", "4.running_mean", "4.running_var", "9.bias", "3.weight"])
@pytest.mark.parametrize(
    "how",
    [
        lk.Prune(keep=0.5),
        lk.Mask(sparsity=0.5),
        lk.Binarize("bwn"),
        lk.Factorize(rank=2, measured=False),
        lk.Quantize(),
    ],
    ids=lambda how: type(how).__name__,
)
def test_numbers_that_are_none_are_refused_wherever_they_stand(how: lk.Compressor, name: str) -> None:
    x = torch.randn(8, 1, 8, 8)
    with pytest.raises(NonFiniteError, match="non-finite"):
        how(damaged(name), example=x, calibration=[x])


def test_masks_of_attention_may_be_infinite() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.out = nn.Linear(16, 32), nn.Linear(32, 3)
            self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x)
            return self.out((q @ q.mT + self.mask).softmax(-1) @ q).mean(1)

    x = torch.randn(4, 5, 16)
    for how in (lk.Mask(sparsity=0.5), lk.Factorize(rank=2, measured=False), lk.Prune(keep=0.5, multiple=1)):
        assert how(Causal(), example=x)(x).isfinite().all()


def test_int8_of_a_forward_that_takes_any_number_of_inputs() -> None:
    class Any(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 3)

        def forward(self, *xs: Tensor) -> Tensor:
            return self.fc(xs[0])

    torch.manual_seed(0)
    net, x = Any(), torch.randn(32, 16)
    torch.testing.assert_close(lk.Quantize()(net, example=x, calibration=[x])(x), net(x), atol=0.05, rtol=0.05)
