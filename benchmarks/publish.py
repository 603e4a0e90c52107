"""Turn run folders into the data and the page under docs/results.

    python benchmarks/publish.py docs/results/cifar10-resnet8 runs/cifar10-resnet8

writes NAME.json (every seed's numbers, curves, versions, commit, device), NAME.png and NAME.md.  Several folders may
be given where the seeds were run in pieces, side by side: the same recipe with --set seeds=[0], --set seeds=[1], ...
Unfinished runs may be given; what is not there is said to be missing.  The file of data of a page made before may be given, too, and
the folders of new seeds behind it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parent))

from records import accuracies, compared, kept, mean_of, missing, read, said, told

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


def main(target: Path, folders: list[Path]) -> None:
    run = kept([read(folder) for folder in folders])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n")
    stages, baseline = run["stages"], run["baseline"]
    base = accuracies(next(s for s in stages if s["name"] == baseline), "test")
    picture(stages, base, baseline, target.with_suffix(".png"))
    rows, seeds = run["data"]["rows"], sorted({r["seed"] for s in stages for r in s["runs"]})
    absent = missing(stages)
    body = [
        f"# {run['name']}",
        "",
        f"{run['data']['source']}: {rows['train']:,} training, {rows['validation']:,} validation, {rows['test']:,} test images. "
        f"Seeds {', '.join(map(str, seeds))}. The weights of the last epoch are measured, once, on the test part; ± is the "
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
        f"![Difference of each method to {baseline}, paired by seed, with intervals]({target.with_suffix('.png').name})",
        "",
        f"Limbeck {run['versions']['limbeck']}, commit {', '.join(run['commits'])}, torch {run['versions']['torch']}, "
        f"{run['machine']['processor']}, {run['machine']['threads']} thread, other work on the same cores, so the seconds say "
        f"little. The data behind this page: [{target.with_suffix('.json').name}]({target.with_suffix('.json').name}).",
        "",
    ]
    target.with_suffix(".md").write_text("\n".join(body))
    print("\n".join(body))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])
