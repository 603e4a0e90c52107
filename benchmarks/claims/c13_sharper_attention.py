"""Claim 13: more accurate networks have sharper attention.

Sharpness: the entropy of an attention map (sum over channels of squared activations, scaled to a sum of 1) over its
positions, as a part of the highest possible; a mean over test images.  Families of networks of growing accuracy.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from common import (
    Batches,
    Claim,
    Images,
    Judgement,
    Seeds,
    accuracy,
    cifar10,
    column,
    difference,
    digits,
    network,
    outcome,
    rank_correlation,
)
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import limbeck as lk
from limbeck.stats import summarise

LAYERS = ("layer1", "layer2", "layer3")
EPOCHS = {"digits": (1, 2, 4, 8, 16, 32), "cifar": (1, 2, 4, 8, 16)}


@torch.no_grad()
def entropies(model: nn.Module, x: Tensor) -> list[float]:
    """Of the maps of every layer, as parts of log(positions): 1 is even, 0 a single position."""
    model.eval()
    with lk.capture(model, *LAYERS) as seen:
        model(x)
    maps = [lk.losses.attention_map(seen[layer]).flatten(1).double() for layer in LAYERS]
    found = []
    for m in maps:
        p = m / m.sum(1, keepdim=True).clamp_min(1e-12)
        found.append(float(-(p * p.clamp_min(1e-300).log()).sum(1).mean()) / math.log(m.shape[1]))
    return found


def digits_family(seed: int) -> list[tuple[float, list[float]]]:
    """Two widths, each trained for 1 to 32 epochs: accuracy and entropies of every network."""
    data, found = digits(seed), []
    for name in ("digits_cnn_thin", "digits_cnn"):
        for epochs in EPOCHS["digits"]:
            batches = Batches(data.train_x, data.train_y, 64, seed)
            model = lk.train(
                network(name, seed), batches, epochs=epochs, optimizer=lk.Optimizer(lr=0.05), seed=seed, quiet=True
            )
            found.append((accuracy(model, data.test_x, data.test_y), entropies(model, data.test_x)))
    return found


@cache
def halved(seed: int) -> Images:
    """3,000 images of CIFAR-10 at 16x16."""
    d = cifar10(seed, 3000, 1000)
    return Images(avg_pool2d(d.train_x, 2), d.train_y, avg_pool2d(d.test_x, 2), d.test_y)


def cifar_family(seed: int) -> list[tuple[float, list[float]]]:
    """One ResNet-8, seen after 1 to 16 epochs at a constant rate."""
    data, found, done = halved(seed), [], 0
    model, batches = network("resnet8", seed, size=16), Batches(data.train_x, data.train_y, 100, seed)
    for epochs in EPOCHS["cifar"]:
        how = lk.Training(epochs=epochs - done, optimizer=lk.Optimizer(lr=0.02), schedule=lk.Schedule(kind="constant"))
        lk.train(model, batches, training=how, seed=seed + epochs, quiet=True)
        done = epochs
        found.append((accuracy(model, data.test_x, data.test_y), entropies(model, data.test_x)))
    return found


def measure(seed: int) -> dict[str, float]:
    found = {"none": 0.0}
    for family, networks in (("digits", digits_family(seed)), ("cifar", cifar_family(seed))):
        accuracies = [a for a, _ in networks]
        found |= {f"{family}_worst": min(accuracies), f"{family}_best": max(accuracies)}
        for i, layer in enumerate(LAYERS):
            values = [e[i] for _, e in networks]
            found[f"{family}_{layer}"] = rank_correlation(accuracies, values)
            found[f"{family}_{layer}_first"], found[f"{family}_{layer}_last"] = values[0], values[-1]
    return found


def judge(figures: Seeds) -> Judgement:
    titles = {"digits": "digits", "cifar": "CIFAR-10 at 16x16"}
    parts = [outcome(difference(figures, f"{f}_layer3", "none"), higher_is_better=False) for f in titles]
    told = []
    for family, title in titles.items():
        low, high = (
            summarise([100 * v for v in column(figures, f"{family}_{k}").values()]).mean for k in ("worst", "best")
        )
        rhos = []
        for layer in LAYERS:
            d, s = (
                difference(figures, f"{family}_{layer}", "none"),
                summarise(column(figures, f"{family}_{layer}").values()),
            )
            rhos.append(f"{layer} {s.mean:+.2f} ± {s.std:.2f} [{d.low:+.2f}, {d.high:+.2f}]")
        told.append(f"{title} (accuracy {low:.0f} to {high:.0f} %): {', '.join(rhos)}")
    both = "held" if parts == ["held"] * 2 else "did not hold" if "did not hold" in parts else "inconclusive"
    sentence = (
        f"Spearman correlation of accuracy with the entropy of attention (negative: sharper where better), n = {len(figures)}: "
        f"{'; '.join(told)}. At layer3, the deepest: digits {parts[0]}, CIFAR-10 {parts[1]}."
    )
    return both, sentence


CLAIM = Claim(
    number=13,
    claim="more accurate networks have sharper attention",
    source="Zagoruyko, Komodakis, ICLR 2017",
    setup=(
        "Families of growing accuracy, one correlation per seed and layer. Digits: digits_cnn_thin and digits_cnn, each trained "
        "for 1, 2, 4, 8, 16 and 32 epochs on 1,200 rows (12 networks), maps on 597 test rows. CIFAR-10 halved to 16x16: one "
        "resnet8 on 3,000 rows, seen after 1, 2, 4, 8 and 16 epochs, maps on 1,000 test rows. Held: layer3 clearly negative in "
        "both; did not hold: clearly positive in one."
    ),
    settings="layer3, the last map before pooling, was named as the one that decides before anything was measured.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3),
)
