"""Turn run folders into the data and the page under docs/results.

    python benchmarks/publish.py docs/results/cifar10-resnet8 runs/cifar10-resnet8

writes NAME.json (every seed's numbers, curves, versions, commit, device), NAME.png and NAME.md.  Several folders may
be given where the seeds were run in pieces, side by side: the same recipe with --set seeds=[0], --set seeds=[1], ...
Unfinished runs may be given; what is not there is said to be missing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

from limbeck.stats import Paired, Summary, paired, summarise

mpl.use("agg")
from matplotlib import pyplot as plt


def accuracies(stage: dict[str, Any], part: str) -> dict[int, float]:
    return {r["seed"]: 100 * r["last"][part]["accuracy"] for r in stage["runs"] if r["status"] == "done"}


def said(summary: Summary | None) -> str:
    if summary is None:
        return "not run"
    if summary.std is None:
        return f"{summary.mean:.2f} (single run)"
    return f"{summary.mean:.2f} ± {summary.std:.2f} (n = {summary.n})"


def compared(stage: dict[str, Any], base: dict[int, float]) -> Paired | None:
    values = accuracies(stage, "test")
    seeds = sorted(set(values) & set(base))
    return paired({s: values[s] for s in seeds}, {s: base[s] for s in seeds}) if seeds else None


def told(d: Paired | None) -> str:
    if d is None:
        return "-"
    if d.low is None or d.high is None:
        return f"{d.mean:+.2f} (single run)"
    return f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}], n = {d.n}, {d.verdict()}"


def mean_of(stage: dict[str, Any], what: Any) -> str:
    values = [v for r in stage["runs"] if (v := what(r)) is not None]
    return f"{summarise(values).mean:.3g}" if values else "-"


def table(stages: list[dict[str, Any]], base: dict[int, float], baseline: str) -> str:
    lines = [
        "| stage | test accuracy, % | paired difference, points | validation accuracy, % | agreement with teacher | ECE | training, s |",
        "|---|---|---|---|---|---|---|",
    ]
    order = sorted(stages, key=lambda s: -(d.mean if (d := compared(s, base)) else -1e9))
    for s in order:
        parts = {p: summarise(list(v.values())) if (v := accuracies(s, p)) else None for p in ("test", "validation")}
        difference = "baseline" if s["name"] == baseline else told(compared(s, base))
        lines.append(
            f"| {s['name']} | {said(parts['test'])} | {difference} | {said(parts['validation'])} "
            f"| {mean_of(s, lambda r: (r['agreement'] or {}).get('test'))} "
            f"| {mean_of(s, lambda r: r['last']['test']['ece'])} | {mean_of(s, lambda r: r['seconds'])} |"
        )
    return "\n".join(lines)


def picture(stages: list[dict[str, Any]], base: dict[int, float], baseline: str, path: Path) -> None:
    shown = [(s["name"], d) for s in stages if s["name"] != baseline and (d := compared(s, base))]
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(shown) + 1.2), layout="constrained")
    for y, (_, d) in enumerate(reversed(shown)):
        if d.low is not None and d.high is not None:
            axes.plot([d.low, d.high], [y, y], color="0.4", lw=2)
        axes.plot([v for _, v in d.differences], [y - 0.2] * len(d.differences), "o", ms=4, color="0.6")
        axes.plot(d.mean, y, "D", color="tab:blue")
    axes.axvline(0, color="0.2", lw=1)
    axes.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)])
    axes.set_xlabel(f"test accuracy minus {baseline}, points; diamond: mean, bar: 95 % interval, dots: seeds")
    figure.savefig(path, dpi=120)


def read(folder: Path) -> dict[str, Any]:
    """A run's record, with the validation curve of each finished repetition."""
    run = json.loads((folder / "run.json").read_text())
    for stage in run["stages"]:
        for r in stage.get("runs", ()):
            r["validation_by_epoch"] = [line["validation"] for line in steps(folder, r) if line.get("validation")]
    return run


def steps(folder: Path, repetition: dict[str, Any]) -> list[dict[str, Any]]:
    """The log of a training; nothing for a network that was compressed and not trained."""
    log = folder / repetition["folder"] / "steps.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def merged(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages of all runs, each with the repetitions of all of them."""
    stages = [s for s in runs[0]["stages"] if s["kind"] != "evaluate"]
    for stage in stages:
        same = (s for run in runs for s in run["stages"] if s["name"] == stage["name"])
        by_seed = {r["seed"]: r for s in same for r in s["runs"] if r["status"] == "done"}
        stage["runs"] = [by_seed[seed] for seed in sorted(by_seed)]
    return stages


def teachers(run: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, float]:
    """Test accuracy, in percent, of the networks that came with weights."""
    given = {name: model["test"] for name, model in run.get("models", {}).items()}
    for stage in run["stages"]:
        if stage["kind"] == "evaluate" and stage.get("split", "test") == "test":
            given |= {n: rows[0] for n, rows in stage["results"].items() if n not in {s["name"] for s in stages}}
    return {name: 100 * found["accuracy"] for name, found in given.items()}


def main(target: Path, folders: list[Path]) -> None:
    runs = [read(folder) for folder in folders]
    run, stages = runs[0], merged(runs)
    target.parent.mkdir(parents=True, exist_ok=True)
    told = {k: run[k] for k in ("name", "recipe", "versions", "machine", "data", "baseline")}
    told |= {"commits": sorted({str(r["commit"]) for r in runs}), "stages": stages, "teachers": teachers(run, stages)}
    target.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    baseline = run["baseline"]
    base = accuracies(next(s for s in stages if s["name"] == baseline), "test")
    picture(stages, base, baseline, target.with_suffix(".png"))
    rows, seeds = run["data"]["rows"], sorted({r["seed"] for s in stages for r in s["runs"]})
    missing = [f"{s['name']} (seed {seed})" for s in stages for seed in seeds if seed not in accuracies(s, "test")]
    body = [
        f"# {run['name']}",
        "",
        f"{run['data']['source']}: {rows['train']:,} training, {rows['validation']:,} validation, {rows['test']:,} test images. "
        f"Seeds {', '.join(map(str, seeds))}. The weights of the last epoch are measured, once, on the test part; ± is the "
        "standard deviation over seeds; differences are paired by seed, with their 95 % t interval.",
        "",
        *(
            f"Teacher: {name}, {value:.2f} % on the test part (one network, shared by all seeds)."
            for name, value in told["teachers"].items()
        ),
        *([""] if told["teachers"] else []),
        table(stages, base, baseline),
        "",
        *([f"Not finished: {', '.join(missing)}.", ""] if missing else []),
        f"![Difference of each method to {baseline}, paired by seed, with intervals]({target.with_suffix('.png').name})",
        "",
        f"Limbeck {run['versions']['limbeck']}, commit {', '.join(told['commits'])}, torch {run['versions']['torch']}, "
        f"{run['machine']['processor']}, {run['machine']['threads']} thread, other work on the same cores, so the seconds say "
        f"little. The data behind this page: [{target.with_suffix('.json').name}]({target.with_suffix('.json').name}).",
        "",
    ]
    target.with_suffix(".md").write_text("\n".join(body))
    print("\n".join(body))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])
