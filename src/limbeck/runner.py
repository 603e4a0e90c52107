"""Running a recipe: stage by stage and seed by seed, resumable, with a record and a report."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from limbeck import catalog, config, record
from limbeck.compress import cost as costs
from limbeck.data import Loader, load, subset
from limbeck.data.images import Images, Splits
from limbeck.engine import exhibits
from limbeck.engine.evaluate import agreement, metrics, predictions
from limbeck.engine.loop import Stop, fit, own_random_numbers, seed_everything
from limbeck.engine.progress import watch_for
from limbeck.engine.team import Team, alone, fabric_for, member
from limbeck.errors import Interrupted, LimbeckError, RunFolderError
from limbeck.models import build, load_weights, save_weights
from limbeck.phase import seed_for
from limbeck.recipe import Distill, Evaluate, Machine, Model, Recipe, Train, baseline_of
from limbeck.report.page import write_report
from limbeck.report.read import read_run
from limbeck.report.tables import render_text, results
from limbeck.report.verdict import verdict

Trained = Train | Distill


def run(
    recipe: Recipe,
    *,
    out: str | Path,
    machine: Machine | None = None,
    quiet: bool = False,
    command: str | None = None,
) -> Path:
    """Run a recipe in a folder, or go on with it there; returns the folder.

    What is done already is kept: finished stages are not repeated, and a stage that was interrupted goes
    on at its checkpoint, to the bits that an uninterrupted run would have given on this machine.

    Args:
        recipe: what to do.
        out: the run folder; made if need be.
        machine: where to run.
        quiet: print nothing but the result.
        command: what to type to repeat the run; None makes one up.

    Raises:
        RunFolderError: the folder holds another recipe's run, is in use, or cannot be written.
        Interrupted: SIGINT or SIGTERM came; all is saved.
    """
    folder, machine = Path(out), machine or Machine()
    _require_catalogued(recipe)
    command = command or f"limbeck run {shlex.quote(str(folder / 'recipe.yaml'))} --out {shlex.quote(str(folder))}"
    console = Console()
    with record.locked(folder):
        _open(folder, recipe)
        if _is_complete(folder):
            stopped = None
        elif machine.devices == 1:
            stopped = _work(alone(machine.accelerator), recipe, folder, machine, quiet, command)
        else:
            stopped = _work_in_processes(recipe, folder, machine, quiet, command)
        if stopped is not None:
            raise Interrupted(f"{stopped}; to go on: {command}")
        write_report(folder)
    if not quiet:
        show(folder, console)
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether the run is done and all its weights are there: who removes a stage's folder wants it done again."""
    told = record.read_json(folder / "run.json") or {}
    places = [folder / line["folder"] for stage in told.get("stages", ()) for line in stage.get("runs", ())]
    return told.get("status") == "done" and all((place / "last.safetensors").exists() for place in places)


