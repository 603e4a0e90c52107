"""How many channels go, and which."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.compress.pruning.groups import Group, Member
from limbeck.compress.pruning.select import (
    Row,
    by_layer,
    by_ranking,
    checked,
    going,
    order,
    ranked,
    row_of,
    settle,
    step_of,
    stepped,
)
from limbeck.errors import HyperParameterError, LimbeckError, NonFiniteError, ShapeError


def rows(**sizes: int) -> list[Row]:
    return [Row(name, size, size) for name, size in sizes.items()]


def whole(widths: dict[str, float]) -> dict[str, int]:
    return {name: int(width) for name, width in widths.items()}


def test_slimming_golden() -> None:
    """gammas {.9,.01,.5}, {.02,.03,.8,.7}, ratio .5: three go, kept are [1,0,1] and [0,0,1,1]."""
    gammas = {"a": torch.tensor([0.9, 0.01, 0.5]), "b": torch.tensor([0.02, 0.03, 0.8, 0.7])}
    ours = rows(a=3, b=4)
    widths = whole(by_ranking(ours, ranked(ours, gammas, comparable=True), 0.5))
    assert going(ours, gammas, widths) == {"a": [1], "b": [0, 1]}


def test_ties_go_from_the_front_and_exactly_so_many() -> None:
    gammas = {"a": torch.zeros(5), "b": torch.tensor([0.0, 1, 1, 1, 1])}
    ours = rows(a=5, b=5)
    widths = whole(by_ranking(ours, ranked(ours, gammas, comparable=True), 0.7))
    assert going(ours, gammas, widths) == {"a": [0, 1, 2], "b": []}  # three, though six are zero
    assert order(torch.tensor([1.0, 0, 1, 0])) == [1, 3, 0, 2]


def test_global_ranking_never_empties_a_layer() -> None:
    scores = {"a": torch.tensor([1e-3, 2e-3, 3e-3]), "b": torch.arange(1.0, 8.0)}
    ours = rows(a=3, b=7)
    assert whole(by_ranking(ours, ranked(ours, scores, comparable=True), 0.1)) == {"a": 1, "b": 1}
    least = [Row("a", 3, 3, least=2), Row("b", 7, 7, least=2)]
    assert whole(by_ranking(least, ranked(least, scores, comparable=True), 0.5)) == {"a": 2, "b": 3}


def test_scores_that_depend_on_the_layer_are_put_on_one_scale() -> None:
    scores = {"a": 1000 * torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([1.0, 2.0, 3.0])}
    ours = rows(a=3, b=3)
    assert whole(by_ranking(ours, ranked(ours, scores, comparable=True), 2 / 3)) == {"a": 3, "b": 1}
    assert whole(by_ranking(ours, ranked(ours, scores, comparable=False), 2 / 3)) == {"a": 2, "b": 2}


def test_steps_by_width() -> None:
    assert {w: step_of(w) for w in (8, 15, 16, 31, 32, 64, 127, 128, 2048)} == {
        8: 1,
        15: 1,
        16: 2,
        31: 2,
        32: 4,
        64: 8,
        127: 8,
        128: 16,
        2048: 16,
    }
    assert [step_of(w, 16) for w in (64, 24, 12, 3, 1)] == [16, 8, 4, 1, 1]
    assert step_of(512, 1) == 1


def test_rows_count_filters_that_go_along() -> None:
    both = Group("a", 16, (Member("a", "out", tuple((i, 16 + i) for i in range(16))),))
    assert row_of(both).step == 2  # 32 filters in steps of 4
    assert row_of(both, multiple=1) == Row("a", 16, 16, 1, 1)
    assert row_of(both, minimum=5).least == 6  # in its steps
    assert row_of(both, minimum=50).least == 16


@pytest.mark.parametrize(("width", "kept"), [(64.0, 64), (63.9, 56), (56.0, 56), (55.5, 48), (7.9, 8), (0.0, 8)])
def test_widths_in_steps_are_never_nothing(width: float, kept: int) -> None:
    assert stepped(Row("a", 64, 64, 8, 8), width) == kept


def test_budget_is_met_from_below_and_within_a_step() -> None:
    ours = [Row("a", 64, 64, 8, 8), Row("b", 128, 128, 16, 16), Row("c", 30, 30, 2, 2)]

    def cost(widths: dict[str, int]) -> float:
        return widths["a"] * widths["b"] + widths["b"] * widths["c"]

    for target in (11000, 6000, 2500, 700):
        found = settle(ours, lambda keep: by_layer(ours, keep), cost, target, what="macs")
        assert cost(found) <= target
        for row in ours:
            assert found[row.name] == row.size or found[row.name] % row.step == 0
        wider = {row.name: min(row.size, found[row.name] + row.step) for row in ours}
        assert any(cost({**found, name: width}) > target for name, width in wider.items())
        parts = [found[row.name] / row.size for row in ours]
        assert max(parts) - min(parts) <= 0.25  # the same part of each, but for steps


def test_of_a_dear_measure_few_widths_are_raised() -> None:
    ours = [Row(name, 64, 64, 32, 32) for name in "abcd"]
    asked: list[dict[str, int]] = []

    def cost(widths: dict[str, int]) -> float:
        asked.append(widths)
        return float(sum(widths.values()))

    def found(raises: int | None) -> dict[str, int]:
        asked.clear()
        return settle(ours, lambda keep: by_layer(ours, keep), cost, 200, what="latency", rounds=6, raises=raises)

    assert found(0) == {"a": 32, "b": 32, "c": 32, "d": 32}
    without = len(asked)
    assert found(1) == {"a": 64, "b": 32, "c": 32, "d": 32}
    assert len(asked) == without + 1
    assert found(8) == found(None) == {"a": 64, "b": 64, "c": 32, "d": 32}


def test_a_budget_out_of_reach() -> None:
    ours = [Row("a", 64, 64, 8, 8)]
    with pytest.raises(
        HyperParameterError, match=r"macs = 0\.1: with every layer at its least width 8 are left, and 5 "
    ):
        settle(ours, lambda keep: by_layer(ours, keep), lambda w: float(w["a"]), 5, what="macs = 0.1")


@pytest.mark.parametrize(
    ("scores", "error", "text"),
    [
        ({}, LimbeckError, "the channels of 'a' have no scores"),
        ({"a": torch.zeros(3)}, ShapeError, "a: 2 channels and scores"),
        ({"a": torch.tensor([0.0, float("nan")])}, NonFiniteError, "hold NaN"),
    ],
)
def test_bad_scores(scores: dict[str, Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        checked([Group("a", 2, (Member("a", "out", ((0,), (1,))),))], scores)
