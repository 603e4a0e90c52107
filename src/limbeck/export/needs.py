"""What an export needs that limbeck itself does not."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from limbeck.errors import LimbeckError


def need(to: str, extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        LimbeckError: some are not; the message has what to type.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise LimbeckError(
            f"{to} needs {', '.join(packages)}, and {', '.join(missing)} {verb} not installed; "
            f"try: pip install 'limbeck[{extra}]'"
        )


def need_compiler() -> str:
    """The C++ compiler that torch would use.

    Raises:
        LimbeckError: there is none.
    """
    named = os.environ.get("CXX")
    tried = [named] if named else ["g++", "clang++"]
    for name in tried:
        if found := shutil.which(name):
            return found
    raise LimbeckError(
        f"aot compiles the network with a C++ compiler, and there is none here (tried {', '.join(tried)}); "
        "install g++, set CXX to a compiler, or take --to torch, which needs none"
    )


@contextmanager
def quiet_others(*loggers: str) -> Iterator[None]:
    """Warnings of other packages about their own code are nothing that a user of limbeck could mend.

    Args:
        loggers: names of those of whom only errors are heard; "" is the root, to which some packages speak.
    """
    heard = [(logger, logger.level) for logger in map(logging.getLogger, loggers)]
    for logger, _ in heard:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        for logger, level in heard:
            logger.setLevel(level)


def cause_of(error: BaseException) -> str:
    """What torch or another package says in the end, on one line: the first of the error that all others came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
