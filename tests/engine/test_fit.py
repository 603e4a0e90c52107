"""The training loop: what it leaves alone, what it repeats, what it computes."""

from __future__ import annotations

import copy
import json
import math
import random
import sys

import numpy as np
import pytest
import torch
from engine_small import Breaks, Noisy, Seeking, Toy, conv_net, flat_net, hooks, same, state
from method_table import adds_up, make, widths
from torch import nn
from torch.nn import functional as F

from limbeck import catalog
from limbeck.api import Batches
from limbeck.engine.checkpoint import load
from limbeck.engine.evaluate import agreement, metrics, predictions
from limbeck.engine.loop import fit, identity
from limbeck.engine.parts import split
from limbeck.engine.rehearsal import rehearse
from limbeck.engine.team import Team
from limbeck.errors import DataError, LimbeckError, NonFiniteError
from limbeck.methods import KD, NST, FitNets, LogitMatching, Supervised
from limbeck.phase import Batch
from limbeck.randomness import seed_everything
from limbeck.settings import Optimizer, Schedule, Training

CPU = Team(torch.device("cpu"))
METHODS = [entry.name for entry in catalog.METHODS]
SEPARABLE = [name for name in METHODS if adds_up(name)]
PLAIN = Optimizer(lr=0.05, momentum=0.0, nesterov=False, weight_decay=0.0)


def pair(*, norm=True, seed=0):
    return cast_of("kd", norm=norm, seed=seed)


def cast_of(name, *, norm=True, seed=0):
    """The networks of a method; its teachers have an opinion."""
    models = {role: conv_net(width, norm=norm, seed=seed + i) for i, (role, width) in enumerate(widths(name).items())}
    with torch.no_grad():
        for role, model in models.items():
            if role.startswith("teacher"):
                model.fc.weight *= 10
    return models


def data_for(name, **more):
    return Seeking(multi=name == "sigmoid_kd", **more)


def train(
    method, models, data=None, *, seed=0, name="run", folder=None, validate=None, stop=None, watch=None, **training
):
    training = {"epochs": 2, "batch_size": 6, "optimizer": PLAIN, **training}
    return fit(
        method,
        models,
        data or Seeking(),
        training=Training(**training),
        seed=seed,
        name=name,
        team=CPU,
        folder=folder,
        validate=validate,
        stop=stop,
        watch=watch,
        classes=3,
    )


def lines(folder, kind="step"):
    found = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


# -- what is left alone --------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_ends_as_it_began(name):
    models = cast_of(name)
    other = list(models)[1]
    teacher = models[other].train()
    teacher.layer2.eval()
    next(teacher.layer1.parameters()).requires_grad_(False)
    student = models["student"]
    student.fc.bias.requires_grad_(False)
    before = {role: state(m) for role, m in models.items()}
    flags = {role: [p.requires_grad for p in m.parameters()] for role, m in models.items()}
    modes = {role: [x.training for x in m.modules()] for role, m in models.items()}
    train(make(name), models, data_for(name))
    assert same(before[other], state(teacher)) == other.startswith("teacher")
    assert not same(before["student"], state(student))
    assert torch.equal(before["student"]["fc.bias"], student.fc.bias), "what the user froze stays frozen"
    for role, model in models.items():
        assert flags[role] == [p.requires_grad for p in model.parameters()]
        assert modes[role] == [x.training for x in model.modules()]
        assert hooks(model) == 0
        assert all(p.grad is None for p in model.parameters())
    assert student.layer1[1].num_batches_tracked > 0


@pytest.mark.parametrize("method", [KD(), FitNets()], ids=["kd", "fitnets"])
def test_after_an_error_all_is_restored_too(method):
    class Broken(Seeking):
        def epoch(self, epoch, rank=0, world=1, skip=0):
            for i, batch in enumerate(super().epoch(epoch, rank, world, skip)):
                if epoch == 1 and i == 1:
                    raise OSError("the disk is gone")
                yield batch

    models = pair()
    modes = {role: [x.training for x in m.modules()] for role, m in models.items()}
    before = state(models["teacher"])
    with pytest.raises(OSError, match="the disk is gone"):
        train(method, models, Broken())
    assert same(before, state(models["teacher"]))
    for role, model in models.items():
        assert hooks(model) == 0
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert modes[role] == [x.training for x in model.modules()]


