"""What a low-rank split of the first layer and of the classifier costs, and what it saves: why `Factorize` leaves them whole.

    python benchmarks/compress/ends.py resnet56 0 1 2      # network and seeds; writes docs/results/compress-ends-resnet56.json
    python benchmarks/compress/ends.py --page              # the page from what is there

Networks are split without training, and measured on validation rows.  The seed draws the training rows from which BatchNorm's
statistics are estimated anew, and the validation rows.  A seed that was measured is kept.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any, Literal

from rich.progress import track
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn import MEASURED, SEEN, drawn, go_on, so_far
from records import told

import limbeck as lk
from limbeck.compressor import findings
from limbeck.stats import Summary, paired, summarise

KINDS: tuple[Literal["svd", "spatial"], ...] = ("svd", "spatial")
ENERGIES = (0.85, 0.7)
EVERY, CLASSIFIER = "every layer", "all but the classifier"
BOTH, DEFAULT = "all but first and classifier", "the default"


def measured(network: str, seed: int) -> dict[str, Any]:
    """By kind and energy, and by what is split: the accuracy in percent, and the parts of MACs and weights that are left."""
    given = drawn(network, seed)
    model, looked = given.model, given.looked
    # Layers that are called by their names are split whatever they save.
    names = tuple(name for name, part in model.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear)))
    cases = {EVERY: names, CLASSIFIER: names[:-1], BOTH: names[1:-1], DEFAULT: ()}
    found: dict[str, Any] = {"whole": {"accuracy": given.accuracy(model)}}
    for kind, energy in track(list(product(KINDS, ENERGIES)), f"{network}, seed {seed}"):
        lines = {}
        for case, layers in cases.items():
            split = lk.Factorize(energy=energy, kind=kind, layers=layers, measured=False)
            less = split(model, example=looked[0].inputs[:2], calibration=looked)
            facts = findings(less).details
            lines[case] = {
                "accuracy": given.accuracy(less),
                **{what: facts[what]["after"] / facts[what]["before"] for what in ("macs", "parameters")},
                "whole": [row["layer"] for row in facts["layers"] if row["decision"] != "factorized"],
            }
        found[f"{kind} {energy}"] = lines
    return found


def _cell(s: Summary) -> str:
    return f"{s.mean:.1f}" + (f" ± {s.std:.1f}" if s.std is not None else "")


def table(by_network: dict[str, dict[int, Any]]) -> list[str]:
    lines = [
        "| network | split, energy kept | MACs left, every layer and the default, % | every layer, % | all but the classifier, % | all but first and classifier, % | "
        "the default, % | the default against every layer, points |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, by_seed in by_network.items():
        for name in (name for name in next(iter(by_seed.values())) if name != "whole"):
            reached = {
                case: {seed: found[name][case]["accuracy"] for seed, found in by_seed.items()}
                for case in (EVERY, CLASSIFIER, BOTH, DEFAULT)
            }
            first = next(iter(by_seed.values()))[
                name
            ]  # what is left goes by the weights, so it is the same for all seeds
            left = ", ".join(f"{100 * first[case]['macs']:.1f}" for case in (EVERY, DEFAULT))
            cells = [_cell(summarise(list(values.values()))) for values in reached.values()]
            kind, energy = name.split()
            lines.append(
                f"| {network} | {kind}, {100 * float(energy):.0f} % | {left} | {' | '.join(cells)} | {told(paired(reached[DEFAULT], reached[EVERY]))} |"
            )
    return lines


def summary(by_network: dict[str, dict[int, Any]]) -> str:
    """Which part of the loss the two layers bear."""
    parts, saved = [], []
    for by_seed in by_network.values():
        for found in by_seed.values():
            for lines in (lines for name, lines in found.items() if name != "whole"):
                whole = found["whole"]["accuracy"]
                parts.append((lines[BOTH]["accuracy"] - lines[EVERY]["accuracy"]) / (whole - lines[EVERY]["accuracy"]))
                saved.append((lines[BOTH]["macs"] - lines[EVERY]["macs"]) / (1 - lines[EVERY]["macs"]))
    return (
        f"Of what is lost when every layer is split, the first layer and the classifier bear {100 * min(parts):.0f} to {100 * max(parts):.0f} % "
        f"(on the mean of {len(parts)} cases {100 * summarise(parts).mean:.0f} %), and they are {100 * min(saved):.1f} to {100 * max(saved):.1f} % of the "
        "arithmetic that is saved. The default leaves alone what would save less than a fifth of what the average layer has, in arithmetic and in weights."
    )


def page() -> str:
    """The page of what was measured so far."""
    by_network, seeds, source = so_far("ends")
    whole = {
        network: _cell(summarise([found["whole"]["accuracy"] for found in by_seed.values()]))
        for network, by_seed in by_network.items()
    }
    body = [
        "# What a split of the first layer and of the classifier costs",
        "",
        f"Trained networks for CIFAR-10 ({', '.join(f'{network}: {value} % whole' for network, value in whole.items())}), split by `Factorize(energy=, kind=, "
        f"measured=False)`, without training; accuracy on {MEASURED:,} validation images. BatchNorm's statistics are estimated anew on {SEEN} training images. "
        f"Seeds {seeds} draw the images; ± is the standard deviation over them, brackets are 95 % t intervals, paired. Each network is one: "
        "other weights of the same shape were not tried.",
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
    go_on("ends", measured, page, __doc__)
