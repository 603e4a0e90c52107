"""One training from Python: measure, train, measure, keep."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from limbeck import record as files
from limbeck.api.identity import require_made_of
from limbeck.api.outcome import Record
from limbeck.batches import moved
from limbeck.compress import cost as costs
from limbeck.compress.trial import smallest
from limbeck.data.iterables import Batches
from limbeck.engine.evaluate import agreement, metrics, predictions_of
from limbeck.engine.loop import fit, identity
from limbeck.engine.progress import watch_for
from limbeck.engine.roles import Fit, Stop
from limbeck.engine.team import Team
from limbeck.errors import RunFolderError
from limbeck.grouping import alike, comparable
from limbeck.methods.grouped import labelled_by, partitions_of
from limbeck.models.weights import load_weights, save_weights
from limbeck.phase import Method, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.settings import Training
from limbeck.taps import original

COURSE = "course.json"  # in the folder of a course: which one
_OURS = "hung_by_limbeck"  # on a network: what else hangs there


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything about a training but its networks and its method.

    Attributes:
        loader, tests, held: batches to train on, to measure on, and to choose by.
        training, seed, team: how, and where.
        folder: where to keep it, or None.
        quiet: print nothing.
        name: part of the seeds; "distill", and for a course's lessons their own.
    """

    loader: Batches
    tests: Batches | None
    held: Batches | None
    training: Training
    seed: int
    team: Team
    folder: Path | None
    quiet: bool
    name: str = "distill"

    def lesson(self, name: str) -> Job:
        """The same for a lesson of a course; the last lesson has no name of its own."""
        if not name:
            return self
        folder = None if self.folder is None else self.folder / name
        return replace(self, folder=folder, name=f"{self.name}.{name}")

    def measure(
        self, models: Mapping[str, nn.Module], batches: Batches, method: object = None
    ) -> dict[str, tuple[tuple[Tensor, Any], dict[str, float]]]:
        """Scores with their targets, and the metrics, by role; classes that the method sums are summed first.

        All in one walk over the batches, so that what shuffles them does not matter to how alike the answers are.
        """
        layout = {"precision": self.training.precision, "channels_last": self.training.channels_last}
        scores, given = predictions_of(list(models.values()), batches.epoch(0), device=self.team.device, **layout)
        found = {}
        for role, logits in zip(models, scores, strict=True):
            pair = comparable(logits, given, *labelled) if (labelled := labelled_by(method)) else (logits, given)
            found[role] = (pair, metrics(*pair))
        return found


def perform(job: Job, method: Method, models: Mapping[str, nn.Module]) -> Record:
    """Train the networks in place, and hang the record on each that was trained."""
    with own_random_numbers(), nullcontext() if job.folder is None else files.locked(job.folder):
        seed_everything(seed_for(job.seed, job.name, "measure"))  # the loaders of the user draw from global numbers
        record = _fit(job, method, models)
    for role in learners(models):
        hang(models[role], record=record)
    return record


def hang(model: nn.Module, **values: Any) -> None:
    """Attributes on the module itself, not among its parts: neither state_dict nor parameters see them.

    What a network has of its own by such a name stays; ours is then ``limbeck_NAME``, and a warning says so.
    """
    for name, value in values.items():
        for module in {id(m): m for m in (model, original(model))}.values():
            place = f"limbeck_{name}" if _taken(module, name) else name
            if place != name:
                warnings.warn(
                    f"this {type(module).__name__} has a {name} of its own, so limbeck's is called {place}",
                    stacklevel=2,
                )
            object.__setattr__(module, place, value)
            object.__setattr__(module, _OURS, (*dict.fromkeys((*vars(module).get(_OURS, ()), place)),))


def _taken(module: nn.Module, name: str) -> bool:
    """Whether the network has such a thing of its own: a layer, a tensor, a method, an attribute."""
    own = vars(module)
    parts = (own["_modules"], own["_parameters"], own["_buffers"])
    return (
        any(name in part for part in parts)
        or hasattr(type(module), name)
        or (name in own and name not in own.get(_OURS, ()))
    )


