"""The global random numbers: seeded for one place in a run, and given back to the caller."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Give the caller back its global random state afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_everything(seed: int) -> None:
    """Seed torch, Python and NumPy: users' data sets draw from any of them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def base_seed(seed: int | None) -> int:
    """The seed that was given, or the one that torch was given, as a run does for every stage and repetition.

    Looking at it draws nothing.

    >>> base_seed(3)
    3
    """
    return torch.initial_seed() if seed is None else seed
