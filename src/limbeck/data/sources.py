"""Every source of images: from a few words in a recipe to decoded, divided rows in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from limbeck.data import cifar, folders, parquet
from limbeck.data.decode import Decoded, Item, OnError, Progress, decode
from limbeck.data.images import Images, Splits
from limbeck.data.spec import CIFAR10, Augment, Data, Digits, ImageFolder, Parquet
from limbeck.data.splits import hold_out, part_of
from limbeck.errors import DataError, listed

HELD_OUT = 0.2  # of the training file, where a source has no test part
_SHOWN = 5


class Raw(NamedTuple):
    """What a source holds, before rows are held out.

    Attributes:
        train: the training rows.
        test: the test rows.
        classes: their names.
        name: what it is, for the record.
        problems: a sentence per row that was left out.
        mean: customary constant per channel, or None.
        std: likewise.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    name: str
    problems: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read(source: Any, *, on_error: OnError = "raise", progress: Progress | None = None) -> Raw:
    """Read and decode one source.

    Where a source has no test part, a fifth of the training rows is held out for it, stratified; always
    the same rows, whatever the seed of the recipe's data.

    Args:
        source: `Digits`, `CIFAR10`, `Parquet` or `ImageFolder`.
        on_error: "raise": the first bad row is an error; "skip": it is left out and counted.
        progress: called with (rows done, all rows) now and then, for each part.

    Raises:
        DataError: what was given, what there is, what to try.
    """
    if isinstance(source, Digits):
        return _digits()
    if isinstance(source, CIFAR10):
        return _cifar10(source, on_error, progress)
    if isinstance(source, Parquet):
        return _parquet(source, on_error, progress, f"parquet {source.train}")
    if isinstance(source, ImageFolder):
        return _image_folder(source, on_error, progress)
    raise DataError(f"{type(source).__name__} is no source of data; there are: Digits, CIFAR10, Parquet, ImageFolder")


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8)[:, None].contiguous()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    images = Images(pixels, labels, torch.arange(len(labels)), scale=16.0)
    train, test = hold_out(labels, 597, seed=0, what="test")
    return Raw(images.take(train), images.take(test), tuple(map(str, bunch.target_names)), "scikit-learn digits")


def _cifar10(source: CIFAR10, on_error: OnError, progress: Progress | None) -> Raw:
    folder = cifar.find(source)
    if cifar.parquet_in(folder):
        files = Parquet(train=str(folder / "train.parquet"), test=str(folder / "test.parquet"), image="img")
        raw = _parquet(files, on_error, progress, "CIFAR-10")
    else:
        raw = _torchvision(folder, source.download)
    return raw._replace(mean=cifar.MEAN, std=cifar.STD)


