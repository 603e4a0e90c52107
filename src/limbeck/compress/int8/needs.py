"""What quantization needs installed, and quiet around it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from limbeck.errors import LimbeckError

_LEAST = {"torch": (2, 14), "torchao": (0, 18)}


def require_installed() -> None:
    """Check that torch and torchao are there and new enough; torchao is imported here for the first time.

    Raises:
        LimbeckError: one of them is missing or too old; the message says what is needed.
    """
    for name, least in _LEAST.items():
        wanted = ".".join(map(str, least))
        try:
            found = version(name)
        except PackageNotFoundError as error:
            raise LimbeckError(
                f"int8 needs {name} {wanted} or newer, which is not installed: pip install '{name}>={wanted}'"
            ) from error
        if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < least:
            raise LimbeckError(
                f"int8 needs {name} {wanted} or newer; {found} is installed: pip install -U '{name}>={wanted}'"
            )
    log = logging.getLogger("torch.utils._pytree")
    before = log.level
    try:
        log.setLevel(logging.ERROR)  # torchao registers something there in a way that torch says it will forbid
        with quiet():
            import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
    except ImportError as error:
        raise LimbeckError(f"torchao is installed but cannot be imported: {error}") from error
    finally:
        log.setLevel(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of torch about torch are nothing that a caller could mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
