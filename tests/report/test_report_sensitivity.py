"""Bars of what int8 costs layer by layer, and which lines of a scan are named."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from limbeck.report.compression import layer_losses, mean_fall, sensitivity


def test_bars_of_losses():
    drawn = layer_losses("bars", {"stem": 0.001, "fc": 0.03, "mid": -0.002}, whole=0.04)
    assert drawn is not None
    ET.fromstring(drawn.svg)
    assert drawn.title == "Lost by one layer in int8"
    assert "fc 3.00; stem 0.10; mid -0.20. All layers in int8 lose 4.00." in drawn.description
    assert drawn.caption == "Dashed: all layers in int8, 4.00 points lost."
    assert layer_losses("bars", {}, whole=0.0) is None


def test_many_layers_and_none_that_loses():
    drawn = layer_losses("bars", {f"layer{i}": 0.0 for i in range(50)}, whole=0.0, won_back=True, most=30)
    assert drawn is not None
    assert drawn.title == "Won back by one layer in float"
    assert drawn.caption.endswith("20 more layers are in the table.")
    assert "1e" not in "".join(ET.fromstring(drawn.svg).itertext()), "an axis for rounding errors"


def test_the_mean_fall_orders_lines_that_all_end_at_guessing():
    late, early = [(0.0, 0.9), (0.5, 0.9), (0.9, 0.1)], [(0.9, 0.1), (0.0, 0.9), (0.5, 0.2)]
    assert mean_fall(late) == pytest.approx(0.4)
    assert mean_fall(early) == pytest.approx(0.75)
    assert mean_fall([(0.0, 0.9)]) == 0.0
    drawn = sensitivity("scan", {"late": late, "early": early})
    assert drawn is not None
    assert drawn.description.index("early from") < drawn.description.index("late from")
