"""Claim 5: the teacher's accuracy is no upper bound for the student's."""

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
    taught,
)
from torch import nn

import limbeck as lk
from limbeck.stats import paired

ROWS, STEPS = 200, 800
WAYS = {
    "same": ("the same network", "teacher"),
    "more": ("the same network with 1,000 unlabelled rows more", "teacher"),
    "larger": ("a larger network", "small_teacher"),
}


def wide(seed: int, width: int = 64) -> nn.Module:
    return network("digits_mlp", seed, hidden=[width, width])


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, y = balanced(data, ROWS)
    both = lk.KD(temperature=4, soft=0.9, hard=0.1)
    alone = lk.KD(temperature=4, soft=1.0, hard=0.0)
    teacher = taught(wide(1000 + seed), x, y, seed, steps=STEPS)
    small = taught(wide(1000 + seed, 10), x, y, seed, steps=STEPS)
    models = {
        "teacher": teacher,
        "small_teacher": small,
        "labels": taught(wide(seed), x, y, seed, steps=STEPS),
        "same": taught(wide(seed), x, y, seed, teacher=teacher, method=both, steps=STEPS),
        "more": taught(wide(seed), data.train_x, None, seed, teacher=teacher, method=alone, steps=STEPS),
        "larger": taught(wide(seed), x, y, seed, teacher=small, method=both, steps=STEPS),
    }
    return {name: accuracy(model, data.test_x, data.test_y) for name, model in models.items()}


def judge(figures: Seeds) -> Judgement:
    # Three ways to succeed: each interval is wider, so that one of them succeeds by chance no more often than one of 95 %.
    careful = [
        paired(column(figures, way), column(figures, taught_by), confidence=1 - 0.05 / 3)
        for way, (_, taught_by) in WAYS.items()
    ]
    found = {outcome(d) for d in careful}
    verdict = "held" if "held" in found else "did not hold" if found == {"did not hold"} else "inconclusive"
    told = "; ".join(
        f"{title} {brief(column(figures, way))} % against {brief(column(figures, taught_by))} %, "
        f"{points(difference(figures, way, taught_by))}, at 98.3 % confidence [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
        for (way, (title, taught_by)), d in zip(WAYS.items(), careful, strict=True)
        if d.low is not None and d.high is not None
    )
    sentence = (
        f"Student against its teacher (n = {len(figures)}): {told}. By labels alone the student's network has "
        f"{brief(column(figures, 'labels'))} %."
    )
    return verdict, sentence


CLAIM = Claim(
    number=5,
    claim="the teacher's accuracy is no upper bound for the student's",
    source="FitNets, arXiv 1412.6550 (91.61 % above 90.18 %); Born-Again Networks, ICML 2018",
    setup="Digits, 200 balanced rows with labels, 800 steps: a teacher 64-64-64-10 and students of the same network by KD (T = 4) on these rows (0.9 / 0.1), and on all 1,200 "
    "rows without labels; a teacher 64-10-10-10 and a student 64-64-64-10 on the same rows. It holds if one of the three is clearly above its teacher, at 98.3 % "
    "confidence for each. A student above its teacher need not be above the same network trained by labels.",
    settings="Steps and rate were chosen on seeds 100 to 102; a first set-up (300 rows, students 64-10-10-10) was tried on seeds 100 and 101, this one on seed 100.",
    measure=measure,
    judge=judge,
)
