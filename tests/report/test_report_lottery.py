"""A lottery ticket's rounds, read out of a record: densities, controls, differences."""

from __future__ import annotations

import pytest

from limbeck.report.lottery import density_chart, lines, table, tickets
from limbeck.report.read import SeedRun, Stage
from limbeck.report.tables import Measured


def made(name, accuracies, density=None, kind="train"):
    runs = tuple(
        SeedRun(seed=seed, details={} if density is None else {"density": density}, last={"test": {"accuracy": a}})
        for seed, a in enumerate(accuracies)
    )
    stage = Stage(name=name, kind=kind, part_of="lt", runs=runs)
    return Measured(name=name, stage=stage, part="test", metrics={"accuracy": dict(enumerate(accuracies))}, planned=3)


RUN = (
    made("dense", (0.9, 0.9, 0.9)),
    made("lt.0", (0.90, 0.91, 0.92)),
    made("lt.mask1", (0.30, 0.40, 0.35), 0.8, "compress"),
    made("lt.1", (0.91, 0.92, 0.93)),
    made("lt.mask2", (0.20, 0.20, 0.20), 0.64, "compress"),
    made("lt.mask2.reinit", (0.1, 0.1, 0.1), 0.64, "compress"),
    made("lt.2.reinit", (0.80, 0.81, 0.82)),
    made("lt", (0.90, 0.92, 0.91)),
)


def test_which_stages_are_tickets():
    assert tickets(RUN) == ("lt",)
    assert tickets(RUN[:2]) == ()


def test_the_series_by_falling_density():
    found = lines(RUN, "lt")
    assert {
        name: [(p.round, round(p.density, 6), round(p.summary.mean, 4)) for p in points]
        for name, points in found.items()
    } == {
        "ticket": [(0, 1.0, 0.91), (1, 0.8, 0.92), (2, 0.64, 0.91)],
        "reinit": [(0, 1.0, 0.91), (2, 0.64, 0.81)],
        "untrained": [(1, 0.8, 0.35), (2, 0.64, 0.2)],
    }
    assert lines(RUN, "dense") == {}


def test_the_table_says_how_far_a_control_is_below_its_ticket():
    made_table = table(RUN, "lt")
    assert [c.key for c in made_table.columns] == ["round", "density", "ticket", "reinit", "untrained"]
    assert [[cell.value for cell in row] for row in made_table.rows] == [
        [0, 1.0, pytest.approx(0.91), pytest.approx(0.91), None],
        [1, pytest.approx(0.8), pytest.approx(0.92), None, pytest.approx(0.35)],
        [2, 0.64, pytest.approx(0.91), pytest.approx(0.81), pytest.approx(0.2)],
    ]
    # by seed -10, -11, -9: mean -10, deviation 1, and t(0.975, 2) / sqrt(3) = 2.48
    assert made_table.rows[2][3].note == "−10.0; 95 % interval −12.5 to −7.5"
    assert made_table.rows[2][2].note == ""
    assert table(RUN, "dense") is None


def test_the_chart_says_in_words_what_it_shows():
    drawn = density_chart("k", RUN, "lt")
    assert drawn.title == "lt: accuracy against density"
    assert "new weights: " in drawn.description
    assert "at 64 %" in drawn.description
    assert "untrained" not in drawn.description
    assert drawn.svg.startswith('<svg class="chart"')
    assert density_chart("k", RUN[:1], "dense") is None


def test_unfinished_runs_show_what_there_is():
    found = lines(RUN[:4], "lt")  # killed in round 2: the last mask is that of round 1, whose training has its own name
    assert [p.round for p in found["untrained"]] == [1]
    drawn = density_chart("k", RUN[:3], "lt")
    assert drawn is None
