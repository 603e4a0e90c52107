"""One step of a phase: its updates on every part of the batch, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batches import batch_size
from limbeck.engine.evaluate import autocast
from limbeck.engine.parts import split
from limbeck.engine.tally import Place, weigh
from limbeck.engine.team import Team
from limbeck.errors import DataError, LimbeckError, NonFiniteError, ShapeError
from limbeck.phase import Batch, Moment, Phase, Update
from limbeck.settings import Training


@dataclass(frozen=True)
class Act:
    """A phase on stage.

    Attributes:
        phase: what the method said.
        players: what the step calls, by role: modules, or windows on them.
        parameters: what each player trains.
        optimizers: of each player that trains anything.
    """

    phase: Phase
    players: Mapping[str, Callable[..., Any]]
    parameters: Mapping[str, list[nn.Parameter]]
    optimizers: Mapping[str, torch.optim.Optimizer]


def take_step(
    act: Act, batch: Batch, moment: Moment, place: Place, team: Team, training: Training
) -> tuple[int, dict[str, Tensor]]:
    """Run the step's generator on every part of the batch, one update at a time, and move the weights after each.

    Returns:
        How many samples there were over all processes, and the terms as means over this process's samples.
    """
    phase = act.phase
    parts = split(batch, training.accumulate)
    sizes = [batch_size(part.inputs) for part in parts]
    mine = sum(sizes)
    whole = mine if team.world == 1 else int(team.total(torch.tensor(float(mine), device=team.device)).item())
    steps = [phase.step(act.players, part, moment) for part in parts]
    terms: dict[str, Tensor] = {}
    while True:
        player: str | None = None
        for step, size in zip(steps, sizes, strict=True):
            with autocast(team.device, training.precision):
                update = _next(step, place)
            if update is None:
                continue
            if player not in (None, update.player):
                raise LimbeckError(
                    f"phase {phase.name!r} asks for a step of {player!r} for one part of a batch and of {update.player!r} "
                    "for another; with training.accumulate, the order of players must not depend on the samples"
                )
            player = update.player
            loss, values = weigh(update, place)
            for name, value in values.items():
                share = size / mine * value
                terms[name] = terms[name] + share if name in terms else share
            _require_learning(act, update, loss)
            # Scaled so that parts and processes add up to the mean over the batch.
            torch.autograd.backward(size * team.world / whole * loss, inputs=act.parameters[player])
        if player is None:
            return whole, terms
        team.average_gradients(act.parameters[player])
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(act.parameters[player], training.clip)
        act.optimizers[player].step()
        act.optimizers[player].zero_grad(set_to_none=True)


def _next(step: Iterator[Update], place: Place) -> Update | None:
    """The next update; what goes wrong in a method or a loss is told with its place."""
    try:
        return next(step, None)
    except NonFiniteError as error:
        raise place.trouble(str(error)) from error
    except ShapeError as error:  # a last batch that is too small, say
        raise ShapeError(f"{place}: {error}") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            f"{place}: batch normalisation cannot train on a single sample ({error}); "
            "leave out a last batch of one (drop_last=True), or lower training.accumulate"
        ) from error


def _require_learning(act: Act, update: Update, loss: Tensor) -> None:
    """Refuse an update that could change nothing."""
    if update.player not in act.optimizers:
        raise LimbeckError(
            f"phase {act.phase.name!r} asks for a step of {update.player!r}, who owns nothing that can be trained: "
            "all its parameters are frozen, or it is a quantized program, to be trained before Quantize"
        )
    if not loss.requires_grad:
        raise LimbeckError(
            f"phase {act.phase.name!r}: the loss of {update.player!r} ({', '.join(update.terms)}) does not depend on anything "
            f"that {update.player!r} trains"
        )
