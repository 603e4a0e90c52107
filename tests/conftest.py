"""What all tests share: one thread, where the data is, and shapes that are checked."""

from __future__ import annotations

import os
from pathlib import Path

import jaxtyping
import pytest

# The shapes in the signatures of the losses are checked whenever one is called.  This comes before
# anything imports them.
jaxtyping.install_import_hook("limbeck.losses", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)  # small networks are slower on several, and the last bits depend on the number

_data = Path(__file__).resolve().parents[2] / "shared" / "data"
if _data.is_dir():
    os.environ.setdefault("LIMBECK_DATA", str(_data))


def _skipped_where_int8_cannot_be():
    """Int8 needs a newer torch than everything else does; on an older one that is no failure, and says so."""
    from limbeck.errors import LimbeckError

    try:
        return (yield)
    except (LimbeckError, AssertionError) as error:  # the second where another message was expected
        if "int8 needs torch" in str(error):
            pytest.skip("int8 needs a newer torch")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from _skipped_where_int8_cannot_be())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _skipped_where_int8_cannot_be())