def test_the_callers_random_numbers_are_left_alone():
    def here():
        return torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    torch.manual_seed(5)
    models = pair()
    a = here()
    train(Noisy(), models)
    train(FitNets(), models)
    b = here()
    assert torch.equal(a[0], b[0])
    assert a[1] == b[1]
    assert np.array_equal(a[2], b[2])


@pytest.mark.parametrize("name", METHODS)
def test_a_dry_step_changes_no_weights(name):
    models = cast_of(name)
    before = {role: state(m) for role, m in models.items()}
    rehearse(make(name), models, next(data_for(name).epoch(0)), 3)
    for role, model in models.items():
        assert same(before[role], state(model))
        assert hooks(model) == 0


# -- repeating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_weights_another_name_other_numbers(name):
    ends = []
    for _ in range(2):
        models = cast_of(name)
        torch.manual_seed(len(ends))  # the caller's state is none of its business
        train(make(name), models, data_for(name), seed=3)
        ends.append(state(models["student"]))
    assert same(*ends)


@pytest.mark.parametrize("change", [{"name": "other"}, {"seed": 1}])
def test_other_place_other_random_numbers(change):
    ends = []
    for more in ({}, {}, change):
        models = pair()
        train(Noisy(), models, **more)
        ends.append(state(models["student"]))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_the_regressor_of_fitnets_depends_on_the_stages_name():
    ends = []
    for name in ("a", "b"):
        models = pair()
        train(FitNets(), models, name=name)
        ends.append(state(models["student"]))
    assert not same(*ends)


def test_phases_with_one_name_are_refused():
    class Doubled:
        def phases(self, cast):
            return [*Toy().phases(cast), *Toy().phases(cast)]

    with pytest.raises(LimbeckError, match=r"two phases of this method have the same name \(toy, toy\)"):
        train(Doubled(), pair())


# -- the numbers ---------------------------------------------------------------------------------


def test_the_trajectory_of_a_plain_loop():
    """SGD with momentum and decay, cosine, clipping, CE + KD: written once more, by hand."""
    data, steps = Seeking(), 4
    models = pair()
    student, teacher = copy.deepcopy(models["student"]).train(), copy.deepcopy(models["teacher"]).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(3):
        for step, batch in enumerate(data.epoch(epoch)):
            optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * (epoch + step / steps) / 3))
            with torch.no_grad():
                q = F.softmax(teacher(batch.inputs) / 4, 1)
            z = student(batch.inputs)
            kd = 16 * F.kl_div(F.log_softmax(z / 4, 1), q, reduction="batchmean")
            loss = 0.1 * F.cross_entropy(z, batch.targets) + 0.9 * kd
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 0.7)
            optimizer.step()
    train(KD(temperature=4), models, epochs=3, optimizer=Optimizer(), clip=0.7)
    for key, value in student.state_dict().items():
        assert torch.allclose(models["student"].state_dict()[key], value, rtol=1e-6, atol=1e-6), key


@pytest.mark.parametrize("name", SEPARABLE)
def test_four_parts_of_a_batch_equal_the_batch(name):
    ends = []
    for accumulate in (1, 4):
        models = cast_of(name, norm=False)
        train(make(name), models, data_for(name, size=10, rows=30), accumulate=accumulate, clip=1.0)
        ends.append(state(models["student"]))
    for key, value in ends[0].items():
        assert torch.allclose(ends[1][key], value, rtol=1e-4, atol=2e-6), key


def test_parts_are_logged_as_the_batch_is(tmp_path):
    for accumulate in (1, 4):
        train(
            KD(), pair(norm=False), Seeking(size=10, rows=30), accumulate=accumulate, folder=tmp_path / str(accumulate)
        )
    a, b = (lines(tmp_path / n) for n in ("1", "4"))
    assert len(a) == len(b) == 6
    for one, four in zip(a, b):
        assert one["terms"] == pytest.approx(four["terms"], rel=1e-5)
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-5)


def test_a_batch_is_cut_evenly_and_whole():
    batch = Batch({"x": torch.arange(10), "n": 3}, torch.arange(10), torch.arange(10))
    parts = split(batch, 4)
    assert [len(p.targets) for p in parts] == [2, 3, 2, 3]
    assert torch.cat([p.inputs["x"] for p in parts]).tolist() == list(range(10))
    assert all(p.inputs["n"] == 3 and p.views is None for p in parts)
    assert len(split(Batch(torch.zeros(2, 3)), 5)) == 2


