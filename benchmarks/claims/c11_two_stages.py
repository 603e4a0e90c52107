"""Claim 11: hints first and softened classes after (FitNets) beat both at once, and softened classes alone."""

from __future__ import annotations

from common import Claim, Judgement, Seeds, digits
from features import DEEP, against, clearly_above, deep, teacher, test_accuracy, told

import limbeck as lk

PAIR = ("layer7", "layer2")
FALL = lk.Ramp(start=4.0, end=1.0)
ARMS = {
    "labels": ("labels alone", None),
    "soft": ("softened classes alone", lk.KD(temperature=3.0, soft=lk.Ramp(start=4 / 9, end=1 / 9), hard=1.0)),
    "joint": (
        "hint and softened classes at once",
        lk.FitNets(pair=PAIR, stages="one", soft=FALL, form="benchmark", hint_weight=0.1),
    ),
    "two": ("hint, then softened classes", lk.FitNets(pair=PAIR, soft=FALL, hint_share=0.5)),
}
NAMES = {name: title for name, (title, _) in ARMS.items()}


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    big = teacher(data, seed, "digits_mlp", hidden=[128] * 4)
    return {name: test_accuracy(deep(big, data, seed, method), data) for name, (_, method) in ARMS.items()}


def judge(figures: Seeds) -> Judgement:
    rest = {k: v for k, v in NAMES.items() if k != "two"}
    return clearly_above(figures, "two", ["joint", "soft"]), (
        f"Test accuracy: {told(figures, NAMES)}. Two stages compared {against(figures, 'two', rest)}."
    )


CLAIM = Claim(
    number=11,
    claim="hints in a first stage, softened classes in a second, beat training on both at once and softened classes alone",
    source="Romero et al., FitNets, ICLR 2015",
    setup=DEEP
    + " Hint: middle of the student (layer7) to layer2 of the teacher; T = 3, lambda from 4 to 1 in the three arms with softened "
    "classes. The verdict asks two stages to beat both.",
    measure=measure,
    judge=judge,
    settings="On seeds 100 to 102: half of the epochs for hints was the better of 25 and 50 %, and 0.1 the best weight of the joint hint of 0.1, 1, 10, 100.",
)
