"""One repetition of one stage."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import nn

from limbeck import record
from limbeck.compress import cost as costs
from limbeck.data import subset
from limbeck.engine.evaluate import agreement, metrics
from limbeck.engine.loop import fit
from limbeck.engine.progress import watch_for
from limbeck.engine.roles import Stop
from limbeck.errors import NonFiniteError
from limbeck.models import save_weights
from limbeck.recipe import Distill, Evaluate, Model
from limbeck.runner.shelf import Trained, Work, student_of


def train(work: Work, index: int, stage: Trained, seed: int, stop: Stop) -> None:
    """One repetition of a training stage, unless it is done; its line goes into the record."""
    if not stage.per_seed and seed != work.recipe.seeds[0]:
        return
    place = work.folder / work.place(stage, seed)
    line = work.record["stages"][index]
    _, blueprint = work.blueprint(student_of(stage), index)
    line["network"] = blueprint.name
    done = record.read_json(place / "result.json")
    if done is not None and (place / "last.safetensors").exists():
        line["runs"].append(done)
        if not line["cost"]:
            line["cost"] = cost_of(work, work.model(student_of(stage), index, seed))
        return
    training = stage.training
    if training.precision == "bf16" and work.team.device.type == "cpu" and not _has_amx():
        work.note("bf16 on a processor without AMX is likely slower than fp32 (training.precision)")
    models = {"student": _synchronised(work, work.model(student_of(stage), index, seed))}
    if isinstance(stage, Distill):
        models["teacher"] = work.model(stage.teacher, index, seed)
    rows = work.data.train if stage.rows is None else subset(work.data.train, stage.rows, seed)
    title = stage.name if len(work.recipe.seeds) == 1 or not stage.per_seed else f"{stage.name} (seed {seed})"

    def validate(model: nn.Module) -> dict[str, float]:
        measured = metrics(*work.predict(model, work.data.validation, training.precision, training.channels_last))
        return _finite(measured, title, "validation")

    result = fit(
        stage.method,
        models,
        work.loader(rows, training.batch_size, seed, training.channels_last, vary=True),
        training=training,
        seed=seed,
        name=stage.name,
        classes=len(work.data.classes),
        team=work.team,
        folder=place,
        validate=validate,
        watch=watch_for(work.console, title, work.quiet or not work.team.leads),
        stop=stop,
    )
    student = models["student"]
    test, targets = work.predict(student, work.data.test)
    found = {
        "seed": seed,
        "status": "done",
        "folder": str(work.place(stage, seed)),
        "epochs": result.epochs,
        "seconds": round(result.seconds, 2),
        "images": result.images,
        "rows": len(rows),
        "phases": result.phases,
        "before": {"validation": result.before},
        "best": result.best,
        "last": {
            "validation": _finite(metrics(*work.predict(student, work.data.validation)), title, "validation"),
            "test": _finite(metrics(test, targets), title, "test"),
        },
        "agreement": None,
    }
    if isinstance(stage, Distill):
        found["agreement"] = {"test": agreement(test, work.test_logits(stage.teacher, index, seed))}
    if work.team.leads:
        save_weights(student, place / "last.safetensors")
        record.write_json(place / "result.json", found)
        (place / "checkpoint.safetensors").unlink(missing_ok=True)
    work.team.wait()
    if not line["cost"]:
        line["cost"] = cost_of(work, student)
    line["runs"].append(found)


def _finite(measured: dict[str, float], title: str, part: str) -> dict[str, float]:
    """What was measured.  Weights can be finite and the scores they give not: no result, and nothing to go on from."""
    if all(math.isfinite(value) for value in measured.values()):
        return measured
    raise NonFiniteError(
        f"{title}: the student's scores on the {part} part are not finite. Training has diverged: lower "
        "training.optimizer.lr, add a warm-up or a clip; or the weights that it started from are of no use"
    )


def _has_amx() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware."""
    known = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return known is None or bool(known())


def _synchronised(work: Work, model: nn.Module) -> nn.Module:
    """Batch statistics over all processes where that exists; else the user is told what happens instead."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if work.team.world == 1 or not norms:
        return model
    if work.team.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    work.note(
        f"{work.team.world} processes on a CPU: BatchNorm statistics are those of each process's share of a batch "
        "(torch has synchronised statistics on GPUs only), so results differ slightly from those of one process; "
        "running statistics are averaged at the end of each epoch"
    )
    return model


def cost_of(work: Work, model: nn.Module) -> dict[str, Any]:
    example = torch.zeros(1, *work.data.shape, device=work.team.device)
    return {**asdict(costs.cost(model.to(work.team.device), example)), "latency": None}


def evaluate(work: Work, index: int, stage: Evaluate, seed: int) -> None:
    names = stage.models or tuple(
        dict.fromkeys(
            [n for n, m in work.recipe.models.items() if m.weights]
            + [s.name for s in work.recipe.stages[:index] if not isinstance(s, Evaluate)]
        )
    )
    results = work.record["stages"][index]["results"]
    for name in names:
        found = work.source(name, index)
        shared = isinstance(found, Model) or not found.per_seed
        if shared and seed != work.recipe.seeds[0]:
            continue
        results.setdefault(name, []).append({"seed": seed, **_measured(work, index, stage.split, name, seed)})


def _measured(work: Work, index: int, split: Literal["test", "validation"], name: str, seed: int) -> dict[str, float]:
    """The metrics of a network on one part; those of a stage's result were measured when it was done."""
    found = work.source(name, index)
    if not isinstance(found, Model):
        done = record.read_json(work.folder / work.place(found, seed) / "result.json")
        if done is not None:
            return done["last"][split]
    if split == "test":
        return metrics(work.test_logits(name, index, seed), work.data.test.labels.cpu())
    return metrics(*work.predict(work.model(name, index, seed).to(work.team.device), work.data.validation))
