"""What imports what: no torch where a blink is promised, and every name where it is said to be."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import limbeck
from limbeck import catalog

SOURCE = Path(limbeck.__file__).parent
METHOD_FILES = sorted(f"limbeck.methods.{path.stem}" for path in (SOURCE / "methods").glob("[a-z]*.py"))
LIGHT = [
    "limbeck",
    "limbeck.catalog",
    "limbeck.cli",
    "limbeck.cli.app",
    "limbeck.config",
    "limbeck.data",
    "limbeck.data.spec",
    "limbeck.errors",
    "limbeck.losses",
    "limbeck.methods",
    "limbeck.models",
    "limbeck.phase",
    "limbeck.quickstart",
    "limbeck.recipe",
    "limbeck.record",
    "limbeck.report",
    "limbeck.report.compare",
    "limbeck.report.page",
    "limbeck.scores",
    "limbeck.settings",
    "limbeck.starters",
    "limbeck.stats",
    *METHOD_FILES,
]


def python(code, *words):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_these_modules_import_without_torch():
    # In one process, since each would pay for starting Python; the first that brings torch in is named.
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} imports torch'\n"
    )
    python(code, *LIGHT)


def test_that_would_notice_torch():
    with pytest.raises(AssertionError, match=r"limbeck\.taps imports torch"):
        python(
            "import sys, limbeck.taps; assert 'torch' not in sys.modules, 'limbeck.taps imports torch'",
        )


def test_making_every_method_needs_no_torch():
    code = (
        "import sys\n"
        "from limbeck import catalog, preset\n"
        "made = [preset(entry.name, 'paper') for entry in (*catalog.METHODS, *catalog.COURSES)]\n"
        "assert 'torch' not in sys.modules\n"
        "print(len(made))\n"
    )
    assert int(python(code)) == len(catalog.METHODS) + len(catalog.COURSES)


def test_every_public_name_is_there_and_where_it_says():
    for name in limbeck.__all__:
        assert getattr(limbeck, name) is not None, name
    assert dir(limbeck) == sorted(limbeck.__all__)
    assert set(limbeck.__all__) == {*limbeck._HOME, *limbeck._ROOMS, "__version__"}
    with pytest.raises(AttributeError, match="module 'limbeck' has no attribute 'distil'"):
        limbeck.distil  # noqa: B018


def test_the_function_run_is_not_hidden_by_its_module():
    code = "import limbeck, limbeck.api, limbeck.cli.app, limbeck.quickstart; limbeck.distill; limbeck.run.__call__"
    python(code + "; import limbeck.runner; assert callable(limbeck.run)")


@pytest.mark.parametrize(
    "entry", [*catalog.METHODS, *catalog.COURSES, *catalog.SOURCES, *catalog.STAGES], ids=lambda entry: entry.name
)
def test_every_line_of_the_catalogue_loads(entry):
    loaded = entry.load()
    made = limbeck.preset(loaded, "paper") if entry.kind == "method" else loaded(**needed(loaded))
    assert catalog.name_of(made) == entry.name


def needed(cls):
    """A value for every field without a default."""
    wanted = [f for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return {f.name: ("x", "y") if f.type == "tuple[str, ...]" else "x" for f in wanted}


@pytest.mark.parametrize("room", ["losses", "methods", "models", "scores"])
def test_the_lazy_rooms_say_all_they_have(room):
    module = importlib.import_module(f"limbeck.{room}")
    for name in module.__all__:
        assert getattr(module, name) is not None, name


def test_asking_for_a_name_leaves_the_random_numbers():
    """Some package draws a number while it is imported; a caller who seeded before must not notice."""
    code = "import random, limbeck; random.seed(1); before = random.getstate(); limbeck.distill, limbeck.run"
    python(code + "; assert random.getstate() == before")
