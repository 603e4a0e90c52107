"""One repetition of one stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import record
from limbeck.compress import cost as costs
from limbeck.data import subset
from limbeck.engine.evaluate import agreement, metrics
from limbeck.engine.loop import fit
from limbeck.engine.progress import watch_for
from limbeck.engine.roles import Stop
from limbeck.errors import NonFiniteError
from limbeck.grouping import alike
from limbeck.models import load_weights, save_weights
from limbeck.models.ensemble import Ensemble as Average
from limbeck.processor import BF16_UNITS, bf16_unit
from limbeck.recipe import (
    Compress,
    Ensemble,
    Evaluate,
    Fitted,
    Model,
    Peer,
    Result,
    Stage,
    Together,
    cast_of,
    teachers_of,
)
from limbeck.runner.compressing import compressed
from limbeck.runner.origins import origins, set_aside
from limbeck.runner.shelf import Work


def perform(work: Work, index: int, stage: Stage, seed: int, stop: Stop) -> None:
    """One repetition of one stage of the plan, unless it is done; its line goes into the record."""
    if isinstance(stage, Evaluate):
        evaluate(work, index, stage, seed)
        return
    if not stage.per_seed and seed != work.recipe.seeds[0]:
        return
    place, line = work.folder / work.place(stage, seed), work.record["stages"][index]
    line["network"] = work.architecture(stage.name, index + 1)
    others = record.replaced(place, origins(work, stage, seed))
    found = None if others else record.read_json(place / "result.json")
    work.team.wait()  # all have looked before anyone writes it
    if others:
        _put_aside(work, stage, seed, others)
    if found is None or not (place / "last.safetensors").exists():
        _forget(work, line, seed)
        found = _done(work, index, stage, seed, stop)
    line["runs"].append(found)
    if not line["cost"]:
        line["cost"] = cost_of(work, work.model(stage.name, index + 1, seed))


def _put_aside(work: Work, stage: Result, seed: int, others: Sequence[str]) -> None:
    """Make room for a stage that has to be made again, as what it was made of is gone; what it left is not lost."""
    if work.team.leads:
        aside = set_aside(work.folder / work.place(stage, seed)).relative_to(work.folder)
        which = f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} another network by now"
        work.note(f"{stage.name} (seed {seed}) is made again: {which} than it was made of. What it left is in {aside}")
    work.team.wait()


def _forget(work: Work, line: dict[str, Any], seed: int) -> None:
    """What was measured of a network that is made again: it may come out otherwise, where it is chosen by the clock."""
    if work.team.leads:
        (work.folder / "exhibits.json").unlink(missing_ok=True)
    if line["cost"] and seed == work.recipe.seeds[0]:
        line["cost"] = {}
        work.write()  # before it is made: whoever is killed in between must not find the old figures beside it


def _done(work: Work, index: int, stage: Result, seed: int, stop: Stop) -> dict[str, Any]:
    """Do it: train, compress, or gather what was trained; weights and result are in the stage's folder then."""
    if isinstance(stage, Compress):
        model, told = compressed(work, index, stage, seed)
        return _keep(work, stage, seed, model, told)
    if isinstance(stage, Ensemble):
        model = Average([work.model(member, index, seed) for member in stage.members], averaging=stage.averaging)
        return _keep(work, stage, seed, model, {})
    if isinstance(stage, Peer):
        first = next(s for s in work.recipe.plan if s.name == stage.of and isinstance(s, Together))
        place = work.folder / work.place(first, seed)
        model = work.model(stage.student, index, seed)
        load_weights(model, place / f"peer{stage.place}.safetensors")
        told = record.read_json(place / "result.json") or {}
        return _keep(
            work, stage, seed, model, {key: told.get(key) for key in ("epochs", "seconds", "images", "rows", "phases")}
        )
    return train(work, index, stage, seed, stop)


def train(work: Work, index: int, stage: Fitted, seed: int, stop: Stop) -> dict[str, Any]:
    """One repetition of a stage in which something is trained."""
    training = stage.training
    if training.precision == "bf16" and work.team.device.type == "cpu" and bf16_unit() is None:
        work.note(
            f"bf16 is likely slower than fp32 on a processor without {' or '.join(BF16_UNITS.values())} (training.precision)"
        )
    models = _cast(work, index, stage, seed)
    rows = work.data.train if stage.rows is None else subset(work.data.train, stage.rows, seed)
    title = stage.name if len(work.recipe.seeds) == 1 or not stage.per_seed else f"{stage.name} (seed {seed})"
    place = work.folder / work.place(stage, seed)
    build = work.build_key(stage.name, index + 1)

    if work.team.leads:
        record.keep_origins(place, origins(work, stage, seed))  # a checkpoint belongs to them as well

    def validate(model: nn.Module) -> dict[str, float]:
        return _finite(
            work.validated(model, build, seed, training.precision, training.channels_last), title, "validation"
        )

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
    if work.team.leads:
        for role in list(models)[1:]:
            if role.startswith("peer"):
                save_weights(models[role], place / f"{role}.safetensors")
    told = {
        "epochs": result.epochs,
        "seconds": round(result.seconds, 2),
        "images": result.images,
        "rows": len(rows),
        "phases": result.phases,
        "before": {"validation": result.before},
        "best": result.best,
    }
    teachers = [work.test_logits(teacher, index, seed) for teacher in teachers_of(stage)]
    student = models["student"].to(work.team.device)
    validation = work.validated(student, build, seed, *work.manner(student))
    return _keep(work, stage, seed, student, told, teachers, validation)


