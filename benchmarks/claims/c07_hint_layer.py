"""Claim 7: the middle layers are the right ones for a hint; hints regularise, the more the deeper they are."""

from __future__ import annotations

from common import Claim, Judgement, Seeds, accuracy, altogether, column, difference, digits, outcome, points
from features import FEW, clearly_above, few, taught, teacher, test_accuracy, told

import limbeck as lk
from limbeck.stats import summarise

DEEP_PAIRS = {str(2 * k): (f"layer{2 * k}", f"layer{k}") for k in (1, 2, 3, 4)}
CNN_PAIRS = {k: (f"layer{k}", f"layer{k}") for k in ("1", "2", "3")}


def fully(source, rows, seed, method):
    """An arm of the fully connected student."""
    return taught(source, rows, seed, method, name="digits_mlp", hidden=[16] * 8)


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    rows = few(data, 100)
    cnn, mlp = teacher(data, seed), teacher(data, seed, "digits_mlp", hidden=[128] * 4)
    nets = {f"cnn_{k}": taught(cnn, rows, seed, lk.FitNets(pair=p, hint_share=0.5)) for k, p in CNN_PAIRS.items()}
    nets |= {f"deep_{k}": fully(mlp, rows, seed, lk.FitNets(pair=p, hint_share=0.5)) for k, p in DEEP_PAIRS.items()}
    alone = lk.KD(temperature=3.0, soft=lk.Ramp(start=4 / 9, end=1 / 9), hard=1.0)  # FitNets' second stage alone
    nets |= {"cnn_none": taught(cnn, rows, seed, alone), "deep_none": fully(mlp, rows, seed, alone)}
    found = {name: test_accuracy(net, data) for name, net in nets.items()}
    for name, net in nets.items():
        found[f"gap_{name}"] = accuracy(net, rows.train_x, rows.train_y) - found[name]
    return found


def judge(figures: Seeds) -> Judgement:
    names = {f"cnn_{k}": f"layer{k}" for k in CNN_PAIRS} | {"cnn_none": "no hint"}
    more = {f"deep_{k}": f"layer{k}" for k in DEEP_PAIRS} | {"deep_none": "no hint"}
    middle = altogether(
        clearly_above(figures, "cnn_2", ["cnn_1", "cnn_3", "cnn_none"]),
        clearly_above(figures, "deep_4", ["deep_2", "deep_8", "deep_none"]),
    )
    gaps = {
        "the middle hint to none": [
            difference(figures, f"gap_{a}", f"gap_{b}") for a, b in (("cnn_2", "cnn_none"), ("deep_4", "deep_none"))
        ],
        "the deepest hint to the shallowest": [
            difference(figures, f"gap_{a}", f"gap_{b}") for a, b in (("cnn_3", "cnn_1"), ("deep_8", "deep_2"))
        ],
    }
    regular, deeper = (altogether(*(outcome(d, higher_is_better=False) for d in ds)) for ds in gaps.values())
    told_gaps = "; ".join(f"{title}: {points(c)} (convolutional), {points(d)} (MLP)" for title, (c, d) in gaps.items())
    best = ", ".join(
        max(group, key=lambda k: summarise(column(figures, k).values()).mean).replace("_", " ")
        for group in (names, more)
    )
    every = min(figures[s][k] + figures[s][f"gap_{k}"] for s in figures for k in names)
    full = f"the convolutional student is right on at least {every:.0%} of its training rows in every arm"
    sentence = (
        f"Test accuracy by guided layer, convolutional student: {told(figures, names)}; MLP: {told(figures, more)}; highest means: "
        f"{best}. Middle better than both ends and than no hint: {middle}. Gap of training over test accuracy, {told_gaps}; {full}. Hints narrow the "
        f"gap: {regular}; deeper ones more: {deeper}."
    )
    return altogether(middle, regular, deeper), sentence


CLAIM = Claim(
    number=7,
    claim="middle layers are the right ones for hints; hints regularise, and the deeper the hint the stronger",
    source="Romero et al., FitNets, ICLR 2015",
    setup=f"Two students. {FEW} The other student is an MLP of 8 hidden layers of 16 units, its teacher an MLP 128-128-128-128. FitNets in two "
    'stages (hints for half of the epochs) with hints at each depth, student and teacher at the same relative depth; "no hint" '
    "is the second stage alone for all epochs. Regularising is read as a narrower gap of training over test accuracy. The verdict takes all "
    "three parts, in both students.",
    measure=measure,
    judge=judge,
)
