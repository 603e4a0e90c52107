"""Turn runs of the compression studies into the data, the page and the picture under docs/results.

    python benchmarks/compress/publish.py docs/results/compress-resnet56-chains runs/compress/resnet56-chains-*

Every network against the original: accuracy paired by seed, what it costs, and times measured in turn within its run.
Unfinished runs may be given; what is not there is said to be missing.  Seeds may be added later: give the file of data that was
made (docs/results/compress-resnet56-chains.json) first, and the folders of the new seeds behind it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from records import accuracies, commits, merged, publish, read, said, seeds, told

from limbeck.report.charts import front
from limbeck.stats import paired, summarise

mpl.use("agg")
from matplotlib import pyplot as plt

AXES = {"macs": (1e6, "MACs, millions"), "bytes": (1024, "file, KiB"), "latency_32": (1, "32 images, ms (first seed)")}
# What the papers report on CIFAR-10 after full schedules of their own.
PUBLISHED = {
    "scores": (
        "l1 (Li et al. 2017): ResNet-56 93.04 -> 93.06 % without 27.6 % of the FLOPs, VGG-16 93.25 -> 93.40 % without 34.2 %",
        "slimming (Liu et al. 2017): VGG-19 93.66 -> 93.80 % without 51 %, ResNet-164 94.58 -> 94.92 % with 40 % of the channels pruned",
        "fpgm (He et al. 2019): ResNet-56 93.59 -> 93.49 % without 52.6 %, ResNet-20 92.20 -> 91.1 % with 30 % of the filters pruned",
        "apoz (Hu et al. 2016): VGG-16 with 2 to 3 times fewer parameters as accurate or better (ImageNet)",
    ),
    "bits": (
        "bnn (Courbariaux et al. 2016): 88.6 to 89.85 %",
        "bwn, xnor (Rastegari et al. 2016): 90.12 and 89.83 %",
    ),
}


def kept(values: dict[int, float], base: float) -> str:
    """Points against the original, which is one network for all seeds."""
    d = paired(values, dict.fromkeys(values, base))
    return f"{d.mean:+.2f}" + (f" [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else " (single run)")


def spent(cost: dict[str, Any] | None, key: str) -> str:
    found = (cost or {}).get(key)
    if found is None:
        return "-"
    if isinstance(found, dict):
        return f"{found['median_ms']:.3g} ({found['form']})"
    return f"{found / 1e6:.2f}" if key != "bytes" else f"{found / 1024:,.0f}"


def table(stages: list[dict[str, Any]], original: dict[str, Any], name: str) -> str:
    base = 100 * original["test"]["accuracy"]
    columns = ("parameters", "macs", "bytes", "latency", "latency_32")
    lines = [
        "| network | test accuracy, % | against the original, points | same answers, % | parameters, M | MACs, M | file, KiB "
        "| 1 image, ms | 32 images, ms |",
        "|" + "---|" * 9,
        f"| {name} | {base:.2f} | | | {' | '.join(spent(original['cost'], key) for key in columns)} |",
    ]
    for stage in stages:
        values = accuracies(stage, "test")
        alike = [r["original"]["agreement"] for r in stage["runs"] if r.get("original")]
        same = f"{100 * summarise(alike).mean:.1f}" if alike else "-"  # trained further, not compressed: not compared
        lines.append(
            f"| {stage['name']} | {said(summarise(list(values.values())))} | {kept(values, base)} "
            f"| {same} | {' | '.join(spent(stage['cost'], key) for key in columns)} |"
            if values
            else f"| {stage['name']} | not run | | | | | | | |"
        )
    return "\n".join(lines)


def tuned(stages: list[dict[str, Any]]) -> tuple[dict[str, dict[int, float]], list[str]]:
    """Accuracies by network and seed, and those networks that were tuned both from labels and with KD."""
    by_name = {stage["name"]: accuracies(stage, "test") for stage in stages}
    return by_name, [n for n in by_name if by_name[n] and by_name.get(f"{n}-labels") and by_name.get(f"{n}-kd")]


def best_first(by_name: dict[str, dict[int, float]], both: list[str]) -> list[str]:
    return sorted(both, key=lambda n: -summarise(list(by_name[f"{n}-kd"].values())).mean)


def tuning(stages: list[dict[str, Any]]) -> list[str]:
    """What training afterwards gives back, from the labels and with KD, side by side; nothing where no stage has both."""
    by_name, both = tuned(stages)
    if not both:
        return []
    against = rivals(stages, both)
    firsts = list(dict.fromkeys(first for first in against.values() if first))
    by_cost = " at as many MACs" if len(firsts) > 1 else ""
    lines = [
        "## Training afterwards",
        "",
        "| network | as it came out, % | tuned from labels, % | tuned with KD, % | KD against labels, points | with KD, against "
        f"{', '.join(firsts)}{by_cost}, points |",
        "|" + "---|" * 6,
    ]
    groups = [*firsts, None]
    for name in sorted(best_first(by_name, both), key=lambda name: groups.index(against[name])):
        parts = (by_name[name], by_name[f"{name}-labels"], by_name[f"{name}-kd"])
        cells = [said(summarise(list(values.values()))) for values in parts]
        gain, first = told(paired(*shared(parts[2], parts[1]))), against[name]
        ahead = told(paired(*shared(parts[2], by_name[f"{first}-kd"]))) if first not in (None, name) else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {gain} | {ahead} |")
    return [*lines, ""]


def rivals(stages: list[dict[str, Any]], names: list[str]) -> dict[str, str | None]:
    """With what each network is compared: the first of all, or, where several budgets of MACs were set, the first at its own."""
    budgets = {stage["name"]: (stage.get("how") or {}).get("macs") for stage in stages}
    if len({budgets[name] for name in names} - {None}) < 2:
        return dict.fromkeys(names, names[0])
    firsts: dict[float | None, str | None] = {None: None}
    for name in names:
        firsts.setdefault(budgets[name], name)
    return {name: firsts[budgets[name]] for name in names}


def shared(values: dict[int, float], others: dict[int, float]) -> tuple[dict[int, float], dict[int, float]]:
    """Both, of the seeds that both have."""
    seeds = sorted(set(values) & set(others))
    return {s: values[s] for s in seeds}, {s: others[s] for s in seeds}


def amount(cost: dict[str, Any], key: str) -> float:
    """A cost as one number; of a time its median, in milliseconds."""
    found = cost[key]
    return float(found["median_ms"] if isinstance(found, dict) else found)


def published(recipe: dict[str, Any]) -> list[str]:
    """What the papers report of such a piece."""
    lines = next((told for piece, told in PUBLISHED.items() if f"-{piece}-" in f"{recipe['name']}-"), ())
    head = "After full schedules on all 50,000 images; the training here is said above."
    return ["## What the papers report", "", head, "", *(f"- {line}" for line in lines), ""] if lines else []


def trained(recipe: dict[str, Any]) -> str:
    """How long networks are trained after they were changed: most of them, and by name those that have another length."""
    short: dict[str, list[str]] = {}
    for stage in recipe["stages"]:
        if training := stage.get("training"):
            epochs, rows = training["epochs"], int(stage.get("rows") or 45_000)
            said = f"{epochs} epoch{'s' * (epochs > 1)} on {rows:,} training images"
            short.setdefault(said, []).append(stage["name"])
    if not short:
        return ""
    most, *others = sorted(short, key=lambda said: -len(short[said]))
    return "".join((f"Trained afterwards: {most}", *(f"; {said}: {', '.join(short[said])}" for said in others), ". "))


def alike(stages: list[dict[str, Any]]) -> bool:
    """Whether all networks that were tuned cost the same, so that nothing but accuracy tells them apart."""
    both = tuned(stages)[1]
    macs = [s["cost"]["macs"] for s in stages if s["name"] in both]
    return len(macs) > 2 and max(macs) < 1.01 * min(macs)


def ranking(stages: list[dict[str, Any]], original: dict[str, Any], name: str, path: Path) -> None:
    """Networks of equal cost: as they came out, tuned from labels and tuned with KD, each with its standard deviation."""
    by_name, both = tuned(stages)
    rows = best_first(by_name, both)[::-1]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    for ending, colour, label in (("", "0.6", "as it came out"), ("-labels", "tab:orange", "tuned from labels"), ("-kd", "tab:blue", "tuned with KD")):  # fmt: skip
        found = [summarise(list(by_name[f"{row}{ending}"].values())) for row in rows]
        spread = [s.std or 0.0 for s in found]
        axes.errorbar([s.mean for s in found], range(len(rows)), xerr=spread, fmt="o", ms=5, color=colour, label=label)
    axes.axvline(100 * original["test"]["accuracy"], color="k", ls="--", lw=1, label=name)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("test accuracy, %; bars: standard deviation over seeds")
    axes.grid(axis="x", color="0.92")
    figure.legend(fontsize=8, loc="outside upper center", ncol=4, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


COLOURS = {"-kd": "tab:blue", "-labels": "tab:orange", "": "0.6"}


def picture(stages: list[dict[str, Any]], original: dict[str, Any], name: str, path: Path) -> None:
    """Accuracy against arithmetic, bytes and time; the line joins what nothing else beats in both.

    A network as it came out and what training made of it cost the same: they stand above each other, with one name.
    """
    figure, parts = plt.subplots(1, len(AXES), figsize=(15, 6), layout="constrained", sharey=True)
    base = 100 * original["test"]["accuracy"]
    for axes, (key, (unit, label)) in zip(parts, AXES.items()):
        points, tops = [(amount(original["cost"], key) / unit, base)], dict[str, tuple[float, float]]()
        for stage in stages:
            values = accuracies(stage, "test")
            if not values or not stage["cost"] or stage["part_of"]:
                continue
            x, y = amount(stage["cost"], key) / unit, summarise(list(values.values())).mean
            points.append((x, y))
            ending = next(e for e in COLOURS if stage["name"].endswith(e))
            family = stage["name"].removesuffix(ending)
            axes.plot(x, y, "o", ms=4, color=COLOURS[ending])
            if family in tops:
                axes.plot([tops[family][0], x], [tops[family][1], y], "-", color="0.85", lw=0.8, zorder=0)
            tops[family] = max(tops.get(family, (x, y)), (x, y), key=lambda point: point[1])
        best = sorted(points[i] for i in front(points))
        axes.plot(*zip(*best), "-", color="0.5", lw=1, zorder=0)
        axes.plot(*points[0], "k*", ms=9)
        axes.set_xlabel(label)
        axes.margins(x=0.16)
        named(axes, tops)
    parts[0].set_ylabel("test accuracy, %")
    figure.suptitle(f"star: {name}; blue: tuned with KD; orange: tuned from labels; grey: as they came out", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def named(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Names beside points, each moved down until it covers no other."""
    axes.figure.canvas.draw()  # settles where points are on the picture
    taken: list[tuple[float, float, float]] = []
    dots = axes.figure.dpi / 72
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        x, y = axes.transData.transform(point)
        left, width, height, place = x + 5 * dots, 3.6 * len(name) * dots, 7.5 * dots, y
        while any(
            abs(place - other) < height and left < right and begin < left + width for begin, right, other in taken
        ):
            place -= height / 4
        taken.append((left, left + width, place))
        moved = {"arrowprops": {"arrowstyle": "-", "lw": 0.4, "color": "0.6"}} if y - place > height else {}
        axes.annotate(
            name, point, ((left - x) / dots, (place - y) / dots), textcoords="offset points", fontsize=6, va="center", **moved
        )  # fmt: skip


