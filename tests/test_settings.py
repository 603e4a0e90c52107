"""Settings: what they refuse, and the numbers they give."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import HyperParameterError
from limbeck.phase import Moment
from limbeck.recipe import Machine, Train
from limbeck.settings import Optimizer, Ramp, Schedule, Training, at, divide_epochs, require_weights


@pytest.mark.parametrize(
    ("cls", "given", "text"),
    [
        (Ramp, {"start": -1, "end": 0}, "start = -1: a weight is zero or more"),
        (Ramp, {"start": 1, "end": math.inf}, "end = inf: a weight is zero or more"),
        (Ramp, {"start": 1, "end": 0, "epochs": 0}, "epochs = 0: more than zero"),
        (Optimizer, {"lr": 0}, "lr = 0: more than zero"),
        (Optimizer, {"lr": math.nan}, "lr = nan: more than zero"),
        (Optimizer, {"momentum": 1.0}, r"momentum = 1.0: in \[0, 1\)"),
        (Optimizer, {"weight_decay": -1}, "weight_decay = -1: zero or more"),
        (Optimizer, {"betas": (0.9, 1.0)}, r"betas = \(0.9, 1.0\): each in \[0, 1\)"),
        (Optimizer, {"alpha": 1.5}, "alpha = 1.5"),
        (Optimizer, {"eps": 0}, "eps = 0: more than zero"),
        (Optimizer, {"momentum": "a"}, r"momentum = 'a': in \[0, 1\)"),
        (Optimizer, {"alpha": "a"}, r"alpha = 'a': in \[0, 1\)"),
        (Optimizer, {"betas": (0.9, "a")}, r"betas = \(0.9, 'a'\): each in \[0, 1\)"),
        (Optimizer, {"betas": 0.9}, r"betas = 0.9: each in \[0, 1\)"),
        (Schedule, {"warmup": "a"}, "warmup = 'a': a part of the phase"),
        (Schedule, {"milestones": (0.5, "a")}, r"milestones = \(0.5, 'a'\): parts of the phase"),
        (Schedule, {"milestones": 0.5}, "milestones = 0.5: parts of the phase"),
        (Training, {"ema": "a"}, r"ema = 'a': in \(0, 1\)"),
        (Training, {"epochs": True}, "epochs = True: a whole number"),
        (Schedule, {"warmup": 1.0}, r"warmup = 1.0: a part of the phase, in \[0, 1\)"),
        (
            Schedule,
            {"milestones": (0.5, 0.25)},
            r"milestones = \(0.5, 0.25\): parts of the phase in \(0, 1\), ascending",
        ),
        (Schedule, {"milestones": (150, 180)}, "0.5 is half-way"),
        (Schedule, {"gamma": 0}, "gamma = 0: more than zero"),
        (Schedule, {"final": -0.1}, "final = -0.1: zero or more"),
        (Training, {"epochs": 0}, "epochs = 0: at least 1"),
        (Training, {"batch_size": 0}, "batch_size = 0: at least 1"),
        (Training, {"batch_size": 4, "accumulate": 5}, "accumulate = 5: at most the batch size"),
        (Training, {"clip": 0}, "clip = 0: more than zero, or nothing at all"),
        (Training, {"ema": 1.0}, r"ema = 1.0: in \(0, 1\), or nothing at all"),
        (Training, {"patience": 0}, "patience = 0: at least 1, or nothing at all"),
        (Training, {"checkpoint": 0}, "checkpoint = 0: more than zero seconds"),
        (Training, {"epochs": 1.5}, "epochs = 1.5: a whole number"),
        (Training, {"patience": 2.5}, "patience = 2.5: a whole number"),
        (Training, {"precision": "fp16"}, "precision = 'fp16': one of fp32, bf16"),
        (Training, {"optimizer": "adamw"}, "optimizer = 'adamw': a limbeck.Optimizer, such as Optimizer"),
        (Training, {"schedule": "cosine"}, "schedule = 'cosine': a limbeck.Schedule, such as Schedule"),
        (Optimizer, {"kind": "adam"}, "kind = 'adam': one of sgd, adamw, rmsprop"),
        (Optimizer, {"lr": "0.1"}, "lr = '0.1': more than zero"),
        (Schedule, {"kind": "linear"}, "kind = 'linear': one of cosine, onecycle, step, constant"),
        (Machine, {"devices": 0}, "devices = 0: at least 1"),
        (Machine, {"threads": 0}, "threads = 0: at least 1"),
        (Train, {"name": "a", "model": "b", "rows": 0}, "rows = 0: at least 1"),
    ],
)
def test_settings_outside_their_range(cls, given, text):
    with pytest.raises(HyperParameterError, match=text):
        cls(**given)


def test_weights_of_losses():
    require_weights(soft=0.0, hard=1.0)
    require_weights(soft=Ramp(start=0, end=1), hard=0)
    with pytest.raises(HyperParameterError, match="soft, hard: all are zero, so nothing would be learnt"):
        require_weights(soft=Ramp(start=0, end=0), hard=0)
    with pytest.raises(HyperParameterError, match="soft, hard: all are zero, so nothing would be learnt"):
        require_weights(soft=0, hard=0.0)
    with pytest.raises(HyperParameterError, match="soft = nan: a loss weight is zero or more"):
        require_weights(soft=math.nan, hard=1)


def test_a_ramp_goes_straight_and_stays():
    ramp = Ramp(start=4, end=1, epochs=6)
    assert [at(ramp, Moment(None, e, 100)) for e in (0, 2, 6, 50)] == [4, 3, 1, 1]
    whole = Ramp(start=0, end=1)
    assert [at(whole, Moment(None, e, 8)) for e in (0, 2, 8)] == [0, 0.25, 1]
    assert at(2, Moment(None)) == 2.0


def test_schedules_equal_torchs_own():
    """At every step of a phase, against torch.optim.lr_scheduler."""
    steps = 40

    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    own = torch.optim.lr_scheduler
    cosine = Schedule(kind="cosine", final=0.1)
    assert [cosine.factor(k / steps) for k in range(steps)] == pytest.approx(
        rates(lambda o: own.CosineAnnealingLR(o, steps, eta_min=0.1))
    )
    step = Schedule(kind="step", milestones=(0.5, 0.75), gamma=0.2)
    assert [step.factor(k / steps) for k in range(steps)] == pytest.approx(
        rates(lambda o: own.MultiStepLR(o, [20, 30], gamma=0.2))
    )
    cycle = Schedule(kind="onecycle", warmup=0.25, final=0.0)
    assert cycle.factor(0.25) == 1.0
    assert [cycle.factor(0.25 + 0.75 * k / 30) for k in range(30)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * k / 30)) for k in range(30)]
    )
    assert Schedule(kind="onecycle").factor(0.15) == pytest.approx(0.5), "its warm-up is 30 %"
    assert Schedule(kind="onecycle", warmup=0.0).factor(0.0) == 1.0


def test_epochs_are_divided_by_share():
    assert divide_epochs(15, [0.25, 0.75]) == [4, 11]
    assert divide_epochs(10, [1]) == [10]
    assert divide_epochs(2, [0.05, 0.95]) == [1, 1]
    assert divide_epochs(1, [0.5, 0.5]) == [1, 0]
    assert divide_epochs(7, [1, 1, 1]) == [3, 2, 2]
    assert divide_epochs(5, [0.0, 1.0]) == [0, 5]
    assert divide_epochs(5, []) == []
    for epochs in range(1, 40):
        for shares in ([0.1, 0.9], [1, 2, 3], [0.3, 0.3, 0.4]):
            parts = divide_epochs(epochs, shares)
            assert sum(parts) == epochs
            assert min(parts) >= (1 if epochs >= len(shares) else 0)
