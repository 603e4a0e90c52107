"""Turn the pieces of the effects study into its data and its page.

    python benchmarks/effects/publish.py docs/results/effects-resnet8 runs/effects/resnet8-*

writes NAME.json (every seed's numbers, curves, versions, commit, device), NAME.png and NAME.md.  Unfinished pieces may be
given: what is not there is said to be missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from records import accuracies, compared, kept, mean_of, missing, publish, read, said, seeds, steps, told

from limbeck.stats import summarise

mpl.use("agg")
from matplotlib import pyplot as plt

LONG = "alone-long"  # the second baseline: labels alone, for as long as KD took


def quiet_seconds(stage: dict[str, Any]) -> float | None:
    """What a training would have taken on a core of its own: each phase's fastest epoch, of all seeds, times its epochs.

    The pieces ran beside other work, which makes epochs slower and none faster.
    """
    fastest: dict[str, float] = {}
    epochs: dict[str, int] = {}
    for run in stage["runs"]:
        before, count = 0.0, dict.fromkeys(epochs, 0)
        for phase, seconds in run["epoch_seconds"]:
            took, before = seconds - before, seconds
            if took > 0:  # a run that went on after a stop counts from there
                fastest[phase] = min(took, fastest.get(phase, took))
            count[phase] = count.get(phase, 0) + 1
        epochs |= {phase: max(n, epochs.get(phase, 0)) for phase, n in count.items()}
    return sum(fastest[phase] * epochs[phase] for phase in fastest) if fastest else None


def needed(name: str, by_name: dict[str, dict[str, Any]]) -> set[str]:
    """The trainings that a network needs, with its own: an assistant's, earlier generations', those of members."""
    stage = by_name[name]
    before = [one for one in (stage.get("teacher"), *stage.get("members", ())) if one in by_name]
    own = set() if stage["kind"] == "ensemble" else {name}
    return own.union(*(needed(one, by_name) for one in before))


def costs(stages: list[dict[str, Any]], baseline: str) -> dict[str, float]:
    """What every network took with all that it needs, as many times as the baseline; without those that cannot be told."""
    by_name = {s["name"]: s for s in stages}
    seconds = {name: quiet_seconds(stage) for name, stage in by_name.items()}
    took = {name: [seconds[one] for one in sorted(needed(name, by_name))] for name in by_name}
    whole = {name: sum(parts) for name, parts in took.items() if parts and all(parts)}  # type: ignore[arg-type]
    return {name: value / whole[baseline] for name, value in whole.items()}


def with_epochs(folder: Path) -> dict[str, Any]:
    """A piece's record, with the clock at the end of every epoch.

    Where an epoch is written twice, two processes were at it with a clock each, and neither is told.
    """
    run = read(folder)
    for stage in run["stages"]:
        for r in stage.get("runs", ()):
            ends = [line for line in steps(folder, r) if line["kind"] == "epoch"]
            once = len({(line["phase"], line["epoch"]) for line in ends}) == len(ends)
            r["epoch_seconds"] = [(line["phase"], line["seconds"]) for line in ends] if once else []
    return run


def ordered(stages: list[dict[str, Any]], base: dict[int, float]) -> list[dict[str, Any]]:
    return sorted(stages, key=lambda s: -(d.mean if (d := compared(s, base)) else -1e9))


def table(stages: list[dict[str, Any]], baseline: str) -> list[str]:
    by_name = {s["name"]: s for s in stages}
    base, long = (accuracies(by_name[name], "test") for name in (baseline, LONG))
    cost, usual = costs(stages, baseline), by_name[baseline]["network"]
    lines = [
        f"| method | test accuracy, % | against {baseline}, points | against {LONG}, points | agreement with teacher | cost |",
        "|---|---|---|---|---|---|",
    ]
    for s in ordered(stages, base):
        other = "" if s["network"] == usual else f" ({s['network']})"
        against = [
            "baseline" if s["name"] == name else told(compared(s, b)) for name, b in ((baseline, base), (LONG, long))
        ]
        values = list(accuracies(s, "test").values())
        lines.append(
            f"| {s['name']}{other} | {said(summarise(values) if values else None)} | {' | '.join(against)} "
            f"| {mean_of(s, lambda r: (r['agreement'] or {}).get('test'))} "
            f"| {f'{took:.1f}×' if (took := cost.get(s['name'])) else '-'} |"
        )
    return lines


def settings(stages: list[dict[str, Any]]) -> list[str]:
    """Each method as a recipe says it, and what its training had that the others' had not."""
    usual = next(s["training"] for s in stages if s["kind"] == "train")
    lines = ["| method | as a recipe says it |", "|---|---|"]
    for s in stages:
        if not s.get("method") or s["kind"] == "peer":
            continue
        text = (
            yaml.safe_dump(s["method"], default_flow_style=True, sort_keys=False, width=10_000)
            .removesuffix("...\n")
            .strip()
        )
        own = {k: v for k, v in s["training"].items() if usual.get(k) != v}
        extra = f"; training: `{yaml.safe_dump(own, default_flow_style=True, width=10_000).strip()}`" if own else ""
        lines.append(f"| {s['name']} | `{text.replace('|', chr(92) + '|')}`{extra} |")
    return lines


