"""The contract's small things: seeds, moments, casts."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError, NameUnknown, near, unknown
from limbeck.phase import Batch, Cast, Moment, Phase, Seen, logits_of, seed_for


def step(models, batch, moment):
    yield from ()


def phase(**more):
    return Phase(
        **{
            "name": "p",
            "modules": {"a": nn.Identity(), "b": nn.Identity()},
            "trains": {},
            "taps": {},
            "step": step,
            **more,
        }
    )


def test_a_seed_belongs_to_a_place():
    text = "0\x1fkd\x1fdistill\x1f3"
    wanted = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") // 2
    assert seed_for(0, "kd", "distill", 3) == wanted
    places = [
        (s, n, p, e) for s in range(3) for n in ("kd", "k") for p in ("distill", "hint", "dhint") for e in range(20)
    ]
    assert len({seed_for(*place) for place in places}) == len(places)
    assert all(0 <= seed_for(*place) < 2**63 for place in places)
    assert seed_for(0, "ab", "c") != seed_for(0, "a", "bc")
    torch.Generator().manual_seed(seed_for(0, "x"))


def test_progress_is_a_part_of_the_phase():
    assert Moment(None, 0.0, 4).progress == 0.0
    assert Moment(None, 1.0, 4).progress == 0.25
    assert Moment(None, 9.0, 4).progress == 1.0
    assert Moment(None, 0.0, 0).progress == 1.0


def test_the_frozen_are_those_that_nobody_owns():
    assert phase(trains={"x": ("a",)}).frozen == ("b",)
    assert phase().frozen == ("a", "b")
    assert phase(trains={"x": ("a", "b")}).frozen == ()


def test_a_cast_names_what_is_missing():
    cast = Cast(models={"student": nn.Identity()}, example=Batch(torch.zeros(1)))
    assert list(cast.pick("student")) == ["student"]
    with pytest.raises(NameUnknown, match="this method needs a teacher, and the stage names none; it has: student"):
        cast.pick("student", "teacher")
    with pytest.raises(NameUnknown, match="it has: no models"):
        Cast(models={}, example=Batch(None)).pick("student")


def test_logits_of_outputs():
    y = torch.zeros(2, 3)
    assert logits_of(y) is y
    assert logits_of({"logits": y, "loss": torch.zeros(())}) is y
    assert logits_of(OrderedDict(scores=y, n=3)) is y
    assert logits_of(((y, 1), 2)) is y
    assert Seen({"logits": y}, {}).logits is y
    for nothing in ((), [], None, 3, {}):
        with pytest.raises(LimbeckError, match="the model returned a"):
            logits_of(nothing)


def test_names_that_are_near():
    assert near("LAYER3", ["layer3", "layer30", "fc"])[0] == "layer3"
    assert near("zzz", ["layer3"]) == []
    assert unknown("layer", "zzz", [f"l{i}" for i in range(25)], "net").endswith("l19, ... (25 in all)")
    assert unknown("layer", "x", []) == "no layer 'x'; there are: none"
