"""Small networks, small data and small methods for the tests of the engine."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from limbeck.errors import NonFiniteError
from limbeck.phase import Batch, Phase, Term, Update


def conv_net(width, classes=3, *, norm=True, seed=0):
    """[B, 1, 8, 8] -> [B, classes], with the taps layer1, layer2, pool, fc."""
    torch.manual_seed(seed)

    def block(a, b, stride):
        parts = [nn.Conv2d(a, b, 3, stride, 1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU()]
        return nn.Sequential(*parts)

    return nn.Sequential(
        OrderedDict(
            layer1=block(1, width, 1),
            layer2=block(width, 2 * width, 2),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            fc=nn.Linear(2 * width, classes),
        )
    )


def flat_net(width=6, classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(), layer1=nn.Sequential(nn.Linear(64, width), nn.ReLU()), fc=nn.Linear(width, classes)
        )
    )


class Seeking:
    """Batches by epoch that can be entered in their middle, as `limbeck.data` has them."""

    def __init__(self, rows=24, size=6, classes=3, *, labels=True, multi=False, batches=None):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(rows, 1, 8, 8, generator=generator)
        self.y = torch.randint(classes, (rows,), generator=generator)
        # Something to learn: the class shows in the mean.
        self.x += self.y.reshape(-1, 1, 1, 1) - 1.0
        if multi:
            self.y = nn.functional.one_hot(self.y, classes)
        self.size, self.labels, self.known = size, labels, batches

    @property
    def rows(self):
        return len(self.x)

    @property
    def steps(self):
        return self.known if self.known is not None else len(self.x) // self.size

    def epoch(self, epoch, rank=0, world=1, skip=0):
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(100 + epoch))
        for step in range(skip, len(self.x) // self.size):
            rows = order[step * self.size : (step + 1) * self.size][rank::world]
            yield Batch(self.x[rows], self.y[rows] if self.labels else None, rows, torch.full_like(rows, epoch))


def state(module):
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def digest(module):
    found = hashlib.sha256()
    for key, value in module.state_dict().items():
        found.update(key.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


class StopAt:
    """A loader that asks for a stop when it gives its ``at``-th batch; the step at hand is still done."""

    def __init__(self, loader, stop, at):
        self.loader, self.stop, self.left = loader, stop, at
        self.looked = False

    @property
    def steps(self):
        return self.loader.steps

    @property
    def rows(self):
        return getattr(self.loader, "rows", None)

    @property
    def seeks(self):
        return getattr(self.loader, "seeks", True)

    def epoch(self, epoch, rank=0, world=1, skip=0):
        dry, self.looked = not self.looked, True  # the engine looks at one batch before it begins
        for batch in self.loader.epoch(epoch, rank, world, skip):
            if not dry:
                self.left -= 1
                self.stop.asked = self.left <= 0
            yield batch


# -- methods that no catalogue knows -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Squared distance to the teacher's logits: a plug-in as a user would write it."""

    weight: float = 1.0

    def phases(self, cast):
        modules = cast.pick("student", "teacher")

        def step(models, batch, moment):
            gap = models["student"](batch.inputs).output - models["teacher"](batch.inputs).output
            yield Update("student", {"gap": Term(gap.square().sum(1), self.weight)})

        return (
            Phase(
                name="toy",
                modules=modules,
                trains={"student": ("student",)},
                taps={"student": (), "teacher": ()},
                step=step,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Draws from the step's own generator, and from the global one as dropout does."""

    def phases(self, cast):
        modules = cast.pick("student")

        def step(models, batch, moment):
            noise = torch.randn(batch.inputs.shape, generator=moment.generator) + torch.randn(batch.inputs.shape)
            logits = models["student"](batch.inputs + 0.1 * noise).logits
            yield Update("student", {"ce": Term(nn.functional.cross_entropy(logits, batch.targets, reduction="none"))})

        return (
            Phase(name="noisy", modules=modules, trains={"student": ("student",)}, taps={"student": ()}, step=step),
        )


@dataclass(frozen=True, kw_only=True)
class Breaks:
    """Gives one term that is not a number from some step on."""

    at: int
    how: str = "term"

    def phases(self, cast):
        modules = cast.pick("student")
        count = [0]

        def step(models, batch, moment):
            logits = models["student"](batch.inputs).logits
            ce = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
            bad = ce.detach() * 0
            count[0] += 1
            if count[0] > self.at:
                if self.how == "raise":
                    raise NonFiniteError("kd_kl: the teacher's logits have 3 values that are not finite")
                # Either the value is not a number, or it is 0 and its slope is not a number.
                bad = (logits * 0).square().sum(1).sqrt() if self.how == "gradient" else bad + float("nan")
            yield Update("student", {"ce": Term(ce, 0.5), "bad": Term(bad, 0.0 if self.how == "weightless" else 1.0)})

        return (
            Phase(name="breaks", modules=modules, trains={"student": ("student",)}, taps={"student": ()}, step=step),
        )