def learners(models: Mapping[str, nn.Module]) -> list[str]:
    """The roles that are trained."""
    return [role for role in models if not role.startswith("teacher")]


def _fit(job: Job, method: Method, models: Mapping[str, nn.Module]) -> Record:
    bare = {role: original(model).to(job.team.device) for role, model in models.items()}
    student, folder, tests = bare["student"], job.folder, job.tests
    key = identity(job.name, job.seed, method, job.training)
    if folder is not None and (done := _finished(folder, key, bare)) is not None:
        return done
    before = {} if tests is None else {role: told for role, (_, told) in job.measure(bare, tests, method).items()}
    held = job.held
    result = fit(
        method,
        models,
        job.loader,
        training=job.training,
        seed=job.seed,
        name=job.name,
        team=job.team,
        folder=folder,
        validate=None if held is None else lambda model: job.measure({"it": model}, held, method)["it"][1],
        watch=watch_for(Console(), _title(job, method), job.quiet),
        stop=Stop(),
    )
    after, same = {}, None
    if tests is not None:
        seen = job.measure(bare, tests, method)
        after = {role: found for role, (_, found) in seen.items()}
        if "teacher" in seen:
            ours, targets = seen["student"][0]
            both = alike(ours, seen["teacher"][0][0], partitions_of(method))
            if both is not None and ours.ndim <= 2:
                same = agreement(*both, independent=targets.ndim == 2)
    if result.best_state is not None:
        hang(student, best_state=result.best_state)
    record = _record(method, job.seed, result, cost_of(bare, job.loader, job.team), before, after, same, job.team)
    if folder is not None:
        for role in learners(bare):
            save_weights(bare[role], folder / _file(role))
        files.write_json(folder / "record.json", {"identity": key, **asdict(record)})
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return record


def _title(job: Job, method: Method) -> str:
    lesson = job.name.partition(".")[2]
    return f"{type(method).__name__} ({lesson})" if lesson else type(method).__name__


def _file(role: str) -> str:
    return "last.safetensors" if role == "student" else f"{role}.safetensors"


def _finished(folder: Path, key: str, models: Mapping[str, nn.Module]) -> Record | None:
    learn = learners(models)
    kept = files.read_json(folder / "record.json")
    if not all((folder / _file(role)).exists() for role in learn):
        kept = None
    if kept is not None and kept.pop("identity", None) != key:
        raise RunFolderError(f"{folder} holds a training with another method, settings or seed; choose another out")
    # Where a student began is of no consequence to one that goes on, and most scripts draw it anew each time.
    require_made_of(folder, {role: model for role, model in models.items() if role not in learn})
    if kept is None:
        return None
    for role in learn:
        load_weights(models[role], folder / _file(role))
    return Record(**kept)


def cost_of(models: Mapping[str, nn.Module], loader: Batches, team: Team) -> dict[str, dict[str, Any]]:
    """What each network costs on a sample of the first batch."""
    first = next(iter(loader.epoch(0)))
    found = {}
    for role, model in models.items():
        found[role] = asdict(costs.cost(model, smallest(model, moved(first.inputs, team.device), 1)))
    return found


def _record(
    method: Method,
    seed: int,
    result: Fit,
    cost: dict[str, dict[str, Any]],
    before: dict[str, dict[str, float]],
    after: dict[str, dict[str, float]],
    same: float | None,
    team: Team,
) -> Record:
    return Record(
        method=repr(method),
        seed=seed,
        epochs=result.epochs,
        seconds=round(result.seconds, 3),
        phases=result.phases,
        cost=cost,
        before=before,
        after=after,
        agreement=same,
        best=result.best,
        history=[line for line in result.history if line["phase"] != "before"],
        device=torch.cuda.get_device_name(team.device) if team.device.type == "cuda" else team.device.type,
    )
