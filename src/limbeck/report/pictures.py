"""The pictures of a report: sample images and attention maps as PNG data URIs, each with words that say what it shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limbeck.report.read import number

if TYPE_CHECKING:
    import numpy as np

SIDE = 112  # pixels of a picture's longer side: sharp at the size shown, small in the file


@dataclass(frozen=True)
class Picture:
    """A picture for the page.

    Attributes:
        uri: a PNG as a data URI.
        alt: what it shows, in words.
        width, height: in pixels.
        note: a short line below it, or an empty text.
    """

    uri: str
    alt: str
    width: int
    height: int
    note: str = ""


@dataclass(frozen=True)
class Layer:
    """The attention maps of one tapped layer.

    Attributes:
        title: which layer, of which network where they differ.
        models: the networks, in the order of the columns.
        rows: (label of the sample, the sample, one picture or None for each network).
        agreement: by network, how alike its maps are to the first network's, in words.
    """

    title: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, Picture | None, tuple[Picture | None, ...]], ...]
    agreement: Mapping[str, str]


def _uri(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def pixels_of(image: Any) -> np.ndarray | None:
    """The pixels of a recorded image, ``[height, width, 3]`` uint8, or None where the record does not add up."""
    import numpy as np

    if not isinstance(image, Mapping):
        return None
    try:
        shape = [int(n) for n in image["shape"]]
        flat = np.asarray(image["pixels"], dtype=float)
        pixels = flat.reshape(shape)
    except (KeyError, TypeError, ValueError):
        return None
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape or not np.isfinite(pixels).all():
        return None
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


def _enlarged(pixels: np.ndarray, side: int, smooth: bool) -> np.ndarray:
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if not smooth and scale > 1:
        scale = max(1, int(scale))  # whole steps keep the pixels square
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def sample_picture(sample: Mapping[str, Any], classes: Sequence[str]) -> Picture | None:
    """A sample image, enlarged with its pixels square; None where the record holds none."""
    pixels = pixels_of(sample.get("image"))
    if pixels is None:
        return None
    large = _enlarged(pixels, SIDE, smooth=False)
    height, width = pixels.shape[:2]
    alt = f"Sample image, {label_words(sample, classes)}, {width} by {height} pixels."
    return Picture(_uri(large), alt, large.shape[1], large.shape[0])


def label_words(sample: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Which class and which row a sample is."""
    label, row = sample.get("label"), sample.get("row")
    if isinstance(label, (list, tuple)):  # several labels at once
        on = [class_name(i, classes) for i, value in enumerate(label) if number(value)]
        name = ", ".join(on) or "no label"
    else:
        name = class_name(label, classes)
    return f"class {name}" + (f", row {row}" if row is not None else "")


def class_name(label: Any, classes: Sequence[str]) -> str:
    """The name of a class id, or the id."""
    ok = isinstance(label, int) and 0 <= label < len(classes)
    return classes[label] if ok else str(label)


def map_of(entry: Mapping[str, Any]) -> np.ndarray | None:
    """A recorded attention map, ``[height, width]`` in [0, 1], or None where the record does not add up."""
    import numpy as np

    try:
        shape = [int(n) for n in entry["shape"]]
        found = np.asarray(entry["map"], dtype=float).reshape(shape)
    except (KeyError, TypeError, ValueError):
        return None
    if found.ndim != 2 or 0 in found.shape or not np.isfinite(found).all():
        return None
    return np.clip(found / 255.0, 0.0, 1.0)


def where(attention: np.ndarray) -> str:
    """Where a map is strongest, in words.

    >>> import numpy as np
    >>> where(np.array([[0.0, 0.0, 0.9], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    'strongest at the upper right'
    >>> where(np.ones((4, 4)))
    'even everywhere'
    """
    import numpy as np

    if float(attention.max() - attention.min()) < 0.02:
        return "even everywhere"
    # The middle of the strongest tenth is steadier than one highest pixel.
    cut = np.quantile(attention, 0.9)
    rows, columns = np.nonzero(attention >= max(cut, 1e-9))
    y, x = (rows.mean() + 0.5) / attention.shape[0], (columns.mean() + 0.5) / attention.shape[1]
    across = "left" if x < 0.38 else "right" if x > 0.62 else ""
    down = "upper" if y < 0.38 else "lower" if y > 0.62 else ""
    if not across and not down:
        return "strongest in the middle"
    return f"strongest at the {' '.join(w for w in (down, across) if w) if across else f'{down} middle'}"


