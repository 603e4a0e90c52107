"""Claim 6: too strong a teacher hurts, and an assistant of a size between helps."""

from __future__ import annotations

from common import (
    Claim,
    Judgement,
    Seeds,
    accuracy,
    brief,
    column,
    difference,
    digits,
    network,
    outcome,
    percent,
    points,
    taught,
)

import limbeck as lk

WIDTHS = (16, 32, 64, 256)
LARGEST, MIDDLE = 256, 64
STUDENT, STEPS = [8, 8], 800


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, y = data.train_x, data.train_y
    found = {
        "labels": accuracy(
            taught(network("digits_mlp", seed, hidden=STUDENT), x, y, seed, steps=STEPS), data.test_x, data.test_y
        )
    }
    teachers = {}
    for width in WIDTHS:
        teacher = teachers[width] = taught(
            network("digits_mlp", 1000 + seed, hidden=[width, width]), x, y, seed, steps=STEPS, lr=2e-3
        )
        found[f"teacher_{width}"] = accuracy(teacher, data.test_x, data.test_y)
        student = taught(
            network("digits_mlp", seed, hidden=STUDENT),
            x,
            y,
            seed,
            teacher=teacher,
            method=lk.KD(temperature=4, soft=0.9, hard=0.1),
            steps=STEPS,
        )
        found[f"from_{width}"] = accuracy(student, data.test_x, data.test_y)
    course = lk.TeacherAssistant(assistants=("between",), temperature=4, soft=0.9, hard=0.1)
    between = network("digits_mlp", 1000 + seed, hidden=[MIDDLE, MIDDLE])
    student = network("digits_mlp", seed, hidden=STUDENT)
    taught(student, x, y, seed, teacher=teachers[LARGEST], method=course, steps=STEPS, models={"between": between})
    found["assisted"] = accuracy(student, data.test_x, data.test_y)
    found["assistant"] = accuracy(between, data.test_x, data.test_y)
    return found


def judge(figures: Seeds) -> Judgement:
    hump = difference(figures, f"from_{MIDDLE}", f"from_{LARGEST}")
    helped = difference(figures, "assisted", f"from_{LARGEST}")
    outcomes = [outcome(hump), outcome(helped)]
    verdict = "held" if outcomes == ["held"] * 2 else "did not hold" if "did not hold" in outcomes else "inconclusive"
    told = ", ".join(
        f"width {w} {brief(column(figures, f'from_{w}'))} (teacher {brief(column(figures, f'teacher_{w}'))})"
        for w in WIDTHS
    )
    sentence = (
        f"The student by the width of its teacher, in percent: {told}; by labels alone {percent(column(figures, 'labels'))}. Width {MIDDLE} against {LARGEST}: "
        f"{points(hump)}. Through an assistant of width {MIDDLE} ({percent(column(figures, 'assistant'))}) against directly from {LARGEST}: {points(helped)}."
    )
    return verdict, sentence


CLAIM = Claim(
    number=6,
    claim="a teacher that is too strong hurts, and an assistant between it and the student helps",
    source="Mirzadeh et al., AAAI 2020",
    setup="Digits, 1,200 rows: teachers 64-w-w-10 by labels, student 64-8-8-10 by KD (T = 4, 0.9 / 0.1) from each, and from the largest through `TeacherAssistant`; "
    "800 steps each. It holds if the largest teacher is clearly worse than that of width 64 and the assistant clearly helps.",
    settings="The middle width is the one with the best student on seeds 100 and 101, where rates and steps were chosen, too.",
    measure=measure,
    judge=judge,
)
