"""Turn a finished (or unfinished) run folder into the data and the page under docs/results.

    python benchmarks/cifar10/publish.py runs/cifar10-resnet8 docs/results/cifar10-resnet8

writes NAME.json (every seed's numbers, curves, versions, commit, device), NAME.png and NAME.md.
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
    return f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}], {d.verdict()}"


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


def main(folder: Path, target: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    stages = [s for s in run["stages"] if s["kind"] != "evaluate" and s["runs"]]
    for stage in stages:
        for r in stage["runs"]:
            lines = map(json.loads, (folder / r["folder"] / "steps.jsonl").read_text().splitlines())
            r["validation_by_epoch"] = [line["validation"] for line in lines if line.get("validation")]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n")
    baseline = run["baseline"]
    base = accuracies(next(s for s in stages if s["name"] == baseline), "test")
    picture(stages, base, baseline, target.with_suffix(".png"))
    evaluated = next((s["results"] for s in run["stages"] if s["kind"] == "evaluate"), {})
    teachers = {name: rows[0] for name, rows in evaluated.items() if name not in {s["name"] for s in stages}}
    body = [
        f"# {run['name']}",
        "",
        f"{run['data']['source']}: {run['data']['rows']['train']:,} training, {run['data']['rows']['validation']:,} validation, "
        f"{run['data']['rows']['test']:,} test images. Seeds {', '.join(map(str, run['recipe'].get('seeds', [0])))}; the weights of the last "
        "epoch are measured, once, on the test part; ± is the standard deviation over seeds; differences are paired by "
        "seed, with their 95 % t interval.",
        "",
        *(
            f"Teacher {n}: {100 * m['accuracy']:.2f} % on the test part (one network, shared by all seeds)."
            for n, m in teachers.items()
        ),
        "",
        table(stages, base, baseline),
        "",
        f"![Paired differences of each method to {baseline}, with intervals]({target.with_suffix('.png').name})",
        "",
        f"Status: {run['status']}. Limbeck {run['versions']['limbeck']}, commit {run['commit']}, torch {run['versions']['torch']}, "
        f"{run['machine']['processor']}, {run['machine']['threads']} thread; recipe {run['recipe_hash']}. "
        f"The data behind this page: [{target.with_suffix('.json').name}]({target.with_suffix('.json').name}).",
        "",
    ]
    target.with_suffix(".md").write_text("\n".join(body))
    print("\n".join(body))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
