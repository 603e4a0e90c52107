"""Claim 25: filters' norms are too alike to prune by; the geometric median does without them."""

from __future__ import annotations

import copy

import torch
from common import (
    Claim,
    altogether,
    brief,
    column,
    difference,
    digits,
    learnt,
    looked_at,
    outcome,
    points,
    right,
    six_convolutions,
)
from scipy.stats import spearmanr
from torch import nn

import limbeck as lk
from limbeck.stats import summarise

SCORES = ("l1", "fpgm", "random")
KEEP = 0.6
POWER = 0.1


def blocks(model: nn.Module) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """Path and modules of every convolution and the normalisation behind it."""
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    return [(path, conv, bn) for (path, conv), (_, bn) in zip(found[::2], found[1::2], strict=True)]  # type: ignore[misc]


@torch.no_grad()
def alike(model: nn.Module) -> nn.Module:
    """The same function with filters of nearly one L1 norm: what BatchNorm takes out again is spread no longer."""
    new = copy.deepcopy(model)
    for _, conv, bn in blocks(new):
        norms = conv.weight.flatten(1).abs().sum(1)
        scale = (norms / norms.mean()) ** (POWER - 1)
        conv.weight.mul_(scale[:, None, None, None])
        if conv.bias is not None:
            conv.bias.mul_(scale)
        bn.running_mean.mul_(scale)
        bn.running_var.mul_(scale**2)
    return new


@torch.no_grad()
def spread(conv: nn.Conv2d) -> tuple[float, float]:
    """Standard deviation and smallest of the filters' L2 norms, over their mean."""
    norms = conv.weight.flatten(1).norm(dim=1)
    return float(norms.std() / norms.mean()), float(norms.min() / norms.mean())


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    trained = six_convolutions(data, seed)
    found, told = (
        {"none": 0.0, "whole": right(trained, data)},
        {"example": data.test_x[:2], "calibration": looked_at(data)},
    )
    for kind, net in {"trained": trained, "alike": alike(trained)}.items():
        found[f"{kind}_whole"] = right(net, data)
        for by in SCORES:
            less = lk.Prune(keep=KEEP, by=by, multiple=1, seed=seed)(net, **told)
            found[f"{kind}_{by}_after"] = right(less, data)
            found[f"{kind}_{by}_tuned"] = right(learnt(less, data, seed, epochs=2, lr=1e-3), data)
        for when in ("after", "tuned"):
            found[f"{kind}_lead_{when}"] = found[f"{kind}_fpgm_{when}"] - found[f"{kind}_l1_{when}"]
    stds, leads = [], []
    for i, (path, conv, _) in enumerate(blocks(trained), 1):
        std, least = spread(conv)
        one = {
            by: right(lk.Prune(keep=1.0, layers={path: 0.3}, by=by, multiple=1)(trained, **told), data)
            for by in ("l1", "fpgm")
        }
        found |= {f"std_{i}": std, f"min_{i}": least, f"layer_lead_{i}": one["fpgm"] - one["l1"]}
        stds.append(std)
        leads.append(one["fpgm"] - one["l1"])
    rho = float(spearmanr(stds, leads).statistic)
    return found | {"rho": rho if rho == rho else 0.0}


def judge(figures):
    names = [n for n in next(iter(figures.values())) if n.startswith("std_")]
    layers = ", ".join(f"{_mean(figures, n):.3f} and {_mean(figures, n.replace('std', 'min')):.2f}" for n in names)
    arms = "; ".join(
        _arms(figures, kind, title) for kind, title in (("trained", "as trained"), ("alike", "norms alike"))
    )
    leads = {w: difference(figures, f"trained_lead_{w}", "none") for w in ("after", "tuned")}
    alike_lead = {w: difference(figures, f"alike_lead_{w}", "none") for w in ("after", "tuned")}
    larger = difference(figures, "alike_lead_after", "trained_lead_after")
    rho = difference(figures, "rho", "none")
    sentence = (
        f"Std and least of the filters' norms over their mean, layer by layer: {layers}. Accuracy in percent (n = {len(figures)}), whole "
        f"{brief(column(figures, 'whole'))}; {arms}. fpgm - l1 as trained: at once {points(leads['after'])}, tuned {points(leads['tuned'])}; "
        f"norms alike: at once {points(alike_lead['after'])}, tuned {points(alike_lead['tuned'])}; the lead at once is larger with norms alike by "
        f"{points(larger)}. One layer at a time, the rank correlation of std / mean with the lead: {rho.mean:+.2f} [{rho.low:+.2f}, {rho.high:+.2f}]."
    )
    return altogether(outcome(leads["after"]), outcome(larger)), sentence


def _arms(figures, kind: str, title: str) -> str:
    told = {w: {by: brief(column(figures, f"{kind}_{by}_{w}")) for by in SCORES} for w in ("after", "tuned")}
    return f"{title}: " + ", ".join(f"{by} {told['after'][by]}, tuned {told['tuned'][by]}" for by in SCORES)


def _mean(figures, name: str) -> float:
    return summarise(column(figures, name).values()).mean


CLAIM = Claim(
    number=25,
    claim="where the norms of filters vary little, norms say badly which can go, and the distance to the geometric median (FPGM) says it better",
    source="He, Liu, Wang, Hu, Yang, CVPR 2019",
    setup="",
    settings="",
    measure=measure,
    judge=judge,
)
