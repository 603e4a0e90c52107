"""Claim 32: comparing notes after every question is better than averaging the finished exams."""

from __future__ import annotations

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
    scores,
)

import limbeck as lk
from limbeck.models import Ensemble

MEMBERS, ROWS, EPOCHS, SIZE, TEMPERATURE = 4, 100, 60, 25, 4.0
OPTIMIZER = lk.Optimizer(kind="adamw", lr=5e-3, weight_decay=0.01)


def measure(seed: int) -> Figures:
    data = digits(seed)
    found: dict[str, float] = {}
    for name, weight in (("alone", 0.0), ("cohort", 1.0)):
        nets = [network("digits_cnn", 10 * seed + k) for k in range(MEMBERS)]
        lk.train_together(
            nets,
            Batches(data.train_x[:ROWS], data.train_y[:ROWS], SIZE, seed),
            method=lk.Cohort(temperature=TEMPERATURE, weight=weight),
            epochs=EPOCHS,
            optimizer=OPTIMIZER,
            seed=seed,
            quiet=True,
        )
        said = [scores(net, data.test_x).argmax(1) for net in nets]
        pairs = [(a, b) for k, a in enumerate(said) for b in said[:k]]
        found[name] = sum(accuracy(net, data.test_x, data.test_y) for net in nets) / MEMBERS
        found[f"{name}_average"] = accuracy(Ensemble(nets), data.test_x, data.test_y)
        found[f"{name}_disagreement"] = sum(float((a != b).float().mean()) for a, b in pairs) / len(pairs)
    return found


def judge(figures: Seeds) -> Judgement:
    average, member = difference(figures, "cohort_average", "alone_average"), difference(figures, "cohort", "alone")
    notes = difference(figures, "cohort", "alone_average")
    fewer = difference(figures, "cohort_disagreement", "alone_disagreement")
    told = (
        f"Average of {MEMBERS} that compared notes {percent(column(figures, 'cohort_average'))}, of {MEMBERS} that did not "
        f"{percent(column(figures, 'alone_average'))}: {points(average)}. One member: {percent(column(figures, 'cohort'))} and "
        f"{percent(column(figures, 'alone'))}, {points(member)}; a member that compared notes less the average of those that did not "
        f"{points(notes)}. Two members disagree on {percent(column(figures, 'cohort_disagreement'))} and "
        f"{percent(column(figures, 'alone_disagreement'))}, {points(fewer)}."
    )
    return outcome(average), told


CLAIM = Claim(
    number=32,
    claim="networks that compare notes while they learn, and are averaged at the end, beat networks that are only averaged at the end",
    source="Hinton, Vinyals, Dean: Dark knowledge (talk, 2014)",
    setup=f"Digits, {ROWS} rows, {MEMBERS} digits_cnn, {EPOCHS} epochs: Cohort with weight 1 against weight 0, the same starts and "
    "batches; average of probabilities on 597 test rows. Held: the average with notes is better than the one without.",
    settings=f"T = {TEMPERATURE:g} (against 1), AdamW, rate 0.005, batches of 25, from a look at seeds 100 to 103.",
    measure=measure,
    judge=judge,
    seeds=tuple(range(10)),
)
