"""Claim 30: each generation of a born-again network improves, and the average of all students is best."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from common import (
    Batches,
    Claim,
    Figures,
    Judgement,
    Seeds,
    accuracy,
    column,
    difference,
    digits,
    network,
    outcome,
    percent,
    points,
)

import limbeck as lk
from limbeck.models import Ensemble

ROWS, EPOCHS, SIZE, NAME = 100, 60, 25, "digits_cnn"
OPTIMIZER = lk.Optimizer(kind="adamw", lr=5e-3, weight_decay=0.01)


def measure(seed: int) -> Figures:
    data = digits(seed)

    def batches() -> Batches:
        return Batches(data.train_x[:ROWS], data.train_y[:ROWS], SIZE, seed)

    def alone(start: int):
        net = network(NAME, start)
        return lk.train(net, batches(), epochs=EPOCHS, optimizer=OPTIMIZER, seed=seed, quiet=True)

    teacher = alone(seed)
    student: Any = lk.distill(  # the networks of its lessons hang on it
        teacher,
        network(NAME, seed + 5000),
        batches(),
        method=lk.BornAgain(generations=3),
        epochs=EPOCHS,
        optimizer=OPTIMIZER,
        seed=seed,
        quiet=True,
        fresh=lambda: lk.build(NAME, classes=10),
    )
    found = {
        "teacher": teacher,
        "first": student.lessons["1"],
        "second": student.lessons["2"],
        "third": student,
        "all": student.lessons["ensemble"],
        "alone_all": Ensemble([teacher, alone(seed + 6000), alone(seed + 7000)]),
    }
    return {name: accuracy(net, data.test_x, data.test_y) for name, net in found.items()}


def judge(figures: Seeds) -> Judgement:
    rows = ("teacher", "first", "second", "third")
    gains = {b: difference(figures, b, a) for a, b in pairwise(rows)}
    whole = difference(figures, "third", "teacher")
    lead = {name: difference(figures, "all", name) for name in rows}
    leads = {outcome(d) for d in lead.values()}
    best = "held" if leads == {"held"} else "did not hold" if "did not hold" in leads else "inconclusive"
    told = (
        f"Generations ({outcome(whole)}): teacher {percent(column(figures, 'teacher'))}, then "
        + ", ".join(f"{percent(column(figures, name))} ({points(d)} on the one before)" for name, d in gains.items())
        + f"; third - teacher {points(whole)}. Average of the three students ({best}): {percent(column(figures, 'all'))}, "
        + ", ".join(f"less {name} {points(d)}" for name, d in lead.items())
        + f". For comparison, the average of three networks trained from labels alone: {percent(column(figures, 'alone_all'))}; "
        f"average of the students less this {points(difference(figures, 'all', 'alone_all'))}."
    )
    both = {outcome(whole), best}
    return ("held" if both == {"held"} else "did not hold" if "did not hold" in both else "inconclusive"), told


CLAIM = Claim(
    number=30,
    claim="born-again generations improve on their teacher, and the average of all students is best",
    source="Furlanello, Lipton, Tschannen, Itti, Anandkumar: Born-Again Neural Networks (ICML 2018)",
    setup=f"Digits, {ROWS} rows, digits_cnn, {EPOCHS} epochs each: a teacher from labels, and BornAgain with three generations (T = 1, no "
    "labels), every one from fresh weights. Held: the third generation beats the teacher, and the average of the three beats the "
    "teacher and each of the three.",
    settings="The method's defaults; rows, epochs and rate (AdamW, 0.005, batches of 25) from a look at seeds 100 to 103.",
    measure=measure,
    judge=judge,
    seeds=tuple(range(10)),
)
