"""``limbeck methods`` and ``limbeck models``: what there is."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from limbeck import catalog
from limbeck.catalog import Entry
from limbeck.cli import say
from limbeck.cli.pages import page_of, section


def print_methods(name: str | None, *, as_json: bool) -> None:
    """All methods and compressors, or one of them with its formula, settings and presets."""
    found = [catalog.find("technique", name)] if name else list(catalog.entries("technique").values())
    if as_json:
        listed = [_details(entry) for entry in found] if name else [_line(entry) for entry in found]
        say.line(json.dumps(listed, indent=2, ensure_ascii=False))
    elif name:
        say.line(_page(found[0]))
    else:
        say.table(("name", "family", "year", "what"), [(e.name, e.family, str(e.year or ""), e.title) for e in found])
        say.line("limbeck methods NAME: formula, paper, settings and presets of one.")


def print_models(*, as_json: bool, classes: int) -> None:
    """The networks of the zoo with their parameters and multiply-accumulates."""
    from limbeck.cli.sizes import sizes

    found = sizes(classes)
    if as_json:
        say.line(json.dumps([line._asdict() for line in found], indent=2, ensure_ascii=False))
        return
    rows = [
        (s.name, "x".join(map(str, s.input_shape)), f"{s.parameters:,}", f"{s.macs / 1e6:,.2f} M", s.title)
        for s in found
    ]
    say.table(("name", "input", "parameters", "MACs", "what"), rows, right=("parameters", "MACs"))
    say.line(f"For {classes} classes.  A recipe may also name wrn_D_W, torchvision:NAME and timm:NAME.")


def _line(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "title": entry.title,
        "paper": entry.paper,
        "year": entry.year,
        "family": entry.family,
        "status": entry.status,
    }


def _details(entry: Entry) -> dict[str, Any]:
    from limbeck.config.docs import body

    page = page_of(entry)
    return {
        **_line(entry),
        "text": body(entry.load()),
        "settings": settings(entry),
        "presets": presets(entry),
        "sources_of_presets": section(page, "Presets"),
        "deviations": section(page, "Deviations"),
    }


def settings(entry: Entry) -> list[dict[str, Any]]:
    """Every setting of a method as a recipe writes it: its name, default, and what it is."""
    from limbeck.config.docs import attributes
    from limbeck.config.dump import to_plain
    from limbeck.config.fields import default_of, fields_of, has_default, key_of

    cls = entry.load()
    docs = attributes(cls)
    return [
        {
            "name": key_of(name, named=True),
            "needed": not has_default(field),
            "default": to_plain(default_of(field)),
            "text": docs.get(name, ""),
        }
        for name, field in fields_of(cls).items()
    ]


def presets(entry: Entry) -> dict[str, Any]:
    """The presets of a method with the settings that each changes, as a recipe writes them."""
    from limbeck.config.dump import to_plain
    from limbeck.config.fields import key_of
    from limbeck.methods.presets import presets_of

    return {
        preset: {key_of(name, named=True): to_plain(value) for name, value in changes.items()}
        for preset, changes in presets_of(entry.load()).items()
    }


def _page(entry: Entry) -> str:
    from limbeck.config.docs import body
    from limbeck.config.dump import flow

    cls = entry.load()
    parts = [f"{entry.name}: {entry.title}  (in Python: {cls.__name__})", entry.paper, body(cls).replace("``", "")]
    lines = ["Settings"]
    for setting in settings(entry):
        shown = "needed" if setting["needed"] else flow(setting["default"])
        lines.append(f"  {setting['name']}: {shown}")
        lines += textwrap.wrap(setting["text"], 100, initial_indent="      ", subsequent_indent="      ")
    parts.append("\n".join(lines))
    found = presets(entry)
    page = page_of(entry)
    if found:
        shown = [f"  {name}: {flow(changes)}" for name, changes in found.items()]
        parts.append("\n".join(["Presets", *shown, *_quoted(section(page, "Presets"))]))
    if said := _quoted(section(page, "Deviations")):
        parts.append("\n".join(["Deviations from the source", *said]))
    parts.append(f"A recipe to start from: limbeck new {entry.name} > recipe.yaml")
    return "\n\n".join(part for part in parts if part)


def _quoted(text: str) -> list[str]:
    """A section of a page, wrapped for the terminal: lists stay lists, and marks of the page's format go."""
    plain = text.replace("`", "").replace("*recalled*", "recalled").replace("**", "")
    items: list[str] = []
    for line in plain.splitlines():
        if line.startswith("- ") or not items:
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    return [
        row for item in items for row in textwrap.wrap(item, 100, initial_indent="      ", subsequent_indent="        ")
    ]
