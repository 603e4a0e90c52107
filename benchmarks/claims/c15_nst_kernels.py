"""Claim 15: NST with a linear kernel resembles attention transfer; with the polynomial one it matches Gram matrices."""

from __future__ import annotations

import torch
from common import Claim, Judgement, Seeds, altogether, column, difference, digits, outcome, rank_correlation
from features import few, taught, teacher
from torch import Tensor

import limbeck as lk
from limbeck.losses import attention_l2, attention_map, nst_mmd
from limbeck.stats import summarise

ROWS = 200


def unit(x: Tensor) -> Tensor:
    """Every channel over the positions, of length 1 (zero stays zero); float64."""
    flat = x.double().flatten(2)
    return flat / flat.norm(dim=2, keepdim=True).clamp_min(1e-12)


def by_definition(s: Tensor, t: Tensor, power: int) -> Tensor:
    """MMD^2 as written: the means of k(p, p'), k(q, q') and k(p, q) over all pairs of channels, k = (x.y)^power."""
    p, q = unit(t), unit(s)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("ncx,ndx->ncd", a, b).pow(power).mean((1, 2))

    return mean(p, p) + mean(q, q) - 2 * mean(p, q)


def gradient(loss, s: Tensor, t: Tensor) -> Tensor:
    s = s.clone().requires_grad_(True)
    return torch.autograd.grad(loss(s, t).sum(), s)[0].flatten(1)


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    big = teacher(data, seed)
    small = taught(big, few(data, 100), seed, None, epochs=80)
    x = data.test_x[:ROWS]
    with torch.no_grad(), lk.capture(small.eval(), "layer3") as ours, lk.capture(big.eval(), "layer3") as theirs:
        small(x)
        big(x)
    s, t = ours["layer3"].detach(), theirs["layer3"].detach()
    q, p = unit(s), unit(t)
    grams = [torch.einsum("ncx,ncy->nxy", a, a) / a.shape[1] for a in (q, p)]
    linear, poly = (nst_mmd(s.double(), t.double(), kernel=kernel) for kernel in ("linear", "poly"))
    attention = attention_l2(s.double(), t.double(), kind="sum").square()
    ways = {
        "linear": lambda a, b: nst_mmd(a, b, kernel="linear"),
        "poly": lambda a, b: nst_mmd(a, b, kernel="poly"),
    }
    along = gradient(lambda a, b: attention_l2(a, b, kind="sum", form="benchmark"), s, t)
    cosine = torch.nn.functional.cosine_similarity
    maps = attention_map(t, kind="sum").flatten(1).double()
    return {
        "off_linear": float(((q.mean(1) - p.mean(1)).square().sum(1) - by_definition(s, t, 1)).abs().max()),
        "off_poly": float(((grams[0] - grams[1]).square().sum((1, 2)) - by_definition(s, t, 2)).abs().max()),
        "off_library": max(
            float((linear - by_definition(s, t, 1)).abs().max()), float((poly - by_definition(s, t, 2)).abs().max())
        ),
        "map_cosine": float(cosine(p.mean(1), maps).mean()),
        "map_cosine_other": float(cosine(p.mean(1), maps.roll(1, 0)).mean()),
        "rank_linear": rank_correlation(linear, attention),
        "rank_poly": rank_correlation(poly, attention),
        **{f"gradient_{k}": float(cosine(gradient(loss, s, t), along).mean()) for k, loss in ways.items()},
    }


def judge(figures: Seeds) -> Judgement:
    worst = max(max(f["off_linear"], f["off_poly"], f["off_library"]) for f in figures.values())
    ranks, slopes = (difference(figures, f"{k}_linear", f"{k}_poly") for k in ("rank", "gradient"))

    def mean(name: str) -> str:
        told = summarise(column(figures, name).values())
        return f"{told.mean:.3f} ± {told.std:.3f}"

    n = len(figures)
    sentence = (
        "The identities held: the linear kernel's MMD is the squared distance of the mean unit channels, and the polynomial one's that of "
        f"the Gram matrices over the positions, to {worst:.1e} (float64, all rows, all seeds). The mean unit channel has cosine "
        f"{mean('map_cosine')} with the attention map sum|A| of its sample, and {mean('map_cosine_other')} with that of another one. That the "
        f"linear kernel's loss is nearer to attention transfer's than the polynomial one's is: {altogether(outcome(ranks), outcome(slopes))}. Rank "
        f"correlation over the rows with the attention distance: linear {mean('rank_linear')}, polynomial {mean('rank_poly')}, difference "
        f"{ranks.mean:+.3f} [{ranks.low:+.3f}, {ranks.high:+.3f}]; cosine of the gradients with attention's: linear {mean('gradient_linear')}, "
        f"polynomial {mean('gradient_poly')}, difference {slopes.mean:+.3f} [{slopes.low:+.3f}, {slopes.high:+.3f}] (n = {n})."
    )
    exact = "held" if worst < 1e-10 else "did not hold"
    return altogether(exact, outcome(ranks), outcome(slopes)), sentence


CLAIM = Claim(
    number=15,
    claim="NST with a linear kernel resembles attention transfer; with the polynomial kernel it compares Gram matrices",
    source="Huang, Wang, arXiv 1707.01219",
    setup="Digits, maps of layer3 (4x4) of a trained digits_cnn (64 channels) and of a digits_cnn_thin (16 channels) that learnt from "
    f'100 labels alone, on {ROWS} test rows. The identities count as exact below 1e-10; "resembles" means closer to attention than '
    "the polynomial kernel is, in rank over the rows and in direction of the gradient.",
    measure=measure,
    judge=judge,
)
