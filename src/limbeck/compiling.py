"""Compiling many networks in one process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def without_limit() -> AbstractContextManager[Any]:
    """A region in which torch compiles as often as it is asked to.

    Networks of one class share the code of their forward, and torch compiles one code eight times: the ninth network, of
    a chain of pruned ones or of the rounds of a lottery ticket, would quietly run uncompiled.

    >>> with without_limit():
    ...     pass
    """
    import torch._dynamo.config as config

    return config.patch(recompile_limit=1024, accumulated_recompile_limit=8192)
