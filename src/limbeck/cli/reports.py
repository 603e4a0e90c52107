"""``limbeck report`` and ``limbeck compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def print_report(folder: Path, *, open_page: bool) -> None:
    """Print a run's results, write its page, and maybe show it."""
    from limbeck.cli import say
    from limbeck.report.page import write_report
    from limbeck.report.read import read_run
    from limbeck.report.tables import render_text, results
    from limbeck.report.verdict import verdict

    out = say.wide()
    run = read_run(folder)
    out.print(render_text(results(run), width=out.width))
    say.line(verdict(run).text)
    page = write_report(folder)
    say.line(f"report: {page}")
    if open_page:
        import webbrowser

        if not webbrowser.open(Path(page).resolve().as_uri()):
            say.error(f"no browser was found; open {page} yourself")


def print_comparison(folders: Sequence[Path], page: Path | None) -> None:
    """Print several runs side by side, and maybe write the page."""
    from limbeck.cli import say
    from limbeck.report.compare import compare, write_compare
    from limbeck.report.page import require_no_folder
    from limbeck.report.tables import render_text

    if page is not None:
        require_no_folder(page)
    out = say.wide()
    out.print(render_text(compare(folders), width=out.width))
    if page is not None:
        write_compare(folders, page)
        say.line(f"page: {page}")
