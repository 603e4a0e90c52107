"""What is measured once, when all stages are done: latency, side by side, and the exhibits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import record
from limbeck.compress import cost as costs
from limbeck.compress.served import served
from limbeck.engine import exhibits
from limbeck.engine.evaluate import metrics
from limbeck.engine.progress import counting
from limbeck.recipe import Compress, Evaluate, Fitted, Result, Stage, Train, cast_of, teachers_of
from limbeck.runner.shelf import Work
from limbeck.runner.stages import cost_of

_MOST = 16  # networks that are shown one by one: each adds up to half a megabyte to the page


def finish(work: Work) -> None:
    """Everything that compares the networks of a run with each other; done only by the leader."""
    seed = work.recipe.seeds[0]
    stages = [s for s in work.recipe.plan if not isinstance(s, Evaluate)]
    _given(work, seed)
    _latency(work, stages, seed)
    if not (work.folder / "exhibits.json").exists():
        record.write_json(work.folder / "exhibits.json", _exhibits(work, stages, seed))


def _given(work: Work, seed: int) -> None:
    """The networks that came with weights and were not trained here: size, cost, and what they reach."""
    begin = 0  # on the shelf before the first stage
    for name, blueprint in work.recipe.models.items():
        if blueprint.weights and name not in work.record["models"]:
            model = work.model(name, begin, seed)  # a file that is not there any more is told here
            work.record["models"][name] = {
                "network": blueprint.name,
                "weights": blueprint.weights,
                "sha256": record.sha256(Path(blueprint.weights))[:12],
                "cost": cost_of(work, model),
                "test": metrics(*work.tested(name, begin, seed)),
            }


def _latency(work: Work, stages: list[Result], seed: int) -> None:
    """Time every build of the run, one after the other in turn, and put the figures beside the other costs."""
    lines = {line["name"]: line for line in work.record["stages"]}
    given = work.record["models"]
    # Pairs, not a mapping: a stage may have the name of the network that it started from.
    costs_of = [(s.name, lines[s.name]["cost"]) for s in stages] + [
        (name, line["cost"]) for name, line in given.items()
    ]
    if all(cost.get("latency") for _, cost in costs_of):
        return
    work.say("measuring latency, one thread, networks in turn ...")
    end = len(work.recipe.plan)
    # Networks of one build are timed once.
    builds = {s.name: work.build_key(s.name, work.position(s) + 1) for s in stages}
    networks: dict[str, nn.Module] = {name: work.model(name, 0, seed).to(work.team.device) for name in given}
    for name, build in builds.items():
        if build not in networks:
            networks[build] = work.model(name, end, seed).to(work.team.device)
    with costs.one_thread():
        forms = {name: served(model, work.example(2)) for name, model in networks.items()}
    models = {name: form.model for name, form in forms.items()}
    # One image says what a request costs; a batch says what an archive costs.  Only chains are worth the longer wait.
    batches = {"latency": (1, 50)} | ({"latency_32": (32, 10)} if _has_chain(work) else {})
    for key, (size, repeats) in batches.items():
        measured = costs.latency(models, work.example(size), repeats=repeats)
        for name, cost in costs_of:
            build = builds.get(name, name)
            cost[key] = {**asdict(measured[build]), "form": forms[build].name}


def _has_chain(work: Work) -> bool:
    return any(isinstance(stage, Compress) for stage in work.recipe.plan)


def _exhibits(work: Work, stages: list[Result], seed: int) -> dict[str, Any]:
    end, data = len(work.recipe.plan), work.data
    teachers = list(dict.fromkeys(teacher for s in stages for teacher in teachers_of(s)))
    looked_at = shown = _looked_at(work, teachers, [s.name for s in stages])
    targets, classes = data.test.labels.cpu(), len(data.classes)
    logits = {}
    with counting(work.console, "networks run on the test part", work.quiet) as progress:
        for name in shown:
            logits[name] = work.test_logits(name, end, seed)
            progress(len(logits), len(shown))
    shown = [name for name in shown if logits[name].shape[-1] == classes]  # others answer in groups of these classes
    chosen = exhibits.choose_samples(targets)
    part = data.test.take(torch.tensor(chosen))
    batch = next(iter(work.loader(part, len(chosen), 0, False, vary=False).evaluation()))
    compared = [n for n in shown if n in teachers or n == work.record["baseline"]]
    compared += [s.name for s in stages if _learns_from_networks(s) and s.name in looked_at and s.name not in compared]
    models = {name: work.model(name, end, seed).to(work.team.device) for name in compared}
    tapped = _tapped(work, stages, compared)
    return {
        "classes": list(data.classes),
        "samples": [
            {"row": row, "label": label, "image": image}
            for row, label, image in zip(
                part.rows.tolist(), part.labels.tolist(), exhibits.pixels(part.pixels.cpu(), part.scale), strict=True
            )
        ],
        "soft_labels": {
            name: {"temperature": exhibits.TEMPERATURE, "matrix": exhibits.soft_labels(logits[name], targets, classes)}
            for name in ([t for t in teachers if t in shown] or shown)
        },
        "reliability": {name: exhibits.calibration(logits[name], targets) for name in shown},
        "confusion": {name: exhibits.confusion(logits[name], targets, classes) for name in shown},
        "attention": exhibits.attention(models, batch.inputs, tapped),
    }


def _looked_at(work: Work, teachers: list[str], stages: list[str]) -> list[str]:
    """The networks whose answers are shown one by one: all of them, or of very many the teachers, the baseline and the best."""
    names = list(dict.fromkeys([*teachers, *stages]))
    if len(names) <= _MOST:
        return names
    reached = {line["name"]: line["runs"][0]["last"]["test"] for line in work.record["stages"] if line.get("runs")}
    first = [name for name in names if name in teachers or name == work.record["baseline"]][:_MOST]
    rest = sorted((n for n in names if n not in first), key=lambda n: -(reached.get(n) or {}).get("accuracy", 0.0))
    chosen = {*first, *rest[: _MOST - len(first)]}
    work.note(
        f"calibration, confusions and attention are shown of {len(chosen)} networks of {len(names)}: teachers, the baseline and the "
        "most accurate"
    )
    return [name for name in names if name in chosen]


def _learns_from_networks(stage: Stage) -> bool:
    return not isinstance(stage, (Train, Compress))


def _tapped(work: Work, stages: list[Result], names: list[str]) -> dict[str, list[str]]:
    """The layers that methods looked at, for each network that has them: teachers, students, and the plain student."""
    found: dict[str, list[str]] = {name: [] for name in names}
    lines = {line["name"]: line for line in work.record["stages"]}
    for stage in stages:
        plain = work.record["baseline"]
        same = plain in found and lines[plain]["network"] == lines[stage.name]["network"]
        cast = {role: [name] for role, name in cast_of(stage).items()} if isinstance(stage, Fitted) else {}
        for phase in (phase for r in lines[stage.name]["runs"] for phase in r["phases"]):
            seen = phase.get("taps", {})
            users = {**cast, "student": [stage.name, *([plain] if same else [])]}
            for role, layers in seen.items():
                for name in users.get(role, ()):
                    if name in found:
                        found[name] += [layer for layer in layers if ":" not in layer and layer not in found[name]]
    return found
