"""Claim 48: a student gets better because it becomes like its teacher, its mistakes included."""

from __future__ import annotations

from common import (
    Claim,
    Judgement,
    Seeds,
    balanced,
    brief,
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

import limbeck as lk
from limbeck.stats import summarise

ROWS, KNOWN, STEPS = 100, 300, 900
METHODS = {
    "labels": None,
    "KD T=4": lk.KD(temperature=4, soft=0.9, hard=0.1),
    "KD T=1": lk.KD(temperature=1, soft=0.9, hard=0.1),
    "logits": lk.LogitMatching(),
    "AT": lk.AttentionTransfer(),
    "NST": lk.NST(),
    "SP": lk.SimilarityPreserving(),
    "RKD": lk.RKD(),
}


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    x, y = balanced(data, KNOWN)
    teacher = network("digits_cnn", 1000 + seed)
    taught(teacher, x, y, seed, steps=400, lr=1e-3)
    said = scores(teacher, data.test_x).argmax(1)
    wrong = said != data.test_y
    found = {"teacher": float((~wrong).float().mean())}
    x, y = balanced(data, ROWS)
    for name, method in METHODS.items():
        student = taught(
            network("digits_cnn_thin", seed),
            x,
            y,
            seed,
            teacher=teacher if method else None,
            method=method,
            steps=STEPS,
        )
        ours = scores(student, data.test_x).argmax(1)
        found[name] = float((ours == data.test_y).float().mean())
        found[f"agree {name}"] = float((ours == said).float().mean())
        found[f"copied {name}"] = float((ours == said)[wrong].float().mean())
    taken = [name for name, method in METHODS.items() if method]
    found["rank"] = rank_correlation([found[n] for n in taken], [found[f"copied {n}"] for n in taken])
    return found


def judge(figures: Seeds) -> Judgement:
    better, like = difference(figures, "KD T=4", "labels"), difference(figures, "copied KD T=4", "copied labels")
    verdict = unanimous(outcome(better), outcome(like))
    told = "; ".join(
        f"{name} {brief(column(figures, name))}, {brief(column(figures, f'agree {name}'))}, {brief(column(figures, f'copied {name}'))}"
        for name in METHODS
    )
    rank = summarise(column(figures, "rank").values())
    sentence = (
        f"KD (T = 4) against labels alone: accuracy {points(better)}, agreement with the teacher's mistakes {points(like)}. "
        f"In percent, accuracy, agreement with the teacher on all test rows, and on those where the teacher "
        f"({percent(column(figures, 'teacher'))}) is wrong: {told}. Rank correlation over the {len(METHODS) - 1} methods of accuracy "
        f"with copied mistakes, seed by seed: {rank.mean:+.2f} ± {rank.std or 0:.2f}."
    )
    return verdict, sentence


CLAIM = Claim(
    number=48,
    claim="a student gets better because it becomes like its teacher, mistakes included (the controversy: does it?)",
    source="a lecture on distillation; Stanton et al., NeurIPS 2021, who doubt it",
    setup="Digits: teacher digits_cnn on 300 balanced rows, student digits_cnn_thin on 100 of them, 900 steps, each method with its default weights; agreement of the predicted classes on 597 test rows. It holds if KD (T = 4) clearly "
    "raises both accuracy and agreement with the teacher's mistakes against labels alone.",
    settings="Rows, steps and the condition were chosen on seed 100; weights are the library's defaults.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3),
)
