"""Claim 33: the soft targets may be the arithmetic or the geometric mean of several teachers."""

from __future__ import annotations

import torch
from common import (
    Claim,
    Judgement,
    Seeds,
    accuracy,
    balanced,
    column,
    difference,
    digits,
    network,
    outcome,
    percent,
    points,
    scores,
    taught,
)
from torch.nn.functional import cross_entropy, softmax

import limbeck as lk
from limbeck.models import Ensemble
from limbeck.stats import paired, summarise

TEACHERS, ROWS, STEPS = 5, 100, 800
TEMPERATURES = (1, 4)
MARGIN = 0.01


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, _ = balanced(data, 400)
    teachers = []
    for k in range(TEACHERS):
        rows = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(1000 * k + seed))[:ROWS]
        teachers.append(
            taught(
                network("digits_mlp", 1000 * k + seed, hidden=[64]),
                data.train_x[rows],
                data.train_y[rows],
                seed,
                steps=400,
            )
        )
    found = {"one": sum(accuracy(t, data.test_x, data.test_y) for t in teachers) / TEACHERS}
    each = torch.stack([scores(t, x) for t in teachers], 1).double()  # [rows, teachers, classes]
    student = network("digits_mlp", seed, hidden=[64])
    for averaging in ("arithmetic", "geometric"):
        mean = Ensemble(teachers, averaging)
        found[f"ensemble_{averaging}"] = accuracy(mean, data.test_x, data.test_y)
        p = softmax(scores(mean, x).double(), 1)
        found[f"bits_{averaging}"] = float(-(p * p.clamp_min(1e-300).log2()).sum(1).mean())
        for t in TEMPERATURES:
            student = network("digits_mlp", seed, hidden=[64])
            method = lk.EnsembleKD(averaging=averaging, temperature=t, soft=1.0, hard=0.0)
            taught(student, x, None, seed, teacher=teachers, method=method, steps=STEPS)
            found[f"{averaging}_{t}"] = accuracy(student, data.test_x, data.test_y)
    s = scores(student, x).double()
    whole = cross_entropy(s, softmax(each, 2).mean(1))
    parts = sum(cross_entropy(s, softmax(each[:, k], 1)) for k in range(TEACHERS)) / TEACHERS
    found["identity"] = float((whole - parts).abs() / whole)
    return found


def judge(figures: Seeds) -> Judgement:
    differences = {t: difference(figures, f"arithmetic_{t}", f"geometric_{t}") for t in TEMPERATURES}
    zero = dict.fromkeys(figures, -MARGIN)
    alike = all(
        outcome(
            paired({seed: sign * (f[f"arithmetic_{t}"] - f[f"geometric_{t}"]) for seed, f in figures.items()}, zero)
        )
        == "held"
        for t in TEMPERATURES
        for sign in (1, -1)
    )
    apart = any(abs(d.mean) > MARGIN and outcome(d) != "inconclusive" for d in differences.values())
    verdict = "held" if alike else "did not hold" if apart else "inconclusive"
    told = "; ".join(
        f"T = {t}: arithmetic {percent(column(figures, f'arithmetic_{t}'))}, geometric {percent(column(figures, f'geometric_{t}'))}, difference {points(d)}"
        for t, d in differences.items()
    )
    bits = {a: summarise(column(figures, f"bits_{a}").values()) for a in ("arithmetic", "geometric")}
    sentence = (
        f"Students of five teachers ({percent(column(figures, 'one'))} each): {told}. The two means themselves have "
        f"{percent(column(figures, 'ensemble_arithmetic'))} and {percent(column(figures, 'ensemble_geometric'))}, and their targets "
        f"{bits['arithmetic'].mean:.3f} and {bits['geometric'].mean:.3f} bits at T = 1. The cross-entropy with the arithmetic mean is the mean of the five cross-entropies "
        f"(relative difference at most {max(column(figures, 'identity').values()):.1g})."
    )
    return verdict, sentence


CLAIM = Claim(
    number=33,
    claim="soft targets may be the arithmetic or the geometric mean of several teachers: both serve alike",
    source="Hinton, Vinyals, Dean, arXiv 1503.02531, sections 1 and 2",
    setup="Digits: five teachers 64-64-10 on 100 rows each, drawn anew for each, 400 steps; students 64-64-10 by `EnsembleKD` on 400 balanced rows without labels, 800 steps, at "
    "T = 1 and T = 4. It holds if at both temperatures the interval of the difference lies within one point, and does not hold if at one of them a difference of more than a point is clear.",
    settings="Rows, steps, networks and the margin were chosen on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
