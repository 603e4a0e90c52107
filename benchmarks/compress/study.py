"""What the compression studies train, piece by piece: every score, rank, bit width and chain on one network and one seed.

All start from the same trained network and get the same training afterwards: so many rows, so many epochs, from the
labels or with KD from the original.  Settings are the defaults or presets; nothing was tuned on the test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import limbeck as lk
from limbeck.compress.prune import By
from limbeck.recipe import Stage

ROOT = Path(__file__).resolve().parents[2]
ORIGINALS: Mapping[str, str] = {  # network -> its weights, made by original.yaml and original-vgg16.yaml
    "resnet56": "benchmarks/compress/resnet56.safetensors",
    "vgg16": "runs/compress-original-vgg16/stages/longer/seed-0/last.safetensors",
}
SCORES = tuple(score for score in get_args(By) if score != "oracle")  # the oracle judges the scores; see claim 26
KD = lk.KD(temperature=4.0, hard=0.1, soft=0.9)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a network is trained after it was compressed.

    Attributes:
        epochs, rows: of CIFAR-10's 45,000 training rows so many, stratified by the seed, so often.
        rate: peak of the one-cycle schedule: a tenth of the original's, since the weights are good already.
    """

    epochs: int = 2
    rows: int | None = 5_000
    rate: float = 0.01


def training(budget: Budget, **others: Any) -> lk.Training:
    """How everything is tuned."""
    given = {
        "epochs": budget.epochs,
        "batch_size": 128,
        "optimizer": lk.Optimizer(kind="sgd", lr=budget.rate, momentum=0.9, nesterov=True, weight_decay=5e-4),
        "schedule": lk.Schedule(kind="onecycle"),
        "precision": "bf16",
        "channels_last": True,
    }
    return lk.Training(**given | others)


def tuned(name: str, budget: Budget, **others: Any) -> list[Stage]:
    """A network trained further, from the labels and with KD."""
    how = {"training": training(budget, **others), "rows": budget.rows}
    return [
        lk.Train(name=f"{name}-labels", model=name, **how),
        lk.Distill(name=f"{name}-kd", student=name, teacher="original", method=KD, **how),
    ]


def scores(budget: Budget, left: float) -> list[Stage]:
    """(a) Every score at equal MACs: right after pruning, tuned, tuned with KD."""
    found: list[Stage] = []
    for by in SCORES:
        name = by.replace("_", "-")
        found.append(lk.Compress(name=name, model="original", how=lk.Prune(macs=left, by=by, scope="layer")))
        found += tuned(name, budget)
    return found


def ranks(budget: Budget) -> list[Stage]:
    """(c) Low rank: kinds of splits at equal MACs, and what the clock chooses; as they are and tuned.

    Dominant kernels are tuned at half of the MACs only: on a CPU they train several times as long as the others.
    """
    hows = {
        f"{kind}-{round(100 * left)}": lk.Factorize(macs=left, kind=kind, measured=False)
        for kind in ("svd", "tucker", "spatial", "dominant")
        for left in (0.7, 0.5, 0.3)
    }
    hows |= {f"fastest-{round(100 * energy)}": lk.Factorize(energy=energy) for energy in (0.85, 0.7)}
    found: list[Stage] = []
    for name, how in hows.items():
        found.append(lk.Compress(name=name, model="original", how=how))
        if how.kind != "dominant" or how.macs == 0.5:
            found += tuned(name, budget)
    return found


def bits(budget: Budget) -> list[Stage]:
    """(d) int8 after training and in it, one bit: each without and with KD."""
    found: list[Stage] = [
        lk.Compress(name="static", model="original", how=lk.Quantize("int8")),
        lk.Compress(name="weights-int8", model="original", how=lk.Quantize("int8", mode="weights")),
        lk.Compress(name="weights-int4", model="original", how=lk.Quantize("int4", mode="weights")),
    ]
    short = training(budget, precision="fp32", epochs=1)
    for name, teacher in (("qat-labels", None), ("qat-kd", "original")):
        how = lk.Quantize("int8", mode="qat")
        found.append(
            lk.Compress(name=name, model="original", how=how, teacher=teacher, training=short, rows=budget.rows)
        )
    # Signs have to be learnt: ten times the rate, and no decay, which would pull the real weights to the edge of a sign.
    binary = {"optimizer": lk.Optimizer(kind="adamw", lr=1e-3, weight_decay=0.0), "epochs": 3 * budget.epochs}
    for form in ("bwn", "xnor", "bnn"):
        found.append(lk.Compress(name=form, model="original", how=lk.Binarize(form)))
        found += tuned(form, budget, **binary)
    return found


