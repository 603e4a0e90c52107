"""What only a look at the networks can tell about a recipe: options, weights, layers, class counts.

Every network is built and every method takes one step on a made-up batch, without training anything.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from limbeck.compress.finished import require_unfinished
from limbeck.compress.results import require_kept
from limbeck.data.images import Splits
from limbeck.data.spec import CIFAR10
from limbeck.engine.rehearsal import rehearse
from limbeck.errors import DataError, HyperParameterError, LimbeckError, NonFiniteError, RecipeError, TargetError
from limbeck.methods.assistants import TeacherAssistant
from limbeck.methods.response import KD, Supervised
from limbeck.models import build, load_weights
from limbeck.models.ensemble import Ensemble as Average
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.recipe import (
    Compress,
    Ensemble,
    Evaluate,
    Fitted,
    Model,
    Path,
    Peer,
    Recipe,
    Stage,
    Together,
    Train,
    cast_of,
    course_of,
    planned,
    show_path,
    student_of,
    teachers_of,
)
from limbeck.settings import Training
from limbeck.taps import title


def read_data(recipe: Recipe) -> Splits | None:
    """The data; None for CIFAR-10, whose shape is known and whose 50,000 pictures take long to read, or to fetch."""
    if isinstance(recipe.data.source, CIFAR10):
        return None
    from limbeck.data import load

    return load(recipe.data)


def data_shape(recipe: Recipe) -> tuple[tuple[int, int, int], int]:
    """Shape of one image and number of classes."""
    splits = read_data(recipe)
    return ((3, 32, 32), 10) if splits is None else (splits.shape, len(splits.classes))


def against_data(recipe: Recipe, splits: Splits) -> list[tuple[Path, str]]:
    """What the data does not allow, found before the first stage rather than when its turn comes.

    Example: more ``rows`` than there are, fewer than one per class, a border that is wider than the images, or weights
    that are to be kept after more steps than a training has.
    """
    from limbeck.data.splits import require_subset
    from limbeck.data.views import require_crop

    found: list[tuple[Path, str]] = []
    for index, stage in enumerate(recipe.stages):
        trains = isinstance(stage, Fitted) or (isinstance(stage, Compress) and course_of(stage) is not None)
        if trains and (rows := getattr(stage, "rows", None)) is not None:
            try:
                require_subset(splits.train, rows)
            except DataError as error:
                found.append((("stages", index, "rows"), str(error)))
    for index, stage in planned(recipe.stages):
        if isinstance(stage, Fitted):
            found += _too_late(stage, recipe.stages[index], ("stages", index), len(splits.train))
    try:
        require_crop(recipe.data.augment, *splits.shape[1:])
    except DataError as error:
        found.append((("data", "augment", "crop"), str(error)))
    return list(dict.fromkeys(found))


def _too_late(stage: Fitted, written: Stage, place: Path, available: int) -> list[tuple[Path, str]]:
    """Weights that are to be kept after a step that will not be.

    Of methods that are one phase for sure: only a cast of networks shows whether others add epochs to those of the stage.
    """
    from limbeck.data.loading import steps_per_epoch

    training, last = stage.training, max(stage.training.snapshots, default=0)
    rows = min(stage.rows or available, available)
    if not isinstance(stage.method, (Supervised, KD)) or rows < 1:
        return []
    steps = steps_per_epoch(rows, training.batch_size)
    if last <= steps * training.epochs:
        return []
    rewinds = getattr(course_of(written), "rewind", 0) == last
    where = ("how", "rewind") if rewinds else ("training", "snapshots")
    text = (
        f"{where[-1]} = {last}: the training of {stage.name!r} has {steps * training.epochs} steps "
        f"({training.epochs} epochs of {steps}), so there are no weights after step {last}"
    )
    return [((*place, *where), text)]


def require_fitting(recipe: Recipe, splits: Splits) -> None:
    """Refuse a recipe that asks of its data what this does not have.

    Raises:
        RecipeError: with every such setting.
    """
    found = tuple(f"{show_path(path)}: {text}" for path, text in against_data(recipe, splits))
    if found:
        raise RecipeError("\n".join(found), found)


def deep(recipe: Recipe) -> list[tuple[Path, str]]:
    """Every problem that building the networks and one dry step of each method bring up, with its place."""
    try:
        splits, (shape, classes) = read_data(recipe), data_shape(recipe)
    except LimbeckError as error:
        return [(("data",), str(error))]
    with own_random_numbers():
        seed_everything(0)
        found: list[tuple[Path, str]] = [] if splits is None else against_data(recipe, splits)
        built: dict[str, nn.Module] = {}
        for name, blueprint in recipe.models.items():
            try:
                built[name] = _build(blueprint, shape, classes)
            except LimbeckError as error:
                found.append((("models", name), str(error)))
                continue
            if blueprint.weights:
                try:
                    load_weights(built[name], blueprint.weights)
                except LimbeckError as error:
                    found.append((("models", name, "weights"), str(error)))
        return found + _stages(recipe, built, shape, classes)


def _build(blueprint: Model, shape: tuple[int, int, int], classes: int) -> nn.Module:
    options = {"classes": classes, "in_channels": shape[0], "size": shape[1], **blueprint.options}
    try:
        return build(blueprint.name, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, LimbeckError):
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in blueprint.options.items()) or "none"
        raise HyperParameterError(f"{blueprint.name} cannot be built with these options ({given}): {error}") from error


def _stages(
    recipe: Recipe, built: Mapping[str, nn.Module], shape: tuple[int, int, int], classes: int
) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    shelf: dict[str, nn.Module] = dict(built)
    batch = Batch(torch.rand(4, *shape), torch.arange(4) % classes, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    for index, stage in planned(recipe.stages):
        wanted = _wanted(stage)
        if any(name not in shelf for name in wanted):
            continue  # its network could not be built, which has been said
        if isinstance(stage, Ensemble):
            shelf[stage.name] = Average([shelf[name] for name in stage.members], averaging=stage.averaging)
        elif isinstance(stage, Peer):
            shelf[stage.name] = shelf[stage.student]
        elif isinstance(stage, Compress):
            made = _compressed(stage, shelf, batch, ("stages", index), found)
            if made is not None:
                shelf[stage.name] = made
        elif isinstance(stage, Fitted):
            models = _cast(stage, shelf)
            found += _not_between(recipe.stages[index], models, ("stages", index))
            found += _rehearsed(stage, models, batch, classes, ("stages", index), shape)
            shelf[stage.name] = models["student"]
    return list(dict.fromkeys(found))  # the lessons of a course may all have the same fault


def _rehearsed(
    stage: Fitted, models: Mapping[str, nn.Module], batch: Batch, classes: int, place: Path, shape: tuple[int, int, int]
) -> list[tuple[Path, str]]:
    try:
        require_unfinished(models["student"], type(stage.method).__name__)
    except LimbeckError as error:
        key = {Train: "model", Together: "students"}.get(type(stage), "student")
        return [((*place, key), str(error))]
    try:
        rehearse(stage.method, models, _part_of(batch, stage.training), classes, stage.training.epochs)
    except NonFiniteError:
        pass  # made-up images through fresh weights prove nothing about real ones
    except TargetError as error:
        text = f"{error}. The labels of this data are of {classes} classes (these are made up)"
        return [((*place, "method"), text)]
    except LimbeckError as error:
        return [((*place, "method"), str(error))]
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        cast = ", ".join(f"{role} {title(model)}" for role, model in models.items())
        text = f"one step of {type(stage.method).__name__} on images of {list(shape)} fails for {cast}: {type(error).__name__}: {error}"
        return [(place, text)]
    return []


def _part_of(batch: Batch, training: Training) -> Batch:
    """As many samples as the smallest part of a batch has in training, but no more than there are here."""
    n = max(1, training.batch_size // min(training.accumulate, training.batch_size))
    return Batch(*(None if value is None else value[:n] for value in batch))


def _compressed(
    stage: Compress, shelf: Mapping[str, nn.Module], batch: Batch, place: Path, found: list[tuple[Path, str]]
) -> nn.Module | None:
    """What a compressor makes of an untrained network and made-up images; None where that says what is wrong."""
    beside = tuple(shelf[name.partition("@")[0]] for name in stage.beside)
    further = {"beside": beside} if beside else {}
    calibration = [batch] if stage.calibration else []
    try:
        require_unfinished(shelf[stage.model], type(stage.how).__name__)
        made = stage.how(shelf[stage.model], example=batch.inputs, calibration=calibration, **further)
        require_kept(shelf[stage.model], made)
        return made
    except NonFiniteError:
        return copy.deepcopy(shelf[stage.model])
    except LimbeckError as error:
        found.append(((*place, "how"), str(error)))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        text = f"{type(stage.how).__name__} fails on {title(shelf[stage.model])}: {type(error).__name__}: {error}"
        found.append(((*place, "how"), text))
    return None


def _not_between(written: Stage, models: Mapping[str, nn.Module], place: Path) -> list[tuple[Path, str]]:
    """An assistant that is larger than its teacher, or smaller than its student, is none."""
    if not isinstance(getattr(written, "method", None), TeacherAssistant) or "teacher" not in models:
        return []
    learner, teacher = (sum(p.numel() for p in models[role].parameters()) for role in ("student", "teacher"))
    if learner <= teacher:
        return []
    text = f"{learner:,} parameters would learn from {teacher:,}: along a chain of assistants networks get smaller"
    return [((*place, "method"), text)]


def _wanted(stage: Stage) -> tuple[str, ...]:
    """The networks that a stage needs to be tried."""
    if isinstance(stage, Evaluate):
        return ()
    if isinstance(stage, Ensemble):
        return stage.members
    if isinstance(stage, Compress):
        return (stage.model, *(name.partition("@")[0] for name in stage.beside))
    return (*(stage.students if isinstance(stage, Together) else (student_of(stage),)), *teachers_of(stage))


def _cast(stage: Fitted, shelf: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    if isinstance(stage, Together):  # copies: one blueprint may be there several times, and no weight has two owners
        return {role: copy.deepcopy(shelf[name]) for role, name in cast_of(stage).items()}
    return {role: shelf[name] for role, name in cast_of(stage).items()}
