"""Trying a method on its networks before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.phase import Batch, Cast, Method, Moment, Phase
from limbeck.settings import divide_epochs
from limbeck.taps import Tapped


def require_learners(phases: Sequence[Phase], models: Mapping[str, nn.Module]) -> None:
    """Every network that is there to learn is trained in some phase.

    Raises:
        LimbeckError: one is not, and would end as it began.
    """
    trained = {role for phase in phases for roles in phase.trains.values() for role in roles}
    idle = [role for role in models if role.startswith("peer") and role not in trained]
    if idle:
        raise LimbeckError(
            f"this method trains no {', '.join(idle)}: such a student would end as it began; MutualLearning and Cohort "
            "train all that are there"
        )


def epochs_of(phases: Sequence[Phase], epochs: int) -> list[int]:
    """How many epochs each phase gets of a stage's.

    Raises:
        HyperParameterError: there are too few for a phase that needs some.
    """
    budget = iter(divide_epochs(epochs, [phase.share for phase in phases if phase.epochs is None]))
    found = [phase.epochs if phase.epochs is not None else next(budget) for phase in phases]
    idle = [phase.name for phase, n in zip(phases, found, strict=True) if phase.share > 0 and n == 0]
    if idle:
        raise HyperParameterError(
            f"training.epochs = {epochs}: too few for the {len(phases)} phases of this method; "
            f"nothing would be left for {', '.join(map(repr, idle))}"
        )
    return found


@contextmanager
def _kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """What these modules hold is put back afterwards."""
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    try:
        yield
    finally:
        for key, tensor in tensors.items():
            tensor.detach().copy_(before[key])


def rehearse(
    method: Method,
    models: Mapping[str, nn.Module],
    batch: Batch,
    classes: int | None = None,
    epochs: int | None = None,
) -> None:
    """One dry step of every phase, without optimizers: does the method fit these networks at all?

    The networks end with the bits that they had, also where a step itself writes into weights (pruning while training).

    Args:
        method: the method.
        models: by role.
        batch: what one step sees; no larger than in training, since some methods compare the samples of a batch.
        classes: how many, where known.
        epochs: of the training, where known: is each phase left with some?

    Raises:
        LimbeckError: it does not; the message says where.
    """
    rows = None if batch.rows is None else int(batch.rows.max()) + 1
    with torch.no_grad():
        phases = method.phases(Cast(models=models, example=batch, classes=classes, rows=rows))
        require_learners(phases, models)
        if epochs is not None:
            epochs_of(phases, epochs)
        for phase in phases:
            owned = {role for roles in phase.trains.values() for role in roles}
            with ExitStack() as stack:
                players: dict[str, Callable[..., Any]] = {}
                for role, module in phase.modules.items():
                    module.train(role in owned and role not in models)
                    players[role] = module
                    if role in phase.taps:
                        window = Tapped(module, phase.taps[role], example=batch.inputs)
                        stack.callback(window.close)
                        players[role] = window
                stack.enter_context(_kept(models.values()))
                for _ in phase.step(players, batch, Moment(torch.Generator().manual_seed(0))):
                    pass
