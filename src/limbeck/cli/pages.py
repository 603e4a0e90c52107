"""The pages of methods and compressors, where a command quotes them: beside the package, or in the checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from limbeck.catalog import Entry

_HERE = Path(__file__).resolve()
_PLACES = (_HERE.parents[1] / "pages", _HERE.parents[3] / "docs")  # as installed; in a checkout
_ROOMS = {"method": "methods", "compressor": "compress"}


@cache
def page_of(entry: Entry) -> str:
    """The page, or nothing for a plug-in, which has none."""
    for place in _PLACES:
        path = place / _ROOMS.get(entry.kind, entry.kind) / f"{entry.name}.md"
        if path.exists():
            return path.read_text(encoding="utf-8")
    return ""


def section(page: str, title: str) -> str:
    """What a page says under "Title: ..." or, after a line with the title alone, in the paragraph or list that follows.

    >>> section("Deviations: none.\\n\\nCosts: some.", "Deviations")
    'none.'
    >>> print(section("Deviations\\n\\n- one\\n  more\\n- two\\n\\nThen others.", "Deviations"))
    - one
      more
    - two
    """
    lines = page.splitlines()
    for at, line in enumerate(lines):
        bare = line.lstrip("# ").rstrip()
        if bare == title:
            rest = lines[at + 1 :]
            while rest and not rest[0].strip():
                rest = rest[1:]
            return "\n".join(_block(rest))
        if line.startswith(f"{title}: "):
            return "\n".join([line.removeprefix(f"{title}: "), *_block(lines[at + 1 :])])
    return ""


def _block(lines: list[str]) -> list[str]:
    """Up to the first empty line."""
    empty = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    return lines[:empty]
