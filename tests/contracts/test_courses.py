"""One table, every course of the catalogue: what recipes and the user may count on."""

from __future__ import annotations

import dataclasses

import pytest

from limbeck import catalog, settings
from limbeck.course import TEACHER, Course, Gathering, Lesson, is_course, is_taught, lessons_of
from limbeck.methods.presets import preset, presets_of
from limbeck.phase import Method

# Name -> settings under which it is tried, the names of what it leaves, and whether the stage names its teacher.
TABLE = {
    "born_again": [
        ({}, ["1", "2", "", "ensemble"], True),
        ({"generations": 1}, [""], True),
        ({"generations": 2, "control": "dkpp", "hard": 0.5}, ["1", "", "ensemble"], True),
        ({"generations": 2, "control": "cwtm"}, ["1", "", "ensemble"], True),
    ],
    "label_refinery": [({}, ["1", "2", ""], True), ({"rounds": 1, "labels": "static"}, [""], True)],
    "teacher_assistant": [({}, [""], True), ({"assistants": ("large", "medium")}, ["large", "medium", ""], True)],
    "feed_sequence": [({}, ["1", "2", "3", "4", ""], True), ({"rounds": 1}, [""], True)],
    "defensive_distillation": [({}, ["teacher", ""], False), ({"temperature": 1.0}, ["teacher", ""], False)],
}
ROWS = [
    pytest.param(name, changes, left, taught, id=f"{name}-{i}")
    for name, tries in TABLE.items()
    for i, (changes, left, taught) in enumerate(tries)
]
every_row = pytest.mark.parametrize(("name", "changes", "left", "taught"), ROWS)


def make(name, changes):
    return catalog.find("method", name).load()(**changes)


def test_the_table_has_every_course_of_the_catalogue():
    assert set(TABLE) == {entry.name for entry in catalog.COURSES}


@every_row
def test_a_course_is_a_frozen_record_that_prints_as_python(name, changes, left, taught):
    course = make(name, changes)
    assert isinstance(course, Course)
    assert is_course(course)
    assert not isinstance(course, Method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(course, dataclasses.fields(course)[0].name, None)
    known = {"Ramp": settings.Ramp, type(course).__name__: type(course)}
    known |= {entry.attribute: entry.load() for entry in catalog.METHODS}
    assert eval(repr(course), known) == course
    assert hash(course) == hash(make(name, changes))
    assert catalog.name_of(course) == name
    for field in dataclasses.fields(course):
        assert f"{field.name}" in (type(course).__doc__ or ""), f"{field.name} is not documented"


@every_row
def test_its_lessons_fit_together_and_are_the_same_each_time(name, changes, left, taught):
    course = make(name, changes)
    found = lessons_of(course)
    assert [part.name for part in found] == left
    assert lessons_of(course) == found
    assert is_taught(course) == taught
    for part in found:
        if isinstance(part, Gathering):
            assert len(part.members) > 1
        else:
            assert isinstance(part, Lesson)
            assert isinstance(part.method, Method)
            assert catalog.name_of(part.method) in catalog.entries("method"), "a recipe must be able to name it"
            assert set(part.teachers) <= {TEACHER, *(f".{other}" for other in left)}


@every_row
def test_no_two_networks_of_one_course_start_alike(name, changes, left, taught):
    """Lessons that train the stage's own student start from weights of their own, but for one at most."""
    own = [part for part in lessons_of(make(name, changes)) if isinstance(part, Lesson) and part.student == "student"]
    assert sum(not part.fresh for part in own) <= 1


@pytest.mark.parametrize("name", list(TABLE))
def test_it_has_both_presets(name):
    cls = catalog.find("method", name).load()
    assert {"paper", "benchmark"} <= set(presets_of(cls))
    for chosen in presets_of(cls):
        assert lessons_of(preset(name, chosen))
