"""torch's attention as the operations that it consists of, for whoever looks at a network operation by operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fast path of torch's transformer layers, a single operation in which no layer can be seen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def slow_attention() -> Iterator[None]:
    """Without fused kernels, too: as matrix products that can be followed and counted."""
    with plain_attention(), sdpa_kernel(SDPBackend.MATH):
        yield
