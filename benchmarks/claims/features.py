"""What the experiments on hidden layers share: teachers, few labels, one training per arm, and how arms become a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from common import (
    Batches,
    Images,
    Outcome,
    Seeds,
    accuracy,
    altogether,
    balanced,
    column,
    difference,
    network,
    outcome,
    percent,
    points,
)
from torch import nn

import limbeck as lk

FEW = (
    "Digits; teacher digits_cnn, 1,200 rows (about 98 %); student digits_cnn_thin on 100 of these rows, 10 of each class, "
    "100 epochs of 4 batches for every arm (hints included), AdamW at 0.01, cosine; 597 test rows; paired by "
    "seed (division, teacher, starting weights, batches)."
)
DEEP = (
    "Digits; teacher an MLP 128-128-128-128 (1,200 rows, about 98 %); student an MLP of 14 hidden layers of 12 units without "
    "normalisation, the same 1,200 rows, 60 epochs of batches of 64 for every arm (hints included), AdamW at 0.003, cosine; 597 "
    "test rows; paired by seed (division, teacher, starting weights, batches)."
)


def adam(lr: float) -> lk.Optimizer:
    """The optimizer of all arms."""
    return lk.Optimizer(kind="adamw", lr=lr, weight_decay=0.01)


def few(data: Images, rows: int) -> Images:
    """The first rows of each of the ten classes, equally many, to train on; the same test part."""
    x, y = balanced(data, rows)
    return replace(data, train_x=x, train_y=y)


def teacher(data: Images, seed: int, name: str = "digits_cnn", **options: Any) -> nn.Module:
    """A network that learnt from all labelled rows."""
    model, batches = network(name, seed, **options), Batches(data.train_x, data.train_y, 64, seed)
    return lk.train(model, batches, epochs=15, optimizer=adam(3e-3), seed=seed, quiet=True)


def taught(
    source: nn.Module,
    data: Images,
    seed: int,
    method: Any,
    *,
    name: str = "digits_cnn_thin",
    epochs: int = 100,
    size: int = 25,
    lr: float = 1e-2,
    training: lk.Training | None = None,
    **options: Any,
) -> nn.Module:
    """One arm: a fresh student, the same for the same seed, and its training; no method means labels alone."""
    model, batches = network(name, seed + 7, **options), Batches(data.train_x, data.train_y, size, seed)
    how = training or lk.Training(epochs=epochs, optimizer=adam(lr))
    if method is None:
        return lk.train(model, batches, training=how, seed=seed, quiet=True)
    return lk.distill(source, model, batches, method=method, training=how, seed=seed, quiet=True)


def deep(source: nn.Module, data: Images, seed: int, method: Any) -> nn.Module:
    """An arm of the thin and deep student (`DEEP`)."""
    return taught(source, data, seed, method, name="digits_mlp", hidden=[12] * 14, epochs=60, size=64, lr=3e-3)


def test_accuracy(model: nn.Module, data: Images) -> float:
    """On the rows that nobody learnt from."""
    return accuracy(model, data.test_x, data.test_y)


def told(figures: Seeds, names: Mapping[str, str]) -> str:
    """The means of some arms: figure name -> what to call it."""
    return "; ".join(f"{title} {percent(column(figures, name))}" for name, title in names.items())


def against(figures: Seeds, one: str, others: Mapping[str, str]) -> str:
    """The paired differences of one arm to some others."""
    return "; ".join(f"to {title} {points(difference(figures, one, name))}" for name, title in others.items())


def clearly_above(figures: Seeds, one: str, others: Sequence[str]) -> Outcome:
    """Whether one arm beats every one of the others."""
    return altogether(*(outcome(difference(figures, one, other)) for other in others))
