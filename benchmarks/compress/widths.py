"""What kept widths do to int8: resnet56 with half its multiply-accumulates, at several multiples, in float and in int8.

    python benchmarks/compress/widths.py          # measures; writes docs/results/compress-widths.json and its page
    python benchmarks/compress/widths.py --page   # the page from what is there

Nothing is trained: times do not depend on it.  All networks are timed in turn, on one thread, in several rounds; a ratio is of
two medians of one round.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent))

from study import ORIGINALS, ROOT

import limbeck as lk
from limbeck import record
from limbeck.compress.cost import cost, latency
from limbeck.compress.served import served
from limbeck.phase import Batch
from limbeck.processor import processor_name

TARGET = ROOT / "docs" / "results" / "compress-widths.json"
WIDTHS: dict[str, dict[str, Any]] = {
    'multiple="auto"': {},
    "multiple=8": {"multiple": 8},
    "multiple=16": {"multiple": 16},
    "multiple=16, minimum=16": {"multiple": 16, "minimum": 16},
}
ROUNDS, REPEATS = 3, {1: 60, 32: 15, 128: 7}  # batch -> forwards of each network in a round


def measured() -> dict[str, Any]:
    torch.set_num_threads(1)
    original = lk.build("resnet56", classes=10).eval()
    lk.load_weights(original, ROOT / ORIGINALS["resnet56"])
    torch.manual_seed(0)
    x = torch.randn(64, 3, 32, 32)
    calibration = [Batch(x, torch.zeros(64, dtype=torch.int64))]
    networks = {"resnet56": original}
    for name, settings in WIDTHS.items():
        networks[name] = lk.Prune(macs=0.5, by="fpgm", scope="layer", **settings)(original, example=x[:2])
    macs = {name: cost(net, x[:1]).macs for name, net in networks.items()}
    forms = {}
    for name, net in track(networks.items(), "compiling int8"):
        made = lk.Quantize("int8")(net, example=x[:2], calibration=calibration)
        forms |= {f"{name}: float": net, f"{name}: int8": served(made, x[:2]).model}
    inputs = {batch: torch.randn(batch, 3, 32, 32) for batch in REPEATS}

    def timed(batch: int) -> dict[str, float]:
        return {name: t.median_ms for name, t in latency(forms, inputs[batch], repeats=REPEATS[batch]).items()}

    rounds = [{batch: timed(batch) for batch in REPEATS} for _ in track(range(ROUNDS), "timing")]
    return {
        "macs": macs,
        "rounds": rounds,
        "commit": record.commit(),
        "versions": record.versions(),
        "processor": processor_name(),
    }


def page(told: dict[str, Any]) -> str:
    names = list(told["macs"])

    def times(name: str, form: str, batch: int) -> list[float]:
        return [r[str(batch)][f"{name}: {form}"] for r in told["rounds"]]

    def parts(name: str, form: str, batch: int) -> list[float]:
        return [a / b for a, b in zip(times(name, form, batch), times(names[0], form, batch))]

    def cell(name: str, form: str, batch: int) -> str:
        if name == names[0]:
            return f"{median(times(name, form, batch)):.3g} ms"
        found = parts(name, form, batch)
        return f"{median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"

    most = max(REPEATS)
    slower = [n for n in names[1:] if min(parts(n, "int8", most)) > 1]
    faster = [n for n in names[1:] if max(parts(n, "int8", most)) < 1]
    verdicts = [f"{word} than the whole network: {', '.join(f'`{n}`' for n in found)}."
                for word, found in (("slower", slower), ("faster", faster)) if found]  # fmt: skip
    heads = [f"{form}, {batch}" for form in ("float", "int8") for batch in REPEATS]
    lines = [
        f"| {name} | {told['macs'][name] / 1e6:.1f} | "
        + " | ".join(cell(name, form, batch) for form in ("float", "int8") for batch in REPEATS)
        + " |"
        for name in names
    ]
    return "\n".join(
        [
            "# Widths and int8",
            "",
            "resnet56 with half of its multiply-accumulates pruned (fpgm), at several multiples of the kept widths: times of a "
            f"forward with 1, 32 and {max(REPEATS)} images, float run eagerly and int8 compiled, one thread. The first row in "
            f"milliseconds, the others as parts of it: the median of {len(told['rounds'])} rounds and their least and most. Below 1 is faster.",
            "",
            f"| network | MACs, M | {' | '.join(heads)} |",
            "|" + "---|" * (2 + len(heads)),
            *lines,
            "",
            f"In int8, {most} images, in every round {' In every round '.join(verdicts)} int8 kernels fill channels up to sixteen: what is 12, 24 or "
            "40 wide does the work of 16, 32 or 48.",
            "",
            f"Commit {told['commit']}, torch {told['versions']['torch']}, {told['processor']}.",
            "",
        ]
    )


def main() -> None:
    if sys.argv[1:] != ["--page"]:
        record.write_json(TARGET, measured())
    TARGET.with_suffix(".md").write_text(page(json.loads(TARGET.read_text())))
    print(TARGET.with_suffix(".md"))


if __name__ == "__main__":
    main()
