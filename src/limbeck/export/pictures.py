"""From a picture in a file to the input of a network, as the network's data source did it, and told so that others can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from limbeck.data import normalise
from limbeck.data.plain import fitted, plain
from limbeck.errors import DataError, near

_LIGHT = 255.0  # of a picture's 8 bits: what means 1.0


def preprocessing(shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """What `prepared` does with a picture, as plain data for ``deploy.json``.

    Args:
        shape: channels (1 or 3), height and width of the network's input.
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.

    >>> preprocessing((1, 8, 8), (0.3,), (0.4,))["size"]
    [8, 8]
    """
    channels, height, width = shape
    return {
        "steps": [
            "apply the orientation in the Exif data, drop alpha",
            "to grey (ITU-R 601 luma)" if channels == 1 else "to RGB",
            f"resize, bilinear with antialiasing, so that {height}x{width} (height x width) is just covered, unless it has that size",
            "cut out the centre",
            "divide by scale, subtract mean, divide by std, per channel",
            "order: batch, channel, row, column",
        ],
        "channels": "grey" if channels == 1 else "RGB",
        "size": [height, width],
        "resize": "shorter side, bilinear",
        "crop": "centre",
        "scale": _LIGHT,
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
    }


def prepared(files: Sequence[str | Path], told: Mapping[str, Any]) -> Tensor:
    """Pictures as one batch.

    Args:
        files: one picture each.
        told: what `preprocessing` said.

    Returns:
        ``[pictures, channels, height, width]`` float32.

    Raises:
        DataError: files that are not there, or no pictures: all of them, a line each.
    """
    read, wrong = [], []
    for file in files:
        try:
            read.append(_pixels(Path(file), told["channels"] == "grey", told["size"]))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    return normalise(torch.stack(read), mean=told["mean"], std=told["std"], scale=told["scale"])


def _pixels(file: Path, grey: bool, size: Sequence[int]) -> Tensor:
    if not file.is_file():
        raise DataError(_missing(file))
    try:
        with Image.open(file) as picture:
            array = np.array(fitted(plain(picture, grey), *size))
    except MemoryError:
        raise
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{file} is no picture that can be read (PNG, JPEG, WebP, BMP, GIF, TIFF ... can)") from None
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} is a damaged picture ({first})") from error
    tensor = torch.from_numpy(array)
    return tensor[None] if grey else tensor.permute(2, 0, 1).contiguous()


def _missing(file: Path) -> str:
    if file.is_dir():
        return f"{file} is a folder; give pictures, {file}/* say"
    if not file.parent.is_dir():
        return f"no picture {file}: there is no folder {file.parent}"
    names = sorted(path.name for path in file.parent.iterdir() if path.is_file())
    close = near(file.name, names)
    return f"no picture {file}" + (f"; near: {', '.join(close)}" if close else "")
