"""Claim 29: two networks that teach each other do better than alone; labels are needed, or they only copy each other."""

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
from torch import nn

import limbeck as lk

ROWS, EPOCHS, SIZE = 100, 60, 25
OPTIMIZER = lk.Optimizer(kind="adamw", lr=5e-3, weight_decay=0.01)
BIG, SMALL = "digits_cnn", "digits_cnn_thin"


def measure(seed: int) -> Figures:
    data = digits(seed)
    x, y = data.train_x[:ROWS], data.train_y[:ROWS]

    def together(method: lk.MutualLearning, *names: tuple[str, int]) -> list[nn.Module]:
        nets = [network(name, 10 * seed + k) for name, k in names]
        batches = Batches(x, y, SIZE, seed)
        return lk.train_together(
            nets, batches, method=method, epochs=EPOCHS, optimizer=OPTIMIZER, seed=seed, quiet=True
        )

    def right(net: nn.Module) -> float:
        return accuracy(net, data.test_x, data.test_y)

    def agreement(one: nn.Module, other: nn.Module) -> float:
        return float((scores(one, data.test_x).argmax(1) == scores(other, data.test_x).argmax(1)).float().mean())

    # Without the others' term each of them learns on its own, on the same batches.
    a, b, small = together(lk.MutualLearning(weight=0.0), (BIG, 0), (BIG, 1), (SMALL, 2))
    found = {"alone": (right(a) + right(b)) / 2, "alone_big": right(a), "alone_small": right(small)}
    found["alone_agreement"] = agreement(a, b)
    a, b = together(lk.MutualLearning(), (BIG, 0), (BIG, 1))
    found |= {"mutual": (right(a) + right(b)) / 2, "mutual_agreement": agreement(a, b)}
    a, small = together(lk.MutualLearning(), (BIG, 0), (SMALL, 2))
    found |= {"mixed_big": right(a), "mixed_small": right(small)}
    a, b = together(lk.MutualLearning(hard=0.0), (BIG, 0), (BIG, 1))
    return found | {"copying": (right(a) + right(b)) / 2, "copying_agreement": agreement(a, b)}


def judge(figures: Seeds) -> Judgement:
    same = difference(figures, "mutual", "alone")
    big = difference(figures, "mixed_big", "alone_big")
    small = difference(figures, "mixed_small", "alone_small")
    needed = difference(figures, "copying", "alone")
    agree = difference(figures, "copying_agreement", "alone_agreement")
    chance = all(abs(f["copying"] - 0.1) < 0.1 for f in figures.values())
    copying = chance and outcome(needed, higher_is_better=False) == "held" and outcome(agree) == "held"
    parts = {"same": outcome(same), "big": outcome(big), "labels": "held" if copying else "did not hold"}
    told = (
        f"Same architectures ({parts['same']}): {percent(column(figures, 'mutual'))} with each other, "
        f"{percent(column(figures, 'alone'))} alone, {points(same)}. "
        f"A small partner helps the big one ({parts['big']}): {percent(column(figures, 'mixed_big'))} with it, "
        f"{percent(column(figures, 'alone_big'))} alone, {points(big)}; the small one {points(small)} on "
        f"{percent(column(figures, 'alone_small'))}. "
        f"Without labels the two stay near chance and agree ({parts['labels']}): {percent(column(figures, 'copying'))}, agreement "
        f"{percent(column(figures, 'copying_agreement'))} (alone {percent(column(figures, 'alone_agreement'))}, with labels and "
        f"each other {percent(column(figures, 'mutual_agreement'))})."
    )
    whole = set(parts.values())
    return ("held" if whole == {"held"} else "did not hold" if "did not hold" in whole else "inconclusive"), told


CLAIM = Claim(
    number=29,
    claim="networks of the same kind that teach each other do better than alone, a small partner may help the big one, and without "
    "labels they only copy each other",
    source="Zhang, Xiang, Hospedales, Lu: Deep Mutual Learning (CVPR 2018)",
    setup=f"Digits, {ROWS} rows, {EPOCHS} epochs: MutualLearning (its defaults) of two digits_cnn, and of digits_cnn with digits_cnn_thin, "
    "against the same networks alone on the same batches; and of two digits_cnn without labels. Held: all three parts; the third: "
    "every seed within 10 points of chance, below training alone, and in more agreement.",
    settings="AdamW, rate 0.005, batches of 25, rows and epochs from a look at seeds 100 to 103.",
    measure=measure,
    judge=judge,
    seeds=tuple(range(10)),
)
