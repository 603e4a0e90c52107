"""The catalogue: what a recipe may name, and the way back."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from limbeck import catalog
from limbeck.errors import NameUnknown
from limbeck.methods import KD, NST


@pytest.fixture
def plug_in(monkeypatch):
    """A method that another package registers."""
    point = EntryPoint("mine", "limbeck.methods.response:KD", "limbeck.methods")
    monkeypatch.setattr(catalog, "entry_points", lambda group: [point] if group == "limbeck.methods" else [])
    catalog._plugins.cache_clear()
    yield
    monkeypatch.undo()
    catalog._plugins.cache_clear()


def test_every_line_says_who_and_when():
    for name, entry in catalog.entries("method").items():
        assert entry.name == name
        assert entry.paper
        assert 1990 < entry.year < 2030
        assert entry.family
        assert entry.title == entry.title.strip(". ")
        assert callable(entry.load())


def test_names_do_not_repeat():
    for kind, lines in (
        ("method", (*catalog.METHODS, *catalog.COURSES)),
        ("source", catalog.SOURCES),
        ("stage", catalog.STAGES),
    ):
        assert len(catalog.entries(kind)) == len(lines)
        assert len({entry.where for entry in lines}) == len(lines)


def test_a_name_that_does_not_exist():
    with pytest.raises(NameUnknown, match=r"no method 'fitnet'; near: fitnets"):
        catalog.find("method", "fitnet")
    with pytest.raises(NameUnknown, match=r"no source 'zzz'; there are: digits, cifar10, parquet, image_folder"):
        catalog.find("source", "zzz")


def test_a_value_knows_its_name():
    assert catalog.name_of(KD()) == "kd"
    assert catalog.name_of(NST(kernel="linear")) == "nst"
    assert catalog.name_of(3) == "int"


def test_plug_ins_are_methods_too(plug_in):
    entry = catalog.find("method", "mine")
    assert entry.load() is KD
    assert (entry.family, entry.status) == ("plug-in", "plug-in")
    assert "mine" in catalog.entries("method")
    assert "mine" not in catalog.entries("source")
    assert catalog.name_of(KD()) == "kd", "our own names come first"
