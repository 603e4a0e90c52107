"""Claim 3: soft labels show which classes are related, and carry that to a student that never saw one of them."""

from __future__ import annotations

import torch
from common import (
    Claim,
    Judgement,
    Seeds,
    accuracy,
    big_mlp,
    column,
    difference,
    digits,
    network,
    outcome,
    percent,
    points,
    rank_correlation,
    scores,
    taught,
    unanimous,
)
from torch import Tensor

import limbeck as lk
from limbeck.stats import summarise

OMITTED, STEPS = 3, 800


def off_diagonal(m: Tensor) -> Tensor:
    return m[~torch.eye(len(m), dtype=torch.bool)].reshape(len(m), -1)


def mean_rows(p: Tensor, y: Tensor) -> Tensor:
    return torch.stack([p[y == k].mean(0) for k in range(10)])


def bias_for(student: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """What to add to the omitted class's score, so that most of these rows come out right."""
    z = scores(student, x)
    shifts = torch.linspace(-2, 30, 161)
    right = [float(((z + s * (torch.arange(10) == OMITTED)).argmax(1) == y).float().mean()) for s in shifts]
    return float(shifts[max(range(len(right)), key=right.__getitem__)])


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    teacher = big_mlp(seed, data.train_x, data.train_y)
    # the other network: of another kind, and trained on so little that it makes mistakes
    other = network("digits_cnn_thin", seed + 500)
    taught(other, data.train_x[:150], data.train_y[:150], seed, steps=400)
    soft = off_diagonal(mean_rows((scores(teacher, data.train_x) / 4).softmax(1), data.train_y))
    said = torch.nn.functional.one_hot(scores(other, data.test_x).argmax(1), 10).float()
    confused = off_diagonal(mean_rows(said, data.test_y))
    source = torch.Generator().manual_seed(seed)
    shuffled = [
        rank_correlation(torch.stack([row[torch.randperm(9, generator=source)] for row in soft]), confused)
        for _ in range(200)
    ]
    found = {"other": accuracy(other, data.test_x, data.test_y), "correlation": rank_correlation(soft, confused)}
    found["chance"] = sum(shuffled) / len(shuffled)

    kept = data.train_y != OMITTED
    three = data.test_y == OMITTED
    methods = {
        "t1": lk.KD(temperature=1, soft=1.0, hard=0.0),
        "t4": lk.KD(temperature=4, soft=1.0, hard=0.0),
        "scrambled": lk.DarkKnowledgePermuted(temperature=4.0),
        "labels": None,
    }
    for name, method in methods.items():
        student = network("digits_mlp", seed, hidden=[64, 64])
        taught(
            student,
            data.train_x[kept],
            data.train_y[kept],
            seed,
            teacher=teacher if method else None,
            method=method,
            steps=STEPS,
        )
        found[f"{name}_three"] = accuracy(student, data.test_x[three], data.test_y[three])
        shift = bias_for(student, data.train_x, data.train_y)
        with torch.no_grad():
            student.get_parameter("fc.bias")[OMITTED] += shift
        found[f"{name}_three_bias"] = accuracy(student, data.test_x[three], data.test_y[three])
        found[f"{name}_bias"] = accuracy(student, data.test_x, data.test_y)
    return found


def judge(figures: Seeds) -> Judgement:
    related, known = difference(figures, "correlation", "chance"), difference(figures, "t4_three", "scrambled_three")
    corrected = difference(figures, "t4_three_bias", "scrambled_three_bias")
    verdict = unanimous(outcome(related), outcome(known), outcome(corrected))
    c = summarise(column(figures, "correlation").values())
    threes = ", ".join(
        f"{title} {percent(column(figures, f'{name}_three'))} and {percent(column(figures, f'{name}_three_bias'))}"
        for name, title in (
            ("t4", "T = 4"),
            ("t1", "T = 1"),
            ("scrambled", "T = 4 with the small probabilities shuffled"),
            ("labels", "labels"),
        )
    )
    sentence = (
        f"Rank correlation of the teacher's mean soft labels with the confusions of another network {c.mean:.3f} ± {c.std or 0:.3f} (n = {c.n}; "
        f"shuffled within rows {summarise(column(figures, 'chance').values()).mean:.3f}; difference {related.mean:+.3f} [{related.low:+.3f}, {related.high:+.3f}]). "
        f"Omitted digit {OMITTED} recognised, before and after a better bias for it: {threes}; T = 4 against shuffled {points(known)} and {points(corrected)}."
    )
    return verdict, sentence


CLAIM = Claim(
    number=3,
    claim="soft labels show which classes are related (1, 7 and 9, say), so that a student learns of a class that it never saw",
    source="Hinton, Vinyals, Dean, arXiv 1503.02531, section 3",
    setup="Digits: teacher 64-256-256-10 with dropout on 1,200 rows; its mean soft labels (T = 4, training rows, right class left out) against the confusions on "
    "597 test rows of a digits_cnn_thin trained for 400 steps on 150 rows; students 64-64-64-10 taught without any 3 by soft targets alone, 800 steps, the bias chosen on "
    "the training rows. It holds if the correlation is above that of shuffled rows and more 3s are known than from shuffled small probabilities, before and after the bias.",
    settings="Steps, the weak network and the condition were chosen on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
