"""What all steps of a chain share: networks, batches, and where it is kept; checked before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from limbeck.api.fitting import Job
from limbeck.batches import batch_size, moved, resized
from limbeck.compress.trial import answers, require_runs, smallest
from limbeck.data.iterables import Batches
from limbeck.errors import DataError, HyperParameterError
from limbeck.models.swap import copied
from limbeck.phase import Batch, seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.settings import Training, require, require_whole
from limbeck.taps import original


@dataclass(frozen=True)
class Setting:
    """What all steps of a chain share.

    Attributes:
        job: batches, training, seed, device and folder.
        example: a batch as the networks take it; ``one``: of one sample, or of as few as they take.
        calibration: batches that compressors look at.
        begun: a copy of the network that the chain begins with.
        teacher: of compressors that train between their steps, or None.
    """

    job: Job
    example: Any
    one: Any
    calibration: Sequence[Batch]
    begun: nn.Module
    teacher: nn.Module | None
    console: Console


def prepared(
    model: nn.Module,
    batches: Iterable[Any] | None,
    evaluate: Iterable[Any] | None,
    validation: Iterable[Any] | None,
    calibration: Iterable[Any] | int,
    example: Any,
    teacher: nn.Module | None,
    training: Training | None,
    seed: int,
    device: str,
    out: str | Path | None,
    quiet: bool,
) -> Setting:
    """The setting of a chain, from the arguments of `limbeck.compress`.

    Raises:
        DataError: nothing shows how the network is called, or the batches cannot be understood.
        HyperParameterError: ``training`` is no `Training`, or ``calibration`` below zero.
        LimbeckError: the network does not run on the example, cannot be copied, or the example is a sample and no batch.
    """
    from limbeck.api import DEFAULT_OPTIMIZER
    from limbeck.engine.team import alone

    if training is not None and not isinstance(training, Training):
        raise HyperParameterError(f"training = {training!r}: a limbeck.Training, or nothing at all")
    require_whole(seed=seed)
    team = alone(device)
    job = Job(
        loader=Batches(() if batches is None else batches),
        tests=None if evaluate is None else Batches(evaluate, "the evaluation batches"),
        held=None if validation is None else Batches(validation, "the validation batches"),
        training=training or Training(optimizer=DEFAULT_OPTIMIZER, epochs=5),
        seed=seed,
        team=team,
        folder=None if out is None else Path(out),
        quiet=quiet,
        name="compress",
    )
    begun = copied(original(model)).to(team.device)
    with own_random_numbers():
        seed_everything(seed_for(seed, "compress", "calibration"))  # the loaders of the user draw from global numbers
        looked = _calibration(job.loader, calibration, team.device)
        if example is None:
            first = looked[0] if looked else next(iter(job.loader.epoch(0)), None)
            if first is None:
                raise DataError(
                    "compress needs to see how the network is called: give batches, or example=, a batch of inputs"
                )
            example = first.inputs
    example = moved(example, team.device)
    require_runs(begun, example)
    _require_batch(begun, example)
    return Setting(job, example, smallest(begun, example, 1), looked, begun, teacher, Console())


def _calibration(loader: Batches, wanted: Iterable[Any] | int, device: torch.device) -> list[Batch]:
    """Batches to look at, on the device; of the training batches so many that they hold as many samples as wanted."""
    if isinstance(wanted, (bool, float)):
        raise HyperParameterError(f"calibration = {wanted!r}: a number of samples, or batches of their own")
    if not isinstance(wanted, int):
        found = list(Batches(wanted, "the calibration batches").epoch(0))
    else:
        require(wanted >= 0, "calibration", wanted, "a number of samples, or 0, or batches of their own")
        found, seen = [], 0
        for batch in loader.epoch(0) if wanted else ():
            found.append(batch)
            seen += batch_size(batch.inputs)
            if seen >= wanted:
                break
    return [batch._replace(inputs=moved(batch.inputs, device), targets=moved(batch.targets, device)) for batch in found]


def _require_batch(model: nn.Module, example: Any) -> None:
    """Refuse a sample that stands alone, which many layers take as well, before its first dimension counts as samples."""
    if not isinstance(example, Tensor) or answers(model, resized(example, 1)) is not None:
        return
    alone, within = answers(model, example), answers(model, example[None])
    if alone and within and all(many.shape == (1, *one.shape) for one, many in zip(alone, within, strict=False)):
        raise DataError(
            f"example is one sample, a tensor {list(example.shape)}: give a batch, [samples, ...], such as example[None]"
        )