def test_the_norm_of_the_gradient_is_clipped():
    models = pair(norm=False)
    before = state(models["student"])
    train(Supervised(), models, Seeking(rows=6), epochs=1, clip=1e-3, schedule=Schedule(kind="constant"))
    moved = sum(float((models["student"].state_dict()[k] - v).square().sum()) for k, v in before.items()) ** 0.5
    assert moved == pytest.approx(PLAIN.lr * 1e-3, rel=1e-3)


def test_the_average_of_weights_is_the_hand_made_one():
    data, models = Seeking(), pair()
    plain = copy.deepcopy(models["student"]).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    average = None
    for epoch in range(2):
        for step, batch in enumerate(data.epoch(epoch)):
            optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch + step / 4) / 2))
            optimizer.zero_grad()
            F.cross_entropy(plain(batch.inputs), batch.targets).backward()
            optimizer.step()
            now = {k: v.detach().double() for k, v in plain.named_parameters()}
            average = now if average is None else {k: 0.8 * average[k] + 0.2 * v for k, v in now.items()}
    shown = []
    train(Supervised(), models, ema=0.8, validate=lambda m: shown.append(state(m)) or {"accuracy": 0.5, "loss": 1.0})
    for key, value in average.items():
        assert torch.allclose(models["student"].state_dict()[key].double(), value, atol=1e-6), key
    assert torch.equal(models["student"].layer1[1].running_mean, plain.layer1[1].running_mean)
    assert same(shown[-1], state(models["student"])), "the average is what is measured"


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Schedule(kind="constant"), [1, 1, 1, 1, 1, 1, 1, 1]),
        (Schedule(kind="cosine"), [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]),
        (Schedule(kind="step", milestones=(0.5, 0.75), gamma=0.1), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Schedule(kind="constant", warmup=0.5), [1e-3, 0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (
            Schedule(kind="onecycle", warmup=0.25, final=0.1),
            [1e-3, 0.5, *(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6))],
        ),
    ],
    ids=lambda s: s.kind if isinstance(s, Schedule) else "",
)
def test_the_log_holds_the_rates_of_the_schedule(schedule, wanted, tmp_path):
    train(
        Supervised(),
        pair(),
        schedule=schedule,
        folder=tmp_path,
        optimizer=Optimizer(lr=0.2, momentum=0.0, nesterov=False),
    )
    log = lines(tmp_path)
    assert [line["step"] for line in log] == list(range(1, 9))
    assert [line["lr"]["student"] for line in log] == pytest.approx([0.2 * w for w in wanted])
    assert [line["epoch"] for line in log] == [k / 4 for k in range(8)]
    assert [line["phase"] for line in log] == ["train"] * 8


def test_the_schedule_starts_anew_in_each_phase(tmp_path):
    method = FitNets(hint_share=0.5, hint_optimizer=Optimizer(kind="rmsprop", lr=0.005))
    found = train(method, pair(), epochs=4, folder=tmp_path)
    hint = [line for line in lines(tmp_path) if line["phase"] == "hint"]
    rest = [line for line in lines(tmp_path) if line["phase"] == "distill"]
    assert [len(hint), len(rest)] == [8, 8]
    assert hint[0]["lr"]["student"] == pytest.approx(0.005)
    assert rest[0]["lr"]["student"] == pytest.approx(0.05)
    assert set(hint[0]["terms"]) == {"student/hint"}
    assert set(rest[0]["terms"]) == {"student/ce", "student/kd"}
    assert [(p["name"], p["epochs"]) for p in found.phases] == [("hint", 2), ("distill", 2)]
    assert found.epochs == 4
    assert found.images == 4 * 24


def test_the_terms_in_the_log_add_up_to_the_loss(tmp_path):
    train(KD(soft=0.7, hard=0.2), pair(), folder=tmp_path)
    for line in lines(tmp_path):
        terms = line["terms"]
        assert line["loss"]["student"] == pytest.approx(0.2 * terms["student/ce"] + 0.7 * terms["student/kd"], rel=1e-5)


