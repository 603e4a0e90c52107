"""Dividing rows: stratified, seeded, disjoint, nested."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from limbeck.data.images import Images
from limbeck.data.splits import hold_out, part_of, ranking, subset
from limbeck.errors import DataError


def labelled(*sizes: int) -> torch.Tensor:
    """Labels with so many rows of class 0, 1, ..., mixed."""
    labels = [c for c, n in enumerate(sizes) for _ in range(n)]
    return torch.tensor(labels)[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def images_of(labels: torch.Tensor) -> Images:
    n = len(labels)
    return Images(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), labels, torch.arange(n) * 10)


def counts(labels: torch.Tensor) -> dict[int, int]:
    return dict(sorted(Counter(labels.tolist()).items()))


def test_parts_are_disjoint_complete_and_in_file_order():
    labels = labelled(50, 30, 20)
    stays, held = hold_out(labels, 10, seed=3)
    assert sorted(stays.tolist() + held.tolist()) == list(range(100))
    assert stays.tolist() == sorted(stays.tolist())
    assert held.tolist() == sorted(held.tolist())


def test_parts_are_stratified_by_hand():
    stays, held = hold_out(labelled(50, 30, 20), 10, seed=3)
    assert counts(labelled(50, 30, 20)[held]) == {0: 5, 1: 3, 2: 2}
    assert counts(labelled(50, 30, 20)[stays]) == {0: 45, 1: 27, 2: 18}


@pytest.mark.parametrize("count", [1, 7, 33, 150, 240])
def test_shares_are_within_one_of_the_exact_ones(count: int):
    sizes = (100, 90, 50, 20, 7)
    _, held = hold_out(labelled(*sizes), count, seed=1)
    found = counts(labelled(*sizes)[held])
    for c, n in enumerate(sizes):
        assert abs(found.get(c, 0) - count * n / sum(sizes)) <= 1


def test_seeded():
    labels = labelled(40, 40)
    first = hold_out(labels, 20, seed=1)[1]
    assert torch.equal(first, hold_out(labels, 20, seed=1)[1])
    assert not torch.equal(first, hold_out(labels, 20, seed=2)[1])
    assert not torch.equal(first, hold_out(labels, 20, seed=1, what="test")[1])


def test_no_class_loses_its_last_row():
    labels = labelled(10, 2, 1, 1)
    stays, _ = hold_out(labels, 10, seed=0)
    assert counts(labels[stays]) == {0: 1, 1: 1, 2: 1, 3: 1}
    with pytest.raises(
        DataError, match=r"cannot hold 11 rows out of 14 for validation: .* 4 classes .* 10 can be spared"
    ):
        hold_out(labels, 11, seed=0)


def test_every_row_is_as_likely_as_another():
    labels = labelled(10, 30)
    times = torch.zeros(40)
    for seed in range(400):
        times[hold_out(labels, 10, seed)[1]] += 1
    # Each is held out a quarter of the time: 100 +- 8.7.
    assert times.min() > 60
    assert times.max() < 140


def test_part_of():
    assert [part_of(1000, p) for p in (0.1, 0.0001, 1, 250, 250.0)] == [100, 1, 1, 250, 250]


def test_ranking_is_a_permutation_whatever_the_labels():
    labels = torch.tensor([5, 5, 0, 9, 9, 9])
    assert sorted(ranking(labels, 0).tolist()) == list(range(6))
    assert set(labels[ranking(labels, 0, each_first=True)[:3]].tolist()) == {0, 5, 9}


@pytest.mark.parametrize("sizes", [(100, 100, 100), (200, 60, 11, 3)])
def test_subsets_are_nested_and_stratified(sizes: tuple[int, ...]):
    images = images_of(labelled(*sizes))
    before: set[int] = set()
    for rows in range(len(sizes), sum(sizes) + 1, 9):
        chosen = subset(images, rows, seed=4)
        assert len(chosen) == rows
        assert before <= set(chosen.rows.tolist())
        before = set(chosen.rows.tolist())
        found = counts(chosen.labels)
        assert sorted(found) == list(range(len(sizes)))
        for c, n in enumerate(sizes):
            assert found[c] <= 1 or abs(found[c] - rows * n / sum(sizes)) <= 1.5


def test_subset_of_equal_classes_is_equal():
    assert counts(subset(images_of(labelled(100, 100, 100)), 30, seed=0).labels) == {0: 10, 1: 10, 2: 10}


def test_subset_keeps_pixels_labels_and_rows_together():
    images = images_of(labelled(20, 20))
    marked = Images(images.rows.to(torch.uint8).view(-1, 1, 1, 1), images.labels, images.rows)
    chosen = subset(marked, 10, seed=1)
    for pixel, label, row in zip(chosen.pixels.flatten().tolist(), chosen.labels.tolist(), chosen.rows.tolist()):
        assert pixel == row % 256
        assert label == int(images.labels[row // 10])


def test_subset_refusals():
    images = images_of(labelled(20, 20, 20))
    with pytest.raises(DataError, match="a subset of 2 rows: there are 3 classes, and each needs at least one"):
        subset(images, 2, seed=0)
    with pytest.raises(DataError, match="a subset of 61 rows: there are only 60"):
        subset(images, 61, seed=0)
