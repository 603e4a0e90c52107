"""Makes losses.json: small inputs and the values that the papers' definitions give for them.

Plain Python floats and loops, straight from the definitions; neither limbeck nor torch is used.

    python tests/golden/make_losses.py
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path


def softmax(z):
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / math.fsum(e) for v in e]


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def kd_kl(s, t, temperature):
    q = softmax([v / temperature for v in s])
    p = softmax([v / temperature for v in t])
    return temperature**2 * math.fsum(a * math.log(a / b) for a, b in zip(p, q))


def kd_sigmoid(s, t, temperature):
    total = 0.0
    for a, b in zip(s, t):
        q, p = sigmoid(a / temperature), sigmoid(b / temperature)
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return temperature**2 * total


def logit_l2(s, t):
    return math.fsum((a - b) ** 2 for a, b in zip(s, t)) / 2


def cross_entropy(s, target, label_smoothing):
    q = softmax(s)
    want = [label_smoothing / len(s) + (1 - label_smoothing) * (j == target) for j in range(len(s))]
    return -math.fsum(w * math.log(v) for w, v in zip(want, q))


def sigmoid_cross_entropy(s, target):
    return -math.fsum(math.log(sigmoid(a) if y else 1 - sigmoid(a)) for a, y in zip(s, target))


def flat(x):
    return [v for part in x for v in flat(part)] if isinstance(x, list) else [x]


def hint_l2(s, t, form):
    squares = [(a - b) ** 2 for a, b in zip(flat(s), flat(t))]
    return math.fsum(squares) / (2 if form == "paper" else len(squares))


def unit(v):
    length = math.sqrt(math.fsum(a * a for a in v))
    return [a / length if length else 0.0 for a in v]


def attention(x, kind, p):
    columns = zip(*(flat(channel) for channel in x))
    return {
        "sum": lambda: [math.fsum(abs(a) for a in c) for c in columns],
        "sum_pow": lambda: [math.fsum(abs(a) ** p for a in c) for c in columns],
        "max_pow": lambda: [max(abs(a) ** p for a in c) for c in columns],
    }[kind]()


def attention_l2(s, t, kind, p, form):
    squares = [(a - b) ** 2 for a, b in zip(unit(attention(s, kind, p)), unit(attention(t, kind, p)))]
    return math.sqrt(math.fsum(squares)) if form == "paper" else math.fsum(squares) / len(squares)


def nst_mmd(s, t, kernel):
    q, p = [unit(flat(c)) for c in s], [unit(flat(c)) for c in t]

    def mean(k, xs, ys):
        return math.fsum(k(x, y) for x, y in product(xs, ys)) / (len(xs) * len(ys))

    def dot(x, y):
        return math.fsum(a * b for a, b in zip(x, y))

    def distance(x, y):
        return math.fsum((a - b) ** 2 for a, b in zip(x, y))

    sigma2 = mean(distance, q, p)
    k = {
        "linear": dot,
        "poly": lambda x, y: dot(x, y) ** 2,
        "gaussian": lambda x, y: math.exp(-distance(x, y) / (2 * sigma2)),
    }[kernel]
    return mean(k, p, p) + mean(k, q, q) - 2 * mean(k, q, p)


def cases():
    up, down = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]
    for temperature in (1, 2, 4, 20, 100):
        yield kd_kl, up, down, {"temperature": temperature}
    for temperature in (1, 4):
        yield kd_kl, [0.0, 2.0], [0.0, -1.0], {"temperature": temperature}
        yield kd_sigmoid, [2.0], [-1.0], {"temperature": temperature}
        yield kd_sigmoid, up, down, {"temperature": temperature}
    yield logit_l2, up, down, {}
    yield cross_entropy, up, 2, {"label_smoothing": 0.0}
    yield cross_entropy, up, 2, {"label_smoothing": 0.1}
    yield sigmoid_cross_entropy, up, [1, 0, 1], {}
    for form in ("paper", "benchmark"):
        yield hint_l2, [[[2.0, 4.0], [6.0, 8.0]]], [[[2.0, 2.0], [6.0, 10.0]]], {"form": form}
    s = [[[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]]
    t = [[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]
    for kind, p in (("sum", 1), ("sum_pow", 2), ("sum_pow", 4), ("sum_pow", 2.5), ("max_pow", 1), ("max_pow", 2)):
        for form in ("paper", "benchmark"):
            yield attention_l2, s, t, {"kind": kind, "p": p, "form": form}
    s = [[[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    t = [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]]
    for kernel in ("linear", "poly", "gaussian"):
        yield nst_mmd, s, t, {"kernel": kernel}


def build():
    return [
        {"loss": f.__name__, "student": s, "teacher": t, "options": options, "value": round(f(s, t, **options), 13)}
        for f, s, t, options in cases()
    ]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(case) for case in build())
    Path(__file__).with_name("losses.json").write_text(f"[\n{lines}\n]\n")
