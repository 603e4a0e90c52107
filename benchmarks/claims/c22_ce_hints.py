"""Claim 22: hints compared by cross-entropy (knowledge pre-regression) train better than those by Euclidean distance."""

from __future__ import annotations

from common import Claim, Judgement, Seeds, altogether, digits
from features import FEW, against, clearly_above, few, taught, teacher, test_accuracy, told

import limbeck as lk

NAMES = {
    "labels": "labels alone",
    "euclid": "Euclidean",
    "softmax": "cross-entropy, softmax",
    "sigmoid": "cross-entropy, sigmoid",
}
PAIR = ("layer3", "layer3")
SHARE = 0.5


def arms(pair: tuple[str, str]) -> dict[str, object]:
    """Two stages each, hints for the same part of the epochs, then labels."""
    return {
        "labels": None,
        "euclid": lk.FitNets(pair=pair, soft=0.0, hint_share=SHARE),
        "softmax": lk.PreRegression(pair=pair, mode="softmax", hint_share=SHARE),
        "sigmoid": lk.PreRegression(pair=pair, mode="sigmoid", hint_share=SHARE),
    }


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    cnn, rows = teacher(data, seed), few(data, 100)
    found = {k: test_accuracy(taught(cnn, rows, seed, m), data) for k, m in arms(PAIR).items()}
    short = {f"short_{k}": test_accuracy(taught(cnn, rows, seed, m, epochs=30), data) for k, m in arms(PAIR).items()}
    return found | short


def judge(figures: Seeds) -> Judgement:
    parts, held = [], []
    for start, title in (("", "100 epochs"), ("short_", "30 epochs")):
        rest = {f"{start}{k}": NAMES[k] for k in ("euclid", "labels")}
        parts.append(
            f"{title}: {told(figures, {f'{start}{k}': v for k, v in NAMES.items()})}; softmax hints compared "
            f"{against(figures, f'{start}softmax', rest)}; sigmoid hints compared {against(figures, f'{start}sigmoid', rest)}"
        )
        held.append(clearly_above(figures, f"{start}softmax", [f"{start}euclid"]))
    return altogether(*held), "Test accuracy, " + ". ".join(parts) + "."


CLAIM = Claim(
    number=22,
    claim="hints compared by cross-entropy train better than hints compared by Euclidean distance",
    source="Wang, Deng, Wang, ECCV 2016 (knowledge pre-regression)",
    setup=FEW
    + f" Hints at layer3 for {SHARE:.0%} of the epochs (AdamW, so that the scale of the loss hardly counts), then labels; the same once "
    "more with 30 epochs in all, where training more easily should show. How features become probabilities is our reading; the verdict takes the "
    "softmax, and asks it to win at both lengths.",
    settings="Half of the epochs for hints was the better of 25 and 50 % for the Euclidean arm on seeds 100 and 101.",
    measure=measure,
    judge=judge,
)