def alike(a: np.ndarray, b: np.ndarray) -> float | None:
    """The correlation of two maps, the smaller one enlarged to the larger; None where one of them is flat."""
    import numpy as np
    from PIL import Image

    if a.shape != b.shape:
        shape = (max(a.shape[1], b.shape[1]), max(a.shape[0], b.shape[0]))
        a, b = (
            np.asarray(Image.fromarray(m.astype(np.float32)).resize(shape, Image.Resampling.BILINEAR), dtype=float)
            for m in (a, b)
        )
    if a.std() < 1e-6 or b.std() < 1e-6:
        return None
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def overlay(attention: np.ndarray, pixels: np.ndarray | None, side: int = SIDE) -> np.ndarray:
    """A map in colour over the sample in grey, ``[height, width, 3]`` uint8; warm and bright is strong."""
    import matplotlib
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2] if pixels is not None else attention.shape
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strength = (
        np.asarray(Image.fromarray((attention * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)) / 255.0
    )
    colour = matplotlib.colormaps["inferno"](0.06 + 0.94 * strength)[..., :3]
    if pixels is not None:
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        grey = np.asarray(Image.fromarray(pixels).convert("L").resize(size, how))[..., None] / 255.0
        colour = 0.68 * colour + 0.32 * grey * (0.35 + 0.65 * strength[..., None])
    return np.clip(np.rint(255 * colour), 0, 255).astype(np.uint8)


def _ordered(entries: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(e.get(key)) for e in entries))


def layers(exhibits: Mapping[str, Any], classes: Sequence[str]) -> list[Layer]:
    """Attention maps by tapped layer: a row for each sample, a column for each network, the teacher first.

    Where the networks call their layers differently, the first tap of one stands beside the first of the others.
    """
    raw = exhibits.get("attention")
    entries = [e for e in raw if isinstance(e, Mapping)] if isinstance(raw, list) else []
    samples = exhibits.get("samples") if isinstance(exhibits.get("samples"), list) else []
    assert isinstance(samples, list)
    models = _ordered(entries, "model")
    taps = {m: _ordered([e for e in entries if str(e.get("model")) == m], "tap") for m in models}
    if not models:
        return []
    same = len({tuple(sorted(t)) for t in taps.values()}) == 1
    depth = max(len(t) for t in taps.values())
    found: list[Layer] = []
    for i in range(depth):
        tap = {m: taps[models[0]][i] if same else taps[m][i] for m in models if same or i < len(taps[m])}
        names = dict.fromkeys(tap.values())
        title = next(iter(names)) if len(names) == 1 else ", ".join(f"{t} of {m}" for m, t in tap.items())
        layer = _layer(title, tuple(tap), tap, entries, samples, classes)
        if layer.rows:
            found.append(layer)
    return found


def _layer(
    title: str,
    models: tuple[str, ...],
    tap: Mapping[str, str],
    entries: Sequence[Mapping[str, Any]],
    samples: Sequence[Any],
    classes: Sequence[str],
) -> Layer:
    maps: dict[tuple[str, int], np.ndarray] = {}
    for entry in entries:
        model, sample = str(entry.get("model")), number(entry.get("sample"))
        if model in tap and str(entry.get("tap")) == tap[model] and sample is not None:
            attention = map_of(entry)
            if attention is not None:
                maps[model, int(sample)] = attention
    rows = []
    likeness: dict[str, list[float]] = {}
    for index in sorted({i for _, i in maps}):
        sample = samples[index] if 0 <= index < len(samples) and isinstance(samples[index], Mapping) else {}
        label = label_words(sample, classes) if sample else f"sample {index}"
        pixels = pixels_of(sample.get("image"))
        first = maps.get((models[0], index))
        pictures: list[Picture | None] = []
        for model in models:
            attention = maps.get((model, index))
            if attention is None:
                pictures.append(None)
                continue
            r = alike(attention, first) if first is not None and model != models[0] else None
            if r is not None:
                likeness.setdefault(model, []).append(r)
            said = f", correlation with the map of {models[0]} {r:.2f}" if r is not None else ""
            shown = overlay(attention, pixels)
            height, width = attention.shape
            alt = (
                f"Attention of {model} at {tap[model]} on {label}: {where(attention)}{said} ({width} by {height} map)."
            )
            pictures.append(
                Picture(
                    _uri(shown),
                    alt,
                    shown.shape[1],
                    shown.shape[0],
                    f"r = {r:.2f}".replace("-", "−") if r is not None else "",
                )
            )
        rows.append((label, sample_picture(sample, classes) if sample else None, tuple(pictures)))
    agreement = {
        m: f"mean r = {sum(v) / len(v):.2f}, n = {len(v)} images".replace("-", "−") for m, v in likeness.items()
    }
    return Layer(title, models, tuple(rows), agreement)
