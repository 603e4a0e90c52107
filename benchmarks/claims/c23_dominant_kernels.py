"""Claim 23: a few dominant kernels for each input channel keep the accuracy with far fewer parameters; and the time?"""

from __future__ import annotations

import copy

from common import (
    Claim,
    altogether,
    brief,
    column,
    difference,
    digits,
    learnt,
    no_worse,
    outcome,
    percent,
    points,
    right,
    six_convolutions,
)

import limbeck as lk
from limbeck.compress.cost import cost, latency
from limbeck.stats import summarise

RANKS = (1, 2, 3, 4)
BATCHES = {1: 40, 32: 20}  # samples: forwards that count
JUDGED = 3
MARGIN = 0.01


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    whole = six_convolutions(data, seed)
    networks = {"whole": whole}
    for k in RANKS:
        split = lk.Factorize(kind="dominant", rank=k, measured=False)
        networks[f"rank{k}"] = split(whole, example=data.test_x[:32])
    found = {"one": 1.0}
    base = cost(whole, data.test_x[:1])
    for name, net in networks.items():
        size = cost(net, data.test_x[:1])
        found |= {f"{name}_parameters": size.parameters / base.parameters, f"{name}_macs": size.macs / base.macs}
        found[f"{name}_after"] = right(net, data)
    for batch, repeats in BATCHES.items():
        times = latency(networks, data.test_x[:batch], repeats=repeats)
        for name, time in times.items():
            found[f"{name}_time_{batch}"] = time.median_ms / times["whole"].median_ms
        found[f"whole_ms_{batch}"] = times["whole"].median_ms
    for name, net in networks.items():
        found[f"{name}_tuned"] = right(learnt(copy.deepcopy(net), data, seed, epochs=6, lr=2e-3), data)
    return found


def judge(figures):
    told = []
    for k in RANKS:
        name = f"rank{k}"
        size, macs = (
            100 * summarise(column(figures, f"{name}_{what}").values()).mean for what in ("parameters", "macs")
        )
        times = ", ".join(_times(figures, name, batch) for batch in BATCHES)
        told.append(
            f"{k} kernel{'s' if k > 1 else ''} ({size:.1f} % of the parameters, {macs:.1f} % of the MACs): "
            f"{brief(column(figures, f'{name}_after'))} at once, {brief(column(figures, f'{name}_tuned'))} tuned, "
            f"{points(difference(figures, f'{name}_tuned', 'whole_tuned'))}; time {times}"
        )
    name = f"rank{JUDGED}"
    kept = no_worse(difference(figures, f"{name}_tuned", "whole_tuned"), MARGIN)
    few = all(found[f"{name}_parameters"] < 0.5 for found in figures.values())
    faster = {b: outcome(difference(figures, f"{name}_time_{b}", "one"), higher_is_better=False) for b in BATCHES}
    speed = {
        "held": "clearly faster",
        "did not hold": "clearly slower",
        "inconclusive": "neither clearly faster nor slower",
    }
    sentence = (
        f"Accuracy in percent (n = {len(figures)}), the whole network {percent(column(figures, 'whole_after'))}, and "
        f"{percent(column(figures, 'whole_tuned'))} after the same tuning. {'. '.join(told)}. Times are those of a forward over that of the "
        f"whole network. With {JUDGED} kernels the network is {' and '.join(f'{speed[o]} with {b} sample' + ('s' if b > 1 else '') for b, o in faster.items())}: "
        "fewer parameters and fewer multiplications are one thing, time is another."
    )
    return altogether(kept, "held" if few else "did not hold"), sentence


def _times(figures, name: str, batch: int) -> str:
    ratios = column(figures, f"{name}_time_{batch}")
    d, s = difference(figures, f"{name}_time_{batch}", "one"), summarise(ratios.values())
    return f"x {s.mean:.2f} [{1 + d.low:.2f}, {1 + d.high:.2f}] with {batch} sample" + ("s" if batch > 1 else "")


CLAIM = Claim(
    number=23,
    claim="a few dominant kernels for each input channel keep the accuracy with far fewer parameters",
    source="Wang, Deng, Wang, ECCV 2016 (DK2PNet)",
    setup="Digits, 1,200 rows; plain_6 with 32 to 128 channels (288,170 parameters) trained for 8 epochs; all six convolutions by "
    "`Factorize(kind='dominant')` with 1 to 4 kernels for each input channel; then they and the whole network are tuned for 6 epochs at 0.002; "
    "597 test rows. Time: eager, one CPU thread, process time, medians, networks in turn. Held: with 3 kernels, less than half of "
    "the parameters, and the tuned accuracy is at most 1 point below that of the whole network, by the whole interval. Time is told and not judged: "
    "the claim has none.",
    settings="Epochs, rate and the judged number of kernels were chosen on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
