"""Decoded images in memory, and a data set divided into its three parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import DataError


@dataclass(frozen=True, eq=False)
class Images:
    """Some rows of a data set, decoded.  They are shared by all who ask for them: do not write into them.

    Attributes:
        pixels: ``[rows, channels, height, width]`` uint8, as in the file: nothing is scaled yet.
        labels: ``[rows]`` int64 class ids.
        rows: ``[rows]`` int64, which row of its file each image is; it survives division and subsets.
        scale: the pixel value that means 1.0 (255; 16 for the digits).
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor
    scale: float = 255.0

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4:
            raise DataError(
                f"images are uint8 [rows, channels, height, width]; got {self.pixels.dtype} {list(self.pixels.shape)}"
            )
        n = len(self.pixels)
        if self.labels.shape != (n,) or self.rows.shape != (n,):
            raise DataError(
                f"{n} images with labels {list(self.labels.shape)} and rows {list(self.rows.shape)}; "
                "there is one of each per image"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def take(self, index: Tensor) -> Images:
        """The images at these positions (not row ids), in this order."""
        index = index.to(self.pixels.device)
        return Images(self.pixels[index], self.labels[index], self.rows[index], self.scale)

    def to(self, device: torch.device | str) -> Images:
        """The same images on a device: a small-image set fits on an accelerator as a whole."""
        return Images(self.pixels.to(device), self.labels.to(device), self.rows.to(device), self.scale)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, ready for training.

    Attributes:
        train: what networks are fitted to.
        validation: held out of the training rows, stratified; for choices during training.
        test: for the last word.
        classes: their names; class id = position.
        shape: channels, height, width of one image.
        mean, std: per channel, on the scale 0..1, for normalising.
        skipped: rows left out because of ``on_error: skip``.
        source: what it is, for the record.
        notes: lines for the user: what was skipped and why, classes without rows.
    """

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: int
    source: str
    notes: tuple[str, ...] = ()
