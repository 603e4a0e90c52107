"""How a report writes its numbers: short, with a unit, and never without how many there were."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from limbeck import catalog
from limbeck.stats import Paired, Summary

NONE = "–"
_PARTS = {where.partition(":")[2]: word for where, word in catalog.PARTS.items()}


def percent(summary: Summary, decimals: int = 1) -> str:
    """A fraction as per cent, with its spread if there is one (`counted` says the n).

    >>> percent(Summary(0.9312, 0.0041, 5)), percent(Summary(0.9312, None, 1))
    ('93.1 ± 0.4 %', '93.1 %')
    """
    spread = "" if summary.std is None else f" ± {100 * summary.std:.{decimals}f}"
    return f"{100 * summary.mean:.{decimals}f}{spread} %"


def fraction(summary: Summary, decimals: int = 3) -> str:
    """A number with its spread if there is one.

    >>> fraction(Summary(0.0123, 0.002, 3))
    '0.012 ± 0.002'
    """
    spread = "" if summary.std is None else f" ± {summary.std:.{decimals}f}"
    return f"{summary.mean:.{decimals}f}{spread}"


def counted(n: int) -> str:
    """How many repetitions, in words.

    >>> counted(1), counted(5)
    ('single run', 'n = 5 seeds')
    """
    return "single run" if n == 1 else f"n = {n} seeds"


def signed(value: float, decimals: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign; never a negative zero.

    >>> signed(0.018), signed(-0.0123), signed(-0.0001)
    ('+1.8', '−1.2', '0.0')
    """
    text = f"{100 * value:+.{decimals}f}"
    return f"{0:.{decimals}f}" if float(text) == 0 else text.replace("-", "−")


def interval(difference: Paired, decimals: int = 1) -> str:
    """The interval of a difference, in percentage points, or why there is none.

    >>> interval(Paired(0.018, 0.011, 0.025, 5, 0.001))
    '95 % interval +1.1 to +2.5'
    >>> interval(Paired(0.018, None, None, 1, None))
    'no interval from one seed'
    """
    if difference.low is None or difference.high is None:
        return "no interval from one seed"
    low, high = signed(difference.low, decimals), signed(difference.high, decimals)
    return f"{100 * difference.confidence:g} % interval {low} to {high}"


def p_value(p: float) -> str:
    """A p-value with two digits, or below what is worth telling apart.

    >>> p_value(0.0123), p_value(0.00004), p_value(0.3)
    ('p = 0.012', 'p < 0.001', 'p = 0.30')
    """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def amount(value: float) -> str:
    """A count in three digits.

    >>> amount(950), amount(12345), amount(11173962), amount(4.1e9)
    ('950', '12.3 k', '11.2 M', '4.10 G')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)} {unit}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in three digits.

    >>> size(512), size(49380)
    ('512 B', '48.2 KiB')
    """
    for unit_size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit_size:
            return f"{_three(value / unit_size)} {unit}"
    return f"{value:,.0f} B"


def milliseconds(value: float) -> str:
    """A time in three digits.

    >>> milliseconds(0.2134), milliseconds(12.345), milliseconds(2345)
    ('0.213 ms', '12.3 ms', '2.35 s')
    """
    if value >= 1000:
        return f"{_three(value / 1000)} s"
    return f"{_three(value)} ms" if value >= 1 else f"{value:.3f} ms"


def duration(seconds: float) -> str:
    """How long something took.

    >>> duration(12.34), duration(75), duration(7260)
    ('12 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_EQUAL = {"fewer": "as many", "smaller": "as large", "faster": "as fast"}


def times(ratio: float, more: str, less: str) -> str:
    """A factor in words, the right way round.

    >>> times(12.34, "fewer", "more"), times(0.5, "fewer", "more"), times(1.0, "faster", "slower")
    ('12.3 times fewer', '2.00 times more', 'as fast')
    """
    if abs(ratio - 1.0) < 0.005:
        return _EQUAL.get(more, "the same")
    return f"{_three(ratio)} times {more}" if ratio > 1 else f"{_three(1 / ratio)} times {less}"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def plain(value: Any) -> str:
    """A setting as a recipe would show it, short.

    >>> plain(4.0), plain(True), plain([["layer3", "layer3"]]), plain({"start": 1.0, "end": 0})
    ('4', 'yes', 'layer3 layer3', 'start 1, end 0')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(plain(v) for v in value) if value else "none"
    return "none" if value is None else str(value)


def method_words(method: Mapping[str, Any], network: str = "") -> tuple[str, str]:
    """A method's name, and its settings as one line.

    Args:
        method: as a record has it.
        network: what became of the network, of a step that compresses: parts of a compressor have no kind in a record, but
            are named here, last.

    >>> method_words({"kind": "kd", "temperature": 4.0, "pairs": None})
    ('kd', 'temperature 4')
    >>> method_words({"rate": 0.3}, "resnet8, ticket")
    ('ticket', 'rate 0.3')
    """
    settings = ", ".join(
        f"{k.replace('_', ' ')} {plain(v)}" for k, v in method.items() if k != "kind" and v is not None
    )
    last = network.rpartition(", ")[2]
    return str(method.get("kind") or _PARTS.get(last, last) or NONE), settings


def repeated(names: str) -> str:
    """What became of a network, step by step; the same step several times in a row is named once.

    >>> repeated("resnet56, prune, prune, prune, quantize")
    'resnet56, prune × 3, quantize'
    """
    if names.startswith("ensemble of "):  # whose members are not steps
        return names
    runs = [(_PARTS.get(name, name), len(list(same))) for name, same in groupby(names.split(", "))]
    return ", ".join(name if count == 1 else f"{name} × {count}" for name, count in runs)


def listing(names: list[str]) -> str:
    """Names in a sentence.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
