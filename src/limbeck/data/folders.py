"""A folder per class with pictures inside, to undecoded rows."""

from __future__ import annotations

from pathlib import Path

from limbeck.data.decode import Item
from limbeck.errors import DataError, unknown

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def classes_in(root: str) -> tuple[str, ...]:
    """The names of the folders below ``root``, sorted; those that begin with a dot do not count.

    Raises:
        DataError: no such folder, or none below it.
    """
    place = Path(root).expanduser()
    if not place.is_dir():
        raise DataError(f"no folder {place}; an image folder has a folder per class with pictures inside")
    names = tuple(sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise DataError(f"no folder below {place}; an image folder has a folder per class with pictures inside")
    return names


def items_in(root: str, classes: tuple[str, ...]) -> list[Item]:
    """Every picture below the class folders, sorted by class and path.

    Raises:
        DataError: a folder is none of the classes.
    """
    items: list[Item] = []
    for name in classes_in(root):
        folder = Path(root).expanduser() / name
        if name not in classes:
            raise DataError(f"{folder}: {unknown('class', name, classes, 'the training part')}")
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        items += [Item(str(file), file, classes.index(name)) for file in files]
    return items