def chains(budget: Budget) -> list[Stage]:
    """(e) Chains, beside each of their steps alone: all end in a network that could be shipped."""
    wide: dict[str, Any] = {
        "multiple": 16,
        "minimum": 16,
    }  # other widths make int8 slower than it was: see compress-widths
    found: list[Stage] = [
        lk.Compress(name="int8", model="original", how=lk.Quantize("int8")),
        lk.Compress(name="half", model="original", how=lk.Prune(macs=0.5, by="fpgm", scope="layer", **wide)),
        *tuned("half", budget),
        lk.Compress(name="half-kd-int8", model="half-kd", how=lk.Quantize("int8")),
        lk.Compress(name="split", model="original", how=lk.Factorize(energy=0.85, kind="spatial", measured=False)),
        *tuned("split", budget),
        lk.Compress(name="split-kd-int8", model="split-kd", how=lk.Quantize("int8")),
        lk.Compress(name="stepwise", model="original", how=lk.Prune(macs=0.5, by="fpgm", scope="layer", steps=3, **wide), teacher="original",
                    method=KD, training=training(budget, epochs=1), rows=budget.rows),
        lk.Compress(name="stepwise-int8", model="stepwise", how=lk.Quantize("int8")),
    ]  # fmt: skip
    slim = {"training": training(budget), "rows": budget.rows}
    found += [
        lk.Train(name="slimmed", model="original", method=lk.Slimming(), **slim),
        lk.Compress(name="slim", model="slimmed", how=lk.Prune(macs=0.5, by="slimming", scope="global", **wide)),
        lk.Distill(name="slim-kd", student="slim", teacher="original", method=KD, **slim),
    ]
    return found


def tickets(budget: Budget) -> list[Stage]:
    """(b) Lottery tickets by rounds of a half, and what of them matters: the weights, their signs, the mask."""
    how = lk.LotteryTicket(
        rounds=5, rate=0.5, scope="global", rewind=40,
        controls=("reinit", "reinit_sign", "constant_sign", "rewind_nosign", "random"), controlled=(2, 4),
    )  # fmt: skip
    scratch = {"optimizer": lk.Optimizer(kind="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)}
    longer = training(
        budget, epochs=6 * budget.epochs, compile=True, **scratch
    )  # nothing here begins with good weights
    return [lk.Compress(name="ticket", model="small", how=how, training=longer, rows=budget.rows)]


PIECES: Mapping[str, Any] = {
    "scores-70": lambda budget: scores(budget, 0.7),
    "scores-50": lambda budget: scores(budget, 0.5),
    "scores-30": lambda budget: scores(budget, 0.3),
    "ranks": ranks,
    "bits": bits,
    "chains": chains,
    "tickets": tickets,
}
SMALL = "resnet8"  # of the tickets: eighteen trainings from scratch; the network that is named has no part in them


def recipe(piece: str, network: str, seed: int, budget: Budget) -> lk.Recipe:
    """One piece of the studies: on one network, with one seed."""
    models = {"original": lk.Model(name=network, weights=ORIGINALS[network])}
    if piece == "tickets":
        models = {"small": lk.Model(name=SMALL)}
    return lk.Recipe(
        name=f"compress-{network}-{piece}",
        data=lk.Data(source=lk.CIFAR10(), validation=5000, augment=lk.Augment(crop=4, flip=True)),
        seeds=(seed,),
        evaluation="bf16",  # most of a piece's time is measuring; fp32 takes three times as long
        models=models,
        stages=(*PIECES[piece](budget), lk.Evaluate(name="test")),
        baseline="ticket.0" if piece == "tickets" else None,
    )
