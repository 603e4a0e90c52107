"""What the processor is said to be good at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from limbeck.processor import bf16_unit, processor_name


@pytest.mark.parametrize(
    ("capabilities", "unit"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "AMX"),
        ({"amx_bf16": False, "avx512_bf16": True}, "AVX512-BF16"),
        ({"avx2": True, "avx512_bf16": False}, None),
        ({"neon": True, "bf16": True}, "Arm's BF16"),
    ],
)
def test_the_unit_for_bf16(capabilities, unit, monkeypatch):
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    assert bf16_unit() == unit


@pytest.mark.parametrize(
    ("amx", "avx", "unit"), [(True, True, "AMX"), (False, True, "AVX512-BF16"), (False, False, None)]
)
def test_a_torch_that_has_no_list_of_capabilities_is_asked_one_by_one(amx, avx, unit, monkeypatch):
    older = SimpleNamespace(_is_amx_tile_supported=lambda: amx, _is_avx512_bf16_supported=lambda: avx)
    monkeypatch.setattr(torch, "cpu", older)
    assert bf16_unit() == unit


def test_the_processor_has_a_name():
    assert processor_name().strip()
