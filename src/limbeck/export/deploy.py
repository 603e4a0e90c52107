"""``deploy.json``: everything that is needed to use an exported network without limbeck.  No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.record import sha256

FORMAT = 1
NAME = "deploy.json"
_NEEDED = ("to", "file", "files", "inputs", "output")


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported network."""
    return (folder / NAME).is_file()


def sealed(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder but ``deploy.json``, by its name seen from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
    }


def write_deploy(folder: Path, told: Mapping[str, Any]) -> None:
    """Write ``deploy.json``."""
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def read_deploy(folder: Path) -> dict[str, Any]:
    """What ``deploy.json`` says, after a look at whether the files beside it are those that it speaks of.

    Raises:
        LimbeckError: there is none, it is of another format, or a file is missing or was changed.
    """
    path = folder / NAME
    if not path.is_file():
        raise LimbeckError(
            f"{folder} is no exported network: it has no {NAME}; 'limbeck export RUN --to onnx' makes one"
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LimbeckError(f"{path} cannot be read: {error}; export the network again") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        found = told.get("format") if isinstance(told, dict) else None
        raise LimbeckError(f"{path} has format {found!r}; this limbeck reads format {FORMAT}")
    missing = [key for key in _NEEDED if key not in told]
    if missing:
        raise LimbeckError(f"{path} says nothing of {', '.join(missing)}; export the network again")
    for name, seal in told["files"].items():
        file = folder / name
        if not file.is_file():
            raise LimbeckError(f"{path} speaks of {name}, which is not beside it; copy the folder as a whole")
        if sha256(file) != seal["sha256"]:
            raise LimbeckError(f"{file} is not the file that {NAME} speaks of (its SHA-256 differs); export it again")
    return told
