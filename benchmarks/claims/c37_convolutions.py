"""Claim 37: students without convolutions cannot match those with; one or two convolutions are not enough."""

from __future__ import annotations

from common import (
    Batches,
    Claim,
    Figures,
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
from torch.nn.functional import avg_pool2d

import limbeck as lk
from limbeck.models import students

ROWS, EPOCHS, SIZE, BUDGET = 2000, 15, 50, 60_000
OPTIMIZER = lk.Optimizer(kind="adamw", lr=2e-3, weight_decay=0.01)
TEACHER = {"name": "plain_6", "size": 16}
CHOSEN = students(BUDGET, size=16, width=16)


def halved(seed: int) -> Images:
    """A part of CIFAR-10 at 16x16 pixels, so that it trains in seconds."""
    data = cifar10(seed, ROWS)
    return Images(avg_pool2d(data.train_x, 2), data.train_y, avg_pool2d(data.test_x, 2), data.test_y)


def measure(seed: int) -> Figures:
    data = halved(seed)
    how = {"epochs": EPOCHS, "optimizer": OPTIMIZER, "seed": seed, "quiet": True}

    def batches() -> Batches:
        return Batches(data.train_x, data.train_y, SIZE, seed)

    def right(net) -> float:
        return accuracy(net, data.test_x, data.test_y)

    teacher = lk.train(network(seed=seed, **TEACHER), batches(), **how)
    found = {"teacher": right(teacher)}
    for name, options in CHOSEN.items():
        start = {"name": "mimic", "seed": seed, "size": 16, **options}
        found[f"labels_{name}"] = right(lk.train(network(**start), batches(), **how))
        found[f"mimic_{name}"] = right(
            lk.distill(teacher, network(**start), batches(), method=lk.LogitMatching(), **how)
        )
    return found


def judge(figures: Seeds) -> Judgement:
    told = [f"Teacher {percent(column(figures, 'teacher'))}."]
    told += [
        f"{name.removeprefix('convs_')} convolution(s): {percent(column(figures, f'labels_{name}'))} from labels, "
        f"{percent(column(figures, f'mimic_{name}'))} from the teacher's logits "
        f"({points(difference(figures, f'mimic_{name}', f'labels_{name}'))})."
        for name in CHOSEN
    ]
    none = {n: difference(figures, "mimic_convs_0", f"mimic_convs_{n}") for n in (1, 2, 3)}
    few = {n: difference(figures, f"mimic_convs_{n}", "teacher") for n in (1, 2)}
    third = {n: difference(figures, f"mimic_convs_{n}", "mimic_convs_3") for n in (1, 2)}
    parts = [{outcome(d, higher_is_better=False) for d in group.values()} for group in (none, few)]
    said = ["held" if p == {"held"} else "did not hold" if "did not hold" in p else "inconclusive" for p in parts]
    told += [
        f"None against some ({said[0]}): " + ", ".join(f"0 - {n} {points(d)}" for n, d in none.items()) + ".",
        f"One or two against the teacher ({said[1]}): " + ", ".join(f"{n} - teacher {points(d)}" for n, d in few.items())
        + "; against three, not judged: " + ", ".join(f"{n} - 3 {points(d)}" for n, d in third.items()) + ".",
    ]  # fmt: skip
    deep = {n: difference(figures, "teacher", f"labels_convs_{n}") for n in (1, 2)}
    if any(outcome(d) != "held" for d in deep.values()):
        lead = ", ".join(f"teacher - {n} {points(d)}" for n, d in deep.items())
        told.append(
            f"From labels the teacher is not clearly above both ({lead}): with so few rows depth hardly pays, and the second part "
            "has little to test."
        )
    whole = "held" if set(said) == {"held"} else "did not hold" if "did not hold" in said else "inconclusive"
    return whole, " ".join(told)


CLAIM = Claim(
    number=37,
    claim="networks without convolutions cannot match those with convolutions at equal size, distilled or not, and one or two "
    "convolutions are not enough to match a deep network",
    source="Urban et al.: Do Deep Convolutional Nets Really Need to be Deep and Convolutional? (ICLR 2017)",
    setup=f"{ROWS:,} rows of CIFAR-10 at 16x16 pixels, 2,000 test rows; students of {BUDGET:,} parameters with 0 to 3 convolutions "
    f"(limbeck.models.students), {EPOCHS} epochs from labels and by LogitMatching; teacher plain_6, 6 convolutions, on the same rows. "
    "Held: mimics without convolutions are below those with 1, 2 and 3, and those with 1 and 2 below the teacher.",
    settings="Rate (AdamW, 0.002) and batches of 50 from a look at seed 100; epochs and the width of the teacher cut for time.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3),
)
