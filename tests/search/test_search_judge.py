"""Budgets, best and front: plain arithmetic, against answers worked out by hand."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from limbeck.search import judge
from limbeck.search.judge import Trial
from limbeck.search.propose import propose
from limbeck.search.spec import Choices, Range
from limbeck.search.tell import budget_text, outcome, over_text, settings_text, short_names


def trial(number, accuracy=0.9, points=0.0, latency=1.0, size=100.0, **settings):
    figures = {
        "accuracy": accuracy,
        "points": points,
        "latency": latency,
        "bytes": size,
        "macs": 10.0,
        "parameters": 5.0,
    }
    return Trial(number=number, settings=settings or {"a.x": number}, status="done", figures=figures)


FAILED = Trial(number=9, settings={"a.x": 9}, status="failed", problem="no such thing")


def test_a_limit_is_kept_at_the_limit_itself_also_in_binary():
    lost = 100 * (0.93 - 0.92)
    assert lost > 1.0  # 1.0000000000000009
    assert judge.overruns({"points": lost}, {"points": 1.0}) == {}
    single = 100 * (float(np.float32(0.9275)) - float(np.float32(0.8975)))  # as networks are measured
    assert single > 3.0 + 1e-7
    assert judge.overruns({"points": single}, {"points": 3.0}) == {}
    assert judge.overruns({"points": 1.01}, {"points": 1.0}) == {"points": pytest.approx(0.01)}
    assert judge.overruns({"latency": 2.5}, {"latency": 2.0}) == {"latency": 0.25}


def test_a_gain_may_be_asked_for():
    assert judge.overruns({"points": -0.5}, {"points": -1.0}) == {"points": 0.5}
    assert judge.overruns({"points": -1.5}, {"points": -1.0}) == {}


def test_what_was_not_measured_is_over():
    assert judge.overruns({"latency": None}, {"latency": 1.0}) == {"latency": math.inf}
    assert over_text(Trial(number=1, settings={}, status="done"), {"latency": 1.0}) == "over: latency not known"


def test_best_is_the_smallest_within_the_budget_and_none_beyond_it():
    trials = [
        trial(1, points=2.0, latency=0.5),
        trial(2, points=0.5, latency=2.0),
        trial(3, points=1.0, latency=1.5),
        FAILED,
    ]
    assert judge.best(trials, {"points": 1.0}, "latency").number == 3
    assert judge.best(trials, {}, "latency").number == 1
    assert judge.best(trials, {"points": 0.1}, "latency") is None
    assert judge.nearest(trials, {"points": 0.1}, "latency").number == 2
    assert judge.nearest([FAILED], {}, "latency") is None


def test_accuracy_is_as_large_as_possible_and_breaks_ties():
    trials = [trial(1, accuracy=0.8), trial(2, accuracy=0.9, latency=5.0), trial(3, accuracy=0.7, latency=1.0)]
    assert judge.best(trials, {}, "accuracy").number == 2
    assert judge.best(trials, {}, "latency").number == 1
    assert judge.best([trial(1), trial(2)], {}, "accuracy").number == 1


def test_ranks_put_the_budget_before_the_aim_and_failures_last():
    trials = [
        trial(1, points=5.0, latency=0.1),
        trial(2, points=0.0, latency=9.0),
        FAILED,
        trial(3, points=0.0, latency=8.0),
    ]
    assert judge.ranks(trials, {"points": 1.0}, "latency") == [2.0, 1.0, 4.0, 0.0]


def test_the_front_is_what_no_other_beats():
    chance = random.Random(3)
    trials = [trial(n, accuracy=chance.random(), latency=chance.random()) for n in range(1, 30)]

    def beaten(one):
        a, b = one.figures["latency"], one.figures["accuracy"]
        return any(o.figures["latency"] <= a and o.figures["accuracy"] >= b and o is not one for o in trials)

    assert {t.number for t in judge.pareto([*trials, FAILED], "latency")} == {t.number for t in trials if not beaten(t)}


def test_words(tmp_path):
    assert short_names(["a.b.c", "a.d.c"]) == {"a.b.c": "b.c", "a.d.c": "d.c"}
    assert settings_text({"a.by": "l1", "a.of": [1, 2]}) == "by=l1, of=[1, 2]"
    assert budget_text({}) == "no limit"
    from limbeck.search.spec import Search, Within

    search = Search(space={"a.x": [1, 2]}, within=Within(points=1.0))
    text = outcome(search, [trial(1, points=3.0), FAILED], tmp_path)
    assert text.startswith(
        "No network within the budget (at most 1 points lost) in 2 trials (1 of them failed). Nearest: trial 1 (x=1)"
    )
    assert text.endswith("over: points by 2.00")
    assert outcome(search, [trial(1)], tmp_path).startswith(
        "Best of 1 trials within the budget (at most 1 points lost), by least latency on validation rows: trial 1 (x=1)"
    )
    assert outcome(search, [FAILED], tmp_path).endswith("not one could be run.")


def test_every_combination_comes_once_and_then_none():
    pytest.importorskip("optuna")
    space = {"a": Choices(([1, 2], {"k": 1}, "text")), "b": Range(low=1, high=2, whole=True)}
    done = []
    while (found := propose(space, done, judge.ranks(done, {}, "latency"), seed=0, number=len(done) + 1)) is not None:
        done.append(trial(len(done) + 1, latency=float(found["b"]), **found))
    expected = [{"a": a, "b": b} for a, b in itertools.product(([1, 2], {"k": 1}, "text"), (1, 2))]
    assert sorted(map(str, (t.settings for t in done))) == sorted(map(str, expected))


def test_proposals_follow_from_seed_number_and_what_was_tried_and_find_the_good_end():
    pytest.importorskip("optuna")
    space = {"x": Range(low=0.001, high=1.0, log=True)}

    def walk(seed, count=25):
        done = []
        for number in range(1, count + 1):
            settings = propose(space, done, judge.ranks(done, {}, "latency"), seed=seed, number=number)
            assert 0.001 <= settings["x"] <= 1.0
            done.append(trial(number, latency=abs(math.log(settings["x"] / 0.1)), **settings))
        return [t.settings["x"] for t in done]

    first = walk(0)
    assert walk(0) == first
    assert walk(1, 3) != first[:3]
    # ten by chance, then near 0.1: the second half lies closer, on the average, than the first
    off = [abs(math.log(x / 0.1)) for x in first]
    assert sum(off[15:]) / 10 < 0.5 * sum(off[:10]) / 10
