"""Claim 38: noise on one teacher simulates several teachers, and regularises the student."""

from __future__ import annotations

import torch
from common import (
    Claim,
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
    scores,
    taught,
)

import limbeck as lk
from limbeck.losses import logit_l2
from limbeck.methods.noisy import disturbed
from limbeck.models import Ensemble
from limbeck.stats import summarise

ROWS, STEPS, HIDDEN = 200, 800, [10, 10]
SIGMAS = (0.1, 0.3, 0.7)
DRAWS = (100, 10000)


def gradient(student: torch.nn.Module, x, targets) -> torch.Tensor:
    value = logit_l2(student(x), targets).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(student.parameters()))])


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, y = balanced(data, ROWS)
    teachers = [big_mlp(1000 * k + seed, data.train_x, data.train_y) for k in range(3)]
    found = {"teacher": accuracy(teachers[0], data.test_x, data.test_y)}

    def pupil(teacher, method) -> torch.nn.Module:
        return taught(
            network("digits_mlp", seed, hidden=HIDDEN), x, None, seed, teacher=teacher, method=method, steps=STEPS
        )

    # the loss is linear in the targets as far as the student is concerned: the mean gradient of many draws is that of the mean target
    t, fresh = scores(teachers[0], x).double(), network("digits_mlp", seed, hidden=HIDDEN).double()
    clean, source = gradient(fresh, x.double(), t), torch.Generator().manual_seed(seed)
    total, done = torch.zeros_like(t), 0
    for draws in DRAWS:
        for _ in range(draws - done):
            total += disturbed(t, alpha=0.5, sigma=0.3, generator=source)
        done = draws
        found[f"off_{draws}"] = float((gradient(fresh, x.double(), total / done) - clean).norm() / clean.norm())

    students = {"clean": pupil(teachers[0], lk.NoisyTeacher(sigma=0.0))}
    students |= {f"noise_{sigma}": pupil(teachers[0], lk.NoisyTeacher(sigma=sigma, alpha=0.5)) for sigma in SIGMAS}
    students["three"] = pupil(Ensemble(teachers, "geometric"), lk.NoisyTeacher(sigma=0.0))
    for name, student in students.items():
        found[name] = accuracy(student, data.test_x, data.test_y)
        found[f"gap_{name}"] = accuracy(student, x, y) - found[name]
    return found


def judge(figures: Seeds) -> Judgement:
    noise = {sigma: difference(figures, f"noise_{sigma}", "clean") for sigma in SIGMAS}
    three, gap = difference(figures, "three", "clean"), difference(figures, "gap_noise_0.3", "gap_clean")
    verdict = outcome(noise[0.3])
    off = [summarise(column(figures, f"off_{draws}").values()).mean for draws in DRAWS]
    told = ", ".join(f"sigma {sigma} {points(d)}" for sigma, d in noise.items())
    sentence = (
        f"Against regression on clean logits ({percent(column(figures, 'clean'))}): {told}; three real teachers, their logits averaged, {points(three)}. The gap between training and "
        f"test accuracy changed by {points(gap)} with sigma 0.3. The mean gradient of many draws is the clean one: relative distance {off[0]:.2g} after {DRAWS[0]:,} draws, "
        f"{off[1]:.2g} after {DRAWS[1]:,}."
    )
    return verdict, sentence


CLAIM = Claim(
    number=38,
    claim="noise on one teacher's logits simulates several teachers, and makes the student better as a regulariser",
    source="Sau, Balasubramanian, arXiv 1610.09650",
    setup="Digits: teacher 64-256-256-10 with dropout on 1,200 rows, student 64-10-10-10 by regression on logits (`NoisyTeacher`, alpha 0.5) on 200 balanced rows, 800 steps. The verdict is that of "
    "sigma 0.3 (the default) against none.",
    settings="Rows, steps and the condition were chosen on seed 100.",
    measure=measure,
    judge=judge,
)
