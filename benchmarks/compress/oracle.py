"""How well each score knows which channels matter: its rank correlation with the oracle, layer by layer.

    python benchmarks/compress/oracle.py resnet56 0 1 2       # network and seeds; writes docs/results/compress-oracle-resnet56.json
    python benchmarks/compress/oracle.py resnet56 --page      # the page from what is there

The oracle of a channel is the change of the loss on held-out rows when nothing but this channel is zero.  Scores look at the
weights and at training rows.  The seed draws both sets of rows; the network is one.  A seed that was measured is kept.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from scipy.stats import spearmanr
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from records import seed_by_seed
from study import ORIGINALS, ROOT, SCORES

import limbeck as lk
from limbeck.compress.pruning.graph import groups
from limbeck.compress.pruning.groups import Group
from limbeck.compress.pruning.judge import judge
from limbeck.data import Loader, load
from limbeck.data.splits import subset
from limbeck.stats import paired, summarise

SEEN, HELD_OUT = 512, 256  # rows that the scores look at, and that the oracle is measured on
EVERY = 3  # of the groups inside blocks; a pass over the rows for each channel is what takes the time


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def looked_at(model: nn.Module, x: torch.Tensor) -> tuple[list[Group], list[Group]]:
    """The groups that several layers make together, and some of the others."""
    found = groups(model, x)
    coupled = [g for g in found if len(g.of("out")) > 1]
    return coupled, [g for g in found if g not in coupled][::EVERY]


def measured(network: str, seed: int) -> dict[str, dict[str, float]]:
    """By score and group, Spearman's rank correlation with the oracle."""
    data = load(lk.Data(source=lk.CIFAR10(), validation=5000))
    usual = {"batch_size": 128, "mean": data.mean, "std": data.std}
    seen, held_out = (
        list(Loader(images=subset(part, rows, seed), **usual).evaluation())
        for part, rows in ((data.train, SEEN), (data.validation, HELD_OUT))
    )
    model = lk.build(network, classes=10)
    lk.load_weights(model, ROOT / ORIGINALS[network])
    x = seen[0].inputs[:2]
    coupled, others = looked_at(model, x)
    chosen, truth = [*coupled, *others], {}
    for group in track(chosen, f"oracle, seed {seed}"):
        truth |= judge(model, "oracle", [group], example=x, calibration=held_out)
    told: dict[str, dict[str, float]] = {}
    for by in SCORES:
        scores = judge(model, by, chosen, example=x, calibration=seen, seed=seed)
        told[by] = {g.name: rank_correlation(scores[g.name], truth[g.name]) for g in chosen}
    return told


def page(told: dict[str, Any], target: Path) -> None:
    by_seed = {int(seed): lines for seed, lines in told["seeds"].items()}
    names = {by: list(next(iter(by_seed.values()))[by]) for by in SCORES}

    def means(by: str, within: list[str]) -> dict[int, float]:
        return {s: sum(lines[by][n] for n in within) / len(within) for s, lines in by_seed.items()}

    first = names[SCORES[0]]
    kinds = {"inside blocks": [n for n in first if n not in told["coupled"]], "coupled": told["coupled"]}
    if not told["coupled"]:
        kinds = {f"`{name}`": [name] for name in first}  # few enough to show each
    ranked = sorted(SCORES, key=lambda by: -summarise(list(means(by, first).values())).mean)
    rows = []
    for by in ranked:
        found = means(by, first)
        s, d = summarise(list(found.values())), paired(found, means("l1", first))
        cells = [f"{summarise(list(means(by, within).values())).mean:+.2f}" for within in kinds.values()]
        said = f"{s.mean:+.3f}" + (f" ± {s.std:.3f}" if s.std is not None else " (single run)")
        gain = f"{d.mean:+.3f}" + (f" [{d.low:+.3f}, {d.high:+.3f}]" if d.low is not None else "")
        rows.append(f"| {by} | {said} | {'' if by == 'l1' else gain} | {' | '.join(cells)} |")
    which = f"every {EVERY}rd layer's"
    if told["coupled"]:
        which = f"all {len(told['coupled'])} that residual sums couple, and every {EVERY}rd of the others"
    body = [
        f"# {told['network']}: which score knows what matters",
        "",
        f"Spearman's rank correlation, in a group of channels, between a score and the oracle: the absolute change of the mean loss on {HELD_OUT} "
        f"validation images of CIFAR-10 when one channel is zero. Scores look at the weights and, where they need data, at {SEEN} training images. "
        f"Means over {len(first)} groups with {told['channels']} channels: {which}. Seeds {', '.join(map(str, sorted(by_seed)))} draw the images; ± is the standard deviation over "
        "them, brackets are 95 % t intervals, paired. The network is one: nothing is said here of others.",
        "",
        f"| score | correlation | against l1 | {' | '.join(kinds)} |",
        "|" + "---|" * (3 + len(kinds)),
        *rows,
        "",
        f"Commit {', '.join(told['commits'])}, torch {told['versions']['torch']}.",
        "",
    ]
    target.with_suffix(".md").write_text("\n".join(body))
    print("\n".join(body))


def main() -> None:
    network, *rest = sys.argv[1:] or [""]
    if network not in ORIGINALS:
        sys.exit(__doc__)
    target = ROOT / "docs" / "results" / f"compress-oracle-{network}.json"
    torch.set_num_threads(1)
    told = seed_by_seed(target, network, rest, partial(measured, network), lambda: shape(network))
    page(told, target)


def shape(network: str) -> dict[str, Any]:
    """Which of the groups that were looked at are coupled, and how many channels all of them have."""
    coupled, others = looked_at(lk.build(network, classes=10), torch.zeros(2, 3, 32, 32))
    return {"coupled": [g.name for g in coupled], "channels": sum(g.size for g in [*coupled, *others])}


if __name__ == "__main__":
    main()
