"""Claim 17: a backbone trained with NST detects better than the plain one."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from common import (
    Batches,
    Claim,
    Images,
    Judgement,
    Seeds,
    accuracy,
    cifar10,
    column,
    difference,
    network,
    outcome,
    percent,
    points,
)
from detector import CLASSES, Detect, Detector, Flipped, bccd, precisions
from torch import nn
from torch.nn.functional import avg_pool2d

import limbeck as lk
from limbeck.stats import summarise

ROWS, EPOCHS, DETECTION_EPOCHS, NST = 3000, 10, 8, lk.NST(weight=5.0)
ARMS = {"fresh": "no pre-training", "labels": "labels alone", "nst": "NST"}


def halved(seed: int, rows: int) -> Images:
    """CIFAR-10 at 16x16."""
    d = cifar10(seed, rows, 1000)
    return Images(avg_pool2d(d.train_x, 2), d.train_y, avg_pool2d(d.test_x, 2), d.test_y)


@cache
def teacher(rows: int = 10_000, epochs: int = 8) -> nn.Module:
    """One for all seeds, which knows more images than the students."""
    data = halved(1000, rows)
    model, batches = network("resnet8", 1000, size=16), Batches(data.train_x, data.train_y, 100, 1000)
    return lk.train(model, batches, epochs=epochs, optimizer=lk.Optimizer(lr=0.1), seed=1000, quiet=True)


def pretrained(data: Images, seed: int, method: Any) -> nn.Module:
    """The student on CIFAR-10, from labels alone or with a method."""
    student, batches = network("plain_4", seed, size=16), Batches(data.train_x, data.train_y, 100, seed)
    how = {"epochs": EPOCHS, "optimizer": lk.Optimizer(lr=0.05), "seed": seed, "quiet": True}
    return (
        lk.train(student, batches, **how)
        if method is None
        else lk.distill(teacher(), student, batches, method=method, **how)
    )


def detector(backbone: nn.Module, seed: int) -> Detector:
    """The backbone up to its last maps and a head that is the same for the same seed, both trained on photographs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Detector(nn.Sequential(*list(backbone.children())[:4]), 32)
    how = {"epochs": DETECTION_EPOCHS, "optimizer": lk.Optimizer(kind="adamw", lr=3e-3, weight_decay=0.01)}
    lk.train(model, Flipped(bccd("train"), 8, seed), method=Detect(), seed=seed, quiet=True, **how)
    return model


def measure(seed: int) -> dict[str, float]:
    data, test = halved(seed, ROWS), bccd("test")
    backbones = {
        "fresh": network("plain_4", seed, size=16),
        "labels": pretrained(data, seed, None),
        "nst": pretrained(data, seed, NST),
    }
    found = {"teacher": accuracy(teacher(), data.test_x, data.test_y)}
    for name, backbone in backbones.items():
        if name != "fresh":
            found[f"cifar_{name}"] = accuracy(backbone, data.test_x, data.test_y)
        each = precisions(detector(backbone, seed), test)
        found[f"map_{name}"] = sum(each) / len(each)
        found |= {f"{kind}_{name}": value for kind, value in zip(CLASSES, each, strict=True)}
    return found


def judge(figures: Seeds) -> Judgement:
    gain = difference(figures, "map_nst", "map_labels")
    maps = "; ".join(f"{title} {percent(column(figures, f'map_{name}'))}" for name, title in ARMS.items())
    each = ", ".join(f"{kind} {points(difference(figures, f'{kind}_nst', f'{kind}_labels'))}" for kind in CLASSES)
    cifar = " and ".join(f"{percent(column(figures, f'cifar_{name}'))} ({ARMS[name]})" for name in ("labels", "nst"))
    known = 100 * summarise(column(figures, "teacher").values()).mean
    return outcome(gain), (
        f"Mean average precision by the backbone's pre-training: {maps}. NST against labels alone {points(gain)}; by class {each}. "
        f"Pre-training with labels against none {points(difference(figures, 'map_labels', 'map_fresh'))}. Accuracy of the "
        f"backbones on CIFAR-10 before detection: {cifar}; of the teacher {known:.1f} %."
    )


CLAIM = Claim(
    number=17,
    claim="a backbone trained with NST detects better than the plain one",
    source="Huang, Wang, arXiv 1707.01219 (there: PASCAL VOC 2007, Faster R-CNN)",
    setup=(
        "Backbone plain_4, 10 epochs on 3,000 images of CIFAR-10 at 16x16, with and without NST from a resnet8 trained on 10,000; then "
        "a one-stage grid detector on BCCD (205 photographs at 96x128, three kinds of blood cells, 8 epochs, backbone included); mean "
        "average precision at an overlap of 0.5 (area under the curve) on its 72 test photographs. Paired by seed (images, starting "
        "weights of backbone and head, batches)."
    ),
    settings=(
        "NST's weight (5 of 5, 20, 50) by the student's accuracy on 1,500 other training images of CIFAR-10, seeds 100 and 101; the "
        "detector's rate and epochs on BCCD's validation part with a backbone without pre-training, seed 100."
    ),
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3),
)