def test_statistics_are_outside_the_budget_and_whole(tmp_path):
    models = pair()
    seen = []
    method = LogitMatching()
    phases_of = type(method).phases

    class Spy:
        def phases(self, cast):
            found = phases_of(method, cast)
            seen.append(found[1].modules["standardize"])
            return found

    found = train(Spy(), models, epochs=3, folder=tmp_path)
    assert [(p["name"], p["epochs"]) for p in found.phases] == [("statistics", 1), ("distill", 3)]
    assert found.epochs == 3
    logits = models["teacher"].eval()(Seeking().x).detach().double()
    assert torch.allclose(seen[0].mean.double(), logits.mean(0), atol=1e-5)
    assert torch.allclose(seen[0].spread.double(), logits.std(0, unbiased=False), rtol=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(kind="adamw", lr=0.01),
        Optimizer(kind="rmsprop", lr=0.01),
        Optimizer(kind="sgd", lr=0.1, decay_norm=False),
    ],
    ids=lambda o: o.kind,
)
def test_every_optimizer_learns(optimizer):
    models = pair()
    data = Seeking(rows=60)
    before = F.cross_entropy(models["student"].eval()(data.x), data.y)
    train(Supervised(), models, data, epochs=5, optimizer=optimizer)
    assert F.cross_entropy(models["student"].eval()(data.x), data.y) < 0.7 * before


def test_decay_can_spare_biases_and_norms():
    models = pair()
    models["student"].fc.bias.data.fill_(1.0)
    models["student"].fc.weight.data.fill_(1.0)
    from limbeck.engine.optim import build

    built = build(Optimizer(decay_norm=False, weight_decay=0.1), models["student"].parameters())
    decays = {id(p): g["weight_decay"] for g in built.param_groups for p in g["params"]}
    for name, p in models["student"].named_parameters():
        assert decays[id(p)] == (0.1 if p.ndim > 1 else 0.0), name
    assert len(decays) == len(list(models["student"].parameters()))


