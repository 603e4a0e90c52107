"""Claim 4: a hard label says at most log2 N bits; a soft one at a high temperature comes near them."""

from __future__ import annotations

import math

from common import Batches, Claim, Judgement, Seeds, accuracy, column, digits, network, scores
from torch import nn

import limbeck as lk
from limbeck.stats import summarise

TEMPERATURES = (1, 4, 20)


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    teacher = lk.train(
        network("digits_cnn", seed), Batches(data.train_x, data.train_y, 64, seed), epochs=20, seed=seed, quiet=True
    )
    logits = scores(teacher, data.test_x)
    found = {"teacher": accuracy(teacher, data.test_x, data.test_y)}
    for t in TEMPERATURES:
        p = nn.functional.softmax(logits.double() / t, 1)
        found[f"bits_{t}"] = float(-(p * p.clamp_min(1e-300).log2()).sum(1).mean())
    return found


def judge(figures: Seeds) -> Judgement:
    bits = {t: summarise(column(figures, f"bits_{t}").values()) for t in TEMPERATURES}
    limit = math.log2(10)
    rising = all(f["bits_1"] < f["bits_4"] < f["bits_20"] <= limit for f in figures.values())
    told = ", ".join(f"T = {t}: {s.mean:.3f} ± {s.std:.3f}" for t, s in bits.items())
    sentence = f"Entropy of the teacher's soft labels in bits, limit {limit:.3f}: {told} (n = {bits[1].n})."
    return ("held" if rising else "did not hold"), sentence


CLAIM = Claim(
    number=4,
    claim="a hard label constrains a network by at most log2 N bits per example; softening lets more of them be used",
    source="Hinton, Vinyals, Dean, arXiv 1503.02531",
    setup="Digits, digits_cnn trained for 20 epochs on 1,200 rows; entropy of its softened scores on 597 test rows.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2),
)
