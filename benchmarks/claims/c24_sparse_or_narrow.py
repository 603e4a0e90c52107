"""Claim 24: zeros in weights save no time without kernels for them; removed filters do."""

from __future__ import annotations

import copy

import torch
from common import Claim, Judgement, Outcome, Seeds, altogether, column, difference, ends, network
from torch import nn

import limbeck as lk
from limbeck.compress.cost import cost, latency
from limbeck.compress.forms import Form, compiled
from limbeck.compress.masking.state import settle
from limbeck.stats import summarise

MARGIN = 0.05
FORMS = ("eager", "compiled")
NETWORKS = {
    "masked": "90 % zeros, masks in place",
    "zeros": "90 % zeros, written into the weights",
    "narrow": "half of the channels",
}


def measure(seed: int) -> dict[str, float]:
    torch._dynamo.reset()
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    whole = network("resnet20", seed)
    with torch.no_grad():
        for _ in range(3):
            whole.train()(x)  # statistics of BatchNorm that are not those of no data
    masked = lk.Mask(sparsity=0.9)(whole.eval(), example=x)
    nets = {"whole": whole, "masked": masked, "zeros": settle(masked), "narrow": lk.Prune(keep=0.5)(whole, example=x)}
    weights = [m.weight for m in nets["zeros"].modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    nets = {"whole": whole.eval(), "twin": copy.deepcopy(whole), **{name: nets[name].eval() for name in NETWORKS}}
    found = {
        "one": 1.0,
        "zeros": sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights),
        "narrow_macs": cost(nets["narrow"], x[:1]).macs / cost(whole, x[:1]).macs,
    }
    order = [*nets][seed % len(nets) :] + [*nets][: seed % len(nets)]
    for form, made in (("eager", Form), ("compiled", lambda net: compiled(net, x))):
        forms = {name: made(nets[name]) for name in order}
        times = {name: time.median_ms for name, time in latency(forms, x, repeats=40, warmup=3).items()}
        found[f"whole_{form}_ms"] = times["whole"]
        found |= {f"{name}_{form}": times["whole"] / times[name] for name in ("twin", *NETWORKS)}
    return found


def faster(figures, name: str) -> Outcome:
    """By more than the margin, by the whole interval; or by no more than it."""
    low, high = ends(difference(figures, name, "one"))
    return "held" if low > MARGIN else "did not hold" if high < MARGIN else "inconclusive"


def judge(figures: Seeds) -> Judgement:
    told, parts = [], []
    opposite = {"held": "did not hold", "did not hold": "held", "inconclusive": "inconclusive"}
    for form in FORMS:
        ms, ratios = summarise(column(figures, f"whole_{form}_ms").values()), []
        twin = difference(figures, f"twin_{form}", "one")
        for name, title in NETWORKS.items():
            low, high = ends(difference(figures, f"{name}_{form}", "one"))
            s = summarise(column(figures, f"{name}_{form}").values())
            ratios.append(f"{title} {s.mean:.2f} ± {s.std or 0:.2f} [{1 + low:.2f}, {1 + high:.2f}]")
            found = faster(figures, f"{name}_{form}")
            parts.append(found if name == "narrow" else opposite[found])
        low, high = ends(twin)
        told.append(
            f"{form} (whole network {ms.mean:.1f} ± {ms.std or 0:.1f} ms): {', '.join(ratios)}; a copy of the whole network {1 + twin.mean:.2f} [{1 + low:.2f}, {1 + high:.2f}]"
        )
    zeros, macs = (summarise(column(figures, name).values()).mean for name in ("zeros", "narrow_macs"))
    sentence = (
        f"How many times as fast as the whole network, n = {len(figures)}; {'; '.join(told)}. "
        f"{100 * zeros:.1f} % of the weights were zero; the narrow network has {100 * macs:.1f} % of the MACs."
    )
    return altogether(*parts), sentence


CLAIM = Claim(
    number=24,
    claim="zeros in weights bring no speed without kernels for them; removing filters does",
    source="a lecture on compression",
    setup="resnet20 with random weights, batches of 16 images of 32x32; whole, with 90 % of every layer's weights masked by `Mask` (the masks in "
    "place, and written into the weights as zeros), and with half of the channels removed by `Prune(keep=0.5)`; eager, and compiled with channels "
    "last and frozen weights; networks, batch and compilation anew for each seed. One CPU thread, process time; the networks and a copy of the whole one, "
    "which shows what the clock cannot tell apart, take turns 40 times, each form by itself, in an order that moves on with the seed; medians are compared. Held, "
    "eager and compiled: both networks with zeros are at most 5 % faster, and the narrow one is more than 5 % faster, by the whole intervals.",
    settings="The margin of 5 % was put down before anything was timed. Two earlier runs (one set of networks five times; five sets, seeds 5 to 9) timed eager "
    "and compiled networks together and in one order. There the network with zeros in its weights was 1.04 times as fast, compiled ([1.03, 1.05], just inconclusive, and "
    "[1.03, 1.04], held), because the whole one always ran after an eager network: in another order nothing of it was left. So these are new seeds with moving orders.",
    measure=measure,
    judge=judge,
    seeds=(10, 11, 12, 13, 14),
)
