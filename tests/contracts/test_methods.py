"""One table, every method of the catalogue: what the engine and the user may count on."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from limbeck import catalog, settings
from limbeck.errors import LimbeckError, NameUnknown
from limbeck.phase import Batch, Cast, Method

_where = Path(__file__).parents[1] / "methods" / "mini_driver.py"
_spec = importlib.util.spec_from_file_location("contract_driver", _where)
assert _spec is not None
assert _spec.loader is not None
driver = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(driver)

# Name -> settings under which it is tried, and the phases it must have.
TABLE = {
    "supervised": [({}, ["train"]), ({"label_smoothing": 0.1}, ["train"])],
    "kd": [({}, ["distill"]), ({"soft": settings.Ramp(start=1.0, end=0.0), "hard": 0.0}, ["distill"])],
    "sigmoid_kd": [({}, ["distill"]), ({"hard": 0.0}, ["distill"])],
    "logit_matching": [({}, ["statistics", "distill"]), ({"standardize": False, "hard": 0.5}, ["distill"])],
    "fitnets": [
        ({}, ["hint", "distill"]),
        ({"stages": "one", "soft": 0.0}, ["distill"]),
        ({"regressor": "benchmark", "form": "benchmark", "pair": ("layer2", "layer1")}, ["hint", "distill"]),
    ],
    "attention_transfer": [({}, ["distill"]), ({"form": "benchmark", "soft": 0.9}, ["distill"])],
    "nst": [({}, ["distill"]), ({"kernel": "gaussian", "soft": 0.9, "form": "benchmark"}, ["distill"])],
}
ROWS = [
    pytest.param(name, changes, phases, id=f"{name}-{i}")
    for name, tries in TABLE.items()
    for i, (changes, phases) in enumerate(tries)
]


def make(name, changes):
    return catalog.find("method", name).load()(**changes)


def a_cast(name, seed=0):
    batch = driver.images()
    if name == "sigmoid_kd":
        batch = Batch(batch.inputs, torch.nn.functional.one_hot(batch.targets, 3))
    return driver.stage(batch=batch, seed=seed)


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
        if "teacher" in phase.modules:
            assert "teacher" in phase.frozen
        assert "student" in phase.modules or phase.epochs is not None
        assert {"student", "statistics"} >= set(phase.trains)
    for role, model in cast.models.items():  # looking changes nothing and leaves nothing
        assert same(before[role], state(model))
        assert modes[role] == [m.training for m in model.modules()]
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_a_step_is_finite_moves_the_student_and_leaves_the_teacher(name, changes, names):
    cast = a_cast(name)
    teacher = cast.models["teacher"].train()  # as a careless user may hand it over
    before = state(teacher)
    for phase in make(name, changes).phases(cast):
        start = state(cast.models["student"])
        updates = driver.run(phase, cast.example, lr=0.01)
        assert len(updates) == (0 if phase.name == "statistics" else 1)
        for player, terms in updates:
            assert player == "student"
            assert terms
            for term, (value, weight) in terms.items():
                assert torch.isfinite(value).all(), term
                assert value.shape == (len(cast.example.inputs),), term
                assert weight >= 0, term
                assert value.requires_grad, term
            assert not same(start, state(cast.models["student"]))
        assert all(p.grad is None for p in teacher.parameters())
        assert same(before, state(teacher))
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
        ends.append(state(cast.models["student"]))
    assert same(*ends)


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_what_is_exported_is_the_plain_student(name, changes, names):
    cast = a_cast(name)
    keys = list(cast.models["student"].state_dict())
    make(name, changes).phases(cast)
    assert list(cast.models["student"].state_dict()) == keys


@pytest.mark.parametrize(("name", "changes", "names"), ROWS)
def test_the_order_of_the_batch_does_not_matter(name, changes, names):
    cast = a_cast(name)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    shuffled = Batch(cast.example.inputs[order], cast.example.targets[order])
    for phase in make(name, changes).phases(cast):
        straight = driver.run(phase, cast.example)
        mixed = driver.run(phase, shuffled)
        for (_, a), (_, b) in zip(straight, mixed, strict=True):
            for term in a:
                assert torch.allclose(a[term].value[order], b[term].value, atol=1e-4, rtol=1e-4), term


@pytest.mark.parametrize("name", [name for name in TABLE if name != "supervised"])
def test_a_missing_teacher_is_named(name):
    cast = a_cast(name)
    alone = Cast(models={"student": cast.models["student"]}, example=cast.example)
    with pytest.raises(NameUnknown, match="this method needs a teacher, and the stage names none; it has: student"):
        make(name, {}).phases(alone)


def test_supervised_needs_no_teacher():
    cast = a_cast("supervised")
    alone = Cast(models={"student": cast.models["student"]}, example=cast.example)
    assert make("supervised", {}).phases(alone)


@pytest.mark.parametrize("name", list(TABLE))
def test_missing_labels_are_an_error_in_words(name):
    cast = a_cast(name)
    unlabelled = Batch(cast.example.inputs)
    method = make(name, {} if name != "logit_matching" else {"hard": 1.0})

    def train():
        for phase in method.phases(Cast(models=copy.deepcopy(cast.models), example=unlabelled)):
            driver.run(phase, unlabelled)

    with pytest.raises(LimbeckError, match="labels"):
        train()
