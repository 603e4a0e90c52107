"""The recipe that a method's starter is: the right kind of stage around it, and networks that fit."""

from __future__ import annotations

import pytest

from limbeck import catalog
from limbeck.config import read_recipe
from limbeck.course import is_course
from limbeck.models import build
from limbeck.recipe import Distill, Train
from limbeck.recipe.plan import planned
from limbeck.recipe.stages import Ensemble, Together
from limbeck.starters import starter


def made(name):
    return read_recipe(starter(name))


@pytest.mark.parametrize("name", list(catalog.entries("method")))
def test_the_method_is_in_the_last_stage_and_compared_with_a_yardstick(name):
    recipe = made(name)
    last = recipe.stages[-1]
    assert (last.name, catalog.name_of(last.method)) == (name, name)
    assert len(recipe.seeds) == 3
    if len(recipe.stages) > 1:
        assert "alone" in {stage.name for stage in recipe.stages}


@pytest.mark.parametrize("name", ["mutual_learning", "cohort"])
def test_online_methods_stand_in_a_stage_of_several_students(name):
    alone, together = made(name).stages
    assert isinstance(alone, Train)
    assert isinstance(together, Together)
    assert together.students == ("student", "partner")
    assert [part.stage.name for part in planned([together])] == [name, f"{name}.2"]


def test_courses_stand_where_their_teacher_is():
    kinds = {entry.name: type(made(entry.name).stages[-1]) for entry in catalog.COURSES}
    assert kinds.pop("defensive_distillation") is Train
    assert set(kinds.values()) == {Distill}
    assert all(is_course(made(name).stages[-1].method) for name in kinds)


def test_what_the_courses_leave():
    def left(name):
        return [(part.stage.name, type(part.stage)) for part in planned(made(name).stages[-1:])]

    assert left("born_again") == [
        ("born_again.1", Distill),
        ("born_again.2", Distill),
        ("born_again", Distill),
        ("born_again.ensemble", Ensemble),
    ]
    assert left("label_refinery") == [
        ("label_refinery.1", Distill),
        ("label_refinery.2", Distill),
        ("label_refinery", Distill),
    ]
    assert left("teacher_assistant") == [("teacher_assistant.assistant", Distill), ("teacher_assistant", Distill)]
    assert left("defensive_distillation") == [
        ("defensive_distillation.teacher", Train),
        ("defensive_distillation", Distill),
    ]


def test_the_assistant_is_between_the_two_in_size():
    models = made("teacher_assistant").models
    sizes = {
        role: sum(p.numel() for p in build(model.name, classes=10, in_channels=1, size=8).parameters())
        for role, model in models.items()
    }
    assert sizes["student"] < sizes["assistant"] < sizes["teacher"]


@pytest.mark.parametrize("name", ["label_refinery", "static_labels"])
def test_methods_about_crops_are_given_some(name):
    assert made(name).data.augment.crop == 1
    assert made("kd").data.augment.crop != 1
