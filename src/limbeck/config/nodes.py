"""YAML text -> plain data, with the line of everything in it.

The text is read by the rules of YAML 1.2's core schema: ``no``, ``on`` and ``12:30`` are text, ``1e-3``
and ``.5`` are numbers.  PyYAML builds the node graph; turning nodes into data is done here, so that no
tag can name a Python object, a key given twice is noticed, and a file cannot unfold into something huge.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from limbeck.config.place import Path, Problem

MOST_CHARACTERS = 200_000
MOST_VALUES = 50_000
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"
# YAML 1.2.2, section 10.3.2, with the first characters that a match can have.
CORE = (
    (_TAG + "null", re.compile(r"(?:null|Null|NULL|~|)\Z"), ["~", "n", "N", ""]),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    (_TAG + "int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")),
    (
        _TAG + "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        list("-+0123456789."),
    ),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, scanner and composer, with the core schema's resolver."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own name; none inherited)


for _tag, _pattern, _first in CORE:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


class Unreadable(Exception):
    """The text is not YAML, or not YAML that limbeck reads.  ``line`` counts from 1; 0: the whole file."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


def read_nodes(text: str) -> tuple[Any, dict[Path, int], list[Problem]]:
    """Plain data, the line of every path in it, and what is wrong with single values.

    Raises:
        Unreadable: there is no data to go on with.

    >>> read_nodes("a: no\\nb: [1e-3, .5]")
    ({'a': 'no', 'b': [0.001, 0.5]}, {(): 1, ('a',): 1, ('b',): 2, ('b', 0): 2, ('b', 1): 2}, [])
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"{len(text):,} characters; a recipe has at most {MOST_CHARACTERS:,}")
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; YAML indents with spaces, never with tabs" if r"'\t'" in str(error.problem) else ""
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(f"not YAML: {reason}{hint}", mark.line + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise Unreadable(f"not YAML: a control character (number {error.character!r})", line) from None
    except RecursionError:
        raise Unreadable("nested too deeply to be a recipe") from None
    except yaml.YAMLError as error:
        raise Unreadable(f"not YAML: {error}") from None
    if node is None:
        raise Unreadable("is empty; a recipe is a mapping with the keys models and stages")
    lines: dict[Path, int] = {}
    found: list[Problem] = []
    value = _Unfold(lines, found).value(node, (), ())
    return value, lines, found


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Unfold:
    """Turns nodes into data, counting what it makes: an alias is cheap to write and may be dear to unfold."""

    def __init__(self, lines: dict[Path, int], found: list[Problem]) -> None:
        self.lines = lines
        self.found = found
        self.made = 0

    def value(self, node: yaml.Node, path: Path, around: tuple[int, ...]) -> Any:
        self.made += 1
        line = node.start_mark.line + 1
        if self.made > MOST_VALUES:
            raise Unreadable(
                f"unfolds into more than {MOST_VALUES:,} values; are there aliases (*name) of aliases?", line
            )
        if id(node) in around:
            raise Unreadable("an anchor (&name) that contains itself", line)
        if len(around) > DEEPEST:
            raise Unreadable("nested too deeply to be a recipe", line)
        self.lines.setdefault(path, line)
        around = (*around, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, path, around)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(child, (*path, i), around) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.found.append(Problem(path, _refusal(node.tag)))
        return None

    def mapping(self, node: yaml.MappingNode, path: Path, around: tuple[int, ...]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            is_scalar = isinstance(key_node, yaml.ScalarNode)
            key = self.scalar(key_node, path) if is_scalar else None
            here = (*path, str(key_node.value) if is_scalar else "?")
            if not isinstance(key, str):
                self.lines[here] = line
                self.found.append(Problem(here, "this key is not text; put it in quotes"))
                continue
            if key == "<<" and key_node.style is None:
                self.lines[here] = line
                self.found.append(Problem(here, "merge keys are not read; write the settings out"))
                continue
            if key in made:
                first = self.lines[here]
                self.lines[here] = line
                self.found.append(Problem(here, f"this key is given twice, first in line {first}"))
                continue
            self.lines[here] = line  # the key's line, also where its value begins lower
            made[key] = self.value(child, here, around)
        return made

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
            if kind == "float":
                return _float(text)
        except (ValueError, KeyError):
            shown = text if len(text) <= 30 else text[:30] + "..."
            self.found.append(Problem(path, f"{shown!r} cannot be read as {kind}"))
            return None
        self.found.append(Problem(path, _refusal(node.tag)))
        return None


def _float(text: str) -> float:
    word = text.lower().lstrip("+-")
    return (
        float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if word in (".inf", ".nan") else float(text)
    )


def _refusal(tag: str) -> str:
    short = tag.replace(_TAG, "!!")
    return f"the tag {short} is not read: a recipe is plain data (text, numbers, true, false, null, lists, mappings)"


__all__ = ["CORE", "Unreadable", "read_nodes"]
