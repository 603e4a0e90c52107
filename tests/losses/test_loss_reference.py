"""Every loss against loops in NumPy float64: values, and gradients by central differences of the loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import losses


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kd_kl(s, t, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    return temperature**2 * sum(p[j] * (np.log(p[j]) - np.log(q[j])) for j in range(len(p)))


def kd_sigmoid(s, t, temperature):
    p, q = 1 / (1 + np.exp(-t / temperature)), 1 / (1 + np.exp(-s / temperature))
    return temperature**2 * sum(
        p[j] * np.log(p[j] / q[j]) + (1 - p[j]) * np.log((1 - p[j]) / (1 - q[j])) for j in range(len(p))
    )


def logit_l2(s, t):
    return sum((s[j] - t[j]) ** 2 for j in range(len(s))) / 2


def cross_entropy(s, t, label_smoothing):
    n, q = len(s), softmax(s)
    return -sum((label_smoothing / n + (1 - label_smoothing) * (j == t)) * np.log(q[j]) for j in range(n))


def sigmoid_cross_entropy(s, t):
    q = 1 / (1 + np.exp(-s))
    return -sum(t[j] * np.log(q[j]) + (1 - t[j]) * np.log(1 - q[j]) for j in range(len(s)))


def hint_l2(s, t, form):
    total = sum((a - b) ** 2 for a, b in zip(s.ravel(), t.ravel()))
    return total / 2 if form == "paper" else total / s.size


def pooled(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average over the windows that cover each target cell."""
    c, h, w = x.shape
    out = np.zeros((c, *size))
    for k in range(c):
        for i in range(size[0]):
            for j in range(size[1]):
                rows = slice(i * h // size[0], -(-(i + 1) * h // size[0]))
                columns = slice(j * w // size[1], -(-(j + 1) * w // size[1]))
                out[k, i, j] = x[k, rows, columns].mean()
    return out


def both_pooled(s: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = (min(s.shape[1], t.shape[1]), min(s.shape[2], t.shape[2]))
    return pooled(s, size), pooled(t, size)


def attention_l2(s, t, kind, p, form):
    maps = []
    for x in both_pooled(s, t):
        m = np.zeros(x.shape[1:])
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                values = [abs(v) for v in x[:, i, j]]
                m[i, j] = {
                    "sum": sum(values),
                    "sum_pow": sum(v**p for v in values),
                    "max_pow": max(v**p for v in values),
                }[kind]
        maps.append(m.ravel() / np.sqrt((m**2).sum()))
    square = ((maps[0] - maps[1]) ** 2).sum()
    return np.sqrt(square) if form == "paper" else square / maps[0].size


def resized(x, size):
    """Bilinear, with pixel centres at half-integers and the border repeated."""
    c, h, w = x.shape
    out = np.zeros((c, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = max((i + 0.5) * h / size[0] - 0.5, 0)
            z = max((j + 0.5) * w / size[1] - 0.5, 0)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, h - 1), min(z0 + 1, w - 1)
            fy, fz = y - y0, z - z0
            out[:, i, j] = (1 - fy) * ((1 - fz) * x[:, y0, z0] + fz * x[:, y0, z1]) + fy * (
                (1 - fz) * x[:, y1, z0] + fz * x[:, y1, z1]
            )
    return out


def nst_mmd(s, t, kernel, resize="pool", sigma2=None):
    s, t = both_pooled(s, t) if resize == "pool" else (resized(s, t.shape[1:]), t)
    q = [c.ravel() / np.sqrt((c**2).sum()) for c in s]
    p = [c.ravel() / np.sqrt((c**2).sum()) for c in t]
    sigma2 = sigma2 or np.mean([((a - b) ** 2).sum() for a in q for b in p])

    def k(a, b):
        return {
            "linear": lambda: a @ b,
            "poly": lambda: (a @ b) ** 2,
            "gaussian": lambda: np.exp(-((a - b) ** 2).sum() / (2 * sigma2)),
        }[kernel]()

    def mean(xs, ys):
        return np.mean([k(a, b) for a in xs for b in ys])

    return mean(p, p) + mean(q, q) - 2 * mean(q, p)


def frozen_sigma2(s, t):
    """The width of the Gaussian is a constant for the gradient: taken once, at the middle point."""
    s, t = both_pooled(s, t)
    q = [c.ravel() / np.sqrt((c**2).sum()) for c in s]
    p = [c.ravel() / np.sqrt((c**2).sum()) for c in t]
    return np.mean([((a - b) ** 2).sum() for a in q for b in p])


def normal(*shape, scale=1.0):
    return lambda rng: scale * rng.standard_normal(shape)


B = 2
CASES = [
    *[(kd_kl, {"temperature": T}, normal(B, 5, scale=3), normal(B, 5, scale=3)) for T in (0.5, 1, 4)],
    *[(kd_sigmoid, {"temperature": T}, normal(B, 3), normal(B, 3)) for T in (0.5, 1, 4)],
    (logit_l2, {}, normal(B, 4), normal(B, 4)),
    *[(cross_entropy, {"label_smoothing": e}, normal(B, 4), lambda rng: rng.integers(0, 4, B)) for e in (0, 0.1)],
    (sigmoid_cross_entropy, {}, normal(B, 4), lambda rng: rng.integers(0, 2, (B, 4))),
    (sigmoid_cross_entropy, {}, normal(B, 4), lambda rng: rng.random((B, 4))),
    *[(hint_l2, {"form": form}, normal(B, 3, 2, 2), normal(B, 3, 2, 2)) for form in ("paper", "benchmark")],
    (hint_l2, {"form": "paper"}, normal(B, 7), normal(B, 7)),
    *[
        (attention_l2, {"kind": kind, "p": p, "form": form}, normal(B, *s), normal(B, *t))
        for kind, p in (("sum", 1), ("sum_pow", 2), ("sum_pow", 2.5), ("max_pow", 1), ("max_pow", 3))
        for form in ("paper", "benchmark")
        for s, t in (((3, 3, 3), (2, 3, 3)), ((2, 4, 3), (3, 2, 5)))
    ],
    *[
        (nst_mmd, {"kernel": kernel}, normal(B, *s), normal(B, *t))
        for kernel in ("linear", "poly", "gaussian")
        for s, t in (((2, 3, 3), (3, 3, 3)), ((9, 2, 1), (8, 2, 1)), ((2, 4, 3), (3, 3, 5)), ((3, 2, 2), (2, 4, 4)))
    ],
    *[
        (nst_mmd, {"kernel": kernel, "resize": "interpolate"}, normal(B, *s), normal(B, 2, 3, 3))
        for kernel in ("linear", "poly")
        for s in ((3, 5, 2), (3, 2, 4))
    ],
]


def title(i):
    f, options, s, t = CASES[i]
    shapes = "/".join(str(m(np.random.default_rng(0)).shape) for m in (s, t))
    return f"{f.__name__}-{options}-{shapes}"


@pytest.mark.parametrize("i", range(len(CASES)), ids=title)
def test_value_and_gradient(i):
    reference, options, make_s, make_t = CASES[i]
    rng = np.random.default_rng(i)
    s, t = make_s(rng), make_t(rng)
    x = torch.from_numpy(s.copy()).requires_grad_()
    value = getattr(losses, reference.__name__)(x, torch.from_numpy(t.copy()), **options)
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.detach().numpy(), [reference(s[b], t[b], **options) for b in range(B)], atol=1e-12)

    value.sum().backward()
    assert x.grad is not None
    step, fixed = 1e-6, np.zeros_like(s)
    for b in range(B):
        extra = {"sigma2": frozen_sigma2(s[b], t[b])} if options.get("kernel") == "gaussian" else {}
        for place in np.ndindex(s[b].shape):
            high, low = s[b].copy(), s[b].copy()
            high[place] += step
            low[place] -= step
            difference = reference(high, t[b], **options, **extra) - reference(low, t[b], **options, **extra)
            fixed[(b, *place)] = difference / (2 * step)
    np.testing.assert_allclose(x.grad.numpy(), fixed, atol=2e-8, rtol=1e-6)
