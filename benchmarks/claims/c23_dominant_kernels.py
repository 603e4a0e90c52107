"""Claim 23: a few dominant kernels for each input channel keep the accuracy with far fewer parameters; and the time?"""

from __future__ import annotations

import copy

import torch
from common import (
    Claim,
    Judgement,
    Seeds,
    altogether,
    brief,
    column,
    difference,
    digits,
    ends,
    learnt,
    looked_at,
    no_worse,
    outcome,
    points,
    right,
    six_convolutions,
)
from torch import nn

import limbeck as lk
from limbeck.compress.cost import cost, latency
from limbeck.compress.forms import compiled
from limbeck.compress.statistics import recalibrated
from limbeck.models.dominant_kernels import dominant
from limbeck.stats import summarise

RANKS = (1, 2, 3)
BATCHES = {1: 40, 32: 20}  # samples: forwards that count
JUDGED = 2
MARGIN = 0.01


def with_fresh_kernels(whole: nn.Module, k: int, seed: int) -> nn.Module:
    """The factorized shape with random kernels; everything else as it was trained."""
    new = copy.deepcopy(whole)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 7)
        for path, conv in [(path, m) for path, m in whole.named_modules() if isinstance(m, nn.Conv2d)]:
            place, _, name = path.rpartition(".")
            setattr(new.get_submodule(place), name, dominant(conv, k, initialise="fresh"))
    return new


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
        again = copy.deepcopy(net)
        recalibrated(again, looked_at(data))
        found[f"{name}_again"] = right(again, data)
    for batch, repeats in BATCHES.items():
        times = latency(networks, data.test_x[:batch], repeats=repeats)
        for name, time in times.items():
            found[f"{name}_time_{batch}"] = time.median_ms / times["whole"].median_ms
        found[f"whole_ms_{batch}"] = times["whole"].median_ms
    x = data.test_x[:32]
    forms = {name: compiled(networks[name], x) for name in ("whole", f"rank{JUDGED}")}
    fast = {name: time.median_ms for name, time in latency(forms, x, repeats=20).items()}
    found |= {"compiled_time_32": fast[f"rank{JUDGED}"] / fast["whole"], "whole_compiled_ms_32": fast["whole"]}
    for name, net in networks.items():
        found[f"{name}_tuned"] = right(learnt(copy.deepcopy(net), data, seed, epochs=10, lr=2e-3), data)
    found["fresh_tuned"] = right(learnt(with_fresh_kernels(whole, JUDGED, seed), data, seed, epochs=10, lr=2e-3), data)
    return found


def judge(figures: Seeds) -> Judgement:
    told = []
    for k in RANKS:
        name = f"rank{k}"
        size, macs = (
            100 * summarise(column(figures, f"{name}_{what}").values()).mean for what in ("parameters", "macs")
        )
        times = ", ".join(f"{_ratio(figures, f'{name}_time_{b}')} {_samples(b)}" for b in BATCHES)
        told.append(
            f"{k} kernel{'s' if k > 1 else ''} ({size:.1f} % of the parameters, {macs:.1f} % of the MACs): "
            f"{brief(column(figures, f'{name}_after'))} at once, "
            f"{brief(column(figures, f'{name}_again'))} with BatchNorm estimated anew, {brief(column(figures, f'{name}_tuned'))} tuned, "
            f"{points(difference(figures, f'{name}_tuned', 'whole_tuned'))}; time {times}"
        )
    name = f"rank{JUDGED}"
    kept = no_worse(difference(figures, f"{name}_tuned", "whole_tuned"), MARGIN)
    few = all(found[f"{name}_parameters"] < 0.5 for found in figures.values())
    whole = [f"{_ms(figures, f'whole_ms_{b}')} ms {_samples(b)}" for b in BATCHES]
    sentence = (
        f"Accuracy in percent (n = {len(figures)}), the whole network {brief(column(figures, 'whole_after'))}, and "
        f"{brief(column(figures, 'whole_tuned'))} after the same tuning. {'. '.join(told)}. With {JUDGED} kernels of random weights instead, tuned alike, {brief(column(figures, 'fresh_tuned'))}, "
        f"and those from the weights are above these by {points(difference(figures, f'{name}_tuned', 'fresh_tuned'))}. Times are those of a forward over that of the whole "
        f"network, eager ({', '.join(whole)}); compiled, with 32 samples ({_ms(figures, 'whole_compiled_ms_32')} ms), {JUDGED} kernels take "
        f"{_ratio(figures, 'compiled_time_32')}. With {JUDGED} kernels the network was "
        f"{', '.join(_speed(figures, f'{name}_time_{b}') + ' ' + _samples(b) for b in BATCHES)}, and "
        f"{_speed(figures, 'compiled_time_32')} compiled."
    )
    return altogether(kept, "held" if few else "did not hold"), sentence


def _samples(batch: int) -> str:
    return f"with {batch} sample" + ("s" if batch > 1 else "")


def _ms(figures, name: str) -> str:
    return f"{summarise(column(figures, name).values()).mean:.2f}"


def _ratio(figures, name: str) -> str:
    low, high = ends(difference(figures, name, "one"))
    s = summarise(column(figures, name).values())
    return f"x {s.mean:.2f} [{1 + low:.2f}, {1 + high:.2f}]"


def _speed(figures, name: str) -> str:
    words = {
        "held": "clearly faster",
        "did not hold": "clearly slower",
        "inconclusive": "neither clearly faster nor slower",
    }
    return words[outcome(difference(figures, name, "one"), higher_is_better=False)]


CLAIM = Claim(
    number=23,
    claim="a few dominant kernels for each input channel keep the accuracy with far fewer parameters",
    source="Wang, Deng, Wang, ECCV 2016 (DK2PNet)",
    setup="Digits, 1,200 rows; plain_6 with 32 to 128 channels (288,170 parameters) trained for 8 epochs; all six convolutions by "
    "`Factorize(kind='dominant')` with 1 to 3 kernels for each input channel; then they and the whole network are tuned for 10 epochs "
    "at 0.002, as is a network with 2 random kernels for each channel and the rest as trained; 597 test rows. Time: one CPU thread, process time, medians, networks in turn. Held: with 2 kernels, less than half of "
    "the parameters, and the tuned accuracy is at most 1 point below that of the whole network, by the whole interval. Time is told and not judged: "
    "the claim has none.",
    settings="Epochs, rate and the judged number of kernels were chosen on seeds 100 to 102. BatchNorm estimated anew (on 512 training rows) and the random kernels "
    "were added after a first run on the same seeds had been seen; neither is judged.",
    measure=measure,
    judge=judge,
)
