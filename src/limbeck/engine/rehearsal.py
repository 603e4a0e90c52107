"""Trying a method on its networks before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.phase import Batch, Cast, Method, Moment, Phase
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


def rehearse(method: Method, models: Mapping[str, nn.Module], batch: Batch, classes: int | None = None) -> None:
    """One dry step of every phase, without optimizers: does the method fit these networks at all?

    The networks end with the bits that they had, also where a step itself writes into weights (pruning while training).

    Raises:
        LimbeckError: it does not; the message says where.
    """
    rows = None if batch.rows is None else int(batch.rows.max()) + 1
    with torch.no_grad():
        phases = method.phases(Cast(models=models, example=batch, classes=classes, rows=rows))
        require_learners(phases, models)
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
