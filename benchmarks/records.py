"""What run folders say, put together over seeds: shared by the scripts that make pages under docs/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck import record
from limbeck.stats import Paired, Summary, paired, summarise


def seed_by_seed(
    target: Path,
    network: str,
    arguments: Sequence[str],
    measured: Callable[[int], Any],
    about: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """What a file of results holds after the seeds among the arguments are in it, too; a seed that was measured is kept.

    The file is written after every seed, with what ``about`` says of the code and the settings.
    """
    told = json.loads(target.read_text()) if target.exists() else {"network": network, "seeds": {}}
    for seed in (int(given) for given in arguments if given != "--page"):
        if str(seed) not in told["seeds"]:
            told["seeds"][str(seed)] = measured(seed)
            commits = sorted({*told.get("commits", ()), str(record.commit())})
            told |= {"commits": commits, "versions": record.versions(), **about()}
            record.write_json(target, told)
    return told


def publish(
    target: Path,
    found: dict[str, Any],
    draw: Callable[[dict[str, Any], Path], None],
    page: Callable[[dict[str, Any], str], str],
) -> None:
    """Write the data, the picture and the page of a study, side by side: NAME.json, NAME.png, NAME.md.

    Picture and page are made from what the file of data says, so that they can be made from it again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    target.with_suffix(".json").write_text(text)
    found = json.loads(text)
    draw(found, target.with_suffix(".png"))
    target.with_suffix(".md").write_text(page(found, target.name))
    print(f"{target.with_suffix('.md')}, with its data and picture")


def seeds(stages: Sequence[dict[str, Any]]) -> str:
    """The seeds of a study, in words."""
    return ", ".join(map(str, sorted({r["seed"] for stage in stages for r in stage["runs"]})))


def read(folder: Path) -> dict[str, Any]:
    """A run's record, with the validation curve of each finished repetition: of a run's folder, or of data made from some before."""
    if folder.suffix == ".json":
        run = json.loads(folder.read_text())
        original = run.get("original")
        return run | (
            {"models": {original["name"]: {k: v for k, v in original.items() if k != "name"}}} if original else {}
        )
    run = json.loads((folder / "run.json").read_text())
    for stage in run["stages"]:
        for r in stage.get("runs", ()):
            ends = {(line["phase"], line["epoch"]): line for line in steps(folder, r) if line.get("validation")}
            r["validation_by_epoch"] = [line["validation"] for line in ends.values()]
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


def commits(runs: list[dict[str, Any]]) -> list[str]:
    """With which code the runs were made."""
    return sorted({commit for run in runs for commit in run.get("commits") or [str(run["commit"])]})


def teachers(run: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, float]:
    """Test accuracy, in percent, of the networks that came with weights."""
    if "teachers" in run:
        return run["teachers"]
    given = {name: model["test"] for name, model in run.get("models", {}).items()}
    for stage in run["stages"]:
        if stage["kind"] == "evaluate" and stage.get("split", "test") == "test":
            given |= {n: rows[0] for n, rows in stage["results"].items() if n not in {s["name"] for s in stages}}
    return {name: 100 * found["accuracy"] for name, found in given.items()}


def kept(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What of the records of a study's pieces goes into its file of data."""
    run, stages = runs[0], merged(runs)
    found = {k: run[k] for k in ("name", "recipe", "versions", "machine", "data", "baseline")}
    return found | {
        "commits": commits(runs),
        "stages": stages,
        "teachers": teachers(run, stages),
    }


def missing(stages: list[dict[str, Any]]) -> list[str]:
    """Stages that some seeds have finished, and others not."""
    seeds = sorted({r["seed"] for s in stages for r in s["runs"]})
    return [f"{s['name']} (seed {seed})" for s in stages for seed in seeds if seed not in accuracies(s, "test")]


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
