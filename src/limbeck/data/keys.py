"""Random numbers without state: a number is a hash of what it is for.

A generator's numbers depend on how many were drawn before; these depend on their key alone, so the
same row gets the same view in any batch, order, process or device.  The hash is the output function
of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014,
figure 16), in wrapping 64-bit integer arithmetic, which is exact on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the bits of this 64-bit number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Hash int64 to int64, one to one: SplitMix64's next output after state ``x``."""
    x = x + _GAMMA
    x = (x ^ _right(x, 30)) * _FIRST
    x = (x ^ _right(x, 27)) * _SECOND
    return x ^ _right(x, 31)


def key(seed: int, *parts: Tensor) -> Tensor:
    """One int64 key per sample from a seed and any number of int64 tensors of one shape."""
    state = mix(torch.full_like(parts[0], _signed(seed), dtype=torch.int64))
    for part in parts:
        state = mix(state ^ part.to(torch.int64))
    return state


def integers(keys: Tensor, what: int, count: int) -> Tensor:
    """Uniform whole numbers in ``0..count - 1``, one per key; ``what`` tells apart several draws of one key."""
    return (_right(mix(keys ^ mix(torch.full_like(keys, what))), 32) * count) >> 32


def permutation(count: int, seed: int) -> Tensor:
    """A random order of ``0..count - 1``: the positions sorted by their hash."""
    return torch.argsort(key(seed, torch.arange(count)), stable=True)
