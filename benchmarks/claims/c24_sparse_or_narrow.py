"""Claim 24: zeros in weights save no time without kernels for them; removed filters do."""

from __future__ import annotations

from functools import cache

import torch
from common import Claim, Outcome, altogether, column, difference, network
from torch import Tensor, nn

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


@cache
def machines() -> tuple[dict[str, nn.Module], Tensor, dict[str, float]]:
    """All networks in both forms, what they run on, and the part of the MACs of the narrow one."""
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = network("resnet20", 0)
    with torch.no_grad():
        for _ in range(3):
            whole.train()(x)  # statistics of BatchNorm that are not those of no data
    masked = lk.compress.Mask(sparsity=0.9)(whole.eval(), example=x)
    nets = {"whole": whole, "masked": masked, "zeros": settle(masked), "narrow": lk.Prune(keep=0.5)(whole, example=x)}
    weights = [m.weight for m in nets["zeros"].modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    facts = {
        "zeros": sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights),
        "narrow_macs": cost(nets["narrow"], x[:1]).macs / cost(whole, x[:1]).macs,
    }
    forms = {f"{name}_eager": Form(net.eval()) for name, net in nets.items()}
    forms |= {f"{name}_compiled": compiled(net, x) for name, net in nets.items()}
    return forms, x, facts


def measure(seed: int) -> dict[str, float]:
    forms, x, facts = machines()
    times = {name: found.median_ms for name, found in latency(forms, x, repeats=20, warmup=3).items()}
    found = {"one": 1.0, **facts} | {f"whole_{form}_ms": times[f"whole_{form}"] for form in FORMS}
    return found | {f"{n}_{form}": times[f"whole_{form}"] / times[f"{n}_{form}"] for n in NETWORKS for form in FORMS}


def faster(figures, name: str) -> Outcome:
    """By more than the margin, by the whole interval; or by no more than it."""
    d = difference(figures, name, "one")
    return "held" if d.low > MARGIN else "did not hold" if d.high < MARGIN else "inconclusive"


def judge(figures):
    told, parts = [], []
    opposite = {"held": "did not hold", "did not hold": "held", "inconclusive": "inconclusive"}
    for form in FORMS:
        ms, ratios = summarise(column(figures, f"whole_{form}_ms").values()), []
        for name, title in NETWORKS.items():
            d = difference(figures, f"{name}_{form}", "one")
            s = summarise(column(figures, f"{name}_{form}").values())
            ratios.append(f"{title} {s.mean:.2f} ± {s.std:.2f} [{1 + d.low:.2f}, {1 + d.high:.2f}]")
            found = faster(figures, f"{name}_{form}")
            parts.append(found if name == "narrow" else opposite[found])
        told.append(f"{form} (whole network {ms.mean:.1f} ± {ms.std:.1f} ms): {', '.join(ratios)}")
    zeros, macs = (summarise(column(figures, name).values()).mean for name in ("zeros", "narrow_macs"))
    sentence = (
        f"How many times as fast as the whole network, n = {len(figures)} rounds; {'; '.join(told)}. "
        f"{100 * zeros:.1f} % of the weights were zero; the narrow network has {100 * macs:.1f} % of the MACs."
    )
    return altogether(*parts), sentence


CLAIM = Claim(
    number=24,
    claim="zeros in weights bring no speed without kernels for them; removing filters does",
    source="a lecture on compression",
    setup="resnet20 with random weights, batches of 16 images of 32x32; whole, with 90 % of every layer's weights masked by `Mask` (the masks in "
    "place, and written into the weights as zeros), and with half of the channels removed by `Prune(keep=0.5)`; eager, and compiled with channels "
    "last and frozen weights. One CPU thread, process time; in each of five rounds all eight take turns 20 times, and the medians are "
    "compared: so n counts rounds of one process, not machines. Held, eager and compiled: both networks with zeros are at most 5 % faster, and "
    "the narrow one is more than 5 % faster, by the whole intervals.",
    settings="The margin of 5 % was put down before anything was timed.",
    measure=measure,
    judge=judge,
)
