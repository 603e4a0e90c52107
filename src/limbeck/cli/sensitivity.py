"""``limbeck sensitivity``: which layers of a network of a run bear pruning, and which suffer from int8."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from limbeck.cli import say
from limbeck.errors import Interrupted


def print_sensitivity(
    run: Path,
    *,
    model: str | None,
    seed: int | None,
    to: str,
    by: str | None,
    parts: Sequence[float],
    quantized: str | None,
    rows: int,
    out: Path | None,
    quiet: bool,
    as_json: bool,
    command: str,
) -> None:
    """Scan, print a table and what to do next, and write the page."""
    from limbeck.engine.progress import counting
    from limbeck.export.scan_page import advice, default_page, recipe_line, require_place, settings, table, write_scan
    from limbeck.export.scanning import scan_run

    if out is not None:
        require_place(out)
    try:
        with counting(say.console(stderr=True), "measuring", quiet or as_json) as progress:
            told = scan_run(
                run, model=model, seed=seed, to=to, by=by, parts=parts, quantized=quantized, rows=rows, progress=progress
            )  # fmt: skip
        page = write_scan(told, run, out or default_page(run, told), command)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written, and the same command starts from the beginning") from None
    if as_json:
        advised = {"advice": advice(told), "settings": settings(told), "page": str(page)}
        say.line(json.dumps({**asdict(told), **advised}, indent=2, ensure_ascii=False))
    elif not quiet:
        from limbeck.report.tables import render_text

        shown = table(told)
        say.line(shown.caption)
        say.wide().print(render_text(replace(shown, caption=""), notes=False))
        say.line("\n".join([*shown.notes, advice(told), f"in a recipe:  {recipe_line(told)}", f"page: {page}"]))
