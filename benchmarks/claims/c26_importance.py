"""Claim 26: scales of BatchNorm, and how often a channel is zero, tell which channels matter."""

from __future__ import annotations

from common import (
    Batch,
    Claim,
    Judgement,
    Seeds,
    altogether,
    brief,
    column,
    difference,
    digits,
    learnt,
    looked_at,
    network,
    outcome,
    rank_correlation,
    right,
)

import limbeck as lk
from limbeck.compress.pruning.graph import groups
from limbeck.compress.pruning.judge import judge as scored
from limbeck.stats import summarise

NETWORKS = {"digits_cnn": {}, "plain_6": {"width": 16, "grid": 1, "in_channels": 1, "size": 8}}
METHODS = {"labels": None, "priced": lk.Slimming(weight=3e-3)}
SCORES = ("slimming", "apoz", "l1", "fpgm", "mean_activation", "taylor_gate", "taylor", "random")
JUDGED = (("slimming", "labels"), ("slimming", "priced"), ("apoz", "labels"), ("apoz", "priced"))
TITLES = {"labels": "trained on labels", "priced": "with a price on the scales"}


def measure(seed: int) -> dict[str, float]:
    data, found = digits(seed), {"none": 0.0}
    unseen = [Batch(x, y) for x, y in zip(data.test_x.split(60), data.test_y.split(60), strict=True)]
    rhos: dict[str, list[float]] = {}
    for name, options in NETWORKS.items():
        for how, method in METHODS.items():
            net = learnt(network(name, seed, **options), data, seed, epochs=12, lr=5e-3, method=method)
            found[f"{name}_{how}"] = right(net, data)
            layers, x = groups(net, data.test_x[:2]), data.test_x[:2]
            truth = scored(net, "oracle", layers, example=x, calibration=unseen)
            for by in SCORES:
                scores = scored(net, by, layers, example=x, calibration=looked_at(data), seed=seed)
                own = [rank_correlation(scores[g.name], truth[g.name]) for g in layers]
                found |= {f"{by}_{how}_{name}_{i}": rho for i, rho in enumerate(own, 1)}
                rhos.setdefault(f"{by}_{how}", []).append(sum(own) / len(own))
    return found | {key: sum(values) / len(values) for key, values in rhos.items()}


def _told(figures, key: str) -> str:
    d, s = difference(figures, key, "none"), summarise(column(figures, key).values())
    return f"{s.mean:+.2f} ± {s.std:.2f} [{d.low:+.2f}, {d.high:+.2f}]"


def judge(figures: Seeds) -> Judgement:
    told = [f"{TITLES[how]}: " + ", ".join(f"{by} {_told(figures, f'{by}_{how}')}" for by in SCORES) for how in METHODS]
    parts = {f"{by} {TITLES[how]}": outcome(difference(figures, f"{by}_{how}", "none")) for by, how in JUDGED}
    layers = []
    for name, count in (("digits_cnn", 3), ("plain_6", 6)):
        for by in ("slimming", "apoz"):
            means = [summarise(column(figures, f"{by}_labels_{name}_{i}").values()).mean for i in range(1, count + 1)]
            layers.append(f"{name} {by} {', '.join(f'{m:+.2f}' for m in means)}")
    right_ = ", ".join(f"{n} {brief(column(figures, f'{n}_{how}'))} {TITLES[how]}" for n in NETWORKS for how in METHODS)
    sentence = (
        f"Spearman correlation in a layer with the measured change of the loss, mean of the layers and networks, n = {len(figures)}; {'; '.join(told)}. "
        f"Layer by layer, trained on labels: {'; '.join(layers)}. Accuracy in percent: {right_}. "
        f"By part: {', '.join(f'{name} {found}' for name, found in parts.items())}."
    )
    return altogether(*parts.values()), sentence


CLAIM = Claim(
    number=26,
    claim="the scales of BatchNorm, and how often a channel's activation is zero (APoZ), tell which channels matter",
    source="Liu et al., ICCV 2017; Hu et al., arXiv 1607.03250",
    setup="Digits, 1,200 rows, digits_cnn (3 groups of channels) and plain_6 with 16 to 64 channels (6 groups), 12 epochs, from labels and with "
    "`Slimming` (3e-3 of the sum of scales). Scores from weights and 512 training rows against the oracle: the absolute change of the mean loss on the "
    "597 test rows with one channel at zero; one mean correlation a seed. Held: that of slimming and that of apoz (1 - APoZ) clearly above "
    "zero with both trainings; l1, fpgm, mean_activation, taylor_gate, taylor and random stand beside them.",
    settings="Epochs, rate and the price were chosen on seed 100.",
    measure=measure,
    judge=judge,
)
