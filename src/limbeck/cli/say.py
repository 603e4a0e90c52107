"""What the command line prints, and where to: results to stdout, everything else to stderr."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A console that leaves text as it is: no markup is read out of it, no line is broken."""
    from rich.console import Console

    _take_any_name()
    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def wide() -> Console:
    """A console for tables: as wide as the terminal, or wide enough for a table where there is none."""
    from rich.console import Console

    _take_any_name()
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)


def _take_any_name() -> None:
    """Names of files may be no text: what cannot be written stands as a question mark, as stderr does in its own way."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def problems(lines: Sequence[str]) -> None:
    """Print the problems of a recipe to stderr, a line each, and how many there are if there are several."""
    out = console(stderr=True)
    for text in lines:
        out.print(text)
    if len(lines) > 1:
        out.print(f"{len(lines)} problems", style="bold red")


def error(text: str) -> None:
    """Print what went wrong to stderr."""
    from rich.text import Text

    console(stderr=True).print(Text.assemble(("error: ", "bold red"), text))


def line(text: str) -> None:
    """Print one line, or some, to stdout."""
    console().print(text)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """Print a plain table to stdout; the columns named in ``right`` are flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    flush = set(right)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for head in heads:
        made.add_column(head, justify="right" if head in flush else "left", overflow="fold", no_wrap=head == heads[0])
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    wide().print(made)
