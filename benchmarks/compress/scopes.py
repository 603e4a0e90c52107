"""Whether `Prune` does well to choose between one part of every layer and one ranking by how far the network's answers move.

    python benchmarks/compress/scopes.py resnet56 0 1 2      # network and seeds; writes docs/results/compress-scopes-resnet56.json
    python benchmarks/compress/scopes.py --page              # the page from what is there

Networks are pruned in both ways, without training, and measured on validation rows.  The seed draws the training rows that
scores, BatchNorm's statistics and the choice look at, and the validation rows.  A seed that was measured is kept.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn import MEASURED, SEEN, drawn, go_on, so_far
from records import told

import limbeck as lk
from limbeck.compress.prune import By
from limbeck.compress.pruning.compare import moved_by
from limbeck.stats import paired, summarise

SCORES: tuple[By, ...] = ("l1", "fpgm", "taylor")
SCOPES: tuple[Literal["layer", "global"], ...] = ("layer", "global")
PARTS = (0.7, 0.5, 0.3)


def measured(network: str, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """By score and part of the MACs, and by scope: the accuracy in percent, and how far the answers moved."""
    given = drawn(network, seed)
    model, looked = given.model, given.looked
    found: dict[str, dict[str, dict[str, float]]] = {}
    for by, part in track(list(product(SCORES, PARTS)), f"{network}, seed {seed}"):
        lines = {}
        for scope in SCOPES:
            torch.manual_seed(seed)
            less = lk.Prune(macs=part, by=by, scope=scope)(model, example=looked[0].inputs[:2], calibration=looked)
            lines[scope] = {"accuracy": given.accuracy(less), "moved": moved_by(model, less, looked)}
        found[f"{by} {part}"] = lines
    return found


def chosen(lines: dict[str, dict[str, float]]) -> str:
    """What `scope="auto"` takes: the scope after which answers moved less."""
    return min(SCOPES, key=lambda scope: lines[scope]["moved"])


def table(by_network: dict[str, dict[int, Any]]) -> list[str]:
    lines = [
        "| network | score, MACs left | the same part of every layer, % | one ranking, % | one ranking against it, points | nearer answers |",
        "|---|---|---|---|---|---|",
    ]
    for network, by_seed in by_network.items():
        for case in next(iter(by_seed.values())):
            layer, ranking = ({s: found[case][scope]["accuracy"] for s, found in by_seed.items()} for scope in SCOPES)
            taken = [chosen(found[case]) for found in by_seed.values()]
            counts = ", ".join(f"{scope} {taken.count(scope)}" for scope in SCOPES if scope in taken)
            cells = [
                f"{s.mean:.1f}" + (f" ± {s.std:.1f}" if s.std is not None else "")
                for s in (summarise(list(values.values())) for values in (layer, ranking))
            ]
            by, part = case.split()
            lines.append(
                f"| {network} | {by}, {100 * float(part):.0f} % | {' | '.join(cells)} | {told(paired(ranking, layer))} | {counts} |"
            )
    return lines


def summary(by_network: dict[str, dict[int, Any]]) -> str:
    """How often the nearer network is the better one, and what a wrong choice costs."""
    cases = [lines for by_seed in by_network.values() for found in by_seed.values() for lines in found.values()]
    lost = [max(line["accuracy"] for line in c.values()) - c[chosen(c)]["accuracy"] for c in cases]
    right = sum(loss == 0 for loss in lost)
    gains = {
        scope: summarise([c[chosen(c)]["accuracy"] - c[scope]["accuracy"] for c in cases]).mean for scope in SCOPES
    }
    wrong = f"; in the others it has {max(lost):.1f} points less at most" if right < len(cases) else ""
    return (
        f"Of {len(cases)} pairs of networks the one whose outputs moved less is the more accurate in {right}{wrong}. On the mean of all of them the choice "
        f"is {gains['layer']:.1f} points above the same part of every layer, and {gains['global']:.1f} above one ranking."
    )


def page() -> str:
    """The page of what was measured so far."""
    by_network, seeds, source = so_far("scopes")
    body = [
        "# The same part of every layer, or one ranking of all channels?",
        "",
        f"Trained networks for CIFAR-10 ({', '.join(by_network)}), pruned by `Prune(macs=, by=, scope=)` in both ways to equal MACs, without training; accuracy on "
        f"{MEASURED:,} validation images. Outputs are compared on the {SEEN} training images that scores and BatchNorm's statistics look at, as "
        f'`scope="auto"` does. Seeds {seeds} draw the images; ± is the standard deviation over them, brackets are 95 % t intervals, '
        "paired. Each network is one: other weights of the same shape were not tried.",
        "",
        summary(by_network),
        "",
        *table(by_network),
        "",
        source,
        "",
    ]
    return "\n".join(body)


if __name__ == "__main__":
    go_on("scopes", measured, page, __doc__)
