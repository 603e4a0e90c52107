"""``--fresh``: forget the run in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from limbeck import record

# What a run writes, and nothing else: a folder that holds other things as well keeps those.
_FILES = ("recipe.yaml", "run.json", "exhibits.json", "report.html")


def clear(folder: Path) -> None:
    """Remove what a run has written in this folder; nothing if there is no run in it.

    Raises:
        RunFolderError: a process is running there.
    """
    if not (folder / "recipe.yaml").exists():
        return
    with record.locked(folder):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        for page in folder.glob("sensitivity-*.html"):  # `limbeck sensitivity` looked at networks that go now
            page.unlink()
        shutil.rmtree(folder / "stages", ignore_errors=True)
