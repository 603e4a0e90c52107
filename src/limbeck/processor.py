"""Which processor this machine has, what it computes well, and how far its clock is to be trusted."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BF16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm's BF16"}


def processor_name() -> str:
    """As far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def bf16_unit() -> str | None:
    """The instructions with which this CPU multiplies in bfloat16; None: it has none, and float32 is as fast or faster.

    With AVX512-BF16 networks of convolutions train and answer about twice as fast as in float32, with AMX up to three
    times; without either, bfloat16 is up to twice as slow as float32, and nothing says so.

    >>> bf16_unit() in {None, *BF16_UNITS.values()}
    True
    """
    import torch  # records name the processor without it

    return next((unit for name, unit in BF16_UNITS.items() if _capabilities(torch.cpu).get(name, False)), None)


def clearly_slower(ms: float, than: float) -> bool:
    """Whether a measured time is longer than another of the same measurement by more than medians differ by themselves: 5 %.

    >>> clearly_slower(10.4, than=10.0), clearly_slower(10.6, than=10.0)
    (False, True)
    """
    return ms > 1.05 * than


def _capabilities(cpu: Any) -> Mapping[str, Any]:
    if hasattr(cpu, "get_capabilities"):
        return cpu.get_capabilities()
    return {"amx_bf16": cpu._is_amx_tile_supported(), "avx512_bf16": cpu._is_avx512_bf16_supported()}  # older torch
