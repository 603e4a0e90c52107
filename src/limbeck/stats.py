"""The few statistics that a report needs: a mean with its spread, and a difference paired by seed.

Two rules hold everywhere: no figure without its ``n``, and no verdict without an interval from three
seeds or more.  One seed is a "single run": it has a mean and nothing else.  No torch here; SciPy is imported when a t quantile
is needed and not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError

Verdict = Literal["better", "worse", "no clear difference", "too few seeds", "single run"]
ENOUGH = 3
"""Pairs that a direction takes: two that happen to agree give an interval of almost no width."""


@dataclass(frozen=True)
class Summary:
    """Repeated measurements of one thing.

    Attributes:
        mean: the arithmetic mean.
        std: the sample standard deviation (divided by ``n - 1``), or None for a single run.
        n: how many measurements.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """A difference between two treatments that share their seeds.

    Attributes:
        mean: the mean difference, value minus baseline.
        low, high: the ends of the interval for that mean, or None for one pair.
        n: how many pairs.
        p: two-sided p-value of the paired t test of "no difference", or None for one pair.
        confidence: of the interval, in (0, 1).
        differences: by seed, ascending.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    confidence: float = 0.95
    differences: tuple[tuple[int, float], ...] = ()

    def verdict(self, higher_is_better: bool = True) -> Verdict:
        """In words: a direction only where the interval of at least `ENOUGH` pairs leaves zero out.

        >>> paired({0: 3.0, 1: 3.1, 2: 2.9}, {0: 1.0, 1: 1.0, 2: 1.0}).verdict()
        'better'
        >>> paired({0: 3.0, 1: 3.1, 2: 2.9}, {0: 1.0, 1: 1.0, 2: 1.0}).verdict(higher_is_better=False)
        'worse'
        >>> paired({0: 3.0, 1: 3.1}, {0: 1.0, 1: 1.0}).verdict()
        'too few seeds'
        >>> paired({0: 3.0}, {0: 1.0}).verdict()
        'single run'
        """
        if self.low is None or self.high is None:
            return "single run"
        if self.low <= 0.0 <= self.high:
            return "no clear difference"
        if self.n < ENOUGH:
            return "too few seeds"
        return "better" if (self.low > 0.0) == higher_is_better else "worse"


def _checked(values: Iterable[float], what: str) -> list[float]:
    found = [float(v) for v in values]
    bad = [v for v in found if not math.isfinite(v)]
    if bad:
        raise NonFiniteError(
            f"{what}: {len(bad)} of {len(found)} values are not finite (first: {bad[0]}); leave them out"
        )
    return found


def summarise(values: Iterable[float]) -> Summary:
    """Mean, sample standard deviation and count.

    Args:
        values: one per seed, all finite.

    Raises:
        HyperParameterError: there are no values.
        NonFiniteError: one of them is NaN or infinite.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, std=1.0, n=3)
    >>> summarise([0.9])
    Summary(mean=0.9, std=None, n=1)
    """
    found = _checked(values, "summarise")
    if not found:
        raise HyperParameterError("summarise: no values given (n = 0); at least one is needed")
    n = len(found)
    mean = math.fsum(found) / n
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (n - 1)) if n > 1 else None
    return Summary(mean, std, n)


def _by_seed(values: Mapping[int, float] | Sequence[float]) -> dict[int, float]:
    return dict(values) if isinstance(values, Mapping) else dict(enumerate(values))


def paired(
    values: Mapping[int, float] | Sequence[float],
    baseline: Mapping[int, float] | Sequence[float],
    *,
    confidence: float = 0.95,
) -> Paired:
    """The mean difference between two treatments over the seeds that both have, with its t interval.

    Pairing takes out what a seed does to both alike (initial weights, order of batches), so it sees smaller effects
    than two separate means do.  The interval is ``mean ± t(n - 1) * std / sqrt(n)`` of the differences (Student 1908).
    It takes the seeds as the only source of chance: not the test rows, and not a teacher that all seeds share.
    Equal differences at every seed give an interval of no width; with few seeds and a small test part
    that says how coarse the measurement is, not how certain the effect.

    Args:
        values: by seed; or a plain sequence, whose positions then are the seeds.
        baseline: the same for the other treatment; seeds that only one of the two has are left out.
        confidence: of the interval, in (0, 1).

    Raises:
        ShapeError: two plain sequences differ in length.
        HyperParameterError: no seed is in both, or ``confidence`` is out of range.
        NonFiniteError: a value is NaN or infinite.

    >>> result = paired([0.93, 0.94, 0.95], [0.91, 0.93, 0.92])
    >>> f"{result.mean:+.3f} [{result.low:+.3f}, {result.high:+.3f}] n={result.n} p={result.p:.3f}"
    '+0.020 [-0.005, +0.045] n=3 p=0.074'
    """
    if not 0.0 < confidence < 1.0:
        raise HyperParameterError(f"confidence = {confidence!r}: in (0, 1), for example 0.95")
    both_plain = not isinstance(values, Mapping) and not isinstance(baseline, Mapping)
    if both_plain and len(values) != len(baseline):
        raise ShapeError(
            f"paired: {len(values)} values against {len(baseline)}; "
            "give equally many in the same order of seeds, or mappings from seed to value"
        )
    ours, theirs = _by_seed(values), _by_seed(baseline)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise HyperParameterError(
            f"paired: no seed in common (n = 0); one side has {sorted(ours) or 'none'}, the other {sorted(theirs) or 'none'}"
        )
    _checked([v for s in seeds for v in (ours[s], theirs[s])], "paired")
    differences = tuple((seed, float(ours[seed]) - float(theirs[seed])) for seed in seeds)
    summary = summarise(d for _, d in differences)
    if summary.std is None:
        return Paired(summary.mean, None, None, 1, None, confidence, differences)
    error = summary.std / math.sqrt(summary.n)
    if error == 0.0:
        return Paired(
            summary.mean,
            summary.mean,
            summary.mean,
            summary.n,
            0.0 if summary.mean else 1.0,
            confidence,
            differences,
        )
    from scipy.stats import t as student_t

    reach = float(student_t.ppf(0.5 + confidence / 2.0, summary.n - 1)) * error
    p = 2.0 * float(student_t.sf(abs(summary.mean) / error, summary.n - 1))
    return Paired(summary.mean, summary.mean - reach, summary.mean + reach, summary.n, p, confidence, differences)