@pytest.mark.parametrize(
    "layout", [{"precision": "bf16"}, {"channels_last": True}, {"precision": "bf16", "channels_last": True}]
)
@pytest.mark.parametrize("method", [KD(), FitNets(), NST(), LogitMatching()], ids=lambda m: type(m).__name__)
def test_other_precisions_and_layouts(method, layout):
    plain, other = pair(), pair()
    slow = Optimizer(lr=0.003, momentum=0.0, nesterov=False)
    train(method, plain, optimizer=slow)
    train(method, other, optimizer=slow, **layout)
    assert all(p.dtype == torch.float32 for p in other["student"].parameters())
    tolerance = 0.05 if "precision" in layout else 1e-4
    for key, value in plain["student"].state_dict().items():
        assert torch.allclose(other["student"].state_dict()[key].float(), value.float(), atol=tolerance), key
    if "channels_last" in layout:
        assert other["student"].layer2[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_compiled_networks_learn_the_same(monkeypatch):
    torch._dynamo.reset()
    compiler, backends = torch.compile, []

    def quick(model, **options):
        backends.append(options)
        return compiler(model, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", quick)
    plain, fast = pair(norm=False), pair(norm=False)
    train(NST(soft=0.5), plain, epochs=1)
    train(NST(soft=0.5), fast, epochs=1, compile=True)
    assert len(backends) == 2
    for key, value in plain["student"].state_dict().items():
        assert torch.allclose(fast["student"].state_dict()[key], value, atol=1e-6), key
    assert list(fast["student"].state_dict()) == list(plain["student"].state_dict())
    torch._dynamo.reset()


def test_models_that_came_compiled_are_trained_and_kept_under_their_own_names(monkeypatch, tmp_path):
    from safetensors.torch import load_file

    torch._dynamo.reset()
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiler(model, **{**options, "backend": "eager"}))
    plain, fast = pair(norm=False), pair(norm=False)
    wrapped = {role: torch.compile(m) for role, m in fast.items()}
    for models, folder in ((plain, tmp_path / "a"), (wrapped, tmp_path / "b")):
        train(KD(), models, epochs=1, ema=0.5, folder=folder, validate=lambda m: {"accuracy": 0.5, "loss": 1.0})
    for key, value in plain["student"].state_dict().items():
        assert torch.allclose(fast["student"].state_dict()[key], value, atol=1e-6), key
    for name in ("best.safetensors", "checkpoint.safetensors"):
        a, b = (load_file(tmp_path / n / name) for n in "ab")
        assert set(a) == set(b)
    torch._dynamo.reset()


# -- validation ----------------------------------------------------------------------------------


class Scores:
    """Validation measures that are made up, epoch by epoch."""

    def __init__(self, *accuracies, loss=1.0):
        self.left, self.loss, self.models = list(accuracies), loss, []

    def __call__(self, model):
        self.models.append(state(model))
        return {"accuracy": self.left.pop(0), "loss": self.loss}


def test_training_stops_when_validation_improves_no_more(tmp_path):
    scores = Scores(0.1, 0.3, 0.5, 0.4, 0.5, 0.9, 0.9)
    models = pair()
    found = train(Supervised(), models, epochs=10, patience=2, validate=scores, folder=tmp_path)
    assert found.before == {"accuracy": 0.1, "loss": 1.0}
    assert found.epochs == 4
    assert found.best == {"epoch": 2, "validation": {"accuracy": 0.5, "loss": 1.0}}
    assert [h["validation"]["accuracy"] for h in found.history] == [0.1, 0.3, 0.5, 0.4, 0.5]
    from safetensors.torch import load_file

    best = load_file(tmp_path / "best.safetensors")
    assert same(best, scores.models[2])
    assert same(state(models["student"]), scores.models[4]), "the last weights are what is left"
    assert not same(best, scores.models[4])


def test_without_a_folder_the_best_weights_are_in_the_result():
    scores = Scores(0.1, 0.3, 0.2)
    found = train(Supervised(), pair(), validate=scores)
    assert same(found.best_state, scores.models[1])


def test_among_equals_the_lower_loss_is_better_and_nan_is_worst():
    from limbeck.engine.loop import _better

    def m(a, b):
        return {"accuracy": a, "loss": b}

    nan = float("nan")
    assert _better(m(0.5, 1.0), m(0.5, 2.0))
    assert not _better(m(0.5, 2.0), m(0.5, 2.0))
    assert _better(m(0.6, 9.0), m(0.5, 2.0))
    assert _better(m(0.1, 9.0), m(nan, nan))
    assert not _better(m(nan, nan), m(0.1, 9.0))
    assert not _better(m(nan, nan), m(nan, nan))


def test_only_the_last_phase_is_measured():
    scores = Scores(0.1, 0.3, 0.2, 0.4)
    found = train(FitNets(hint_share=0.5), pair(), epochs=4, validate=scores, patience=5)
    assert [(h["phase"], h["epoch"], "validation" in h) for h in found.history] == [
        ("before", 0, True),
        ("hint", 1, False),
        ("hint", 2, False),
        ("distill", 1, True),
        ("distill", 2, True),
    ]
    assert found.best["epoch"] == 1


# -- what is not finite --------------------------------------------------------------------------


def test_a_term_that_is_not_finite_stops_before_the_weights_move(tmp_path):
    models = pair()
    with pytest.raises(NonFiniteError) as error:
        train(Breaks(at=5), models, name="kd", folder=tmp_path)
    rows = next(iter(list(Seeking().epoch(1))[1:])).rows.tolist()
    text = str(error.value)
    assert text.startswith(
        f"kd, breaks, epoch 2, step 2, rows {rows} ...: non-finite term 'student/bad' (all terms: student/ce = "
    )
    assert "student/bad = nan, student/loss = nan)." in text
    assert f"The last good checkpoint is kept in {tmp_path}." in text
    assert text.endswith("Try a lower learning rate, gradient clipping (training.clip), or fp32.")
    assert all(bool(torch.isfinite(p).all()) for p in models["student"].parameters())
    position, tensors, _ = load(
        tmp_path / "checkpoint.safetensors",
        identity("kd", 0, Breaks(at=5), Training(epochs=2, batch_size=6, optimizer=PLAIN)),
        torch.device("cpu"),
    )
    assert (position.epoch, position.step) == (1, 0)
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    with pytest.raises(NonFiniteError, match="checkpoint is kept"):  # going on meets the same batch again
        train(Breaks(at=1), pair(), name="kd", folder=tmp_path / "b")


def test_a_term_without_weight_is_looked_at_too():
    with pytest.raises(NonFiniteError, match="non-finite term 'student/bad'"):
        train(Breaks(at=0, how="weightless"), pair())


def test_what_a_loss_says_is_passed_on_with_the_place():
    with pytest.raises(
        NonFiniteError, match=r"run, breaks, epoch 1, step 3, rows \[.*\] ...: kd_kl: the teacher's logits"
    ):
        train(Breaks(at=2, how="raise"), pair())


def test_weights_that_are_not_finite_replace_no_good_checkpoint(tmp_path):
    """The last loss of an epoch is finite, its gradient is not."""
    with pytest.raises(
        NonFiniteError, match=r"run, breaks, epoch 3, step 1: the weights 'layer1.0.weight' of 'student' are no"
    ):
        train(Breaks(at=7, how="gradient"), pair(), folder=tmp_path, epochs=3)
    training = Training(epochs=3, batch_size=6, optimizer=PLAIN)
    position, tensors, _ = load(
        tmp_path / "checkpoint.safetensors",
        identity("run", 0, Breaks(at=7, how="gradient"), training),
        torch.device("cpu"),
    )
    assert position.epoch == 1
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())


