"""The order of a set of names differs from process to process, so nothing that is said or done may go by it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import limbeck

SOURCE = Path(limbeck.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
MAKES = {"set", "frozenset", "union", "intersection", "difference", "symmetric_difference"}
IN_NO_ORDER = {"sorted", "any", "all", "len", "min", "max", "set", "frozenset", "update"}
IN_ORDER = {
    "list",
    "tuple",
    "dict",
    "fromkeys",
    "join",
    "next",
    "iter",
    "enumerate",
    "zip",
    "map",
    "filter",
    "extend",
    "sum",
}


def called(node):
    """The last name of what is called."""
    if not isinstance(node, ast.Call):
        return None
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)


def is_a_set(node, names, makes):
    if isinstance(node, ast.BinOp):
        either = is_a_set(node.left, names, makes) or is_a_set(node.right, names, makes)
        return isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor) and either
    if isinstance(node, ast.Name | ast.Attribute):
        return (node.id if isinstance(node, ast.Name) else node.attr) in names
    return isinstance(node, ast.Set | ast.SetComp) or called(node) in makes


def says_set(annotation):
    return annotation is not None and ast.unparse(annotation).startswith(("set", "frozenset", "Set[", "AbstractSet"))


def named_sets(tree, makes):
    """The names of a file that hold sets somewhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and says_set(node.annotation):
            names.add(getattr(node.target, "id", getattr(node.target, "attr", None)))
        if isinstance(node, ast.arg) and says_set(node.annotation):
            names.add(node.arg)
        if isinstance(node, ast.Assign) and is_a_set(node.value, names, makes):
            names |= {getattr(t, "id", getattr(t, "attr", None)) for t in node.targets}
    return names - {None}


def walked(tree):
    """What is walked in an order that matters."""
    free = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.SetComp):
            free |= {id(g.iter) for g in node.generators}
        if called(node) in IN_NO_ORDER:
            free |= {
                id(g.iter) for a in node.args if isinstance(a, ast.GeneratorExp | ast.ListComp) for g in a.generators
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension) and id(node.iter) not in free:
            yield node.iter
        if called(node) in IN_ORDER:
            yield from node.args
        if isinstance(node, ast.Starred):
            yield node.value


def by_chance(tree, makes=frozenset(MAKES)):
    names = named_sets(tree, makes)
    return [f"{one.lineno}: {ast.unparse(one)}" for one in walked(tree) if is_a_set(one, names, makes)]


def test_nothing_goes_by_the_order_of_a_set():
    assert len(FILES) > 50
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    functions = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    makes = MAKES | {f.name for f in functions if says_set(f.returns)}
    found = {f"{path.relative_to(SOURCE)}:{where}" for path, tree in trees.items() for where in by_chance(tree, makes)}
    assert found == set()


@pytest.mark.parametrize(
    "text",
    [
        "for name in {'a', 'b'}: print(name)",
        "names = set(given)\nprint(', '.join(names))",
        "names = {n for n in given}\nreasons = {n: 1 for n in names}",
        "def f(names: frozenset[str]): return list(names)",
        "first = next(iter(given.keys() - set(known)))",
        "print(*{1.0, 2.0})",
        "sum({0.1, 0.2, 0.3})",
    ],
)
def test_that_would_be_noticed(text):
    assert by_chance(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "print(sorted({'a', 'b'}))",
        "any(name in known for name in {'a', 'b'})",
        "names = set(given)\nmore = {n + 'x' for n in names}",
        "for name in dict.fromkeys(given): print(name)",
    ],
)
def test_a_set_may_be_asked(text):
    assert not by_chance(ast.parse(text))
