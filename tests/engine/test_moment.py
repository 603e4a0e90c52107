"""The engine tells a step how many steps of its phase are over, also after an interruption."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from engine_small import Seeking, StopAt, conv_net

from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import Interrupted
from limbeck.losses import cross_entropy
from limbeck.phase import Phase, Term, Update
from limbeck.settings import Optimizer, Training

SEEN: list[tuple[str, int]] = []
WANTED = [(name, k) for name in ("one", "two") for k in range(8)]


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Two phases that note the steps they are told."""

    hard: float = 1.0

    def phases(self, cast):
        def step_of(name):
            def step(models, batch, moment):
                SEEN.append((name, moment.step))
                yield Update("student", {"ce": Term(cross_entropy(models["student"](batch.inputs), batch.targets))})

            return step

        return [
            Phase(
                name=name, modules=cast.pick("student"), trains={"student": ("student",)}, taps={}, step=step_of(name)
            )
            for name in ("one", "two")
        ]


class Unknown(Seeking):
    """Batches of which nobody knows how many there are."""

    steps = None


def train(data, folder=None, stop=None):
    training = Training(epochs=4, batch_size=6, optimizer=Optimizer(lr=0.01), checkpoint=1000.0)
    fit(
        Counting(),
        {"student": conv_net(3)},
        data,
        training=training,
        team=Team(torch.device("cpu")),
        folder=folder,
        stop=stop,
    )


@pytest.mark.parametrize("kind", [Seeking, Unknown])
def test_steps_are_counted_through_the_epochs_of_a_phase(kind):
    SEEN.clear()
    train(kind())
    assert SEEN == WANTED


@pytest.mark.parametrize("after", [3, 8, 13])
def test_and_go_on_after_an_interruption(after, tmp_path):
    SEEN.clear()
    stop = Stop()
    with pytest.raises(Interrupted):
        train(StopAt(Seeking(), stop, after), tmp_path, stop)
    train(Seeking(), tmp_path)
    assert SEEN == WANTED
