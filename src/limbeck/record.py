"""The record of a run: what was done, by which versions, on which machine, and what came out.

A run folder holds ``recipe.yaml``, ``run.json``, ``exhibits.json``, ``report.html`` and, per stage and
seed, ``stages/STAGE/seed-N/`` with ``steps.jsonl``, ``last.safetensors``, ``best.safetensors`` and
``result.json``.  Every file is written beside its place and renamed.  No torch here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from limbeck.errors import RunFolderError

FORMAT = 1
_MADE_OF = "made_of.json"


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Of limbeck, of Python, and of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in ("limbeck", "torch", "torchvision", "lightning-fabric", "numpy", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the checkout that limbeck runs from, "+" if it was changed since; None if there is none."""
    here = Path(__file__).parent
    try:
        told = [
            subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=5, check=True
            ).stdout
            for args in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0].strip() + ("+" if told[1].strip() else "")


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, force it to the disk, rename it.

    Raises:
        RunFolderError: the disk is full, the folder read-only, or the like; the old file is as before.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise RunFolderError(
            f"cannot write {path}: {error.strerror or error}. What was there before is unchanged; "
            "make room or choose another --out, and start the same command again to go on"
        ) from error


def write_json(path: Path, data: Any) -> None:
    """As `write_text`, for plain data."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What the file holds; None where there is none.

    Raises:
        RunFolderError: it cannot be read, or holds no JSON object.
    """
    # What a run writes at its end, and what a stage leaves, it writes again where it is gone.
    again = "; remove it, and the same command writes it again" if path.name in ("run.json", "result.json") else ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}{again}") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} holds a {type(found).__name__}, not a record{again}")
    return found


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replaced(folder: Path, now: Mapping[str, str]) -> list[str]:
    """Names of networks that are others by now than those that what lies in this folder was made of."""
    then = read_json(folder / _MADE_OF) or {}
    return [name for name, found in now.items() if then.get(name, found) != found]


def keep_origins(folder: Path, now: Mapping[str, str]) -> None:
    """Write down of which networks what lies in this folder is made: by name, a print of their weights."""
    then = read_json(folder / _MADE_OF) or {}
    if (both := {**then, **now}) != then:
        write_json(folder / _MADE_OF, both)


def require_writable(folder: Path, setting: str = "--out") -> None:
    """Make the folder, and refuse one in which nothing can be written.

    Raises:
        RunFolderError: that is so; the message names the setting to change.
    """
    why = "no permission"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except OSError as error:
        why = error.strerror or str(error)
    raise _no_place(folder, why, setting)


def _no_place(folder: Path, why: str, setting: str = "--out") -> RunFolderError:
    return RunFolderError(f"cannot write in {folder}: {why}; choose another folder with {setting}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder.

    Raises:
        RunFolderError: one does already, or the folder cannot be made.
    """
    require_writable(folder)
    try:
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise _no_place(folder, error.strerror or str(error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"another process is running in {folder}; wait for it, or choose another --out"
            ) from error
        yield


def difference(old: Mapping[str, Any], new: Mapping[str, Any], place: str = "") -> list[str]:
    """Where two recipes differ, a line each: ``stages.1.method.temperature: 4 -> 8``."""
    lines: list[str] = []
    keys = list(dict.fromkeys([*old, *new]))
    for key in keys:
        here = f"{place}.{key}" if place else str(key)
        a, b = old.get(key, "(not there)"), new.get(key, "(not there)")
        if isinstance(a, list) and isinstance(b, list):
            a, b = dict(enumerate(a)), dict(enumerate(b))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, here)
        elif a != b:
            lines.append(f"{here}: {json.dumps(a)} -> {json.dumps(b)}")
    return lines
