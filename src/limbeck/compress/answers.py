"""What a network answers, as tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensors(output: Any) -> list[Tensor]:
    """Every tensor in what a model returned: in tuples, lists and mappings, and in the attributes of objects.

    >>> import torch
    >>> [list(t.shape) for t in tensors({"logits": torch.zeros(2, 10), "aux": (torch.zeros(2), None)})]
    [[2, 10], [2]]
    """
    leaves = tree_leaves(output)
    leaves += [
        part for leaf in leaves if not isinstance(leaf, Tensor) for part in getattr(leaf, "__dict__", {}).values()
    ]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
