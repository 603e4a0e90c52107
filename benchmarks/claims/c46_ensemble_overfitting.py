"""Claim 46: distilling from an ensemble stops over-fitting."""

from __future__ import annotations

from common import (
    Claim,
    Judgement,
    Seeds,
    accuracy,
    balanced,
    brief,
    column,
    difference,
    digits,
    network,
    outcome,
    points,
    scores,
    taught,
    unanimous,
)
from torch.nn.functional import cross_entropy

import limbeck as lk
from limbeck.models import Ensemble
from limbeck.stats import summarise

ROWS, STEPS, HIDDEN = 200, 800, [64, 64]
COUNTS = (1, 3, 5)


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, y = balanced(data, ROWS)
    teachers = [
        taught(network("digits_mlp", 1000 * k + seed, hidden=HIDDEN), x, y, 1000 * k + seed, steps=STEPS)
        for k in range(1, max(COUNTS) + 1)
    ]
    students = {"labels": taught(network("digits_mlp", seed, hidden=HIDDEN), x, y, seed, steps=STEPS)}
    for n in COUNTS:
        student = network("digits_mlp", seed, hidden=HIDDEN)
        students[f"from_{n}"] = taught(
            student,
            x,
            y,
            seed,
            teacher=teachers[:n],
            method=lk.EnsembleKD(temperature=4, soft=0.9, hard=0.1),
            steps=STEPS,
        )
    found = {}
    for name, model in {**students, "ensemble": Ensemble(teachers)}.items():
        found[name] = accuracy(model, data.test_x, data.test_y)
        found[f"gap_{name}"] = accuracy(model, x, y) - found[name]
        found[f"nll_{name}"] = float(cross_entropy(scores(model, data.test_x), data.test_y))
        found[f"nll_gap_{name}"] = found[f"nll_{name}"] - float(cross_entropy(scores(model, x), y))
    return found


def judge(figures: Seeds) -> Judgement:
    whole, more = difference(figures, "gap_labels", "gap_from_5"), difference(figures, "gap_from_1", "gap_from_5")
    verdict = unanimous(outcome(whole), outcome(more))
    names = {"labels": "labels alone", "from_1": "one teacher", "from_3": "three", "from_5": "five"}
    gaps = ", ".join(f"{title} {brief(column(figures, f'gap_{name}'))}" for name, title in names.items())
    tests = ", ".join(f"{title} {brief(column(figures, name))}" for name, title in names.items())
    loss = ", ".join(
        f"{title} {summarise(column(figures, f'nll_gap_{name}').values()).mean:.3f}" for name, title in names.items()
    )
    less = difference(figures, "nll_gap_from_1", "nll_gap_from_5")
    sentence = (
        f"Training minus test accuracy in points: {gaps} (n = {whole.n}). The gap with five teachers is smaller than by labels alone by "
        f"{points(whole)}, than with one by {points(more)}. Test accuracy in percent: {tests}; the ensemble of five itself "
        f"{brief(column(figures, 'ensemble'))}. Test minus training cross-entropy: {loss}; five against one "
        f"{-less.mean:+.3f} [{-(less.high or 0):+.3f}, {-(less.low or 0):+.3f}]."
    )
    return verdict, sentence


CLAIM = Claim(
    number=46,
    claim="distilling from an ensemble stops over-fitting: the gap between training and test closes with more teachers",
    source="FEED, arXiv 1909.10754, as surveys tell it",
    setup="Digits: five teachers and the student 64-64-64-10, all on the same 200 balanced rows with labels; student by `EnsembleKD` (T = 4, 0.9 / 0.1) from 1, 3 and 5 of them, 800 steps. It holds if the gap "
    "in accuracy with five teachers is clearly smaller than by labels alone and than with one.",
    settings="Rows, steps and the condition were chosen on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
