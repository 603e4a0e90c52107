"""The page of the lottery tickets: accuracy against density, the ticket beside its controls.

    python benchmarks/compress/tickets.py docs/results/compress-tickets-resnet8 runs/compress/resnet56-tickets-*

A file of data that was made before may be given in the place of run folders, and folders of new seeds behind it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from records import accuracies, compared, kept, publish, read, seeds, told

from limbeck.stats import summarise

mpl.use("agg")
from matplotlib import pyplot as plt

MEANS = {  # control -> what the surviving weights begin from, and under which mask
    "ticket": "the ticket: its mask, the first weights",
    "random": "a random mask of the same density in each layer, the first weights",
    "reinit": "its mask, weights drawn anew",
    "reinit_sign": "its mask, weights drawn anew with the first signs",
    "constant_sign": "its mask, one size in each layer with the first signs",
    "rewind_nosign": "its mask, the first sizes with drawn signs",
}
Stages = dict[str, dict[str, Any]]


def rounds(stages: Stages) -> dict[int, float]:
    """Density, in percent, after each round; 0 is the dense network."""
    found = {0: 100.0}
    while (mask := stages.get(f"ticket.mask{len(found)}")) and mask["runs"]:
        found[len(found)] = 100 * mask["runs"][0]["details"]["density"]
    return found


def trained(stages: Stages, k: int, who: str) -> dict[str, Any] | None:
    """The stage that trained the network of a round; that of the last ticket bears the name of the whole."""
    if who != "ticket":
        return stages.get(f"ticket.{k}.{who}")
    return stages.get(f"ticket.{k}") or (stages["ticket"] if k == max(rounds(stages)) else None)


def planted(stages: Stages, k: int, who: str) -> dict[str, Any] | None:
    """The stage of the network before it was trained."""
    return stages.get(f"ticket.mask{k}" + ("" if who == "ticket" else f".{who}"))


def grid(stages: Stages, of: Any) -> list[str]:
    """Test accuracy by density, a column for each control."""
    lines = [f"| weights left, % | {' | '.join(MEANS)} |", "|" + "---|" * (1 + len(MEANS))]
    for k, left in rounds(stages).items():
        cells = []
        for who in MEANS:
            stage = of(stages, k, who)
            values = accuracies(stage, "test") if stage else {}
            s = summarise(list(values.values())) if values else None
            cells.append("" if s is None else f"{s.mean:.2f}" + (f" ± {s.std:.2f}" if s.std is not None else ""))
        if any(cells):
            lines.append(f"| {left:.3g} | {' | '.join(cells)} |")
    return lines


def differences(stages: Stages) -> list[str]:
    """Each ticket against the dense network, and against its controls."""
    lines = ["| weights left, % | compared | points |", "|---|---|---|"]
    dense = accuracies(trained(stages, 0, "ticket") or {"runs": ()}, "test")
    for k, left in list(rounds(stages).items())[1:]:
        ticket = trained(stages, k, "ticket")
        if ticket is None or not accuracies(ticket, "test"):
            continue
        lines.append(f"| {left:.3g} | ticket against the dense network | {told(compared(ticket, dense))} |")
        for who in list(MEANS)[1:]:
            control = trained(stages, k, who)
            if control is not None and (values := accuracies(control, "test")):
                lines.append(f"| {left:.3g} | ticket against {who} | {told(compared(ticket, values))} |")
    return lines


def picture(about: dict[str, Any], path: Path) -> None:
    stages = {s["name"]: s for s in about["stages"]}
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for who in MEANS:
        points = []
        for k, left in rounds(stages).items():
            stage = trained(stages, k, who)
            if stage is not None and (values := accuracies(stage, "test")):
                s = summarise(list(values.values()))
                points.append((left, s.mean, s.std or 0.0))
        if points:
            line = "o-" if who == "ticket" else "s--"
            axes.errorbar(*zip(*points), fmt="none", ecolor="0.7", zorder=0)
            axes.plot([p[0] for p in points], [p[1] for p in points], line, ms=5, lw=1.2, label=MEANS[who])
    dense = summarise(list(accuracies(trained(stages, 0, "ticket") or {"runs": ()}, "test").values()))
    axes.axhline(dense.mean, color="k", ls=":", lw=1, label="dense")
    axes.set_xscale("log", base=2)
    axes.invert_xaxis()
    lefts = list(rounds(stages).values())
    axes.set_xticks(lefts, [f"{left:.3g}" for left in lefts])
    axes.set_xlabel("weights left, %")
    axes.set_ylabel("test accuracy, %; bars: standard deviation over seeds")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def page(about: dict[str, Any], name: str) -> str:
    stages, rows = {s["name"]: s for s in about["stages"]}, about["data"]["rows"]
    stage = next(s for s in about["recipe"]["stages"] if s["name"] == "ticket")
    how, training = stage["how"], stage["training"]
    (network,) = about["recipe"]["models"].values()
    body = [
        f"# Lottery tickets of {network}",
        "",
        f"{network} on CIFAR-10, from random weights: {training['epochs']} epochs on {stage['rows']:,} of the {rows['train']:,} training rows; then the "
        f"smallest {100 * how['rate']:g} % of the weights, by one order over all layers, are dropped for good, the others go back to where they "
        f"were after {how['rewind']} steps (about an epoch), and the whole schedule begins again: {how['rounds']} rounds. Controls are trained in the same way. "
        f"Test accuracy on {rows['test']:,} images, of the last epoch's weights, once; seeds {seeds(about['stages'])}; ± is the standard deviation over "
        "seeds, brackets are 95 % t intervals of paired differences.",
        "",
        "A ticket has seen that first epoch beside its schedule; so have the controls that keep sizes or signs of its first weights, and the dense "
        "network has not. Masks save no time: a zero is multiplied like any other number. So short a training shows which weights help to learn fast, "
        "not what a converged network could do.",
        "",
        *(f"- {who}: {what}" for who, what in MEANS.items()),
        "",
        "## Trained",
        "",
        *grid(stages, trained),
        "",
        f"![accuracy against density]({name}.png)",
        "",
        "## Paired by seed",
        "",
        *differences(stages),
        "",
        "## Before training: masked, not trained yet",
        "",
        "Of ten classes, guessing has 10 %. Zhou et al. (2019) saw that a mask by itself can know more than that.",
        "",
        *grid(stages, planted),
        "",
        f"Commits {', '.join(about['commits'])}; torch {about['versions']['torch']}; {about['machine'].get('processor', '')}. The data behind this page: "
        f"[{name}.json]({name}.json).",
        "",
    ]
    return "\n".join(body)


def main(target: Path, given: list[Path]) -> None:
    publish(target, kept([read(one) for one in given]), picture, page)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(given) for given in sys.argv[2:]])
