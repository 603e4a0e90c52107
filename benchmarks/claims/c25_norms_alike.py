"""Claim 25: filters' norms are too alike to prune by; the geometric median does without them."""

from __future__ import annotations

from common import (
    Batches,
    Claim,
    Judgement,
    Seeds,
    altogether,
    brief,
    column,
    difference,
    digits,
    learnt,
    looked_at,
    network,
    outcome,
    points,
    right,
    six_convolutions,
)
from torch import nn

import limbeck as lk
from limbeck.stats import summarise

SCORES = ("l1", "fpgm", "random")
KEEPS = (0.8, 0.6, 0.4)
TUNED = 0.4
KINDS = {"alike": "AdamW without decay", "spread": "SGD with strong decay"}
LAYERS = 6


def trained(kind: str, data, seed: int) -> nn.Module:
    """The same network from the same weights, by a training that leaves the norms nearly alike, or by one that does so less."""
    if kind == "alike":
        return six_convolutions(data, seed)
    net, batches = (
        network("plain_6", seed, width=32, grid=1, in_channels=1, size=8),
        Batches(data.train_x, data.train_y, 64, seed),
    )
    return lk.train(net, batches, epochs=8, optimizer=lk.Optimizer(lr=0.1, weight_decay=2e-2), seed=seed, quiet=True)


def measure(seed: int) -> dict[str, float]:
    data, found = digits(seed), {"none": 0.0}
    told = {"example": data.test_x[:2], "calibration": looked_at(data)}
    for kind in KINDS:
        net = trained(kind, data, seed)
        found[f"{kind}_whole"] = right(net, data)
        convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        for i, conv in enumerate(convolutions, 1):
            norms = conv.weight.detach().flatten(1).norm(dim=1)
            found |= {
                f"{kind}_std_{i}": float(norms.std() / norms.mean()),
                f"{kind}_min_{i}": float(norms.min() / norms.mean()),
            }
        for by in SCORES:
            less = {keep: lk.Prune(keep=keep, by=by, multiple=1, seed=seed)(net, **told) for keep in KEEPS}
            at_once = {keep: right(small, data) for keep, small in less.items()}
            found |= {f"{kind}_{by}_{keep}": value for keep, value in at_once.items()}
            found[f"{kind}_{by}_after"] = sum(at_once.values()) / len(at_once)
            found[f"{kind}_{by}_tuned"] = right(learnt(less[TUNED], data, seed, epochs=2, lr=1e-3), data)
        for when in ("after", "tuned"):
            found[f"{kind}_lead_{when}"] = found[f"{kind}_fpgm_{when}"] - found[f"{kind}_l1_{when}"]
            found[f"{kind}_told_{when}"] = found[f"{kind}_l1_{when}"] - found[f"{kind}_random_{when}"]
    return found


def _kind(figures, kind: str) -> str:
    def mean(name: str) -> float:
        return summarise(column(figures, f"{kind}_{name}").values()).mean

    norms = ", ".join(f"{mean(f'std_{i}'):.3f} and {mean(f'min_{i}'):.2f}" for i in range(1, LAYERS + 1))
    keeps = "; ".join(
        f"{by} {', '.join(brief(column(figures, f'{kind}_{by}_{keep}')) for keep in KEEPS)}, tuned "
        f"{brief(column(figures, f'{kind}_{by}_tuned'))}"
        for by in SCORES
    )
    leads = [
        f"{title} at once {points(difference(figures, f'{kind}_{what}_after', 'none'))}, tuned "
        f"{points(difference(figures, f'{kind}_{what}_tuned', 'none'))}"
        for what, title in (("lead", "fpgm - l1"), ("told", "l1 - random"))
    ]
    return (
        f"{KINDS[kind]}: std and least of the norms over their mean {norms}; accuracy in percent {brief(column(figures, f'{kind}_whole'))} whole, "
        f"{keeps}; {'; '.join(leads)}"
    )


def judge(figures: Seeds) -> Judgement:
    lead = difference(figures, "alike_lead_after", "none")
    larger = difference(figures, "alike_lead_after", "spread_lead_after")
    less = difference(figures, "alike_told_after", "spread_told_after")
    kept = ", ".join(f"{100 * keep:.0f}" for keep in KEEPS)
    sentence = (
        f"Layer by layer, with {kept} % of the filters kept, and {100 * TUNED:.0f} % tuned, n = {len(figures)}. "
        f"{'. '.join(_kind(figures, kind) for kind in KINDS)}. With norms more alike the lead of fpgm over l1 at once is larger by {points(larger)}, and "
        f"that of l1 over random by {points(less)} (not judged)."
    )
    return altogether(outcome(lead), outcome(larger)), sentence


CLAIM = Claim(
    number=25,
    claim="where the norms of filters vary little, norms say badly which can go, and the distance to the geometric median (FPGM) says it better",
    source="He, Liu, Wang, Hu, Yang, CVPR 2019",
    setup="Digits, 1,200 rows; plain_6 with 32 to 128 channels, 8 epochs from the same weights by AdamW without decay (norms nearly alike) and by SGD "
    "with a decay of 0.02 (spread two to three times as far, but for the first layer); `Prune` by l1, fpgm and random with 80, 60 and 40 % of every layer's filters "
    "kept, BatchNorm estimated anew on 512 training rows; at once (the mean of the three), and with 40 % after 2 epochs of AdamW at 0.001; 597 test rows. Held: "
    "where norms are alike fpgm is clearly above l1 at once, and by clearly more than where they are spread.",
    settings="Trainings and shares were chosen on seeds 100 to 102 by how far the norms spread and how much accuracy pruning costs.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
)
