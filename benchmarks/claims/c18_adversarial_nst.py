"""Claim 18: NST could also be done with a discriminator (a GAN) in place of the MMD, which nobody has tried."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from common import Claim, Judgement, Seeds, accuracy, column, difference, digits, outcome, percent, points
from labels200 import CHOSEN, SETUP, taught, teacher

import limbeck as lk

METHODS = {"labels": None, "mmd": lk.NST(weight=5.0), "gan": lk.AdversarialNST(weight=0.1)}


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    source = teacher(data, seed)
    found = {"teacher": accuracy(source, data.test_x, data.test_y)}
    for name, method in METHODS.items():
        with TemporaryDirectory() as folder:
            model = taught(source, data, seed, method, out=folder)
            found[name] = accuracy(model, data.test_x, data.test_y)
            if name == "gan":
                found["game"] = game(Path(folder))
    return found


def game(folder: Path) -> float:
    """The discriminators' loss at the end, a mean over the pairs of layers; log 4 where they cannot tell the two apart."""
    told = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    steps = [line["loss"]["discriminator"] for line in told if line["kind"] == "step"][-10:]
    pairs = sum("/real/" in name for name in told[0]["terms"])
    return sum(steps) / len(steps) / pairs


def judge(figures: Seeds) -> Judgement:
    gain = difference(figures, "gan", "labels")
    game = sum(column(figures, "game").values()) / len(figures)
    return outcome(gain), (
        f"Labels alone {percent(column(figures, 'labels'))}; NST with a GAN {percent(column(figures, 'gan'))}; NST with the MMD "
        f"{percent(column(figures, 'mmd'))}. The GAN against labels alone {points(gain)}, against the MMD "
        f"{points(difference(figures, 'gan', 'mmd'))}; the MMD against labels alone {points(difference(figures, 'mmd', 'labels'))}. "
        f"The discriminators' loss in the last epoch was {game:.2f} (1.39 where they cannot tell the two apart)."
    )


CLAIM = Claim(
    number=18,
    claim="NST with a GAN (a discriminator of channel patterns in place of the MMD) helps a student, too",
    source="untried idea in notes on Huang, Wang, arXiv 1707.01219",
    setup=f"{SETUP} Held: clearly above labels alone.",
    settings=f"weights (GAN 0.1 of 0.1, 0.3, 1, 3; MMD 5 of 1, 5, 20, 50) chosen {CHOSEN}.",
    measure=measure,
    judge=judge,
    seeds=tuple(range(8)),
)
