"""Claim 2: distillation may be problematic for two classes; what it brings depends on their number."""

from __future__ import annotations

from functools import partial

import torch
from common import (
    Claim,
    Images,
    Judgement,
    Seeds,
    accuracy,
    balanced,
    big_mlp,
    column,
    difference,
    digits,
    network,
    outcome,
    percent,
    points,
    taught,
    unanimous,
)
from torch import Tensor

import limbeck as lk
from limbeck.models import GroupedHead

ROWS, STEPS = 100, 800
PLAIN = lk.KD(temperature=4, soft=1.0, hard=0.0)


def merged(seed: int, classes: int) -> list[list[int]]:
    """The ten digits in groups of the same size, drawn by the seed."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
    size = 10 // classes
    return [sorted(order[k * size : (k + 1) * size]) for k in range(classes)]


def coarse(y: Tensor, groups: list[list[int]]) -> Tensor:
    return torch.tensor([next(g for g, group in enumerate(groups) if k in group) for k in range(10)])[y]


def student(seed: int, x: Tensor, y: Tensor, heads: int, **how) -> torch.nn.Module:
    return taught(network("digits_mlp", seed, classes=heads, hidden=[10, 10]), x, y, seed, steps=STEPS, **how)


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, fine = balanced(data, ROWS)
    found: dict[str, float] = {}
    knows_ten = None
    for classes in (10, 5, 2):
        groups = merged(seed, classes) if classes < 10 else [[k] for k in range(10)]
        told = Images(data.train_x, coarse(data.train_y, groups), data.test_x, coarse(data.test_y, groups))
        teacher = big_mlp(seed, told.train_x, told.train_y, classes=classes)
        knows_ten = knows_ten or teacher
        found[f"teacher_{classes}"] = accuracy(teacher, told.test_x, told.test_y)

        pupil = partial(student, seed, x, coarse(fine, groups))
        found[f"labels_{classes}"] = accuracy(pupil(classes), told.test_x, told.test_y)
        found[f"kd_{classes}"] = accuracy(pupil(classes, teacher=teacher, method=PLAIN), told.test_x, told.test_y)
        if classes == 2:
            summed = lk.GroupedKD(groups=tuple(map(tuple, groups)), temperature=4, soft=1.0, hard=0.0)
            found["summed_2"] = accuracy(pupil(2, teacher=knows_ten, method=summed), told.test_x, told.test_y)
            wide = GroupedHead(pupil(10, teacher=knows_ten, method=PLAIN), groups)
            found["ten_heads_2"] = accuracy(wide, told.test_x, told.test_y)
    for classes in (10, 5, 2):
        found[f"gain_{classes}"] = found[f"kd_{classes}"] - found[f"labels_{classes}"]
        found[f"closed_{classes}"] = found[f"gain_{classes}"] / (1 - found[f"labels_{classes}"])
    return found


def judge(figures: Seeds) -> Judgement:
    more = difference(figures, "gain_10", "gain_2")
    share = difference(figures, "closed_10", "closed_2")
    helps = difference(figures, "kd_2", "labels_2")
    verdict = unanimous(outcome(more), outcome(share))
    gains = ", ".join(
        f"{n} classes {points(difference(figures, f'kd_{n}', f'labels_{n}'))} (from {percent(column(figures, f'labels_{n}'))}; "
        f"{percent(column(figures, f'closed_{n}'))} of the errors gone)"
        for n in (10, 5, 2)
    )
    sentence = (
        f"Gain over labels alone: {gains}. Ten classes against two: {points(more)} more, and {points(share)} more of the errors. With two classes "
        f"distillation {'helped' if outcome(helps) == 'held' else 'hurt' if outcome(helps) == 'did not hold' else 'made no clear difference'}; "
        f"against the two-class teacher, a ten-class teacher summed to two gave {points(difference(figures, 'summed_2', 'kd_2'))}, and a student with "
        f"ten heads, summed afterwards, {points(difference(figures, 'ten_heads_2', 'kd_2'))}."
    )
    return verdict, sentence


CLAIM = Claim(
    number=2,
    claim="distillation brings less where there are two classes, since what it brings depends on the number of classes",
    source="surveys of distillation, on its weak sides",
    setup="Digits merged into 5 and 2 groups drawn by the seed: teacher 64-256-256-N with dropout on 1,200 rows, student 64-10-10-N by labels or by "
    "soft targets alone (T = 4) on 100 balanced rows, 800 steps. It holds if the gain with ten classes is clearly above that with two both in points "
    "and as a share of the errors.",
    settings="Rows, steps and the condition were chosen on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
