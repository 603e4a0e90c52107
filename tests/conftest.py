"""What all tests share: one thread, where the data is, and shapes that are checked."""

from __future__ import annotations

import os
from pathlib import Path

import jaxtyping

# The shapes in the signatures of the losses are checked whenever one is called.  This comes before
# anything imports them.
jaxtyping.install_import_hook("limbeck.losses", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)  # small networks are slower on several, and the last bits depend on the number

_data = Path(__file__).resolve().parents[2] / "shared" / "data"
if _data.is_dir():
    os.environ.setdefault("LIMBECK_DATA", str(_data))
