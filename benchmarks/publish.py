"""Turn run folders into the data and the page under docs/results.

    python benchmarks/publish.py docs/results/cifar10-resnet8 runs/cifar10-resnet8

writes NAME.json (every seed's numbers, curves, versions, commit, device), NAME.png and NAME.md.  Several folders may
be given where the seeds were run in pieces, side by side: the same recipe with --set seeds=[0], --set seeds=[1], ...
Unfinished runs may be given; what is not there is said to be missing.  The file of data of a page made before may be given, too, and
the folders of new seeds behind it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parent))

from records import accuracies, compared, kept, mean_of, missing, publish, read, said, seeds, told

from limbeck.stats import summarise

mpl.use("agg")
from matplotlib import pyplot as plt


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


def picture(run: dict[str, Any], path: Path) -> None:
    stages, baseline, base = of_the_baseline(run)
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


def of_the_baseline(run: dict[str, Any]) -> tuple[list[dict[str, Any]], str, dict[int, float]]:
    """The stages, the name of the baseline, and its accuracies by seed."""
    stages, baseline = run["stages"], run["baseline"]
    return stages, baseline, accuracies(next(s for s in stages if s["name"] == baseline), "test")


def page(run: dict[str, Any], name: str) -> str:
    stages, baseline, base = of_the_baseline(run)
    rows, absent = run["data"]["rows"], missing(stages)
    body = [
        f"# {run['name']}",
        "",
        f"{run['data']['source']}: {rows['train']:,} training, {rows['validation']:,} validation, {rows['test']:,} test images. "
        f"Seeds {seeds(stages)}. The weights of the last epoch are measured, once, on the test part; ± is the "
        "standard deviation over seeds; differences are paired by seed, with their 95 % t interval.",
        "",
        *(
            f"Teacher: {name}, {value:.2f} % on the test part (one network, shared by all seeds)."
            for name, value in run["teachers"].items()
        ),
        *([""] if run["teachers"] else []),
        table(stages, base, baseline),
        "",
        *([f"Not finished: {', '.join(absent)}.", ""] if absent else []),
        f"![Difference of each method to {baseline}, paired by seed, with intervals]({name}.png)",
        "",
        f"Limbeck {run['versions']['limbeck']}, commit {', '.join(run['commits'])}, torch {run['versions']['torch']}, "
        f"{run['machine']['processor']}, {run['machine']['threads']} thread, other work on the same cores, so the seconds say "
        f"little. The data behind this page: [{name}.json]({name}.json).",
        "",
    ]
    return "\n".join(body)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), kept([read(Path(given)) for given in sys.argv[2:]]), picture, page)