def _cast(work: Work, index: int, stage: Fitted, seed: int) -> dict[str, nn.Module]:
    """The networks of a stage by role."""
    models = {}
    for place, (role, name) in enumerate(cast_of(stage).items()):
        learns = not role.startswith("teacher")
        init = _drawn(stage, place, name) if isinstance(stage, Together) else stage.init
        model = work.model(name, index, seed, init if learns else "")
        models[role] = _synchronised(work, model) if learns else model
    return models


def _drawn(stage: Together, place: int, student: str) -> str:
    """Networks that start from one blueprint start from different weights: equal ones would stay equal for ever."""
    before = stage.students[:place].count(student)
    return f"{stage.init}/{before + 1}" if before else stage.init


def _keep(
    work: Work,
    stage: Result,
    seed: int,
    model: nn.Module,
    told: Mapping[str, Any],
    teachers: Sequence[Tensor] = (),
    validation: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Measure what a stage left, and put weights and result into its folder, the result last.

    Args:
        validation: what it reaches on the validation part, where that was measured already.
    """
    title, place = f"{stage.name} (seed {seed})", work.folder / work.place(stage, seed)
    model = model.to(work.team.device)
    test, targets = work.measure(model, work.data.test)
    work.remember(stage.name, work.position(stage) + 1, seed, test, targets)
    found = {
        "seed": seed,
        "status": "done",
        "folder": str(work.place(stage, seed)),
        "epochs": None,
        "seconds": None,
        "images": None,
        "rows": None,
        "phases": [],
        "before": {"validation": None},
        "best": None,
        **told,
        "last": {
            "validation": _finite(
                validation or metrics(*work.measure(model, work.data.validation)), title, "validation"
            ),
            "test": _finite(metrics(test, targets), title, "test"),
        },
        "agreement": _with_teachers(work, test, teachers),
        "original": _against_original(work, stage, seed, test),
    }
    if work.team.leads:
        place.mkdir(parents=True, exist_ok=True)
        if not isinstance(stage, Compress):  # that has been written, as part of what makes it whole
            save_weights(model, place / "last.safetensors")
        record.keep_origins(place, origins(work, stage, seed))
        record.write_json(place / "result.json", found)
        (place / "checkpoint.safetensors").unlink(missing_ok=True)
    work.team.wait()
    return found


def _against_original(work: Work, stage: Result, seed: int, test: Tensor) -> dict[str, Any] | None:
    """How often a network that others were made smaller to answers as the one at the beginning of the chain."""
    here = work.position(stage)
    name = work.original(stage.name, here + 1)
    if name is None:
        return None
    logits = work.test_logits(name, here, seed)
    both = alike(test, logits, work.partitions)
    return None if both is None else {"model": name, "agreement": agreement(*both)}


def _with_teachers(work: Work, test: Tensor, teachers: Sequence[Tensor]) -> dict[str, float] | None:
    """How often a network answers as its teachers do; None without teachers, or where their classes are others."""
    both = alike(test, _mean(teachers), work.partitions) if teachers else None
    return None if both is None else {"test": agreement(*both)}


def _mean(logits: Sequence[Tensor]) -> Tensor:
    """The scores of several teachers as one's: the mean of their probabilities."""
    return logits[0] if len(logits) == 1 else torch.stack([scores.softmax(-1) for scores in logits]).mean(0)


def _finite(measured: dict[str, float], title: str, part: str) -> dict[str, float]:
    """What was measured.  Weights can be finite and the scores they give not: no result, and nothing to go on from."""
    if all(math.isfinite(value) for value in measured.values()):
        return measured
    raise NonFiniteError(
        f"{title}: the student's scores on the {part} part are not finite. Training has diverged: lower "
        "training.optimizer.lr, add a warm-up or a clip; or the weights that it started from are of no use"
    )


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
    return {**asdict(costs.cost(model.to(work.team.device), work.example())), "latency": None}


def evaluate(work: Work, index: int, stage: Evaluate, seed: int) -> None:
    names = stage.models or tuple(
        dict.fromkeys(
            [n for n, m in work.recipe.models.items() if m.weights]
            + [s.name for s in work.recipe.plan[:index] if not isinstance(s, Evaluate)]
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
        return metrics(*work.tested(name, index, seed))
    return metrics(*work.measure(work.model(name, index, seed).to(work.team.device), work.data.validation))
