"""Claim 36: shallow nets that mimic reach the deep net; better with a better teacher, with unlabelled rows, and than dropout."""

from __future__ import annotations

import torch
from common import (
    Batches,
    Claim,
    Figures,
    Judgement,
    Seeds,
    accuracy,
    altogether,
    column,
    difference,
    digits,
    network,
    no_worse,
    outcome,
    percent,
    points,
)
from torch import Tensor
from torch.nn.functional import pad

import limbeck as lk
from limbeck.models import Ensemble

ROWS, EPOCHS, SIZE, DROPOUT, MARGIN = 300, 60, 25, 0.1, 0.01
OPTIMIZER = lk.Optimizer(kind="adamw", lr=2e-3, weight_decay=0.01)
DEEP = {"name": "digits_cnn", "size": 10}
SHALLOW = {"name": "digits_mlp", "size": 10, "hidden": [216]}  # 23,986 parameters; the deep one has 24,058


def wandering(x: Tensor, seed: int) -> Tensor:
    """Each digit at a place of its own in a picture of 10x10: what a deep net of convolutions knows better."""
    at = torch.randint(0, 3, (len(x), 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([pad(one, (c, 2 - c, r, 2 - r)) for one, (r, c) in zip(x, at, strict=True)])


def measure(seed: int) -> Figures:
    data = digits(seed)
    x, y, test = wandering(data.train_x, seed), data.train_y, wandering(data.test_x, seed + 1)

    def how(rows: int) -> dict:
        return {"epochs": EPOCHS * ROWS // rows, "optimizer": OPTIMIZER, "seed": seed, "quiet": True}

    def right(net, rows=None) -> float:
        return accuracy(net, test, data.test_y) if rows is None else accuracy(net, x[:rows], y[:rows])

    def alone(net):
        return lk.train(net, Batches(x[:ROWS], y[:ROWS], SIZE, seed), **how(ROWS))

    def mimic(teacher, rows: int):
        batches = Batches(x[:rows], None, SIZE, seed)  # no labels are given at all
        return lk.distill(teacher, network(seed=seed, **SHALLOW), batches, method=lk.LogitMatching(), **how(rows))

    weak = alone(network(seed=seed, **{**DEEP, "name": "digits_cnn_thin"}))
    deep = [alone(network(seed=1000 * k + seed, **DEEP)) for k in range(3)]
    nets = {
        "weak": weak,
        "deep": deep[0],
        "ensemble": Ensemble(deep, averaging="geometric"),
        "labels": alone(network(seed=seed, **SHALLOW)),
        "dropout": alone(network(seed=seed, **SHALLOW, dropout=DROPOUT)),
        "mimic": mimic(deep[0], ROWS),
        "mimic_more": mimic(deep[0], 1200),
    }
    nets["mimic_more_weak"] = mimic(weak, 1200)
    nets["mimic_more_ensemble"] = mimic(nets["ensemble"], 1200)
    found = {name: right(net) for name, net in nets.items()}
    return found | {f"{name}_gap": right(nets[name], ROWS) - found[name] for name in ("labels", "dropout", "mimic")}


def judge(figures: Seeds) -> Judgement:
    def over(one: str, other: str):
        return difference(figures, one, other)

    reach = over("mimic_more", "deep")
    near = no_worse(reach, MARGIN)
    better = over("mimic_more_ensemble", "mimic_more_weak")
    more, drop = over("mimic_more", "mimic"), over("mimic", "dropout")
    parts = {"reaches": near, "teacher": outcome(better), "more rows": outcome(more), "dropout": outcome(drop)}
    mean = {name: percent(column(figures, name)) for name in next(iter(figures.values())) if name != "cpu_seconds"}
    told = (
        f"Reaches the deep net, within {100 * MARGIN:g} point ({near}): mimic on all rows {mean['mimic_more']}, deep net {mean['deep']}, "
        f"{points(reach)}; shallow net from labels {mean['labels']}, mimic less this {points(over('mimic_more', 'labels'))}. "
        f"Better with a better teacher ({parts['teacher']}): {mean['mimic_more_weak']} from one with {mean['weak']}, "
        f"{mean['mimic_more_ensemble']} from an average of three with {mean['ensemble']}, {points(better)}. "
        f"Better with 900 unlabelled rows ({parts['more rows']}): {mean['mimic']} without, {points(more)}. "
        f"Better than dropout ({parts['dropout']}): mimic on the {ROWS} rows {mean['mimic']}, labels with dropout {mean['dropout']}, "
        f"{points(drop)}; training less test accuracy {mean['mimic_gap']}, {mean['dropout_gap']}, without either {mean['labels_gap']}."
    )
    return altogether(*parts.values()), told


CLAIM = Claim(
    number=36,
    claim="a shallow net that mimics a deep one reaches its accuracy, does better with a better teacher and with unlabelled data, and "
    "resists overfitting better than with dropout",
    source="Ba, Caruana: Do Deep Nets Really Need to be Deep? (NIPS 2014)",
    setup=f"Digits at random places in 10x10 pixels, {ROWS} labelled rows. Deep: digits_cnn; shallow: one hidden layer, as many parameters; "
    f"LogitMatching without labels, on the same rows or on 1,200, with as many steps ({EPOCHS} epochs of {ROWS} rows). Worse teacher: "
    "digits_cnn_thin; better: the average of three digits_cnn. Held: all four parts.",
    settings=f"AdamW, rate 0.002, batches of 25, dropout of {DROPOUT:g} (best of 0.1, 0.2, 0.3, 0.5) and rows from a look at seeds 100 to 102. Digits in the "
    "middle of the picture were left: there the shallow net from labels beats the deep ones.",
    measure=measure,
    judge=judge,
)
