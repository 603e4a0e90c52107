"""Labels: one number for each channel of each layer; which of them are one, and which must stay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.compress.pruning.groups import Side

Key = tuple[str, Side, int]  # path of a module or parameter, side, dimension


class Ledger:
    """Labels, which of them are one, and which must stay.  Label 0 is "no channel"."""

    def __init__(self) -> None:
        self.slots: dict[Key, tuple[int, int]] = {}  # in the order in which the network runs
        self.reasons: dict[int, str] = {}
        self.evenly: list[tuple[Tensor, int, bool]] = []
        self._parent = np.zeros(1, dtype=np.int64)

    def slot(self, key: Key, size: int) -> Tensor:
        """The labels of one side of a module, ``[size]``; made at the first call."""
        if key not in self.slots:
            start = len(self._parent)
            self.slots[key] = (start, size)
            self._parent = np.concatenate([self._parent, np.arange(start, start + size)])
        start, size = self.slots[key]
        return torch.arange(start, start + size)

    def roots(self, labels: Tensor) -> Tensor:
        """The labels that stand for these: equal where channels go together."""
        return torch.from_numpy(self._parent[labels.numpy()])

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Make labels one, place by place; a channel beside none must stay."""
        pairs = torch.stack([self.roots(one).flatten(), self.roots(other).flatten()])
        pairs = torch.unique(pairs[:, pairs[0] != pairs[1]], dim=1)
        alone = (pairs == 0).any(0)
        if alone.any():
            self.fix(pairs[:, alone].amax(0), "it is combined with values that belong to no channel")
        a, b = pairs[:, ~alone].numpy()
        while len(a):
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self._parent, high, low)
            while not np.array_equal(nearer := self._parent[self._parent], self._parent):
                self._parent = nearer
            a, b = self._parent[a], self._parent[b]
            differ = a != b
            a, b = a[differ], b[differ]

    def fix(self, labels: Tensor, why: str) -> None:
        """Say that these channels must stay."""
        for label in torch.unique(labels).tolist():
            if label:
                self.reasons.setdefault(label, why)

    def fixed(self) -> dict[int, str]:
        """Root -> why it must stay."""
        found: dict[int, str] = {}
        for label, why in self.reasons.items():
            found.setdefault(int(self._parent[label]), why)
        return found

    def settle(self) -> None:
        """See to it that equally many channels leave each block where a network counts on equal blocks."""
        changed = True
        while changed:
            changed = False
            for rule in self.evenly:
                changed = self._even(*rule) or changed

    def _even(self, labels: Tensor, blocks: int, rows_may_go: bool) -> bool:
        fixed = self.fixed()
        table = self.roots(labels).view(blocks, -1).numpy()
        free = [root for root in dict.fromkeys(table.flatten().tolist()) if root and root not in fixed]
        counts = {root: (table == root).sum(1) for root in free}
        if rows_may_go and all(np.isin(c, (0, table.shape[1])).all() for c in counts.values()):
            return False
        lists: dict[int, list[list[int]]] = {}
        changed = False
        for root, count in counts.items():
            inside = np.flatnonzero(count)
            if len(inside) == blocks and (count == count[0]).all():
                continue
            changed = True
            if len(inside) == 1:
                lists.setdefault(int(count[inside[0]]), [[] for _ in range(blocks)])[inside[0]].append(root)
            else:
                self.fix(torch.tensor([root]), "it lies across blocks that must stay equally wide")
        for by_block in lists.values():
            most = min(map(len, by_block))
            for partners in zip(*by_block):
                self.unite(torch.tensor(partners[:1] * (blocks - 1)), torch.tensor(partners[1:]))
            for rest in (root for block in by_block for root in block[most:]):
                self.fix(torch.tensor([rest]), "it has no partner in blocks that must stay equally wide")
        return changed
