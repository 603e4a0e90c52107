"""Networks in 8 bits, through torch.export and torchao: see `limbeck.compress.quantize` for how to ask for one.

Importing this package imports no torch; asking it for a name does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.compress.int8.fused import require_fused
    from limbeck.compress.int8.layerwise import sensitivity
    from limbeck.compress.int8.prepare import Prepared, rebuild_prepared
    from limbeck.compress.int8.program import Quantized

__all__ = ["Prepared", "Quantized", "rebuild_prepared", "require_fused", "sensitivity"]

_HOME = {
    "Prepared": "prepare",
    "Quantized": "program",
    "rebuild_prepared": "prepare",
    "require_fused": "fused",
    "sensitivity": "layerwise",
}

__getattr__, __dir__ = exports(__name__, _HOME)
