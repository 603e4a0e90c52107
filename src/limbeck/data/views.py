"""Random views of images: crop, flip and cutout, as a pure function of (seed, row, view).

A whole batch is varied at once.  Crop and flip together are one map from output pixel to input
pixel, so there is one gather and no padded copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from limbeck.data import keys
from limbeck.data.spec import Augment
from limbeck.errors import DataError, ShapeError

VERSION = 1  # of the random numbers: part of the key of anything that stores what a network said about a view

_UP, _LEFT, _MIRROR, _HOLE_Y, _HOLE_X = range(5)


def augment(
    images: UInt8[Tensor, "batch channels height width"],
    rows: Int64[Tensor, " batch"],
    views: Int64[Tensor, " batch"],
    *,
    seed: int,
    augment: Augment,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 255.0,
) -> Float32[Tensor, "batch channels height width"]:
    """A random view of each image, normalised.

    The numbers drawn for a sample are a hash of ``(seed, row, view)``: the same three always give the
    same pixels, whatever else is in the batch, in any order, on any number of processes.

    Crop: the image is mirrored outwards at its border (the border pixel itself is not repeated) by
    ``crop`` pixels on each side, and a window of the old size is cut at one of ``(2 crop + 1)^2``
    offsets (He et al., CVPR 2016, section 4.2, with reflected instead of black borders).  Flip: left-right, for half of the
    samples.  Cutout (DeVries, Taylor, arXiv 1708.04552): a square, its centre uniform over the pixels, cut off at the
    border, becomes the mean, which is 0 after normalising.

    Args:
        images: ``[batch, channels, height, width]`` uint8.
        rows: ``[batch]`` which sample of the data set each is.
        views: ``[batch]`` which view of it is wanted (the epoch, say).
        seed: of the run or of the cache.
        augment: what to vary.
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.
        scale: the pixel value that means 1.0.

    Returns:
        ``[batch, channels, height, width]`` float32.

    Raises:
        DataError: the crop is not smaller than the image.
        ShapeError: rows or views do not fit the images.
    """
    batch, _, height, width = images.shape
    for name, value in (("rows", rows), ("views", views)):
        if value.shape != (batch,):
            raise ShapeError(f"{name} is {list(value.shape)} for a batch of {batch} images; it is [{batch}]")
    require_crop(augment, height, width)
    drawn = keys.key(seed, rows, views)
    if augment.crop or augment.flip:
        images = _window(images, drawn, augment)
    out = normalise(images, mean=mean, std=std, scale=scale)
    return out.masked_fill_(_hole(drawn, height, width, augment.cutout), 0.0) if augment.cutout else out


def require_crop(augment: Augment, height: int, width: int) -> None:
    """Refuse a crop that images of this size cannot give.

    Raises:
        DataError: the crop is not smaller than the image.
    """
    if augment.crop >= min(height, width):
        raise DataError(
            f"crop = {augment.crop} on images of {height}x{width}: a border can be reflected by at most "
            f"{min(height, width) - 1} pixels; a crop of an eighth of the side ({max(1, min(height, width) // 8)}) is usual"
        )


def normalise(
    images: UInt8[Tensor, "batch channels height width"],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 255.0,
) -> Float32[Tensor, "batch channels height width"]:
    """``(pixel / scale - mean) / std`` per channel: uint8 to float32, same shape.

    It is exactly what `augment` gives when nothing is varied.

    Raises:
        ShapeError: mean or std has not one number per channel.

    >>> normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), mean=[0.5], std=[0.25]).tolist()
    [[[[-2.0, 2.0]]]]
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ShapeError(f"{channels} channels with {len(mean)} means and {len(std)} stds; there is one per channel")
    # Two separate roundings (no fused multiply-add), so that every device gives the same bits.
    gain = torch.tensor([1.0 / (scale * s) for s in std], dtype=torch.float32, device=images.device).view(
        1, channels, 1, 1
    )
    shift = torch.tensor([m / s for m, s in zip(mean, std)], dtype=torch.float32, device=images.device).view(
        1, channels, 1, 1
    )
    return images.to(torch.float32).mul_(gain).sub_(shift)


def _window(images: Tensor, drawn: Tensor, augment: Augment) -> Tensor:
    batch, channels, height, width = images.shape
    y = torch.arange(height, device=images.device).expand(batch, height)
    x = torch.arange(width, device=images.device).expand(batch, width)
    if augment.flip:
        x = torch.where(keys.integers(drawn, _MIRROR, 2).bool()[:, None], width - 1 - x, x)
    if augment.crop:
        offsets = 2 * augment.crop + 1
        y = _reflect(y + keys.integers(drawn, _UP, offsets)[:, None] - augment.crop, height)
        x = _reflect(x + keys.integers(drawn, _LEFT, offsets)[:, None] - augment.crop, width)
    index = (y[:, :, None] * width + x[:, None, :]).view(batch, 1, height * width)
    flat = images.reshape(batch, channels, height * width)
    return flat.gather(2, index.expand(-1, channels, -1)).view(images.shape)


def _reflect(position: Tensor, side: int) -> Tensor:
    """Where a position up to ``side - 1`` outside of ``0..side - 1`` falls when mirrored at the border pixels."""
    position = position.abs()
    return torch.where(position < side, position, 2 * (side - 1) - position)


def _hole(drawn: Tensor, height: int, width: int, side: int) -> Tensor:
    top = keys.integers(drawn, _HOLE_Y, height)[:, None] - side // 2
    left = keys.integers(drawn, _HOLE_X, width)[:, None] - side // 2
    y = torch.arange(height, device=drawn.device)
    x = torch.arange(width, device=drawn.device)
    in_y = (y >= top) & (y < top + side)
    in_x = (x >= left) & (x < left + side)
    return (in_y[:, :, None] & in_x[:, None, :])[:, None]