def picture(found: dict[str, Any], path: Path) -> None:
    """Gains with their intervals, and beside them what they cost."""
    stages, baseline = found["stages"], found["baseline"]
    by_name = {s["name"]: s for s in stages}
    base = accuracies(by_name[baseline], "test")
    shown = [(s, d) for s in ordered(stages, base) if s["name"] != baseline and (d := compared(s, base))][::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 0.27 * len(shown) + 1.2), sharey=True, width_ratios=(3, 1), layout="constrained"
    )
    for y, (_, d) in enumerate(shown):
        if d.low is not None and d.high is not None:
            left.plot([d.low, d.high], [y, y], color="0.4", lw=2)
        left.plot([v for _, v in d.differences], [y] * len(d.differences), "|", ms=8, color="0.6")
        left.plot(d.mean, y, "D", ms=5, color="tab:blue")
    left.axvline(0, color="0.2", lw=1)
    if LONG in by_name and (d := compared(by_name[LONG], base)):
        left.axvline(d.mean, color="tab:orange", lw=1, ls="--", label=f"{LONG}: labels only, as long as KD takes")
        left.legend(loc="lower right", fontsize=8)
    lowest = min((d.mean for _, d in shown), default=0.0)
    left.set_xlim(left=max(left.get_xlim()[0], lowest - 12))  # one wild interval must not flatten all others
    left.set_yticks(range(len(shown)), [s["name"] for s, _ in shown], fontsize=8)
    left.set_ylim(-0.8, len(shown) - 0.2)
    left.set_xlabel(f"test accuracy minus {baseline}, points\ndiamond: mean, bar: 95 % interval, ticks: seeds")
    cost = costs(stages, baseline)
    right.barh(range(len(shown)), [cost.get(s["name"], 0.0) for s, _ in shown], color="0.7")
    right.set_xlabel(f"cost\ntimes {baseline}")
    figure.savefig(path, dpi=110)


def page(found: dict[str, Any], name: str) -> str:
    """The page, from nothing but the data; ``name`` is what its files are called."""
    stages, baseline, rows = found["stages"], found["baseline"], found["data"]["rows"]
    absent = missing(stages)
    used, epochs = (next(s for s in stages if s["name"] == baseline)["runs"][0][k] for k in ("rows", "epochs"))
    body = [
        f"# {found['name']}: every method on one student",
        "",
        f"{found['data']['source']}: {used:,} of the {rows['train']:,} training images for {epochs} epochs, for every method alike; "
        f"{rows['test']:,} test images, on which the weights of the last epoch are measured once. Seeds {seeds(stages)}; a seed "
        "decides the rows, the starting weights and the order for all methods alike. ± is the standard deviation over "
        "seeds. Differences are paired by seed, with their 95 % t interval, each for itself: of forty true zeros, two "
        "would look clear.",
        "",
        *(
            f"Teacher: {teacher}, {value:.2f} % on the test part (one network, shared by all seeds)."
            for teacher, value in found["teachers"].items()
        ),
        "",
        f"Settings are each method's preset `benchmark`, or its defaults where nothing is published, chosen for 240 epochs on all "
        f"rows: nothing was tuned, here or on the test part; they are listed below. `{LONG}` has the labels alone for as long as KD took. The cost is "
        f"the time of a training, as many times as `{baseline}` took, by the fastest epochs, with all "
        "earlier trainings that it needs (generations, assistants); validation is in it, the training of the shared teacher is not.",
        "",
        *table(stages, baseline),
        "",
        *([f"Not finished: {', '.join(absent)}.", ""] if absent else []),
        f"![Gain of each method over {baseline} with its interval, and its cost]({name}.png)",
        "",
        "## Settings",
        "",
        *settings(stages),
        "",
        f"Limbeck {found['versions']['limbeck']}, commit {', '.join(found['commits'])}, torch {found['versions']['torch']}, "
        f"{found['machine']['processor']}, {found['machine']['threads']} thread. The data behind this page: [{name}.json]({name}.json).",
        "",
    ]
    return "\n".join(body)


def main(target: Path, folders: list[Path]) -> None:
    publish(target, kept([with_epochs(folder) for folder in folders]), picture, page)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])
