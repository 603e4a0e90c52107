"""Training small networks with the real engine, for methods that change weights beside the optimizer."""

from __future__ import annotations

import torch

from limbeck.engine.loop import fit
from limbeck.engine.team import Team
from limbeck.phase import Batch
from limbeck.settings import Optimizer, Training


class Loader:
    """The same batches in every epoch; ``known``: whether it says how many."""

    def __init__(self, batches=5, size=6, classes=3, *, known=True):
        generator = torch.Generator().manual_seed(7)
        self.batches = [
            Batch(torch.randn(size, 1, 8, 8, generator=generator), torch.randint(classes, (size,), generator=generator))
            for _ in range(batches)
        ]
        self.known = known

    @property
    def steps(self):
        return len(self.batches) if self.known else None

    def epoch(self, epoch, rank=0, world=1, skip=0):
        yield from self.batches[skip:]


def train(method, models, *, epochs=3, batches=5, known=True, see=None, **changes):
    """Train, and call ``see(student)`` after every epoch; hard on what should stay zero: momentum and weight decay."""
    optimizer = Optimizer(lr=0.05, momentum=0.9, weight_decay=0.01)
    training = Training(epochs=epochs, batch_size=6, optimizer=optimizer, **changes)

    def validate(student):
        if see is not None:
            see(student)
        return {"accuracy": 0.0, "loss": 0.0}

    return fit(
        method,
        models,
        Loader(batches, known=known),
        training=training,
        team=Team(torch.device("cpu")),
        classes=3,
        validate=validate,
    )