def test_terms_of_a_device_are_checked_when_they_come(monkeypatch):
    """On a GPU no step waits for its terms; they are looked at together, and the message is the same."""
    from limbeck.engine import tally

    class Blind:
        """The look at each step, which only a CPU affords, sees nothing."""

        @staticmethod
        def isfinite(value):
            return sys._getframe(1).f_code.co_name == "weigh" or math.isfinite(value)

    seen = []
    collect = tally.Tally.collect

    def spy(self):
        seen.append(len(self.pending))
        return collect(self)

    monkeypatch.setattr(tally.Tally, "collect", spy)
    monkeypatch.setattr(tally, "math", Blind)
    with pytest.raises(
        NonFiniteError, match=r"run, breaks, epoch 1, step 2, rows \[.*non-finite term 'student/bad' \(all"
    ):
        train(Breaks(at=1), pair())
    assert seen == [1, 1]


# -- data ----------------------------------------------------------------------------------------


def test_no_batches_is_an_error():
    with pytest.raises(LimbeckError, match="there is nothing to train on: the batches ran out before the first one"):
        train(Supervised(), pair(), Seeking(rows=0))


def test_batches_that_run_dry_are_an_error():
    class Once(Seeking):
        def epoch(self, epoch, rank=0, world=1, skip=0):
            return super().epoch(epoch) if epoch == 0 else iter(())

    with pytest.raises(LimbeckError, match="epoch 2 of run has no batches; a loader must give them anew every epoch"):
        train(Supervised(), pair(), Once())


def test_epochs_of_unknown_length(tmp_path):
    class Unknown(Seeking):
        steps = None

    train(Supervised(), pair(), Unknown(), folder=tmp_path)
    log = lines(tmp_path)
    assert [line["step"] for line in log] == [4, 8]


def test_views_of_the_data_are_counted_over_all_phases():
    """A method with two phases sees the same views as one with a single phase."""
    seen = {}

    class Spy(Seeking):
        def epoch(self, epoch, rank=0, world=1, skip=0):
            seen.setdefault(self.name, []).append(epoch)
            return super().epoch(epoch, rank, world, skip)

    for name, method in (("kd", KD()), ("fitnets", FitNets(hint_share=0.5))):
        data = Spy()
        data.name = name
        train(method, pair(), data, epochs=4)
    assert seen["kd"] == seen["fitnets"] == [0, 0, 1, 2, 3]  # the first is the look at an example


def test_predictions_and_their_measures():
    model, data = flat_net().train(), Seeking()
    logits, targets = predictions(model, data.epoch(0), device=CPU.device)
    assert model.training
    assert logits.shape == (24, 3)
    found = metrics(logits, targets)
    assert found["n"] == 24
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).double().mean()))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits.double(), targets)), rel=1e-5)
    batches = list(data.epoch(0))
    with pytest.raises(LimbeckError, match="3 of 4 batches have targets; to evaluate, all must have them or none"):
        predictions(model, [*batches[:3], batches[3]._replace(targets=None)], device=CPU.device)
    with pytest.raises(LimbeckError, match="there is nothing to evaluate on"):
        predictions(model, [], device=CPU.device)
    with pytest.raises(LimbeckError, match="these batches have no targets"):
        metrics(logits, None)
    with pytest.raises(LimbeckError, match="targets run from 0 to 7, but the network has 3 classes"):
        metrics(logits, torch.tensor([0, 7] * 12))


