"""Claim 43: relations between samples (RKD, SP) spare a tiny student the target of FitNets that it cannot learn."""

from __future__ import annotations

import torch
from common import Claim, Judgement, Seeds, altogether, column, difference, digits, outcome, points
from features import against, clearly_above, few, taught, teacher, test_accuracy, told
from torch import Tensor, nn

import limbeck as lk
from limbeck.stats import summarise

PAIR = ("layer2", "layer2")
SIZES = {"tiny": [6, 6], "wide": [64, 64]}
ARMS = {
    "labels": ("labels alone", None),
    "fitnets": ("FitNets", lk.FitNets(pair=PAIR, stages="one", soft=0.0, form="benchmark", hint_weight=1.0)),
    "rkd": ("RKD", lk.RKD(pair=PAIR, distance=2.5, angle=5.0)),
    "sp": ("SP", lk.SimilarityPreserving(pair=PAIR, weight=1.0)),
}
NAMES = {name: title for name, (title, _) in ARMS.items()}


def unexplained(student: nn.Module, big: nn.Module, x: Tensor) -> float:
    """The part of the variance of the teacher's layer that no linear map of the student's explains, on half of the rows."""
    with torch.no_grad(), lk.capture(student.eval(), PAIR[0]) as ours, lk.capture(big.eval(), PAIR[1]) as theirs:
        student(x)
        big(x)
    s, t = (seen[layer].detach().double() for seen, layer in ((ours, PAIR[0]), (theirs, PAIR[1])))
    s = torch.cat([s, torch.ones(len(s), 1)], 1)
    half = len(x) // 2
    map_ = torch.linalg.lstsq(s[:half], t[:half], driver="gelsd").solution
    rest = t[half:] - s[half:] @ map_
    return float(rest.square().sum() / (t[half:] - t[half:].mean(0)).square().sum())


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    big, rows = teacher(data, seed, "digits_mlp", hidden=[256, 256]), few(data, 200)
    found = {}
    for size, hidden in SIZES.items():
        for name, (_, method) in ARMS.items():
            net = taught(big, rows, seed, method, name="digits_mlp", hidden=hidden, epochs=100, size=50)
            found[f"{size}_{name}"] = test_accuracy(net, data)
            if name == "fitnets":
                found[f"{size}_unexplained"] = unexplained(net, big, data.test_x)
        for name in ("rkd", "sp"):
            found[f"{size}_{name}_lead"] = found[f"{size}_{name}"] - found[f"{size}_fitnets"]
    return found


def judge(figures: Seeds) -> Judgement:
    leads = {n: difference(figures, f"tiny_{n}_lead", f"wide_{n}_lead") for n in ("rkd", "sp")}
    lost = {size: summarise(column(figures, f"{size}_unexplained").values()) for size in SIZES}
    parts = [
        f"{size.capitalize()} student ({'-'.join(map(str, SIZES[size]))}): {told(figures, {f'{size}_{k}': v for k, v in NAMES.items()})}; the part of "
        f"the teacher's layer that stays unexplained after FitNets is {lost[size].mean:.2f} ± {lost[size].std:.2f}"
        for size in SIZES
    ]
    rest = {f"tiny_{k}": NAMES[k] for k in ("fitnets", "labels")}
    sentence = (
        ". ".join(parts) + f". Tiny student: RKD compared {against(figures, 'tiny_rkd', rest)}; SP compared "
        f"{against(figures, 'tiny_sp', rest)}; FitNets compared {against(figures, 'tiny_fitnets', {'tiny_labels': 'labels alone'})}. "
        f"The lead over FitNets is larger in the tiny student than in the wide one by: RKD {points(leads['rkd'])}, SP {points(leads['sp'])}."
    )
    parts = {n: altogether(clearly_above(figures, f"tiny_{n}", ["tiny_fitnets"]), outcome(d)) for n, d in leads.items()}
    return altogether(*parts.values()), sentence + " By part: " + ", ".join(
        f"{NAMES[n]} {o}" for n, o in parts.items()
    ) + "."


CLAIM = Claim(
    number=43,
    claim="the relations of RKD and SP spare a tiny student the target of FitNets that it cannot learn",
    source="lecture notes on Park et al., CVPR 2019 and Tung, Mori, ICCV 2019",
    setup="Digits; teacher an MLP 256-256 on 1,200 rows; students MLPs with hidden layers of 6 and of 64 units, on 200 of these rows, "
    "20 of each class, 100 epochs of 4 batches, AdamW at 0.01, cosine; all compare layer2; labels beside the features; 597 test rows; paired by "
    "seed. The verdict asks both RKD and SP to beat FitNets in the tiny student, by more than in the wide one.",
    settings="Weights are the best mean of the tiny student on seeds 100 to 104: FitNets 1 of 0.1, 1, 10; RKD a tenth of its usual 25 and 50, of 0.1 and 0.3 "
    "times these; SP 1 of 1, 10, 100. A first choice on two of these seeds had taken 10 for FitNets and for SP; with that choice seeds 0 to 4 came "
    "out as held, FitNets 12 points below labels alone. It was thrown away for being chosen on noise, and other seeds are reported here.",
    seeds=(5, 6, 7, 8, 9),
    measure=measure,
    judge=judge,
)
