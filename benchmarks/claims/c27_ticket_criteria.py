"""Claim 27: which weights make the best ticket, and whether large ones stay only because they were large at the start."""

from __future__ import annotations

import torch
from common import (
    Claim,
    Judgement,
    Seeds,
    altogether,
    brief,
    column,
    density,
    difference,
    digits,
    learnt_as_tickets,
    outcome,
    points,
    rank_correlation,
    right,
    start_of_tickets,
    tickets,
)
from torch import nn

from limbeck.stats import summarise

ROUNDS = (4, 6)
BEST = ("large_final", "magnitude_increase")
LESS = ("large_init", "random")
CRITERIA = (*BEST, "movement", "large_init_large_final", "small_init", *LESS)
JUDGED = 6


def linears(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


@torch.no_grad()
def from_the_start(start: nn.Module, dense: nn.Module) -> dict[str, float]:
    """How far the sizes after training are those before: rank correlation, and the part of the largest fifth that was in it before."""
    rhos, shares = [], []
    for a, b in zip(linears(start), linears(dense), strict=True):
        first, last = a.weight.abs().flatten(), b.weight.abs().flatten()
        count = len(first) // 5
        rhos.append(rank_correlation(first.numpy(), last.numpy()))
        shares.append(len(set(first.topk(count).indices.tolist()) & set(last.topk(count).indices.tolist())) / count)
    return {"size_correlation": sum(rhos) / len(rhos), "fifth_in_common": sum(shares) / len(shares)}


def measure(seed: int) -> dict[str, float]:
    data, start = digits(seed), start_of_tickets(seed)
    dense = learnt_as_tickets(start, data, seed)
    found = {"dense": right(dense, data), **from_the_start(start, dense)}
    for criterion in CRITERIA:
        rounds = tickets(data, seed, start, dense, rounds=max(ROUNDS), rate=0.36, criterion=criterion)
        for k, (ticket, trained) in enumerate(rounds, 1):
            if k in ROUNDS:
                found |= {f"density_{k}": density(ticket), f"{criterion}_{k}": right(trained, data)}
    return found


def judge(figures: Seeds) -> Judgement:
    told = []
    for k in ROUNDS:
        part = column(figures, f"density_{k}")
        arms = ", ".join(f"{c} {brief(column(figures, f'{c}_{k}'))}" for c in CRITERIA)
        told.append(f"density {100 * sum(part.values()) / len(part):.1f} %: {arms}")
    k = JUDGED
    leads = {(b, c): difference(figures, f"{b}_{k}", f"{c}_{k}") for b in BEST for c in CRITERIA if c not in BEST}
    between = difference(figures, f"{BEST[1]}_{k}", f"{BEST[0]}_{k}")
    ahead = altogether(*(outcome(leads[b, c]) for b in BEST for c in LESS))
    beaten = [f"{b} by {c}" for (b, c), d in leads.items() if outcome(d) == "did not hold"]
    rho, share = (summarise(column(figures, name).values()) for name in ("size_correlation", "fifth_in_common"))
    listed = [f"{b} - {c} {points(d)}" for (b, c), d in leads.items()]
    sentence = (
        f"Accuracy in percent (n = {len(figures)}), dense {brief(column(figures, 'dense'))}; {'; '.join(told)}. At the lower density: "
        f"{'; '.join(listed)}; {BEST[1]} - {BEST[0]} {points(between)}. Clearly beaten by another: {', '.join(beaten) or 'none of the two'}. "
        f"Sizes before and after the dense training have a rank correlation of {rho.mean:.2f} ± {rho.std or 0:.2f} in a layer, and "
        f"{100 * share.mean:.0f} ± {100 * (share.std or 0):.0f} % of the largest fifth after it were in the largest fifth before (20 % by chance)."
    )
    return ("did not hold" if beaten else ahead), sentence


CLAIM = Claim(
    number=27,
    claim="the largest weights after training, or those that grew most, make the best tickets; that large ones began large is no worry",
    source="Zhou, Lan, Liu, Yosinski, NeurIPS 2019; lecture notes",
    setup="Digits, 1,200 rows, digits_mlp 64-128-64-10; tickets by rounds of 36 % (output layer 18 %) with `Ticket` and each criterion, "
    "survivors back to their first weights, every training 30 epochs of AdamW at 0.002 in batches of 64, the same batches; 597 test rows. Held, "
    "after 6 rounds: large_final and magnitude_increase (which counts only growth) are clearly above large_init and above random, "
    "and no other criterion is clearly above one of them.",
    settings="Epochs and rate as in claim 28, chosen on seeds 100 and 101; the condition was put down before any of these criteria was run. A round "
    "here is two of claim 28's, to save time.",
    measure=measure,
    judge=judge,
    seeds=(0, 1, 2, 3, 4, 5),
)
