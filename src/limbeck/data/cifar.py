"""Where CIFAR-10 is: looking for it, and fetching it where it is nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from limbeck.data.spec import CIFAR10
from limbeck.errors import DataError

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

_PARQUET = ("train.parquet", "test.parquet")
_PICKLES = "cifar-10-batches-py"


def cache_folder() -> Path:
    """Where downloaded data sets are kept."""
    return Path.home() / ".cache" / "limbeck"


def places(spec: CIFAR10) -> list[Path]:
    """The folders that are looked at, in order.

    A folder that the recipe names is the only one.  Else: ``cifar10`` below ``LIMBECK_DATA``; where that is
    not set, below ``../shared/data``, seen from the current folder and from a source checkout; then the cache.
    """
    if spec.folder is not None:
        return [Path(spec.folder).expanduser()]
    named = os.environ.get("LIMBECK_DATA")
    if named:
        data = [Path(named).expanduser()]
    else:
        checkout = Path(__file__).resolve().parents[3]
        starts = [Path.cwd(), *([checkout] if (checkout / "pyproject.toml").is_file() else [])]
        data = [start.parent / "shared" / "data" for start in starts]
    return list(dict.fromkeys([*(folder / "cifar10" for folder in data), cache_folder()]))


def parquet_in(folder: Path) -> bool:
    """Whether both parquet files are there."""
    return all((folder / name).is_file() for name in _PARQUET)


def pickles_in(folder: Path) -> bool:
    """Whether torchvision's unpacked files are there."""
    return (folder / _PICKLES).is_dir()


def find(spec: CIFAR10) -> Path:
    """The folder that has the data, or the one to download it to.

    Raises:
        DataError: it is nowhere, and ``download`` is off.
    """
    looked = places(spec)
    for folder in looked:
        if parquet_in(folder) or pickles_in(folder):
            return folder
    if spec.download:
        return looked[-1]
    raise DataError(
        f"CIFAR-10 is in none of: {', '.join(map(str, looked))} (looked for {' and '.join(_PARQUET)}, or {_PICKLES}/). "
        "Set LIMBECK_DATA to a folder with cifar10/train.parquet and cifar10/test.parquet, "
        "or the source's 'folder', or download: true"
    )
