"""A picture as pixels: upright, of one size, in grey or in RGB; the same for training data and for prediction."""

from __future__ import annotations

from PIL import Image, ImageOps

from limbeck.errors import DataError


def plain(picture: Image.Image, grey: bool | None) -> Image.Image:
    """Turned upright by its Exif data, without alpha, in grey or in RGB.

    Args:
        picture: of any mode with 8 bits per channel.
        grey: whether it becomes grey; None: if it is.

    Raises:
        DataError: more than 8 bits per channel.

    >>> plain(Image.new("P", (4, 2)), grey=None).mode, plain(Image.new("LA", (4, 2)), grey=None).mode
    ('RGB', 'L')
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        raise DataError(f"mode {picture.mode}: more than 8 bits per channel; convert it to 8 bits first")
    upright = ImageOps.exif_transpose(picture)
    if grey is None:
        grey = upright.mode in ("1", "L", "LA")
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    elif upright.mode == "LAB":  # Pillow knows the way to RGB alone
        upright = upright.convert("RGB")
    return upright.convert("L" if grey else "RGB")


def fitted(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Resized so that it just covers the size, and cut to it in the centre; as it is where it has that size.

    >>> fitted(Image.new("L", (40, 10)), 8, 8).size
    (8, 8)
    """
    wide, high = picture.size
    if (high, wide) == (height, width):
        return picture
    if wide * height <= high * width:  # too narrow, or of the same shape: the width decides
        wide, high = width, max(height, round(high * width / wide))
    else:
        wide, high = max(width, round(wide * height / high)), height
    left, top = (wide - width) // 2, (high - height) // 2
    return picture.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
