"""Claim 44: what one hidden neuron fewer saves."""

from __future__ import annotations

from itertools import pairwise

import torch
from common import Claim, Judgement, Seeds
from torch import nn

import limbeck as lk
from limbeck.compressor import findings

SIZES = ((4, 3, 2), (8, 2, 1), (64, 64, 10), (64, 128, 64), (100, 37, 20), (784, 300, 100))
DEEP = (64, 128, 64, 10)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def dense(widths, bias: bool) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b, bias=bias), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def one_fewer(model: nn.Sequential, place: int, example) -> nn.Sequential:
    """The network without one neuron of the layer at this place."""
    width = layer(model, place).out_features
    less = lk.Prune(keep=1.0, layers={str(place): (width - 1) / width}, multiple=1)(model, example=example)
    assert isinstance(less, nn.Sequential)
    return less


def layer(model: nn.Sequential, place: int) -> nn.Linear:
    found = model[place]
    assert isinstance(found, nn.Linear)
    return found


@torch.no_grad()
def apart(model: nn.Sequential, less: nn.Sequential, place: int, x) -> float:
    """The largest difference of the outputs from those of the whole network with that neuron silent."""
    kept = {tuple(row.tolist()) for row in layer(less, place).weight}
    gone = [i for i, row in enumerate(layer(model, place).weight) if tuple(row.tolist()) not in kept]
    assert len(gone) == 1
    hidden = model[: place + 2](x)
    hidden[:, gone] = 0
    return float((model[place + 2 :](hidden) - less(x)).abs().max())


def measure(seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    found = {"apart": 0.0}
    for bias in (False, True):
        cases = [(sizes, 0) for sizes in SIZES] + [(DEEP, 0), (DEEP, 2)]
        for widths, place in cases:
            model, x = dense(widths, bias), torch.randn(16, widths[0])
            less = one_fewer(model, place, x)
            name = f"{'-'.join(map(str, widths))}_layer{place // 2 + 1}{'_bias' if bias else ''}"
            found |= {f"{name}_before": count(model), f"{name}_saved": count(model) - count(less)}
            a, c = widths[place // 2], widths[place // 2 + 2]
            found[f"{name}_told"] = a + c
            counts = findings(less).details["parameters"]
            assert counts == [count(model), count(less)]
            found["apart"] = max(found["apart"], apart(model, less, place, x))
    return found


def judge(figures: Seeds) -> Judgement:
    (f,) = figures.values()
    names = [name.removesuffix("_saved") for name in f if name.endswith("_saved")]
    plain, biased = ([n for n in names if n.endswith("_bias") == b] for b in (False, True))
    exact = all(f[f"{n}_saved"] == f[f"{n}_told"] for n in plain)
    more = {f[f"{n}_saved"] - f[f"{n}_told"] for n in biased}
    right = exact and more == {1} and f["apart"] < 1e-5
    told = ", ".join(
        f"{n.replace('_layer', ' layer ')} {f[f'{n}_before']:.0f} to {f[f'{n}_before'] - f[f'{n}_saved']:.0f}"
        for n in plain
    )
    sentence = (
        f"{'In all' if exact else 'Not in all'} {len(plain)} networks without biases exactly a + c parameters went: {told}. With biases "
        f"{'always one more went' if more == {1} else f'the further parameters were {sorted(more)}'}, the neuron's own: a + c + 1 of (a + c) b + b + c. "
        f"The outputs are those of the whole network with that neuron silent, to {f['apart']:.1g}."
    )
    return ("held" if right else "did not hold"), sentence


CLAIM = Claim(
    number=44,
    claim="one hidden neuron fewer takes the parameters of two layers from (a + c) b to (a + c) (b - 1)",
    source="a lecture on compression",
    setup="Networks a-b-c of six sizes, and both hidden layers of 64-128-64-10, without and with biases; `Prune` with multiple=1 removes one "
    "neuron; parameters are counted before and after. An exact fact.",
    measure=measure,
    judge=judge,
    seeds=(0,),
)