def show(folder: Path, console: Console) -> None:
    """Print a run's table, its verdict, and where its report is."""
    done = read_run(folder)
    console.print(render_text(results(done), width=console.width))
    console.print(verdict(done).text, highlight=False, markup=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _work_in_processes(recipe: Recipe, folder: Path, machine: Machine, quiet: bool, command: str) -> str | None:
    """`_work` in several processes.  What one of them raises is raised here, in its own words."""
    told = folder / ".error"
    told.unlink(missing_ok=True)
    # Bound beforehand: Fabric would look into arguments, and cannot look into frozen dataclasses.
    work = partial(_work_together, recipe=recipe, folder=folder, machine=machine, quiet=quiet, command=command)
    with _passing_on_interrupts() as came:
        try:
            return fabric_for(machine.accelerator, machine.devices).launch(work)
        except (ProcessRaisedException, ProcessExitedException) as error:
            if told.exists():
                text = told.read_text(encoding="utf-8")
                told.unlink()
                raise LimbeckError(text) from None
            if came:  # before they could stop cleanly
                return "stopped at the start"
            raise LimbeckError(f"one of the {machine.devices} processes failed: {error}") from error


def _work_together(fabric: Any, **arguments: Any) -> str | None:
    try:
        return _work(member(fabric), **arguments)
    except LimbeckError as error:
        # The others may be waiting for this process: only its end makes the one that started them stop them all.
        (arguments["folder"] / ".error").write_text(str(error), encoding="utf-8")
        sys.stdout.flush()
        os._exit(1)


def _require_catalogued(recipe: Recipe) -> None:
    """A run folder names its methods; one that no catalogue lists could not be read back."""
    for stage in recipe.stages:
        method = getattr(stage, "method", None)
        if method is not None and catalog.name_of(method) not in catalog.entries("method"):
            raise LimbeckError(
                f"stage {stage.name!r}: {type(method).__name__} is in no catalogue, so a run folder could not name it; "
                "register it under the entry-point group 'limbeck.methods', or train with limbeck.distill"
            )


def _open(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder with another recipe's run; put the recipe into a new one."""
    kept = folder / "recipe.yaml"
    if kept.exists():
        old = config.read_recipe(kept)
        if config.recipe_hash(old) != config.recipe_hash(recipe):
            lines = record.difference(config.to_data(old, defaults=True), config.to_data(recipe, defaults=True))
            raise RunFolderError(
                f"{folder} holds the run of another recipe; choose another --out, or remove the folder. What differs:\n"
                + "\n".join(f"  {line}" for line in lines[:20])
            )
        return
    strangers = [p.name for p in folder.iterdir() if p.name != ".lock"]
    if strangers:
        raise RunFolderError(
            f"{folder} is no run folder and not empty (it holds {', '.join(sorted(strangers)[:5])}); choose another --out"
        )
    record.write_text(kept, config.to_yaml(recipe))


@contextmanager
def _stoppable() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask for a clean stop; a second SIGINT is the ordinary one."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for s in before:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def _passing_on_interrupts() -> Iterator[list[int]]:
    """The process that waits for those that train asks them to stop cleanly, and waits on.

    Ctrl-C reaches them anyhow, a signal to this process alone would not.  Yields the signals that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def pass_on(number: int, frame: Any) -> None:
        came.append(number)
        for child in multiprocessing.active_children():
            child.terminate()  # SIGTERM: it asks, however often it comes

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@dataclass
class _Work:
    """What the stages of one run share."""

    recipe: Recipe
    folder: Path
    data: Splits
    team: Team
    console: Console
    quiet: bool
    record: dict[str, Any]
    logits: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    # -- the shelf ---------------------------------------------------------------------------------

    def place(self, stage: Trained, seed: int) -> Path:
        """The folder of a stage's repetition."""
        return Path("stages") / stage.name / f"seed-{self.seed_of(stage, seed)}"

    def seed_of(self, stage: Trained, seed: int) -> int:
        return seed if stage.per_seed else self.recipe.seeds[0]

    def source(self, name: str, before: int) -> Trained | Model:
        """What a name means to the stage at position ``before``: the newest result under it, else the blueprint."""
        for stage in reversed(self.recipe.stages[:before]):
            if stage.name == name and not isinstance(stage, Evaluate):
                return stage
        return self.recipe.models[name]

    def blueprint(self, name: str, before: int) -> tuple[str, Model]:
        """The blueprint that a model descends from, with its name."""
        found = self.source(name, before)
        if isinstance(found, Model):
            return name, found
        return self.blueprint(student_of(found), self.recipe.stages.index(found))

    def model(self, name: str, before: int, seed: int) -> nn.Module:
        """The network that a name means to the stage at position ``before``, in this repetition."""
        origin, blueprint = self.blueprint(name, before)
        options = {"classes": len(self.data.classes), "in_channels": self.data.shape[0], "size": self.data.shape[1]}
        with own_random_numbers():
            seed_everything(seed_for(seed, "model", origin))
            model = build(blueprint.name, **{**options, **blueprint.options})
        found = self.source(name, before)
        if isinstance(found, Model):
            if blueprint.weights:
                load_weights(model, blueprint.weights)
        else:
            load_weights(model, self.folder / self.place(found, seed) / "last.safetensors")
        return model

    def identity(self, name: str, before: int, seed: int) -> str:
        """A key that two references share exactly if they mean the same weights."""
        found = self.source(name, before)
        return (
            f"blueprint {name} {seed}"
            if isinstance(found, Model) and not found.weights
            else (f"weights {name}" if isinstance(found, Model) else str(self.place(found, seed)))
        )

    # -- measuring ---------------------------------------------------------------------------------

    def loader(self, images: Images, batch_size: int, seed: int, channels_last: bool, vary: bool) -> Loader:
        augment = {"augment": self.recipe.data.augment} if vary else {}
        return Loader(
            images=images, batch_size=batch_size, mean=self.data.mean, std=self.data.std, seed=seed,
            channels_last=channels_last, device=self.team.device, **augment,
        )  # fmt: skip

    def predict(
        self, model: nn.Module, part: Images, precision: str = "fp32", channels_last: bool = False
    ) -> tuple[Tensor, Tensor]:
        loader = self.loader(part, 500, 0, channels_last, vary=False)
        logits, targets = predictions(
            model, loader.evaluation(), device=self.team.device, precision=precision, channels_last=channels_last
        )
        if targets is None:  # images always come with labels
            raise LimbeckError("the data has no labels")
        return logits, targets

    def test_logits(self, name: str, before: int, seed: int) -> Tensor:
        key = (self.identity(name, before, seed), "test")
        if key not in self.logits:
            model = self.model(name, before, seed).to(self.team.device)
            self.logits[key] = self.predict(model, self.data.test)[0]
        return self.logits[key]

    def say(self, text: str) -> None:
        if self.team.leads and not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Something that the user should know: said once, and kept in the record."""
        if text not in self.record["notes"]:
            self.record["notes"].append(text)
            self.say(f"note: {text}")

    def write(self, status: str = "running") -> None:
        self.record["status"] = status
        if self.team.leads:
            record.write_json(self.folder / "run.json", self.record)


def student_of(stage: Trained) -> str:
    """Which model a stage trains."""
    return stage.model if isinstance(stage, Train) else stage.student


def _work(team: Team, recipe: Recipe, folder: Path, machine: Machine, quiet: bool, command: str) -> str | None:
    """Everything that a process of the team does; None, or where it was asked to stop."""
    kept = record.read_json(folder / "run.json") or {}
    threads = machine.threads or kept.get("machine", {}).get("threads")
    if threads:
        torch.set_num_threads(threads)  # the same number as before: it decides the last bits
    console = Console()
    data = load(recipe.data)
    work = _Work(recipe, folder, data, team, console, quiet, _begin(recipe, data, machine, command, team, kept))
    work.record["machine"]["threads"] = torch.get_num_threads()
    with _stoppable() as stop:
        try:
            for note in data.notes:
                work.note(note)
            work.write()
            for seed in recipe.seeds:
                for index, stage in enumerate(recipe.stages):
                    if isinstance(stage, Evaluate):
                        _evaluate(work, index, stage, seed)
                    else:
                        _train(work, index, stage, seed, stop)
                    work.write()
            if team.leads:
                _finish(work)
            work.record["finished"] = kept.get("finished") or record.now()
            work.write("done")
        except Interrupted as stopped:
            work.write("interrupted")
            return str(stopped)
        except LimbeckError as error:
            work.record["error"] = str(error)
            work.write("failed")
            raise
    team.wait()
    return None


def _begin(
    recipe: Recipe, data: Splits, machine: Machine, command: str, team: Team, kept: Mapping[str, Any]
) -> dict[str, Any]:
    stages: list[dict[str, Any]] = []
    plain = config.to_data(recipe)["stages"]
    before = {s.get("name"): s for s in kept.get("stages", [])}
    for stage, said in zip(recipe.stages, plain, strict=True):
        line = {**said, "name": stage.name}
        if isinstance(line.get("method"), str):
            line["method"] = {"kind": line["method"]}
        if isinstance(stage, Evaluate):
            line |= {"kind": "evaluate", "results": {}}
        else:
            line |= {
                "kind": "train" if isinstance(stage, Train) else "distill",
                "model": student_of(stage),
                "teacher": getattr(stage, "teacher", None),
                "cost": before.get(stage.name, {}).get("cost", {}),
                "runs": [],
            }
        stages.append(line)
    return {
        "format": record.FORMAT,
        "name": recipe.name,
        "status": "running",
        "created": kept.get("created") or record.now(),
        "finished": kept.get("finished"),
        "command": command,
        "recipe": config.to_data(recipe),
        "recipe_in_full": config.to_data(recipe, defaults=True),
        "recipe_hash": config.recipe_hash(recipe),
        "commit": record.commit(),
        "versions": record.versions(),
        "machine": {
            "device": torch.cuda.get_device_name(team.device) if team.device.type == "cuda" else team.device.type,
            "processor": record.processor(),
            "devices": team.world,
        },
        "data": {
            "source": data.source,
            "classes": list(data.classes),
            "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "skipped": data.skipped,
            "shape": list(data.shape),
        },
        "notes": [],
        "stages": stages,
        "baseline": baseline_of(recipe),
    }


def _train(work: _Work, index: int, stage: Trained, seed: int, stop: Stop) -> None:
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
            line["cost"] = _cost(work, work.model(student_of(stage), index, seed))
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
        return metrics(*work.predict(model, work.data.validation, training.precision, training.channels_last))

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
        "last": {"validation": metrics(*work.predict(student, work.data.validation)), "test": metrics(test, targets)},
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
        line["cost"] = _cost(work, student)
    line["runs"].append(found)


def _has_amx() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware."""
    known = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return known is None or bool(known())


def _synchronised(work: _Work, model: nn.Module) -> nn.Module:
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


def _cost(work: _Work, model: nn.Module) -> dict[str, Any]:
    example = torch.zeros(1, *work.data.shape, device=work.team.device)
    return {**asdict(costs.cost(model.to(work.team.device), example)), "latency": None}


def _evaluate(work: _Work, index: int, stage: Evaluate, seed: int) -> None:
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


def _measured(work: _Work, index: int, split: Literal["test", "validation"], name: str, seed: int) -> dict[str, float]:
    """The metrics of a network on one part; those of a stage's result were measured when it was done."""
    found = work.source(name, index)
    if not isinstance(found, Model):
        done = record.read_json(work.folder / work.place(found, seed) / "result.json")
        if done is not None:
            return done["last"][split]
    if split == "test":
        return metrics(work.test_logits(name, index, seed), work.data.test.labels.cpu())
    return metrics(*work.predict(work.model(name, index, seed).to(work.team.device), work.data.validation))


def _finish(work: _Work) -> None:
    """What is measured once, when all stages are done: latency, side by side, and the exhibits."""
    recipe, seed = work.recipe, work.recipe.seeds[0]
    stages = [(i, s) for i, s in enumerate(recipe.stages) if not isinstance(s, Evaluate)]
    lines = {s.name: work.record["stages"][i] for i, s in stages}
    if any(not line["cost"].get("latency") for line in lines.values()):
        work.say("measuring latency, one thread, networks in turn ...")
        networks: dict[str, tuple[str, nn.Module]] = {}
        for i, s in stages:
            origin, _ = work.blueprint(student_of(s), i)
            networks.setdefault(origin, (s.name, work.model(s.name, len(recipe.stages), seed).to(work.team.device)))
        example = torch.zeros(1, *work.data.shape, device=work.team.device)
        measured = costs.latency({origin: model for origin, (_, model) in networks.items()}, example)
        for i, s in stages:
            lines[s.name]["cost"]["latency"] = asdict(measured[work.blueprint(student_of(s), i)[0]])
    if not (work.folder / "exhibits.json").exists():
        record.write_json(work.folder / "exhibits.json", _exhibits(work, [s for _, s in stages], seed))


def _exhibits(work: _Work, stages: list[Trained], seed: int) -> dict[str, Any]:
    end, data = len(work.recipe.stages), work.data
    teachers = list(dict.fromkeys(s.teacher for s in stages if isinstance(s, Distill)))
    shown = list(dict.fromkeys([*teachers, *(s.name for s in stages)]))
    targets, classes = data.test.labels.cpu(), len(data.classes)
    logits = {name: work.test_logits(name, end, seed) for name in shown}
    chosen = exhibits.choose_samples(targets)
    part = data.test.take(torch.tensor(chosen))
    batch = next(iter(work.loader(part, len(chosen), 0, False, vary=False).evaluation()))
    compared = [n for n in shown if n in teachers or n == work.record["baseline"]]
    compared += [s.name for s in stages if isinstance(s, Distill) and s.name not in compared]
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
            for name in (teachers or shown)
        },
        "reliability": {name: exhibits.calibration(logits[name], targets) for name in shown},
        "confusion": {name: exhibits.confusion(logits[name], targets, classes) for name in shown},
        "attention": exhibits.attention(models, batch.inputs, tapped),
    }


def _tapped(work: _Work, stages: list[Trained], names: list[str]) -> dict[str, list[str]]:
    """The layers that methods looked at, for each network that has them: teachers, students, and the plain student."""
    found: dict[str, list[str]] = {name: [] for name in names}
    lines = {line["name"]: line for line in work.record["stages"]}
    for stage in stages:
        plain = work.record["baseline"]
        same = plain in found and lines[plain]["network"] == lines[stage.name]["network"]
        for phase in (phase for r in lines[stage.name]["runs"] for phase in r["phases"]):
            seen = phase.get("taps", {})
            users = {"student": [stage.name, *([plain] if same else [])], "teacher": [getattr(stage, "teacher", "")]}
            for role, layers in seen.items():
                for name in users.get(role, ()):
                    if name in found:
                        found[name] += [layer for layer in layers if ":" not in layer and layer not in found[name]]
    return found
