"""Contrastive representation distillation: its memory, its draws, its value, and going on after an interruption."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_driver import images, moment, run, stage
from safetensors.torch import load_file

from limbeck.connectors import Constants, Embedding, Memory
from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import (
    DataError,
    HyperParameterError,
    Interrupted,
    NameUnknown,
    ShapeError,
    TapError,
    TargetError,
)
from limbeck.methods import CRD, KD, preset
from limbeck.settings import Optimizer, Training

sys.path.append(str(Path(__file__).parents[1] / "engine"))  # for what the tests of the engine share
small = importlib.import_module("engine_small")


def a_cast(n=6, rows=9, labels=True, seed=0):
    batch = images(n=n, labels=labels)._replace(rows=torch.arange(n) + rows - n)
    return dataclasses.replace(stage(batch=batch, seed=seed), rows=rows)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


# -- the parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3, 5), (5, 2, 4)])
def test_embeddings_are_points_on_a_sphere(shape):
    embed, x = Embedding(shape, 4), torch.randn(7, *shape)
    y = embed(x)
    flat = x if len(shape) == 1 else x.mean(1) if len(shape) == 2 else x.mean((2, 3))
    linear = flat @ embed.linear.weight.T + embed.linear.bias
    torch.testing.assert_close(y, linear / linear.square().sum(1, keepdim=True).sqrt())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embed(x), y)
        assert embed(x.bfloat16()).dtype == torch.float32


def test_no_embedding_for_other_shapes():
    with pytest.raises(ShapeError, match=r"this layer gives \[2, 3, 4, 5\] per sample; choose another one"):
        Embedding((2, 3, 4, 5), 8)


def test_constants_are_those_of_the_first_scores():
    constants, scores = Constants(), torch.randn(4, 6)
    want = math.log(50 * np.exp(scores.numpy().astype(float)).mean())
    assert constants(1, scores, 50).item() == pytest.approx(want, abs=1e-5)
    assert constants(1, scores + 7, 50).item() == pytest.approx(want, abs=1e-5)
    assert constants(0, scores + 7, 50).item() == pytest.approx(want + 7, abs=1e-5)


def filled(rows=30, classes=3, unseen=(0, 7, 29)):
    memory = Memory(rows, 4)
    there = torch.tensor([r for r in range(rows) if r not in unseen])
    memory(there, there % classes)
    memory.begin_epoch(classes=True)
    return memory, there


def test_negatives_of_other_classes_are_drawn_evenly():
    memory, there = filled()
    rows = there[:3].repeat(2)
    drawn = memory.draw(rows, rows % 3, 20000, gen())
    for row, found in zip(rows.tolist(), drawn, strict=True):
        allowed = [r for r in there.tolist() if r % 3 != row % 3]
        assert sorted(set(found.tolist())) == allowed
        counts = torch.bincount(found, minlength=30)[allowed] * len(allowed) / 20000
        assert (counts - 1).abs().max() < 0.15  # five times the standard deviation
    assert not torch.equal(drawn[0], drawn[3])  # each anchor has draws of its own


def test_any_row_but_the_anchors_own():
    memory, there = filled()
    rows = torch.tensor([5, 28, 7])  # nobody has counted the last one
    drawn = memory.draw(rows, None, 5000, gen())
    for row, found in zip(rows.tolist(), drawn, strict=True):
        assert sorted(set(found.tolist())) == [r for r in there.tolist() if r != row]


def test_the_same_generator_draws_the_same():
    memory, there = filled()
    a, b = (memory.draw(there[:4], there[:4] % 3, 50, gen(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, memory.draw(there[:4], there[:4] % 3, 50, gen(4)))


def test_a_class_that_is_larger_than_the_count_of_rows_and_one_seen_later():
    memory = Memory(6, 2)
    memory(torch.tensor([0, 1]), torch.tensor([999, 4]))
    memory.begin_epoch(classes=True)
    assert memory.draw(torch.tensor([0, 1]), torch.tensor([999, 4]), 4, gen()).tolist() == [[1] * 4, [0] * 4]
    memory(torch.tensor([5]), torch.tensor([4]))
    assert set(memory.draw(torch.tensor([0]), torch.tensor([999]), 99, gen()).flatten().tolist()) == {1}
    memory.begin_epoch(classes=True)
    assert set(memory.draw(torch.tensor([0]), torch.tensor([999]), 99, gen()).flatten().tolist()) == {1, 5}


def directions(x):
    return x / x.double().square().sum(1, keepdim=True).sqrt()


def test_a_kept_row_moves_half_way():
    memory, _ = filled()
    before = {name: directions(getattr(memory, name)) for name in ("student", "teacher")}
    new = {name: directions(torch.randn(2, 4)) for name in before}
    memory.keep(torch.tensor([3, 8]), new["student"], new["teacher"], 0.3)
    for name, old in before.items():
        now = directions(getattr(memory, name))
        torch.testing.assert_close(now[[3, 8]], directions(0.3 * old[[3, 8]] + 0.7 * new[name]), atol=1e-6, rtol=0)
        others = [r for r in range(30) if r not in (3, 8)]
        torch.testing.assert_close(now[others], old[others], atol=1e-6, rtol=0)


def test_the_mean_of_two_processes_is_what_both_have_kept():
    """The engine averages floating-point buffers at the end of an epoch."""
    torch.manual_seed(0)
    whole, _ = filled()
    mine, theirs = copy.deepcopy(whole), copy.deepcopy(whole)
    for epoch in range(3):
        order = torch.randperm(30, generator=gen(epoch))[:24].reshape(4, 6)
        for memory in (whole, mine, theirs):
            memory.begin_epoch(classes=True)
        for i, rows in enumerate(order):
            s, t = (directions(torch.randn(6, 4, generator=gen(100 * epoch + 10 * i + k))).float() for k in (0, 1))
            for memory in (whole, (mine, theirs)[i % 2]):
                memory(rows, rows % 3)
                memory.keep(rows, s, t, 0.5)
        for a, b in zip(mine.buffers(), theirs.buffers(), strict=True):
            if a.is_floating_point():
                mean = (a + b) / 2
                a.copy_(mean)
                b.copy_(mean)
        for name in ("student", "teacher"):
            have, want = directions(getattr(mine, name)), directions(getattr(whole, name))
            torch.testing.assert_close(have, want, atol=1e-5, rtol=0)
        for memory in (whole, mine, theirs):
            memory.begin_epoch(classes=True)
        assert torch.equal(mine.order, whole.order)
        assert torch.equal(theirs.labels, whole.labels)


def test_nothing_to_draw_from():
    memory = Memory(5, 2)
    with pytest.raises(DataError, match="0 rows were seen in a whole epoch: contrast needs at least two"):
        memory.begin_epoch(classes=False)
    memory(torch.arange(5), torch.full((5,), 2))
    with pytest.raises(DataError, match=r"all 5 rows seen so far have the class 2: .* negatives='rows' takes any"):
        memory.begin_epoch(classes=True)
    memory.begin_epoch(classes=False)


# -- the method -------------------------------------------------------------------------------------


def by_hand(anchors, bank, index, tau, rows):
    """One side, in loops, with the constant of this very batch."""
    anchors, bank = anchors.detach().double().numpy(), directions(bank).numpy()
    scores = np.array([[anchors[b] @ bank[j] / tau for j in row] for b, row in enumerate(index.tolist())])
    k = scores.shape[1] - 1
    z = rows * np.exp(scores).mean()
    out = []
    for row in scores:
        h = [np.exp(x) / z / (np.exp(x) / z + k / rows) for x in row]
        out.append(-math.log(h[0]) - sum(math.log(1 - x) for x in h[1:]))
    return out


@pytest.mark.parametrize("negatives", ["classes", "rows", "batch"])
def test_the_value_by_hand(negatives, monkeypatch):
    cast = a_cast()
    *counting, phase = CRD(negatives=negatives, dimension=5, tau=0.2, soft=0.7).phases(cast)
    for before in counting:
        assert run(before, cast.example) == []
    indices, points = [], {}
    kept = Memory.draw

    def drawing(self, *args):
        indices.append(kept(self, *args))
        return indices[-1]

    monkeypatch.setattr(Memory, "draw", drawing)
    for role in ("embed_student", "embed_teacher"):
        phase.modules[role].register_forward_hook(lambda m, a, out, role=role: points.update({role: out.detach()}))
    banks = {}
    if counting:
        memory = phase.modules["memory"]
        banks = {name: getattr(memory, name).clone() for name in ("student", "teacher")}
    ((player, terms),) = run(phase, cast.example)
    assert player == "student"
    assert list(terms) == ["ce", "crd", "kd"]
    assert [term.weight for term in terms.values()] == [1.0, 0.8, 0.7]
    s, t = points["embed_student"], points["embed_teacher"]
    if negatives == "batch":
        index = torch.tensor([[i, *(j for j in range(6) if j != i)] for i in range(6)])
        banks, places = {"student": s, "teacher": t}, 6
    else:
        index, places = torch.cat([cast.example.rows[:, None], indices[0]], 1), 9
        assert indices[0].shape == (6, 8)  # as many as there are other places
    sides = zip(by_hand(s, banks["teacher"], index, 0.2, places), by_hand(t, banks["student"], index, 0.2, places))
    assert terms["crd"].value.tolist() == pytest.approx([a + b for a, b in sides], rel=1e-4)


@pytest.mark.parametrize("negatives", ["classes", "batch"])
def test_who_gets_a_gradient(negatives):
    cast = a_cast()
    *counting, phase = CRD(negatives=negatives, hard=0.0).phases(cast)
    for before in counting:
        run(before, cast.example)
    run(phase, cast.example)
    assert all(p.grad is None for p in cast.models["teacher"].parameters())
    for role in ("embed_student", "embed_teacher"):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in phase.modules[role].parameters())
    grads = {name: p.grad for name, p in cast.models["student"].named_parameters()}
    assert all(grad is not None for name, grad in grads.items() if not name.startswith("fc"))
    assert grads["fc.weight"] is None  # what comes after the features learns from the labels alone


def test_the_memory_is_kept_after_the_step():
    cast = a_cast()
    counting, phase = CRD().phases(cast)
    run(counting, cast.example)
    memory = phase.modules["memory"]
    before = directions(memory.student)
    run(phase, cast.example)
    moved = (directions(memory.student) - before).abs().amax(1) > 1e-4
    assert moved.tolist() == [False] * 3 + [True] * 6  # the rows of the batch are 3 to 8


def test_the_order_of_a_batch_is_nothing_to_its_own_negatives():
    cast = a_cast()
    (phase,) = CRD(negatives="batch").phases(cast)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mixed = cast.example._replace(**{k: v[order] for k, v in cast.example._asdict().items() if v is not None})
    ((_, a),), ((_, b),) = run(phase, cast.example), run(phase, mixed)
    torch.testing.assert_close(a["crd"].value[order], b["crd"].value)


def test_what_the_user_is_told():
    counting, phase = CRD().phases(a_cast())
    assert (counting.name, counting.epochs, counting.trains) == ("rows", 1, {"rows": ("memory",)})
    assert phase.trains == {"student": ("student", "embed_student", "embed_teacher", "constants", "memory")}
    assert phase.notes == (
        "pair (what goes into the last linear layer): fc:in [6] -> fc:in [10]",
        "negatives: 8 of other classes for each sample (the benchmark's 16384 are more than the 9 row numbers); "
        "memory of 9 rows, 0 MB",
    )
    assert phase.stops == {"teacher"}
    assert CRD(soft=1.0).phases(a_cast())[1].stops == frozenset()
    (alone,) = CRD(negatives="batch").phases(a_cast())
    assert "ours; the paper draws from a memory" in alone.notes[1]
    large = dataclasses.replace(a_cast(), rows=20000)
    assert CRD().phases(large)[1].notes[1] == (
        "negatives: 16384 of other classes for each sample; memory of 20000 rows, 20 MB"
    )
    assert CRD(count=3, negatives="rows").phases(large)[1].notes[1].startswith("negatives: 3 of any other row for")


def test_presets():
    assert preset("crd", "benchmark") == CRD(count=16384)
    assert preset("crd", "with_kd") == CRD(count=16384, soft=1.0)
    assert preset("crd", "paper").tau == 0.1


# -- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"weight": -1.0}, "weight = -1.0: a loss weight is zero or more"),
        ({"weight": 0.0, "hard": 0.0}, "weight, hard, soft: all are zero"),
        ({"negatives": "exact"}, "negatives = 'exact': one of classes, rows, batch"),
        ({"count": 0}, "count = 0: at least 1, or nothing at all"),
        ({"count": 2.5}, "count = 2.5: a whole number"),
        ({"count": 5, "negatives": "batch"}, "count = 5: no setting with negatives='batch', which takes all"),
        ({"dimension": 0}, "dimension = 0: at least 1"),
        ({"tau": 0.0}, "tau = 0.0: a temperature is more than zero"),
        ({"momentum": 1.0}, r"momentum = 1.0: in \[0, 1\)"),
        ({"momentum": math.nan}, "momentum = nan"),
        ({"momentum": "a"}, r"momentum = 'a': in \[0, 1\)"),
        ({"count": True}, "count = True: a whole number"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"pair": "fc"}, r"pair = 'fc': a pair is \(student layer, teacher layer\)"),
    ],
)
def test_settings_outside_their_ranges(settings, text):
    with pytest.raises(HyperParameterError, match=text):
        CRD(**settings)


def test_rows_that_nobody_knows():
    cast = a_cast()
    text = r"these batches do not say {}: give limbeck.Batch\(inputs, targets, rows\) .* or set negatives='batch'"
    with pytest.raises(DataError, match=text.format("how many rows there are")):
        CRD().phases(dataclasses.replace(cast, rows=None))
    unknown = cast.example._replace(rows=None)
    with pytest.raises(DataError, match=text.format("which rows they hold")):
        CRD().phases(dataclasses.replace(cast, example=unknown))
    counting, _ = CRD().phases(cast)
    with pytest.raises(DataError, match=text.format("which rows they hold")):
        run(counting, unknown)
    assert CRD(negatives="batch").phases(dataclasses.replace(cast, example=unknown, rows=None))
    beyond = cast.example._replace(rows=cast.example.rows + cast.rows - 1)
    with pytest.raises(DataError, match=rf"rows \d+ to \d+ of data that has {cast.rows} rows: they count from 0 to"):
        run(counting, beyond)


def test_classes_that_nobody_knows():
    cast = a_cast(labels=False)
    with pytest.raises(TargetError, match="needs labels, and this batch has none"):
        CRD().phases(cast)
    with pytest.raises(TargetError, match=r"negatives of other classes need labels, .* it has none; negatives='rows'"):
        CRD(hard=0.0).phases(cast)
    listed = dataclasses.replace(cast, example=cast.example._replace(targets=[0, 1]))
    with pytest.raises(TargetError, match=r"need labels, .* they are a list, not a tensor; negatives='rows'"):
        CRD(hard=0.0).phases(listed)
    assert CRD(hard=0.0, negatives="rows").phases(cast)
    several = cast.example._replace(targets=torch.ones(6, 3))
    with pytest.raises(TargetError, match=r"its targets are float32 \[6, 3\]"):
        CRD(hard=0.0).phases(dataclasses.replace(cast, example=several))


def test_layers_and_batches_that_do_not_fit():
    with pytest.raises(TapError, match="no layer 'layer9'"):
        CRD(pair=("layer9", "fc")).phases(a_cast())
    with pytest.raises(NameUnknown, match="needs a teacher"):
        CRD().phases(dataclasses.replace(a_cast(), models={"student": a_cast().models["student"]}))
    cast = a_cast()
    (phase,) = CRD(negatives="batch", pair=("layer2", "layer1")).phases(cast)
    assert phase.notes[0] == "pair: layer2 [6, 4, 4] -> layer1 [5, 8, 8]"
    with pytest.raises(ShapeError, match="negatives='batch' needs two samples in a batch, at least; this one has 1"):
        run(phase, images(n=1))


# -- in the engine ----------------------------------------------------------------------------------


class Rows(small.Seeking):
    rows = 24


class Endless(Rows):
    """Nobody knows how many steps an epoch has."""

    steps = None


def go(method, folder, *, stop_at=None, data=None, **training):
    models, stop = {"student": small.conv_net(3), "teacher": small.conv_net(5, seed=1)}, Stop()
    data = data or Rows()
    if stop_at is not None:
        data = small.StopAt(data, stop, stop_at)
    settings = Training(
        **{"epochs": 3, "batch_size": 6, "optimizer": Optimizer(lr=0.02), "checkpoint": 1000.0, **training}
    )
    team = Team(torch.device("cpu"))
    with_folder = {"folder": folder} if folder is not None else {}
    try:
        return fit(method, models, data, training=settings, name="crd", team=team, stop=stop, **with_folder), models
    except Interrupted as error:
        return str(error), models


CASES = {
    "classes": (CRD(), 16),
    "rows": (CRD(negatives="rows", count=7, soft=0.5), 16),
    "batch": (CRD(negatives="batch"), 12),
}


@pytest.mark.parametrize("stop_at", [2, 5, 8, 11])
@pytest.mark.parametrize("case", list(CASES))
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(case, stop_at, tmp_path):
    """Of the student, and of the memory, the embeddings and the constants in the last checkpoint."""
    method, _ = CASES[case]
    straight, a = go(method, tmp_path / "a")
    told, _ = go(method, tmp_path / "b", stop_at=stop_at)
    assert isinstance(told, str)
    assert told.startswith("stopped at crd, ")
    again, b = go(method, tmp_path / "b")
    assert small.same(small.state(a["student"]), small.state(b["student"]))
    assert straight.phases == again.phases
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert any(key.startswith("module/memory/student") for key in one) == (case != "batch")
    assert "module/constants/log_z" in one
    assert small.same(one, two)


def test_a_run_that_was_stopped_at_every_step_ends_the_same(tmp_path):
    method, steps = CASES["classes"]
    straight = go(method, tmp_path / "a")
    for _ in range(steps):
        assert isinstance(go(method, tmp_path / "b", stop_at=1)[0], str)
    again = go(method, tmp_path / "b")
    assert small.same(small.state(straight[1]["student"]), small.state(again[1]["student"]))
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert small.same(one, two)


def test_a_row_that_the_counting_epoch_missed_is_a_negative_from_the_epoch_after_it_is_met():
    class Dropping(Rows):
        """The last batch of every epoch is dropped, and in each epoch it is another one."""

        def epoch(self, epoch, rank=0, world=1, skip=0):
            batches = list(super().epoch(0))
            yield from batches[epoch % 2 : len(batches) - 1 + epoch % 2][skip:]

        @property
        def steps(self):
            return super().steps - 1

    known = []
    begin = Memory.begin_epoch

    def spy(self, *, classes):
        begin(self, classes=classes)
        known.append(int(self.known))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memory, "begin_epoch", spy)
        go(CRD(), None, data=Dropping())
    assert known == [18, 24, 24], "the second epoch of training knows what the first one met"


def test_counting_stands_outside_the_epochs_of_the_stage(tmp_path):
    found, _ = go(CRD(), tmp_path)
    assert [(p["name"], p["epochs"]) for p in found.phases] == [("rows", 1), ("distill", 3)]
    assert found.epochs == 3


def test_the_right_sample_is_found_after_some_training(tmp_path):
    """Contrast alone: the mean term falls below what guessing gives."""
    method = CRD(hard=0.0, negatives="rows", count=23, tau=0.3)
    go(method, tmp_path, epochs=50, optimizer=Optimizer(kind="adamw", lr=0.01))
    lines = [line for line in (tmp_path / "steps.jsonl").read_text().splitlines() if '"terms"' in line]
    values = [json.loads(line)["terms"]["student/crd"] for line in lines]
    guess = 2 * (math.log(24) + 23 * math.log(24 / 23))
    assert sum(values[-8:]) / 8 < 0.95 * guess < sum(values[:8]) / 8


@pytest.mark.parametrize("training", [{"precision": "bf16"}, {"accumulate": 2, "ema": 0.9}])
def test_half_precision_and_accumulation(training):
    found, models = go(CRD(soft=0.5), None, epochs=1, **training)
    assert found.epochs == 1
    assert all(bool(torch.isfinite(p).all()) for p in models["student"].parameters())


def test_beside_another_method():
    from limbeck.methods import Sum

    cast = a_cast()
    *_, phase = phases = Sum(CRD(), KD(hard=0.0)).phases(cast)
    assert [p.name for p in phases] == ["rows", "distill"]
    run(phases[0], cast.example)
    ((_, terms),) = run(phase, cast.example, moment())
    assert set(terms) == {"ce", "crd", "kd"}


class WithRows(list):
    rows = 24


def test_batches_of_ones_own_need_to_say_how_many_rows_there_are():
    from limbeck import distill

    batches = list(Rows().epoch(0))
    nets = {"teacher": small.conv_net(5, seed=1), "student": small.conv_net(3)}
    with pytest.raises(DataError, match="do not say how many rows there are"):
        distill(**nets, batches=batches, method=CRD(), epochs=1, device="cpu", quiet=True)
    student = distill(**nets, batches=WithRows(batches), method=CRD(), epochs=1, device="cpu", quiet=True)
    assert student is nets["student"]


@pytest.mark.parametrize("data", [Rows, Endless])
def test_an_epoch_begins_once(data, monkeypatch):
    begun, kept = [], Memory.begin_epoch

    def begin(self, *, classes):
        begun.append(int(self.entered))
        kept(self, classes=classes)

    monkeypatch.setattr(Memory, "begin_epoch", begin)
    go(CRD(), None, data=data(), accumulate=2)
    assert begun == [-1, 0, 1]


@pytest.mark.parametrize("stop_at", [5, 7, 8])
def test_without_a_known_length_it_goes_on_to_the_same_bits(stop_at, tmp_path):
    straight = go(CRD(), tmp_path / "a", data=Endless())
    assert isinstance(go(CRD(), tmp_path / "b", stop_at=stop_at, data=Endless())[0], str)
    again = go(CRD(), tmp_path / "b", data=Endless())
    assert small.same(small.state(straight[1]["student"]), small.state(again[1]["student"]))
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert one["module/memory/entered"] == 2
    assert small.same(one, two)


def test_which_epoch_was_begun_is_read_from_a_checkpoint():
    memory, _ = filled()
    memory.enter_epoch(4, classes=True)
    other = Memory(30, 4)
    other(torch.arange(30), torch.arange(30) % 3)
    other.enter_epoch(0, classes=True)
    other.load_state_dict(memory.state_dict())
    other.keep(torch.tensor([3]), torch.ones(1, 4), torch.ones(1, 4), 0.5)
    long = other.student[3].norm()
    other.enter_epoch(4, classes=True)
    assert other.student[3].norm() == long  # the same epoch: nothing was made faint
    other.enter_epoch(5, classes=True)
    assert other.student[3].norm() < 1e-5