def _torchvision(folder: Path, download: bool) -> Raw:
    from torchvision.datasets import CIFAR10 as Torchvision

    what = "reading CIFAR-10 in" if cifar.pickles_in(folder) else "downloading CIFAR-10 to"
    try:  # nothing is fetched where the files are there and whole
        parts = [Torchvision(str(folder), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:  # no network, no space, or a damaged file
        raise DataError(
            f"{what} {folder} failed: {error}. Set LIMBECK_DATA to a folder with cifar10/train.parquet and "
            "cifar10/test.parquet, or the source's 'folder' to one with torchvision's files"
        ) from error
    train, test = (
        Images(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets, dtype=torch.int64),
            torch.arange(len(part.targets)),
        )
        for part in parts
    )
    return Raw(train, test, tuple(parts[0].classes), "CIFAR-10")


def _parquet(source: Parquet, on_error: OnError, progress: Progress | None, name: str) -> Raw:
    table = parquet.read_table(source.train, image=source.image, label=source.label)
    classes = parquet.classes_of(table)
    test: list[Item] | None = None
    if source.test is not None:
        test = parquet.items_of(parquet.read_table(source.test, image=source.image, label=source.label), classes)
    return _decoded(parquet.items_of(table, classes), test, classes, source.size, on_error, progress, name)


def _image_folder(source: ImageFolder, on_error: OnError, progress: Progress | None) -> Raw:
    classes = folders.classes_in(source.train)
    items = folders.items_in(source.train, classes)
    test = None if source.test is None else folders.items_in(source.test, classes)
    return _decoded(items, test, classes, source.size, on_error, progress, f"image folder {source.train}")


def _decoded(
    train: Sequence[Item],
    test: Sequence[Item] | None,
    classes: tuple[str, ...],
    size: int | None,
    on_error: OnError,
    progress: Progress | None,
    name: str,
) -> Raw:
    def part(items: Sequence[Item], what: str, like: Images | None = None) -> Decoded:
        if not items:
            raise DataError(f"{name}: the {what} part has no images")
        return decode(items, on_error=on_error, size=size, like=like, progress=progress)

    fitted = part(train, "training")
    if test is not None:
        held = part(test, "test", like=fitted.images)
        return Raw(fitted.images, held.images, classes, name, (*fitted.problems, *held.problems))
    _check_classes(fitted.images, classes, on_error, name)
    labels = fitted.images.labels
    stays, held_rows = hold_out(labels, part_of(len(labels), HELD_OUT), seed=0, what="test")
    return Raw(fitted.images.take(stays), fitted.images.take(held_rows), classes, name, tuple(fitted.problems))


def _check_classes(train: Images, classes: tuple[str, ...], on_error: OnError, name: str) -> list[str]:
    counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
    empty = [label for label, count in zip(classes, counts) if not count]
    notes = [f"class {label!r} has no training row" for label in empty]
    if empty and on_error == "raise":
        others = f" (nor have {', '.join(map(repr, empty[1:_SHOWN]))})" if len(empty) > 1 else ""
        raise DataError(
            f"{name}: {notes[0]}{others}; labels are 0..{len(classes) - 1}, one number per class. "
            "Add rows, take the class away, or use on_error: skip to go on without"
        )
    return notes


def moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, on the scale 0..1.

    They are computed from the counts of the 256 values, exactly.  A constant channel gets std 1.

    >>> dots = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    >>> moments(Images(dots, torch.tensor([0]), torch.tensor([0])))
    ((0.5,), (0.5,))
    """
    values = torch.arange(256, dtype=torch.float64) / images.scale
    means: list[float] = []
    stds: list[float] = []
    for channel in images.pixels.unbind(1):
        share = torch.bincount(channel.flatten().int(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(float(mean))
        stds.append(float((share * (values - mean) ** 2).sum().sqrt()) or 1.0)
    return tuple(means), tuple(stds)


_LOADED: dict[tuple[str, str, str | None], Splits] = {}
_KEPT = 3


def load(data: Data, progress: Progress | None = None) -> Splits:
    """The data of a recipe, decoded and divided; kept in memory, so that asking again costs nothing.

    Args:
        data: which, and how divided.
        progress: called with (rows done, all rows) while pictures are decoded.

    Raises:
        DataError: what was given, what there is, what to try.

    >>> splits = load(Data(source=Digits(), validation=200))
    >>> len(splits.train), len(splits.validation), len(splits.test), splits.shape
    (1000, 200, 597, (1, 8, 8))
    """
    # Views are computed later, and a path means another file from another folder.
    key = (repr(replace(data, augment=Augment())), os.getcwd(), os.environ.get("LIMBECK_DATA"))
    if key not in _LOADED:
        splits = _divide(read(data.source, on_error=data.on_error, progress=progress), data)
        while len(_LOADED) >= _KEPT:
            _LOADED.pop(next(iter(_LOADED)))
        _LOADED[key] = splits
    return _LOADED[key]


def _divide(raw: Raw, data: Data) -> Splits:
    notes = _check_classes(raw.train, raw.classes, data.on_error, raw.name)
    labels = raw.train.labels
    stays, held = hold_out(labels, part_of(len(labels), data.validation), data.seed)
    train = raw.train.take(stays)
    mean = data.mean if data.mean is not None else raw.mean
    std = data.std if data.std is not None else raw.std
    if mean is None or std is None:
        own_mean, own_std = moments(train)
        mean = own_mean if mean is None else mean
        std = own_std if std is None else std
    channels = train.shape[0]
    for name, given in (("mean", mean), ("std", std)):
        if len(given) != channels:
            raise DataError(f"{name} has {len(given)} numbers; the images have {channels} channels")
    if raw.problems:
        notes.append(f"rows skipped: {len(raw.problems)} ({listed(raw.problems, _SHOWN, '; ')})")
    return Splits(
        train=train,
        validation=raw.train.take(held),
        test=raw.test,
        classes=raw.classes,
        shape=train.shape,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        skipped=len(raw.problems),
        source=raw.name,
        notes=tuple(notes),
    )
