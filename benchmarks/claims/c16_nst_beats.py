"""Claim 16: matching maps directly ignores how samples are distributed; NST does better than FitNets and attention transfer."""

from __future__ import annotations

import torch
from common import Claim, Judgement, Seeds, altogether, digits
from features import FEW, against, clearly_above, few, taught, teacher, test_accuracy, told

import limbeck as lk
from limbeck.losses import hint_l2, nst_mmd

PAIR = ("layer3", "layer3")
ARMS = {
    "labels": ("labels alone", None),
    "nst": ("NST", lk.NST(pairs=(PAIR,), form="benchmark", weight=1.0)),
    "at": ("attention transfer", lk.AttentionTransfer(pairs=(PAIR,), weight=1.0)),
    "fitnets": ("FitNets, two stages", lk.FitNets(pair=PAIR, soft=0.0, hint_share=0.5)),
    "joint": ("FitNets, one stage", lk.FitNets(pair=PAIR, stages="one", soft=0.0, form="benchmark", hint_weight=10.0)),
}
NAMES = {name: title for name, (title, _) in ARMS.items()}


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    big, rows = teacher(data, seed), few(data, 100)
    with torch.no_grad(), lk.capture(big.eval(), PAIR[1]) as seen:
        big(data.test_x[:100])
    maps = seen[PAIR[1]].detach().double()
    mixed = maps[:, torch.randperm(maps.shape[1], generator=torch.Generator().manual_seed(seed))]
    found = {name: test_accuracy(taught(big, rows, seed, method), data) for name, (_, method) in ARMS.items()}
    own = float(hint_l2(maps.roll(1, 0), maps).mean())  # the scale: how far the maps of different samples are apart
    return {
        **found,
        "mixed_nst": float(nst_mmd(mixed, maps).abs().max()),
        "mixed_direct": float(hint_l2(mixed, maps).mean()) / own,
    }


def judge(figures: Seeds) -> Judgement:
    rivals = [name for name in ARMS if name not in ("nst", "labels")]
    blind = all(f["mixed_nst"] < 1e-10 < f["mixed_direct"] for f in figures.values())
    away = sum(f["mixed_direct"] for f in figures.values()) / len(figures)
    sentence = (
        f"Test accuracy: {told(figures, NAMES)}. NST compared {against(figures, 'nst', {k: v for k, v in NAMES.items() if k != 'nst'})}. "
        f"The first half held, exactly: a map whose channels are only reordered is at zero from itself for NST (below 1e-10, all seeds), and "
        f"for the direct distance {away:.2f} times as far as the map of another sample."
    )
    beats = clearly_above(figures, "nst", rivals)
    return altogether(
        "held" if blind else "did not hold", beats
    ), sentence + f" The second, NST better than all three: {beats}."


CLAIM = Claim(
    number=16,
    claim="matching maps directly ignores the density of samples; NST, which compares distributions, beats FitNets and AT",
    source="Huang, Wang, arXiv 1707.01219",
    setup=FEW
    + " All arms at layer3 (4x4), labels beside the features, no softened classes. The verdict asks NST to beat all three rivals.",
    measure=measure,
    judge=judge,
    settings="Weights are the best mean of seeds 100 and 101 over a coarse grid: NST 1, 5, 25; attention 1, 4, 16; one-stage "
    "hint 0.1, 1, 10; hints for 25 or 50 % of the epochs of two stages.",
)
