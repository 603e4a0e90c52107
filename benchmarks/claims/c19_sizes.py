"""Claim 19: where two maps differ in size, interpolate one to the size of the other (rather than pooling the larger)."""

from __future__ import annotations

import torch
from common import Claim, Judgement, Seeds, difference, digits, outcome
from features import FEW, against, few, taught, teacher, test_accuracy, told

import limbeck as lk
from limbeck.losses import nst_mmd

PAIR = ("layer3", "layer1")  # 4x4 beside the teacher's 8x8
NAMES = {"labels": "labels alone", "interpolate": "interpolated to the larger", "pool": "pooled to the smaller"}
WEIGHT = 1.0


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    big, rows = teacher(data, seed), few(data, 100)
    found = {"labels": test_accuracy(taught(big, rows, seed, None), data)}
    for resize in ("interpolate", "pool"):
        method = lk.NST(pairs=(PAIR,), form="benchmark", weight=WEIGHT, resize=resize)
        found[resize] = test_accuracy(taught(big, rows, seed, method), data)
    x = torch.rand(20, 6, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = torch.rand(20, 9, 4, 4, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return {**found, "halving": float((nst_mmd(x, y, resize="pool") - nst_mmd(x, y, resize="interpolate")).abs().max())}


def judge(figures: Seeds) -> Judgement:
    apart = max(f["halving"] for f in figures.values())
    sentence = (
        f"Test accuracy: {told(figures, NAMES)}. Interpolation compared "
        f"{against(figures, 'interpolate', {'pool': 'pooling', 'labels': 'labels alone'})}; pooling compared "
        f"{against(figures, 'pool', {'labels': 'labels alone'})}. The other way round, a student's map exactly twice as large as the "
        f"teacher's, there is nothing to choose: bilinear interpolation is then the mean of 2x2 positions (values apart by {apart:.0e})."
    )
    return outcome(difference(figures, "interpolate", "pool")), sentence


CLAIM = Claim(
    number=19,
    claim="where the maps of teacher and student differ in size, interpolation makes them comparable",
    source="notes on Huang, Wang, arXiv 1707.01219; the benchmark pools",
    setup=FEW
    + " NST (polynomial kernel) from the teacher's layer1 (8x8) to the student's layer3 (4x4), beside the labels: the student's map "
    "interpolated to 8x8, or the teacher's pooled to 4x4. The verdict asks interpolation to beat pooling.",
    settings="The weight 1 is the best of 1, 5, 25 for NST at equal sizes on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