def gathered(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What goes into the file of data: the seeds of all runs, and what the first says of itself."""
    (name, original), *_ = runs[0]["models"].items()
    return {k: runs[0][k] for k in ("name", "recipe", "versions", "machine", "data")} | {
        "commits": commits(runs),
        "original": {"name": name, **original},
        "stages": merged(runs),
    }


def page(about: dict[str, Any], name: str) -> str:
    """The page of such data, beside a picture of this name."""
    stages, original, rows = about["stages"], about["original"], about["data"]["rows"]
    body = [
        f"# {about['name']}",
        "",
        f"{about['data']['source']}: {rows['train']:,} training, {rows['validation']:,} validation, {rows['test']:,} test images. "
        f"{trained(about['recipe'])}Seeds {seeds(stages)} of everything after the original, which is one network. The weights of the last epoch "
        "are measured, once, on the test part. ± is the standard deviation over seeds, brackets are 95 % t intervals. Sizes and times "
        "are of the first seed; times are medians of one thread, all networks of a run in turn.",
        "",
        *tuning(stages),
        *published(about["recipe"]),
        "## Every network",
        "",
        table([s for s in stages if not s["part_of"]], original, original["network"]),
        "",
        f"![{'accuracy of each' if alike(stages) else 'accuracy against cost'}]({name}.png)",
        "",
        f"Commits {', '.join(about['commits'])}; torch {about['versions']['torch']}; {about['machine'].get('processor', '')}.",
        "",
    ]
    return "\n".join(body)


def drawn(about: dict[str, Any], path: Path) -> None:
    draw = ranking if alike(about["stages"]) else picture
    draw(about["stages"], about["original"], about["original"]["network"], path)


def main(target: Path, given: list[Path]) -> None:
    publish(target, gathered([read(one) for one in given]), drawn, page)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(given) for given in sys.argv[2:]])
