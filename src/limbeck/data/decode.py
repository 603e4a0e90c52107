"""Pictures to pixels: Pillow in a thread pool, once per data set."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from limbeck.data.images import Images
from limbeck.data.plain import fitted, plain
from limbeck.errors import DataError

OnError = Literal["raise", "skip"]
Progress = Callable[[int, int], None]

_CHUNK = 256
_TINY = 16_384  # bytes of an encoded picture


class Item(NamedTuple):
    """One undecoded row.

    Attributes:
        place: file, or file and row, for messages.
        picture: the encoded bytes, or a file that has them, or None where there are none.
        label: the class id, or a sentence that says why there is none.
    """

    place: str
    picture: bytes | Path | None
    label: int | str


class Decoded(NamedTuple):
    """Images, and the sentences about the rows that were left out."""

    images: Images
    problems: list[str]


def decode(
    items: Sequence[Item],
    *,
    on_error: OnError,
    size: int | None = None,
    like: Images | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """Decode every item; the position in ``items`` is the row id.

    The result is grey (1 channel) where every picture is, else colour (3).  Alpha is dropped, and the
    orientation in the picture's Exif data is applied.

    Args:
        items: what to decode.
        on_error: "raise": the first bad row is an error; "skip": it is left out.
        size: resize the shorter side to this, then crop the centre; None: all pictures have one size.
        like: give the same channels as these images, and the same size.
        progress: called with (rows done, all rows) now and then.

    Raises:
        DataError: a picture that cannot be decoded, a bad label, a size unlike the others', or no row left.
    """
    problems: list[str] = []

    def bad(problem: str) -> None:
        if on_error == "raise":
            raise DataError(f"{problem} (on_error: skip leaves such rows out and counts them)")
        problems.append(problem)

    kept: list[int] = []
    arrays: list[np.ndarray] = []
    grey = None if like is None else like.shape[0] == 1
    chunks = [range(i, min(i + _CHUNK, len(items))) for i in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(max_workers=_workers(items)) as pool:
        work = pool.map(lambda chunk: [_pixels(items[row], size, grey) for row in chunk], chunks)
        for chunk, results in zip(chunks, work):
            for row, result in zip(chunk, results):
                if isinstance(result, str):
                    bad(result)
                else:
                    kept.append(row)
                    arrays.append(result)
            if progress is not None:
                progress(chunk[-1] + 1, len(items))
    if not arrays:
        raise DataError(_nothing(items, problems))
    kept, arrays = _one_size(items, kept, arrays, like, on_error, bad)
    if any(a.shape[2] == 3 for a in arrays):
        arrays = [a if a.shape[2] == 3 else np.repeat(a, 3, axis=2) for a in arrays]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([items[row].label for row in kept], dtype=torch.int64)
    return Decoded(Images(pixels, labels, torch.tensor(kept, dtype=torch.int64)), problems)


def _workers(items: Sequence[Item]) -> int:
    """Threads for these pictures: tiny ones spend their time in Python, where more threads only get in each other's way."""
    first = items[0].picture if items else None
    return 1 if isinstance(first, bytes) and len(first) < _TINY else min(32, os.cpu_count() or 1)


def _nothing(items: Sequence[Item], problems: Sequence[str]) -> str:
    if not items:
        return "there is no row at all"
    return f"none of the {len(items)} rows can be used; the first: {problems[0]}"


def _pixels(item: Item, size: int | None, grey: bool | None) -> np.ndarray | str:
    """``[height, width, 1 or 3]`` uint8, or a sentence that says what is wrong."""
    if isinstance(item.label, str):
        return f"{item.place}: {item.label}"
    if item.picture is None:
        return f"{item.place}: the image is empty (null)"
    try:
        with Image.open(io.BytesIO(item.picture) if isinstance(item.picture, bytes) else item.picture) as picture:
            return _array(picture, size, grey)
    except MemoryError:
        raise
    except UnidentifiedImageError:  # its own words hold an address in memory, other ones in every run
        return f"{item.place}: the image cannot be decoded (cannot identify its format)"
    # Pillow's decoders raise whatever they like on damaged files, SyntaxError and struct.error included.
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"{item.place}: the image cannot be decoded ({first})"


def _array(picture: Image.Image, size: int | None, grey: bool | None) -> np.ndarray:
    made = plain(picture, grey)
    array = np.array(made if size is None else fitted(made, size, size))
    return array[:, :, None] if made.mode == "L" else array


def _one_size(
    items: Sequence[Item],
    kept: list[int],
    arrays: list[np.ndarray],
    like: Images | None,
    on_error: OnError,
    bad: Callable[[str], None],
) -> tuple[list[int], list[np.ndarray]]:
    sizes = Counter(a.shape[:2] for a in arrays)
    if like is not None:
        wanted, whose = like.shape[1:], "the training images have"
    elif on_error == "skip":  # the odd one out may be the first
        wanted, whose = sizes.most_common(1)[0][0], "most others have"
    else:
        wanted, whose = arrays[0].shape[:2], f"{items[kept[0]].place} has"
    if set(sizes) == {tuple(wanted)}:
        return kept, arrays
    fitting: list[int] = []
    for i, (row, array) in enumerate(zip(kept, arrays)):
        if array.shape[:2] == tuple(wanted):
            fitting.append(i)
            continue
        bad(
            f"{items[row].place}: {array.shape[1]}x{array.shape[0]} pixels (width x height) where {whose} "
            f"{wanted[1]}x{wanted[0]}; give the source a 'size' to resize and crop all images to"
        )
    if not fitting:
        raise DataError(f"no image has the size {wanted[1]}x{wanted[0]} that {whose.removesuffix(' have')} have")
    return [kept[i] for i in fitting], [arrays[i] for i in fitting]
