"""Composition, never inheritance of our own classes: read from the source, imports followed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import limbeck

SOURCE = Path(limbeck.__file__).parent
ALLOWED = {"limbeck.errors"}  # where each kind of error is a LimbeckError


def module_of(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("limbeck", *(p for p in parts if p != "__init__")))


def inherited(path, text):
    """(class, base) for every class of the file whose base is a class of this package."""
    tree = ast.parse(text)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    ours = set(own)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "limbeck"):
            ours |= {name.asname or name.name for name in node.names}
        if isinstance(node, ast.Import):
            ours |= {(n.asname or n.name).split(".")[0] for n in node.names if n.name.split(".")[0] == "limbeck"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                inner = base.value if isinstance(base, ast.Subscript) else base
                while isinstance(inner, ast.Attribute):
                    inner = inner.value
                if isinstance(inner, ast.Name) and inner.id in ours:
                    yield node.name, ast.unparse(base)


FILES = sorted(SOURCE.rglob("*.py"))


def test_no_class_of_ours_inherits_from_another():
    assert len(FILES) > 50
    found = {
        f"{module_of(path)}: {name}({base})"
        for path in FILES
        if module_of(path) not in ALLOWED
        for name, base in inherited(path, path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "text",
    [
        "class A: pass\nclass B(A): pass",
        "from limbeck.phase import Phase\nclass B(Phase): pass",
        "from limbeck import phase as p\nclass B(p.Phase): pass",
        "from ..phase import Phase as P\nclass B(P): pass",
        "import limbeck.phase\nclass B(limbeck.phase.Phase): pass",
        "class A: pass\ndef f():\n    class B(A): pass",
        "class A: pass\nclass B(A[int]): pass",
    ],
)
def test_that_would_be_noticed(text):
    assert [name for name, _ in inherited(SOURCE / "x.py", text)] == ["B"]


@pytest.mark.parametrize(
    "text",
    [
        "from torch import nn\nclass B(nn.Module): pass",
        "from typing import NamedTuple, Protocol\nclass A(Protocol): pass\nclass B(NamedTuple): pass",
        "class A(ValueError): pass",
    ],
)
def test_what_others_wrote_may_be_inherited(text):
    assert list(inherited(SOURCE / "x.py", text)) == []


def test_every_file_says_what_it_is_and_keeps_annotations_lazy():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        heavy = any(not isinstance(node, (ast.Expr, ast.ImportFrom, ast.Import, ast.Assign)) for node in tree.body)
        lazy = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
        assert lazy or not heavy, f"{path}: from __future__ import annotations"
