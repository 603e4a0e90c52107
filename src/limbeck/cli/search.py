"""``limbeck search``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from limbeck.cli import say


def print_search(
    file: str,
    *,
    out: Path | None,
    trials: int | None,
    sets: Sequence[str],
    only_check: bool,
    quiet: bool,
    as_json: bool,
    command: str,
) -> None:
    """Search, and print the trials and the best of them; or only say what is wrong with the file."""
    from limbeck.errors import RecipeError

    if out is None and not only_check:
        raise RecipeError("where to? A search needs a folder: --out FOLDER")
    from limbeck.search.whole import prepare, search

    if out is None or only_check:
        parsed, wanted = prepare(file, trials=trials, sets=sets)
        say.line(f"{parsed.places.file}: fine ({wanted.trials} trials over {', '.join(wanted.space)})")
        return
    silent = quiet or as_json
    found = search(file, out=out, trials=trials, sets=sets, say=None if silent else say.line, command=command)
    if as_json:
        say.line(json.dumps({"folder": str(found.folder), **found.plain()}, indent=2, ensure_ascii=False))
    elif not quiet:
        from limbeck.report.tables import render_text
        from limbeck.search.page import table

        say.wide().print(render_text(table(found.search, found.trials), notes=False))
        say.line(found.text)
        say.line(f"page: {found.page}")
