"""Claim 8: FitNets does better the closer the structures of teacher and student are."""

from __future__ import annotations

from common import Claim, Judgement, Seeds, altogether, column, digits, outcome, percent, points
from features import FEW, few, taught, teacher, test_accuracy

import limbeck as lk
from limbeck.stats import paired

# kind -> (teacher, student, guided layer, hint layer); a pair of kinds is crossed: each student with each teacher
Kind = tuple[tuple[str, dict], tuple[str, dict], str, str]
FAR: dict[str, Kind] = {
    "cnn": (("digits_cnn", {}), ("digits_cnn_thin", {}), "pool", "pool"),
    "mlp": (("digits_mlp", {"hidden": [64, 64]}), ("digits_mlp", {"hidden": [16, 16]}), "layer2", "layer2"),
}
NEAR: dict[str, Kind] = {
    "cnn": (("digits_cnn", {}), ("digits_cnn_thin", {}), "layer2", "layer2"),
    "plain": (
        ("plain_4", {"in_channels": 1, "width": 16}),
        ("plain_4", {"in_channels": 1, "width": 4}),
        "layer2",
        "layer2",
    ),
}
CROSSINGS = {"far": FAR, "near": NEAR}


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    rows = few(data, 100)
    every = {k: kind[0] for kinds in CROSSINGS.values() for k, kind in kinds.items()}
    teachers = {k: teacher(data, seed, name, **options) for k, (name, options) in every.items()}
    found = {f"teacher_{k}": test_accuracy(net, data) for k, net in teachers.items()}
    for crossing, kinds in CROSSINGS.items():
        for ours, (_, (name, options), guided, _) in kinds.items():
            for theirs, (*_, hint) in kinds.items():
                method = lk.FitNets(pair=(guided, hint), soft=0.0, hint_share=0.5)
                found[f"{crossing}_{ours}_{theirs}"] = test_accuracy(
                    taught(teachers[theirs], rows, seed, method, name=name, **options), data
                )
    return found


def judge(figures: Seeds) -> Judgement:
    parts, held = [], []
    for crossing, kinds in CROSSINGS.items():
        a, b = kinds
        same, cross = ({s: sum(f[f"{crossing}_{x}_{y}"] for x, y in ways) / 2 for s, f in figures.items()}
                       for ways in (((a, a), (b, b)), ((a, b), (b, a))))  # fmt: skip
        d = paired(same, cross)
        held.append(outcome(d))
        each = "; ".join(
            f"{x} student from {y} teacher {percent(column(figures, f'{crossing}_{x}_{y}'))}"
            for x in kinds
            for y in kinds
        )
        taught_by = ", ".join(f"{k} {percent(column(figures, f'teacher_{k}'))}" for k in kinds)
        parts.append(f"{a} and {b}: {each}; same kind over other kind {points(d)} (teachers: {taught_by}): {held[-1]}")
    return altogether(*held), ". ".join(parts) + "."


CLAIM = Claim(
    number=8,
    claim="the closer the structures of teacher and student, the better FitNets works",
    source="lecture notes on FitNets",
    setup=FEW.replace("student digits_cnn_thin on", "students on").replace(
        "teacher digits_cnn, 1,200 rows (about 98 %)", "teachers on 1,200 rows"
    )
    + " Two crossings, each student with each teacher, so that a better teacher or an easier student counts on both sides alike: digits_cnn and "
    "MLPs (64-64 to 16-16), hint at the last hidden layer; digits_cnn and plain_4 (four convolutions, max-pooling, flat head; width "
    "16 to 4), hint at the 4x4 maps. Hints for half of the epochs, then labels. The verdict asks the same kind to win in both crossings.",
    settings="No softened classes, so that the scores of a teacher play no part; half of the epochs for hints was the better of 25 and 50 % on "
    "seeds 100 and 101 (digits_cnn).",
    measure=measure,
    judge=judge,
)
