"""Agreement with what the published benchmark computes for relations, worked out again pair by pair in NumPy."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from limbeck import losses


def distances(s, t):
    """Pairwise distances over their positive mean; a smooth L1 mean that counts the diagonal."""

    def table(x):
        d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
        return d / d[d > 0].mean()

    return huber(table(s) - table(t)).mean()


def huber(x):
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def angles(s, t):
    """Cosines at each sample between the unit directions to two others, itself included as a zero direction."""

    def unit(v):
        return v / max(np.sqrt((v**2).sum()), 1e-12)

    def table(x):
        n = range(len(x))
        return np.array([unit(x[j] - x[i]) @ unit(x[j] - x[k]) for j, i, k in product(n, n, n)])

    return huber(table(s) - table(t)).mean()


def preserving(s, t):
    def table(x):
        products = np.array([[a @ b for b in x] for a in x])
        return np.array([row / np.sqrt((row**2).sum()) for row in products])

    return ((table(s) - table(t)) ** 2).sum() / len(s) ** 2


def neighbours(s, t):
    def table(x):
        rows = [row / (np.sqrt((row**2).sum()) + 1e-7) for row in x]
        kernel = np.array([[(a @ b + 1) / 2 for b in rows] for a in rows])
        return np.array([row / row.sum() for row in kernel])

    q, p = table(s), table(t)
    return (p * (np.log(p + 1e-7) - np.log(q + 1e-7))).mean()


def neighbours_of_the_paper(s, t):
    def table(x, i, j):
        kernel = [(x[i] @ other / np.linalg.norm(x[i]) / np.linalg.norm(other) + 1) / 2 for other in x]
        return kernel[j] / (sum(kernel) - kernel[i])

    n = range(len(s))
    pairs = [(table(t, i, j), table(s, i, j)) for i, j in product(n, n) if i != j]
    return sum(p * np.log(p / q) for p, q in pairs) / len(s)


def consecutive(s, t):
    return np.mean([(np.abs(s[i] - t[i]) * np.abs(s[i + 1] - t[i + 1])).sum() for i in range(len(s) - 1)])


def kernels(s, t):
    """Gamma 0.4, up to the square."""

    def table(x):
        rows = [row / np.linalg.norm(row) for row in x]
        c = np.array([[a @ b for b in rows] for a in rows])
        return np.exp(-0.8) * (1 + 0.8 * c + 0.32 * c**2)

    return ((table(s) - table(t)) ** 2).mean()


TABLE = {
    "rkd_distance": (distances, losses.rkd_distance),
    "rkd_angle": (angles, losses.rkd_angle),
    "similarity": (preserving, losses.similarity),
    "pkt-benchmark": (neighbours, partial(losses.pkt, form="benchmark")),
    "pkt-paper": (neighbours_of_the_paper, losses.pkt),
    "correlation-benchmark": (consecutive, partial(losses.correlation, form="benchmark")),
    "correlation-paper": (kernels, losses.correlation),
}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("batch", "width_s", "width_t"), [(5, 7, 7), (8, 16, 16), (6, 3, 11)])
@pytest.mark.parametrize("name", TABLE)
def test_the_number_is_the_published_one(name, batch, width_s, width_t, relu):
    published, ours = TABLE[name]
    gen = torch.Generator().manual_seed(batch)
    s, t = torch.randn(batch, width_s, generator=gen), torch.randn(batch, width_t, generator=gen)
    if name == "correlation-benchmark":
        t = torch.randn(batch, width_s, generator=gen)
    if relu:
        s, t = s.relu() + 0.01, t.relu() + 0.01
    want = published(s.double().numpy(), t.double().numpy())
    assert ours(s, t).item() == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert ours(s.double(), t.double()).item() == pytest.approx(want, rel=1e-10)
