"""Claim 14: attention transfer works with maps of activations and with gradients at the input alike.

Beside accuracy: how alike the gradients of student and teacher are, before training and after.  A control without a
teacher, the plain penalty on the student's own gradients, tells how much of the gain the teacher's gradients can claim.
"""

from __future__ import annotations

from common import Claim, Judgement, Seeds, accuracy, column, difference, digits, outcome, percent, points
from labels200 import CHOSEN, SETUP, student, taught, teacher
from torch import Tensor, nn

import limbeck as lk
from limbeck.losses.gradients import input_gradient
from limbeck.stats import summarise

METHODS = {
    "labels": None,
    "activation": lk.AttentionTransfer(weight=2.0),
    "gradient": lk.GradientAttention(weight=1.0),
    "penalty": lk.GradientAttention(kind="penalty", weight=1.0),
}
TITLES = {
    "labels": "labels alone", "activation": "activation attention", "gradient": "gradient attention",
    "penalty": "gradient penalty without a teacher",
}  # fmt: skip


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """d cross-entropy / d input of every sample, in evaluation mode.  ``[batch, pixels]``."""
    was, _ = model.training, model.eval()
    x = x.clone().requires_grad_()
    found = input_gradient(lk.losses.cross_entropy(model(x), y), x, graph=False).flatten(1)
    model.train(was)
    return found


def alike(one: nn.Module, other: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean cosine of the gradients of two networks."""
    return float(nn.functional.cosine_similarity(gradients(one, x, y), gradients(other, x, y)).mean())


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    test = data.test_x, data.test_y
    source = teacher(data, seed)
    found = {"teacher": accuracy(source, *test), "cosine_before": alike(student(seed), source, *test)}
    for name, method in METHODS.items():
        model = taught(source, data, seed, method)
        found |= {name: accuracy(model, *test), f"cosine_{name}": alike(model, source, *test)}
    return found


def judge(figures: Seeds) -> Judgement:
    gain = {name: difference(figures, name, "labels") for name in ("activation", "gradient", "penalty")}
    parts = [outcome(gain[name]) for name in ("activation", "gradient")]
    told = "; ".join(f"{title} {percent(column(figures, name))}" for name, title in TITLES.items())
    gains = ", ".join(f"{TITLES[name]} {points(d)}" for name, d in gain.items())
    cosines = [summarise(column(figures, f"cosine_{name}").values()) for name in ("before", *METHODS)]
    before, *after = (f"{s.mean:.2f} ± {s.std:.2f}" for s in cosines)
    cosine = ", ".join(f"{after[i]} ({title})" for i, title in enumerate(TITLES.values()))
    beyond = points(difference(figures, "gradient", "penalty"))
    sentence = (
        f"{told}. Gains over labels alone: {gains}: activation attention {parts[0]}, gradient attention {parts[1]}. Gradient "
        f"attention over the penalty without a teacher: {beyond}. Cosine of student's and teacher's input gradients: {before} "
        f"before training; after it {cosine}."
    )
    both = "held" if parts == ["held"] * 2 else "did not hold" if "did not hold" in parts else "inconclusive"
    return both, sentence


CLAIM = Claim(
    number=14,
    claim="attention transfer works with maps of activations and with gradients at the input alike",
    source="Zagoruyko, Komodakis, ICLR 2017",
    setup=f"{SETUP} Held: both clearly above labels alone; did not hold: one of them clearly below.",
    settings=f"weights (activation 2 of 0.5, 2; gradient 1 of 0.1, 1, 10, 100; both the library's defaults) chosen {CHOSEN}.",
    measure=measure,
    judge=judge,
    seeds=tuple(range(8)),
)
