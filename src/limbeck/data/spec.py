"""Which data, as plain data.  Reading it is in `limbeck.data.sources`; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from limbeck.settings import finite, require


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Scikit-learn's handwritten digits: 1,797 images, 1x8x8, 10 classes; 1,200 train, 597 test (stratified)."""


@dataclass(frozen=True, kw_only=True)
class CIFAR10:
    """CIFAR-10: 50,000 train and 10,000 test images, 3x32x32, 10 classes.

    Attributes:
        folder: where ``train.parquet`` and ``test.parquet`` (or torchvision's files) are, and nowhere else;
            None means ``cifar10`` below ``LIMBECK_DATA``, where that is not set below ``../shared/data``, else the cache.
        download: fetch it through torchvision when it is nowhere.
    """

    folder: str | None = None
    download: bool = True


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Image parquet files in the Hugging Face schema (``image``: struct of ``bytes`` and ``path``).

    Attributes:
        train, test: a file, a folder of parquet files, or a pattern such as ``data/train-*.parquet``.
            Without ``test``, a fifth of train is held out.
        image, label: names of the columns.
        size: side to which images are resized (shorter side, then centre crop), or None: all must be equal.
    """

    train: str
    test: str | None = None
    image: str = "image"
    label: str = "label"
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            require(self.size >= 1, "size", self.size, "pixels, at least 1, or nothing at all")


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A folder per class, pictures inside.

    Attributes:
        train, test: the roots.  Without ``test``, a fifth of train is held out.
        size: side to which images are resized (shorter side, then centre crop), or None: all must be equal.
    """

    train: str
    test: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            require(self.size >= 1, "size", self.size, "pixels, at least 1, or nothing at all")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random views of the training images, each a pure function of (seed, row, view).

    Attributes:
        crop: pixels of reflected border from which a window of the old size is cut (0: none).
        flip: mirror left-right with probability one half.
        cutout: side of a square set to the mean, in pixels (0: none).
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        require(self.crop >= 0, "crop", self.crop, "pixels, zero or more")
        require(self.cutout >= 0, "cutout", self.cutout, "pixels, zero or more")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data of a recipe: where it comes from, how it is divided, how it is varied.

    Attributes:
        source: one of `Digits`, `CIFAR10`, `Parquet`, `ImageFolder`.
        validation: held out of the training rows, stratified: a number of rows (1 or more), or a part (below 1).
        augment: random views for training.
        seed: of the division into training and validation rows; the same for all seeds of a run.
        on_error: what an undecodable image or a bad label does: "raise", or "skip" with a count in the record.
        mean, std: per channel, on the scale 0..1; None: computed from the training rows.
    """

    source: Any = field(default_factory=Digits)
    validation: float = 0.1
    augment: Augment = field(default_factory=Augment)
    seed: int = 0
    on_error: Literal["raise", "skip"] = "raise"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require(
            finite(self.validation) and self.validation > 0,
            "validation",
            self.validation,
            "a number of rows, or a part below 1",
        )
        whole = self.validation < 1 or float(self.validation).is_integer()
        require(whole, "validation", self.validation, "a whole number of rows, or a part below 1")
        if self.validation >= 1:  # a number of rows reads as one, also where YAML's type was a float
            object.__setattr__(self, "validation", int(self.validation))
        require(self.on_error in ("raise", "skip"), "on_error", self.on_error, "'raise' or 'skip'")
        if self.mean is not None:
            require(all(map(finite, self.mean)), "mean", self.mean, "one number per channel, on the scale 0..1")
        if self.std is not None:
            good = all(finite(s) and s > 0 for s in self.std)
            require(good, "std", self.std, "one number per channel, more than zero, on the scale 0..1")
