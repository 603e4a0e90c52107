"""Claim 31: labels made anew for every crop are less incomplete and less inconsistent, round after round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from common import (
    Claim,
    Figures,
    Images,
    Judgement,
    Seeds,
    column,
    difference,
    digits,
    network,
    outcome,
    percent,
    points,
    scores,
)
from torch import Tensor

import limbeck as lk
from limbeck.phase import Batch

ROWS, EPOCHS, SIZE, ROUNDS, NAME = 600, 40, 50, 3, "digits_cnn"
OPTIMIZER = lk.Optimizer(kind="adamw", lr=5e-3, weight_decay=0.01)


def pairs(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two different digits side by side, ``[n, 1, 8, 16]``, and the classes of both, left and right ``[n, 2]``."""
    other = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    kept = y != y[other]
    return torch.cat([x, x[other]], 3)[kept], torch.stack([y, y[other]], 1)[kept]


def window(x: Tensor, at: Tensor) -> Tensor:
    """Of each picture the 8x8 window that begins at this column, 0 to 8."""
    columns = at[:, None] + torch.arange(8)
    return x.gather(3, columns[:, None, None, :].expand(-1, 1, 8, -1))


class Windows:
    """Batches of random windows of the pairs; the given label is that of one of the two digits, always the same one."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self.x, self.y, self.random = x, y, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.x) // SIZE

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.x), generator=self.random)
        for k in range(len(self)):
            rows = order[k * SIZE : (k + 1) * SIZE]
            at = torch.randint(0, 9, (SIZE,), generator=self.random)
            yield Batch(window(self.x[rows], at), self.y[rows], rows)


def told(labels: Tensor, both: Tensor, at: int) -> dict[str, float]:
    """How far labels ``[n, classes]`` of windows at one place are from what the windows show."""
    left, right = labels.gather(1, both).unbind(1)
    if at in (0, 8):  # one digit is seen, whole
        seen = both[:, 0 if at == 0 else 1]
        wrong = float((labels.argmax(1) != seen).float().mean())
        return {"inconsistent": wrong, "mass": float(1 - (left if at == 0 else right).mean())}
    return {"incomplete": float(1 - 2 * torch.minimum(left, right).mean())}  # half of each is seen


def measure(seed: int) -> Figures:
    data: Images = digits(seed)
    x, both = pairs(data.train_x[:ROWS], data.train_y[:ROWS], seed)
    test_x, test_both = pairs(data.test_x, data.test_y, seed)
    named = torch.randint(0, 2, (len(x),), generator=torch.Generator().manual_seed(seed + 1))
    y = both.gather(1, named[:, None]).squeeze(1)
    how = {"epochs": EPOCHS, "optimizer": OPTIMIZER, "seed": seed, "quiet": True}
    teacher = lk.train(network(NAME, seed), Windows(x, y, seed), **how)
    student: Any = lk.distill(  # the networks of its lessons hang on it
        teacher,
        network(NAME, seed + 5000),
        Windows(x, y, seed),
        method=lk.LabelRefinery(rounds=ROUNDS),
        fresh=lambda: lk.build(NAME, classes=10),
        **how,
    )
    # Round k learns from the labels of the network before it: round 0 from the given ones, round 1 from those of the first network.
    makers = [teacher, *(student.lessons[str(k)] for k in range(1, ROUNDS)), student]
    given = torch.nn.functional.one_hot(y, 10).float()
    found = {}
    for kind, places in (("inconsistent", (0, 8)), ("mass", (0, 8)), ("incomplete", (4,))):
        found[f"{kind}_0"] = sum(told(given, both, at)[kind] for at in places) / len(places)
        for k, maker in enumerate(makers, 1):
            for part, images, classes in (("", x, both), ("test_", test_x, test_both)):
                said = [scores(maker, window(images, torch.full((len(images),), at))).softmax(1) for at in places]
                values = [told(one, classes, at)[kind] for one, at in zip(said, places, strict=True)]
                found[f"{part}{kind}_{k}"] = sum(values) / len(values)
    for k, maker in enumerate(makers, 1):  # neighbouring windows hardly differ in what they show
        near = [scores(maker, window(x, torch.full((len(x),), at))).argmax(1) for at in (0, 1, 7, 8)]
        found[f"disagreement_{k}"] = float(
            ((near[0] != near[1]).float().mean() + (near[2] != near[3]).float().mean()) / 2
        )
    return found


def judge(figures: Seeds) -> Judgement:
    titles = {
        "inconsistent": "Label not of the one digit that is seen",
        "disagreement": "Label that changes as the window moves by a pixel (the given ones never do)",
        "incomplete": "Incomplete",
    }
    lines, parts = [], {}
    for kind, title in titles.items():
        first = 1 if kind == "disagreement" else 0
        steps = [difference(figures, f"{kind}_{k}", f"{kind}_{k - 1}") for k in range(first + 1, ROUNDS + 2)]
        outcomes = [outcome(d, higher_is_better=False) for d in steps]
        parts[kind] = (
            "held" if set(outcomes) == {"held"} else "did not hold" if "did not hold" in outcomes else "inconclusive"
        )
        told = [percent(column(figures, f"{kind}_{first}"))]
        for k, (d, o) in enumerate(zip(steps, outcomes, strict=True), first + 1):
            told.append(f"{percent(column(figures, f'{kind}_{k}'))} ({points(d)}, {o})")
        last = difference(figures, f"{kind}_{ROUNDS + 1}", f"{kind}_1")
        lines.append(
            f"{title} ({parts[kind]}): {', '.join(told)}; last network's labels - first network's {points(last)}."
        )
    mass = [percent(column(figures, f"mass_{k}")) for k in range(ROUNDS + 2)]
    lines.append(f"Not judged, the part of the label that is not on the one digit seen: {', '.join(mass)}.")
    whole = set(parts.values())
    return ("held" if whole == {"held"} else "did not hold" if "did not hold" in whole else "inconclusive"), " ".join(
        lines
    )


CLAIM = Claim(
    number=31,
    claim="a label refinery's labels are less incomplete and less inconsistent with the crops in every round",
    source="Bagherinezhad, Horton, Rastegari, Farhadi: Label Refinery (arXiv 1805.02641)",
    setup=f"Two different digits side by side, from {ROWS} training rows; a crop is a window of 8x8, the given label is one of the two "
    f"digits. digits_cnn, {EPOCHS} epochs: one from the given labels, then LabelRefinery with {ROUNDS} rounds. On the pairs trained on, "
    "for the given labels and then those that each network gives. Inconsistent: the label's first class is not the digit of a "
    "window that holds just one; or it changes between windows a pixel apart. Incomplete: for a window with half of each digit, "
    "1 - 2 min of the label's parts on the two. Held: all of it falls with every network.",
    settings="AdamW, rate 0.005, batches of 50, rows and epochs from a look at seed 100. Measures from a look at seeds 100 and 101: the part "
    "of the label that is not on the digit seen stays at a half by construction (the given label is one of two at random).",
    measure=measure,
    judge=judge,
    seeds=tuple(range(8)),
)
