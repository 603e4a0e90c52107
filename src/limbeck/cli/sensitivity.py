"""``limbeck sensitivity``: which layers of a network of a run bear pruning, and which suffer from int8."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from limbeck.cli import say
from limbeck.errors import Interrupted

_LINE_EVERY = 20.0  # seconds between lines where there is no terminal for a bar


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
    from limbeck.export.scan_page import advice, default_page, recipe_line, require_place, settings, table, write_scan
    from limbeck.export.scanning import scan_run

    if out is not None:
        require_place(out)
    try:
        with _bar(shown=not (quiet or as_json)) as progress:
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


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; a line now and then where that is no terminal."""
    console = say.console(stderr=True)
    if not shown:
        yield lambda done, total: None
        return
    if not console.is_terminal:
        yield _lines()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("opening", total=None)
        yield lambda done, total: bar.update(task, description="measuring", completed=done, total=total)


def _lines() -> Callable[[int, int], None]:
    begun = said = time.perf_counter()

    def tell(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if done == 0 or (now - said > _LINE_EVERY and done < total):
            said = now
            left = f", {(now - begun) / done * (total - done):.0f} s left" if done else ""
            say.console(stderr=True).print(f"measured {done} of {total}{left}")

    return tell
