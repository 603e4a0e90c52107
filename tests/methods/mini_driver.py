"""The smallest engine that keeps the promises of a phase, and the small networks to try it on."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from limbeck.phase import Batch, Cast, Moment
from limbeck.taps import Tapped


def moment(epoch=0.0, epochs=1.0):
    return Moment(torch.Generator().manual_seed(0), epoch=epoch, epochs=epochs)


def net(width, classes=3, *, shrink=2, norm=True):
    """Two stages of maps ([width, 8, 8] and [2 width, 8 / shrink, 8 / shrink]), then pooled to scores."""

    def block(a, b, stride):
        layers = OrderedDict(conv=nn.Conv2d(a, b, 3, stride, 1), norm=nn.BatchNorm2d(b), relu=nn.ReLU())
        if not norm:
            del layers["norm"]
        return nn.Sequential(layers)

    return nn.Sequential(
        OrderedDict(
            layer1=block(1, width, 1),
            layer2=block(width, 2 * width, shrink),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            fc=nn.Linear(2 * width, classes),
        )
    )


def images(n=6, classes=3, seed=0, labels=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    return Batch(x, torch.randint(classes, (n,), generator=generator) if labels else None)


def stage(student=3, teacher=5, *, classes=3, batch=None, seed=0):
    torch.manual_seed(seed)
    student = net(student, classes) if isinstance(student, int) else student
    teacher = net(teacher, classes) if isinstance(teacher, int) else teacher
    return Cast(models={"student": student, "teacher": teacher}, example=batch or images(classes=classes))


def run(phase, batch, when=None, *, lr=0.0):
    """One step of a phase; returns its terms per update.  Gradients are left where they are."""
    before = {name: (m.training, [p.requires_grad for p in m.parameters()]) for name, m in phase.modules.items()}
    wrapped = {}
    for name, module in phase.modules.items():
        module.train(name not in phase.frozen)
        for p in module.parameters():
            p.requires_grad_(name not in phase.frozen)
        wrapped[name] = module
        if name in phase.taps:
            wrapped[name] = Tapped(module, phase.taps[name], stop=name in phase.stops)
    seen = []
    try:
        for update in phase.step(wrapped, batch, when or moment()):
            owned = [p for name in phase.trains[update.player] for p in phase.modules[name].parameters()]
            for p in owned:
                p.grad = None
            sum(weight * value.mean() for value, weight in update.terms.values()).backward()
            with torch.no_grad():
                for p in owned:
                    if p.grad is not None:
                        p -= lr * p.grad
            seen.append((update.player, update.terms))
    finally:
        for name, module in phase.modules.items():
            training, needs = before[name]
            module.train(training)
            for p, need in zip(module.parameters(), needs, strict=True):
                p.requires_grad_(need)
            if isinstance(wrapped[name], Tapped):
                wrapped[name].close()
    return seen
