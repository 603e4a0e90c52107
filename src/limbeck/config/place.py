"""Where in a recipe something is: a path of keys and indices, written as people write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from limbeck.recipe import Path, show_path


class Problem(NamedTuple):
    """One thing that is wrong, and where."""

    path: Path
    text: str


class Places(NamedTuple):
    """Where each path came from: a line of the file, or a ``--set``.

    Attributes:
        file: the name to show for the file.
        lines: the line (from 1) of each path that the file holds.
        sets: the ``--set`` that each overridden path came from.
    """

    file: str
    lines: Mapping[Path, int]
    sets: Mapping[Path, str]

    def at(self, path: Path) -> str:
        """``FILE:LINE`` of the path or of the nearest thing around it, or the ``--set`` that made it."""
        for end in range(len(path), -1, -1):
            around = path[:end]
            if around in self.sets:
                return f"--set {self.sets[around]}"
            if around in self.lines:
                return f"{self.file}:{self.lines[around]}"
            for made, text in self.sets.items():
                if around and made[:end] == around:  # a section that only a --set made
                    return f"--set {text}"
        return self.file

    def line(self, path: Path) -> int:
        """The line of the path or of the nearest thing around it; 0 where there is none."""
        return next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), 0)

    def tell(self, problem: Problem) -> str:
        """The problem as one line: where, which setting, what."""
        name = show_path(problem.path)
        return f"{self.at(problem.path)}: {name}: {problem.text}" if name else f"{self.at(())}: {problem.text}"
