"""One table, every method of the catalogue: what the engine and the user may count on."""

from __future__ import annotations

import copy
import dataclasses

import mini_driver as driver
import pytest
import torch
from method_table import BETWEEN_SAMPLES, COUNTING, IN_ORDER, LABELLED, RANDOM, TABLE, make, widths

from limbeck import catalog, settings
from limbeck.errors import LimbeckError, NameUnknown
from limbeck.phase import Batch, Cast, Method

ROWS = [
    pytest.param(name, changes, phases, id=f"{name}-{i}")
    for name, tries in TABLE.items()
    for i, (changes, phases) in enumerate(tries)
]


def a_cast(name, seed=0):
    batch = driver.images()
    if name == "sigmoid_kd":
        batch = Batch(batch.inputs, torch.nn.functional.one_hot(batch.targets, 3))
    batch = batch._replace(
        rows=torch.arange(len(batch.inputs)), views=torch.zeros(len(batch.inputs), dtype=torch.int64)
    )
    torch.manual_seed(seed)
    models = {role: driver.net(width) for role, width in widths(name).items()}
    return Cast(models=models, example=batch, classes=3, rows=len(batch.inputs))


def learners(cast):
    """The roles that a method may train."""
    return [role for role in cast.models if not role.startswith("teacher")]


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_table_has_every_method_of_the_catalogue():
    assert set(TABLE) == {entry.name for entry in catalog.METHODS}


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_a_method_is_a_frozen_record_that_prints_as_python(name, changes, names):
    method = make(name, changes)
    assert isinstance(method, Method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, dataclasses.fields(method)[0].name, None)
    known = {"Ramp": settings.Ramp, "Optimizer": settings.Optimizer, type(method).__name__: type(method)}
    known |= {entry.attribute: entry.load() for entry in catalog.METHODS}  # a sum prints its methods
    assert eval(repr(method), known) == method
    assert hash(method) == hash(make(name, changes))
    assert catalog.name_of(method) == name
    for field in dataclasses.fields(method):
        assert f"{field.name}" in (type(method).__doc__ or ""), f"{field.name} is not documented"


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_phases_are_valid_and_the_teacher_is_never_owned(name, changes, names):
    cast = a_cast(name)
    before = {role: state(model) for role, model in cast.models.items()}
    modes = {role: [m.training for m in model.modules()] for role, model in cast.models.items()}
    phases = make(name, changes).phases(cast)
    assert [phase.name for phase in phases] == names
    for phase in phases:
        assert {role for role in phase.modules if role.startswith("teacher")} <= set(phase.frozen)
        if phase is phases[-1]:
            assert "student" in {role for owned in phase.trains.values() for role in owned}
    for role, model in cast.models.items():  # looking changes nothing and leaves nothing
        assert same(before[role], state(model))
        assert modes[role] == [m.training for m in model.modules()]
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_a_step_is_finite_moves_the_student_and_leaves_the_teacher(name, changes, names):
    cast = a_cast(name)
    teachers = [cast.models[role].train() for role in cast.teachers]  # as a careless user may hand them over
    before = [state(teacher) for teacher in teachers]
    for phase in make(name, changes).phases(cast):
        owned = [role for roles in phase.trains.values() for role in roles]
        start = {role: state(phase.modules[role]) for role in owned}
        for module in phase.modules.values():  # what an earlier phase left, as the engine clears it
            module.zero_grad(set_to_none=True)
        updates = driver.run(phase, cast.example, lr=0.01)
        assert bool(updates) == (phase.name not in COUNTING)
        for player, terms in updates:
            assert player in phase.trains
            assert terms
            for term, (value, weight) in terms.items():
                assert torch.isfinite(value).all(), term
                one = name in BETWEEN_SAMPLES and value.ndim == 0
                assert one or value.shape == (len(cast.example.inputs),), term
                assert weight >= 0, term
                assert value.requires_grad, term
        if updates:
            assert any(not same(start[role], state(phase.modules[role])) for role in owned)
        assert all(p.grad is None for teacher in teachers for p in teacher.parameters())
        assert all(same(a, state(teacher)) for a, teacher in zip(before, teachers, strict=True))
        for role in phase.frozen:
            assert all(p.grad is None for p in phase.modules[role].parameters())


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_the_same_seed_gives_the_same_weights(name, changes, names):
    ends = []
    for _ in range(2):
        cast = a_cast(name, seed=3)
        for phase in make(name, changes).phases(cast):
            for step in range(2):
                driver.run(phase, cast.example, driver.moment(step, 2), lr=0.01)
        ends.append({f"{role}.{k}": v for role in learners(cast) for k, v in state(cast.models[role]).items()})
    assert same(*ends)


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_what_is_exported_is_the_plain_student(name, changes, names):
    cast = a_cast(name)
    keys = list(cast.models["student"].state_dict())
    make(name, changes).phases(cast)
    assert list(cast.models["student"].state_dict()) == keys


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_the_order_of_the_batch_does_not_matter(name, changes, names):
    if name in RANDOM:
        pytest.skip("what is drawn belongs to the place in the batch")
    # Each order has networks of its own: a step may change weights, beside what an optimizer does.
    (cast, phases), (_, others) = (
        (cast, make(name, changes).phases(cast)) for cast in (a_cast(name) for _ in range(2))
    )
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    shuffled = Batch(*(part[order] for part in cast.example))
    for phase, other in zip(phases, others, strict=True):
        straight = driver.run(phase, cast.example)
        mixed = driver.run(other, shuffled)
        for (_, a), (_, b) in zip(straight, mixed, strict=True):
            for term in a.keys() - IN_ORDER.get((name, changes.get("form")), set()):
                straight_value = a[term].value[order] if a[term].value.ndim else a[term].value
                assert torch.allclose(straight_value, b[term].value, atol=1e-4, rtol=1e-4), term


@pytest.mark.parametrize("name", [entry.name for entry in catalog.METHODS if entry.taught])
def test_a_missing_teacher_is_named(name):
    cast = a_cast(name)
    alone = dataclasses.replace(cast, models={"student": cast.models["student"]})
    with pytest.raises(NameUnknown, match="needs a teacher, and the stage names none; it has: student"):
        make(name).phases(alone)


def test_supervised_needs_no_teacher():
    cast = a_cast("supervised")
    alone = Cast(models={"student": cast.models["student"]}, example=cast.example)
    assert make("supervised", {}).phases(alone)


@pytest.mark.parametrize("name", list(TABLE))
def test_missing_labels_are_an_error_in_words(name):
    cast = a_cast(name)
    unlabelled = cast.example._replace(targets=None)
    method = make(name, LABELLED.get(name))

    def train():
        for phase in method.phases(dataclasses.replace(cast, models=copy.deepcopy(cast.models), example=unlabelled)):
            driver.run(phase, unlabelled)

    with pytest.raises(LimbeckError, match="labels"):
        train()