def test_seeding_reaches_all_three_generators():
    def draw():
        return torch.rand(1).item(), random.random(), np.random.rand()

    seed_everything(2**62 + 1)
    a = draw()
    seed_everything(2**62 + 1)
    assert a == draw()


# -- what came with the networks -----------------------------------------------------------------------


def test_gradients_that_were_there_before_do_not_count():
    """A caller's own backward leaves gradients on the student; the first step must not add them to its own."""
    clean, stale = pair(), pair()
    for role, model in stale.items():
        model(torch.randn(4, 1, 8, 8)).sum().backward()
        model.load_state_dict(clean[role].state_dict())  # the running statistics moved
    kept = [p.grad.clone() for p in stale["teacher"].parameters()]
    train(KD(), clean)
    train(KD(), stale)
    assert same(state(clean["student"]), state(stale["student"]))
    assert all(torch.equal(a, p.grad) for a, p in zip(kept, stale["teacher"].parameters(), strict=True))
    assert all(p.grad is None for p in stale["student"].parameters())


def test_parts_that_came_frozen_do_not_move():
    """Neither their weights nor their running statistics; the rest of the student is in train mode as ever."""
    models = pair()
    part = models["student"].layer1.requires_grad_(False)
    before, modes = state(part), []
    models["student"].layer2.register_forward_pre_hook(
        lambda module, args: modes.append((part[1].training, module[1].training)) if torch.is_grad_enabled() else None
    )
    rest = state(models["student"].layer2)
    train(KD(), models, ema=0.5)
    assert same(before, state(part))
    assert set(modes) == {(False, True)}
    after = state(models["student"].layer2)
    assert not any(torch.equal(rest[k], after[k]) for k in ("0.weight", "1.weight", "1.running_mean"))
    assert not any(p.requires_grad for p in part.parameters())
    assert part[1].training


def test_channels_last_beside_weights_of_other_dimensions():
    class Video(nn.Module):
        def __init__(self):
            super().__init__()
            self.over_time, self.fc = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(4, 3)
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.fc(self.over_time(self.conv(x).unsqueeze(2)).mean((2, 3, 4)))

    torch.manual_seed(0)
    student = Video()
    train(KD(), {**pair(), "student": student}, channels_last=True)
    assert student.over_time.weight.is_contiguous()


def test_agreement_of_every_kind_of_head():
    a, b = torch.tensor([[2.0, 1.0], [0.5, 3.0]]), torch.tensor([[3.0, -1.0], [-0.5, 1.0]])
    assert agreement(a, b) == 1.0
    assert agreement(a, b, independent=True) == 0.5
    single = torch.tensor([[1.0], [-1.0], [2.0], [3.0]]), torch.tensor([[1.0], [1.0], [-2.0], [0.5]])
    assert agreement(*single) == agreement(*(x[:, 0] for x in single)) == 0.5


@pytest.mark.parametrize(("rows", "accumulate"), [(7, 1), (6, 6)])
def test_a_batch_too_small_for_batch_norm_is_named(rows, accumulate):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(64), nn.Linear(64, 3)

        def forward(self, x):
            return self.fc(self.norm(x.flatten(1)))

    torch.manual_seed(0)
    x, y = torch.randn(rows, 1, 8, 8), torch.arange(rows) % 3
    batches = Batches([(x[i : i + 6], y[i : i + 6]) for i in range(0, rows, 6)])
    with pytest.raises(
        DataError, match=r"epoch 1, step .: batch normalisation cannot train on a single sample .*drop_last"
    ):
        train(KD(), {**pair(), "student": Flat()}, batches, accumulate=accumulate)


def test_a_method_without_a_text_of_its_own_can_go_on():
    class Bare:
        def phases(self, cast):
            return ()

    kept = Bare(), Bare()
    assert repr(kept[0]) != repr(kept[1])
    assert identity("run", 0, kept[0], Training()) == identity("run", 0, kept[1], Training())
    assert identity("run", 0, kept[0], Training()) != identity("run", 0, KD(), Training())
