"""Trying a method on its networks before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from limbeck.phase import Batch, Cast, Method, Moment
from limbeck.taps import Tapped


def rehearse(method: Method, models: Mapping[str, nn.Module], batch: Batch, classes: int | None = None) -> None:
    """One dry step of every phase, without optimizers: does the method fit these networks at all?

    Raises:
        LimbeckError: it does not; the message says where.
    """
    rows = None if batch.rows is None else int(batch.rows.max()) + 1
    with torch.no_grad():
        for phase in method.phases(Cast(models=models, example=batch, classes=classes, rows=rows)):
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
                for _ in phase.step(players, batch, Moment(torch.Generator().manual_seed(0))):
                    pass
