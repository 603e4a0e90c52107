"""Claim 49: methods of compression combine: pruning, distillation and quantization one after the other."""

from __future__ import annotations

import copy
from typing import Any

import torch
from common import (
    Batches,
    Claim,
    Judgement,
    Seeds,
    altogether,
    column,
    difference,
    digits,
    learnt,
    no_worse,
    percent,
    points,
    right,
    six_convolutions,
)
from torch import nn

import limbeck as lk
from limbeck.compress.cost import cost
from limbeck.stats import summarise

SINGLE = {
    "prune": "pruning alone, nothing after it",
    "small": "a fresh network of that shape by KD",
    "int8": "int8 alone",
}
STEPS = {"original": "original", **SINGLE, "tuned": "pruned, then KD", "chain": "pruned, KD, int8"}
MARGIN = 0.01
KD = lk.KD(temperature=4.0)


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """The same shape with other weights."""
    new: Any = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in new.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return new


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    original = six_convolutions(data, seed)
    batches = Batches(data.train_x, data.train_y, 64, seed)
    tests = Batches(data.test_x, data.test_y, 300, seed, shuffle=False)
    optimizer = lk.Optimizer(kind="adamw", lr=2e-3, weight_decay=0.0)
    training = lk.Training(epochs=6, optimizer=optimizer)
    told = {"evaluate": tests, "training": training, "seed": seed, "latency": False, "quiet": True}
    prune = lk.Prune(macs=0.5, by="fpgm", scope="layer")
    chain: Any = lk.compress(original, [prune, lk.Tune(method=KD), lk.Quantize("int8")], batches, **told)
    rows: dict[str, Any] = dict(zip(("original", "prune", "tuned", "chain"), chain.ledger.rows, strict=True))
    alone: Any = lk.compress(original, lk.Quantize("int8"), batches, **told)
    rows["int8"] = alone.ledger.rows[-1]
    found = {"one": 1.0}
    for name, row in rows.items():
        found |= {f"{name}_bytes": row.bytes, f"{name}_accuracy": row.measured["accuracy"]}
    shape = prune(original, example=data.test_x[:2])
    small = learnt(fresh(shape, seed + 7), data, seed, epochs=14, lr=5e-3, teacher=original, method=KD)
    return found | {"small_bytes": cost(small, data.test_x[:1]).bytes, "small_accuracy": right(small, data)}


def judge(figures: Seeds) -> Judgement:
    told = []
    for name, title in STEPS.items():
        size = summarise([v / 1000 for v in column(figures, f"{name}_bytes").values()])
        text = f"{title} {size.mean:.0f} kB, {percent(column(figures, f'{name}_accuracy'))}"
        if name != "original":
            text += f", {points(difference(figures, f'{name}_accuracy', 'original_accuracy'))}"
        told.append(text)
    smaller = all(f["chain_bytes"] < min(f[f"{name}_bytes"] for name in SINGLE) for f in figures.values())
    kept = no_worse(difference(figures, "chain_accuracy", "original_accuracy"), MARGIN)
    times = summarise([f["original_bytes"] / f["chain_bytes"] for f in figures.values()])
    last = difference(figures, "chain_accuracy", "tuned_accuracy")
    sentence = (
        f"File, accuracy, and difference to the original: {'; '.join(told)}. The chain's file is {times.mean:.1f} times smaller than the original's, "
        f"and {'smaller than that of every single step on every seed' if smaller else 'not always smaller than those of single steps'}; int8 after "
        f"pruning and KD changed the accuracy by {points(last)}."
    )
    return altogether("held" if smaller else "did not hold", kept), sentence


CLAIM = Claim(
    number=49,
    claim="methods of compression combine: pruned, distilled and quantized, a network is smaller than by any one of these, and as good",
    source="a lecture on compression",
    setup="Digits, 1,200 rows; plain_6 with 32 to 128 channels (288,170 parameters) trained for 8 epochs. `limbeck.compress` with "
    "`Prune(macs=0.5, by='fpgm')`, `Tune` (KD from the original, T = 4, 6 epochs at 0.002) and `Quantize('int8')`; against pruning "
    "alone, int8 alone, and a network of the pruned shape with fresh weights, by KD for 14 epochs (as many as the chain with the original's) at 0.005; 597 "
    "test rows; bytes of the files. Held: on every seed the chain's file is smaller than that of every single step, and its accuracy is at most 1 point "
    "below the original's, by the whole interval.",
    settings="The condition was put down before test results were seen; epochs and rates are those of claim 23, chosen on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
