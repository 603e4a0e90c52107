"""What a chain from resnet56 keeps and how much faster it is: every seed's accuracy in every form, and times side by side.

    python benchmarks/compress/speed.py runs/compress-fast

Writes docs/results/compress-fast.json, or by what name the recipe has, and the page beside it.  Several folders may be given where the seeds ran in pieces.
The last network in float is measured as an ONNX file in int8, too, on the whole test part.  Times are those of the first
seed: all forms of one batch size in one process, on one thread, taking turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.export import export_run, open_export, open_run, time_run
from limbeck.export.runs import OpenRun
from limbeck.stats import paired, summarise

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
FLOAT = "tuned"  # the last network in float
ONNX = f"{FLOAT}, ONNX in int8"
NEEDED = (  # batch, form of the original, times faster
    (1, "eager", 12.0),
    (1, "onnxruntime", 4.0),
    (128, "eager", 20.0),
    (128, "int8 compiled", 1.6),
)


def onnx_accuracy(run: OpenRun, seed: int) -> float:
    """Of the tuned network as an ONNX file in int8, on the whole test part, in percent."""
    with tempfile.TemporaryDirectory() as scratch:
        done = export_run(run.told.folder, to="onnx-int8", model=FLOAT, seed=seed, out=Path(scratch) / "net")
        answers = open_export(done.folder)
        batches = run.batches(run.data.test)
        right = sum(int((answers(b.inputs).argmax(1) == b.targets.cpu()).sum()) for b in batches)
    return 100 * right / len(run.data.test)


def measured(folders: list[Path]) -> dict[str, Any]:
    """All that the page says, as data."""
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    first = open_run(folders[0])
    original = first.original(first.last)
    accuracy: dict[str, dict[int, float]] = {}
    for folder, told in zip(folders, records):
        for stage in told["stages"]:
            for r in stage.get("runs", ()):
                accuracy.setdefault(stage["name"], {})[r["seed"]] = 100 * r["last"]["test"]["accuracy"]
        run = open_run(folder)
        for seed in run.recipe.seeds:
            accuracy.setdefault(ONNX, {})[seed] = onnx_accuracy(run, seed)
    timed = time_run(folders[0], models=(FLOAT, first.last), batches=sorted({b for b, _, _ in NEEDED}), say=print)
    costs = {s["name"]: s["cost"] for s in records[0]["stages"] if s.get("cost")}
    return {
        "recipe": records[0]["recipe"],
        "commits": sorted({str(r["commit"]) for r in records}),
        "versions": records[0]["versions"],
        "machine": records[0]["machine"],
        "original": {"name": original, **records[0]["models"][original]},
        "costs": costs,
        "accuracy": {name: dict(sorted(found.items())) for name, found in accuracy.items()},
        "timed": asdict(timed),
    }


def page(told: dict[str, Any]) -> str:
    """The page, from the data alone."""
    base: float = 100 * told["original"]["test"]["accuracy"]
    name = told["original"]["name"]
    stages = {s["name"]: s for s in told["recipe"]["stages"]}
    left = stages["pruned"]["how"]["macs"]
    tuned = f"tuned {'with KD from the original' if stages[FLOAT]['kind'] == 'distill' else 'from labels'}"
    lines = [
        f"# resnet56, made fast on {told['machine']['processor']}",
        "",
        f"{name} on CIFAR-10 ({base:.2f} % on the test part; one network for all seeds) is distilled into a shallower network, pruned to {100 * left:.0f} % of that "
        f"one's MACs, {tuned}, and quantized. Recipes: `benchmarks/compress/original.yaml` and "
        f"`benchmarks/compress/{told['recipe']['name'].removeprefix('compress-')}.yaml`.",
        "",
        "| network | test accuracy, % | against the original, points |",
        "|---|---|---|",
        f"| {name} | {base:.2f} | |",
    ]
    for stage, found in told["accuracy"].items():
        seeds = {int(seed): value for seed, value in found.items()}
        s, d = summarise(list(seeds.values())), paired(seeds, dict.fromkeys(seeds, base))
        spread = f"{s.mean:.2f} ± {s.std:.2f} (n = {s.n})" if s.std is not None else f"{s.mean:.2f} (single run)"
        reach = f" [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else ""
        lines.append(f"| {stage} | {spread} | {d.mean:+.2f}{reach} |")
    lines += ["", "± is the standard deviation over seeds, brackets are 95 % t intervals.", ""]
    timed = told["timed"]
    for batch, networks in timed["times"].items():
        lines += [
            f"## Batches of {batch}",
            "",
            "| network | run as | ms | 10 % to 90 % | against eager | against onnxruntime | against int8, compiled |",
            "|---|---|---|---|---|---|---|",
        ]
        for network, forms in networks.items():
            for form, t in forms.items():
                ratios = [
                    f"{networks[name][f]['median_ms'] / t['median_ms']:.2f}×" if f in networks[name] else "-"
                    for f in ("eager", "onnxruntime", "int8 compiled")
                ]
                reach = f"{t['p10_ms']:.3g} to {t['p90_ms']:.3g}"
                lines.append(f"| {network} | {form} | {t['median_ms']:.3g} | {reach} | {' | '.join(ratios)} |")
        any_one = next(iter(networks[name].values()))
        lines += [
            "",
            f"Times of {name} divided by the row's: above 1 is faster. Medians of {any_one['n']}, one thread, "
            f"{any_one['clock']}, {any_one['device']}, seed {timed['seed']}, taking turns in one process.",
            "",
        ]
    lines += [
        "## What was asked for",
        "",
        "| batch | the original as | times faster, at least | found | by |",
        "|---|---|---|---|---|",
    ]
    for batch, form, least in NEEDED:
        networks = timed["times"][str(batch)]
        before = networks[name][form]["median_ms"]
        found, by = max(
            (before / t["median_ms"], f"{network}, {kind}")
            for network, forms in networks.items()
            if network != name
            for kind, t in forms.items()
            if "int8" in kind
        )
        lines.append(f"| {batch} | {form} | {least:g} | {found:.2f} | {by} |")
    lines += [
        "",
        f"Commits {', '.join(told['commits'])}; torch {told['versions']['torch']}; {told['machine']['processor']}.",
        "",
    ]
    if told.get("note"):
        lines += [told["note"], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="finished runs of one recipe")
    parser.add_argument("--note", default="", help="what the records do not say, for the end of the page")
    asked = parser.parse_args()
    told = measured(asked.folders) | {"note": asked.note}
    result = RESULTS / f"{told['recipe']['name']}.json"
    result.write_text(json.dumps(told, indent=1) + "\n")
    result.with_suffix(".md").write_text(page(json.loads(result.read_text())))
    print(result.with_suffix(".md"))
