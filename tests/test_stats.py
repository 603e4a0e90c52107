"""Known answers, computed by hand or by NumPy and SciPy's own paired test."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as reference

from limbeck.errors import HyperParameterError, NonFiniteError, ShapeError
from limbeck.stats import Summary, paired, summarise


def test_a_summary_is_mean_sample_deviation_and_count():
    values = [0.91, 0.93, 0.92, 0.96]
    found = summarise(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert found.n == 4


def test_one_value_has_no_spread():
    assert summarise([0.5]) == Summary(0.5, None, 1)


def test_no_values_is_an_error_that_says_so():
    with pytest.raises(HyperParameterError, match=r"no values given \(n = 0\)"):
        summarise([])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_an_error(bad):
    with pytest.raises(NonFiniteError, match="1 of 2 values are not finite"):
        summarise([1.0, bad])
    with pytest.raises(NonFiniteError, match="not finite"):
        paired([1.0, bad], [1.0, 1.0])


def test_a_paired_difference_agrees_with_scipys_own_test():
    rng = np.random.default_rng(0)
    theirs = rng.normal(0.9, 0.02, 7)
    ours = theirs + rng.normal(0.01, 0.01, 7)
    expected = reference.ttest_rel(ours, theirs)
    low, high = expected.confidence_interval(0.95)
    found = paired(list(ours), list(theirs))
    assert found.mean == pytest.approx(np.mean(ours - theirs))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.n == 7


def test_the_quantile_of_three_pairs_is_the_one_of_the_tables():
    # t(0.975; 2 degrees of freedom) = 4.3027; differences 1, 2, 3 have std 1 and error 1 / sqrt(3).
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.low, found.high) == (
        pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4),
        pytest.approx(2 + 4.30265 / 3**0.5, abs=1e-4),
    )


def test_pairs_are_made_by_seed_not_by_position():
    found = paired({2: 3.0, 0: 1.0, 7: 9.0}, {0: 0.5, 2: 2.0, 1: 8.0})
    assert found.differences == ((0, 0.5), (2, 1.0))
    assert found.n == 2


def test_a_verdict_needs_an_interval_without_zero():
    assert paired([2.0, 2.1, 1.9], [1.0, 1.0, 1.0]).verdict() == "better"
    assert paired([1.0, 1.0, 1.0], [2.0, 2.1, 1.9]).verdict() == "worse"
    assert paired([1.0, 1.0, 1.0], [2.0, 2.1, 1.9]).verdict(higher_is_better=False) == "better"
    assert paired([2.0, 0.0, 1.2], [1.0, 1.0, 1.0]).verdict() == "no clear difference"
    assert paired([1.0, 1.0], [1.0, 1.0]).verdict() == "no clear difference"


def test_one_pair_is_a_single_run_without_interval():
    found = paired({0: 0.9}, {0: 0.5})
    assert (found.low, found.high, found.p, found.n) == (None, None, None, 1)
    assert found.verdict() == "single run"


def test_two_pairs_need_a_huge_effect():
    assert paired([0.93, 0.95], [0.92, 0.92]).verdict() == "no clear difference"  # t(1) = 12.7


def test_no_seed_in_common_and_unequal_lengths_are_errors():
    with pytest.raises(HyperParameterError, match=r"no seed in common \(n = 0\).*\[0\].*\[1\]"):
        paired({0: 1.0}, {1: 1.0})
    with pytest.raises(ShapeError, match="2 values against 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(HyperParameterError, match="confidence"):
        paired([1.0], [1.0], confidence=1.0)


def test_a_higher_confidence_gives_a_wider_interval():
    narrow, wide = (paired([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], confidence=c) for c in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_neither_torch_nor_scipy_is_imported_for_a_summary():
    code = "import sys, limbeck.stats as s; s.summarise([1.0, 2.0]); assert not {'torch', 'scipy', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_seeds_that_agree_are_no_verdict():
    close = paired({0: 82.10, 1: 82.22}, {0: 79.74, 1: 79.88})
    assert close.low is not None
    assert close.low > 0  # the interval alone would say "better"
    assert close.verdict() == close.verdict(higher_is_better=False) == "too few seeds"
    assert paired({0: 1.0, 1: 9.0}, {0: 2.0, 1: 2.0}).verdict() == "no clear difference"
