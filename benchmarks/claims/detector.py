"""A small one-stage detector of blood cells: BCCD photographs, a grid head, its loss, and average precision.

Every position of a grid scores three classes and tells how far its box reaches to the left, top, right and bottom.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limbeck as lk

CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (96, 128)  # of the photographs here, a fifth of theirs
STRIDE = 8  # pixels per grid position
GRID = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)


# -- data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photographs:
    """Images ``[n, 3, 96, 128]``, normalised; of each one its boxes ``[k, 4]`` (x1, y1, x2, y2 in pixels) and classes ``[k]``."""

    x: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]
    dropped: int


@cache
def bccd(part: str) -> Photographs:
    """The photographs of "train", "val" or "test", from the folder ``bccd`` below LIMBECK_DATA."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    folder = Path(os.environ.get("LIMBECK_DATA", "../shared/data")) / "bccd"
    images, boxes, classes, dropped = [], [], [], 0
    for name in (folder / "ImageSets" / "Main" / f"{part}.txt").read_text().split():
        with Image.open(folder / "JPEGImages" / f"{name}.jpg") as image:
            image.draft("RGB", (SIZE[1] * 2, SIZE[0] * 2))
            images.append(pil_to_tensor(image.convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BOX)))
        tree = ElementTree.parse(folder / "Annotations" / f"{name}.xml")
        found, kinds, bad = _boxes(tree)
        boxes.append(found)
        classes.append(kinds)
        dropped += bad
    x = torch.stack(images).float() / 255
    mean, std = torch.tensor([0.74, 0.70, 0.72]), torch.tensor([0.06, 0.10, 0.075])
    return Photographs((x - mean.reshape(1, 3, 1, 1)) / std.reshape(1, 3, 1, 1), boxes, classes, dropped)


def _boxes(tree: ElementTree.ElementTree[Any]) -> tuple[Tensor, Tensor, int]:
    """Boxes at our size, their classes, and how many were no boxes inside the photograph."""
    width, height = (float(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    found, kinds, bad = [], [], 0
    for thing in tree.iter("object"):
        x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{k}", "nan")) for k in ("xmin", "ymin", "xmax", "ymax"))
        if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
            found.append([x1 / width * SIZE[1], y1 / height * SIZE[0], x2 / width * SIZE[1], y2 / height * SIZE[0]])
            kinds.append(CLASSES.index(thing.findtext("name", "")))
        else:
            bad += 1
    return torch.tensor(found).reshape(-1, 4), torch.tensor(kinds, dtype=torch.long), bad


def centres() -> Tensor:
    """Of the grid's positions, in pixels.  ``[positions, 2]`` as (x, y)."""
    y, x = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    return (torch.stack([x, y], 2).reshape(-1, 2) + 0.5) * STRIDE


def targets(boxes: Tensor, classes: Tensor) -> Tensor:
    """What the grid should say: classes ``[positions, 3]`` of 0 and 1, then the box ``[positions, 4]``, in one tensor.

    A position speaks for the smallest box in whose middle half it lies, or whose centre is in its own square.
    """
    at = centres()
    told = torch.zeros(len(at), len(CLASSES) + 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for i in areas.argsort(descending=True).tolist():  # smaller ones overwrite
        middle, half = (boxes[i, :2] + boxes[i, 2:]) / 2, (boxes[i, 2:] - boxes[i, :2]) / 4
        near = (at - middle).abs()
        mine = (near <= half).all(1) | (near <= STRIDE / 2).all(1)
        told[mine] = torch.cat([F.one_hot(classes[i], len(CLASSES)).float(), boxes[i]])
    return told


def mirrored(boxes: Tensor, x: bool, y: bool) -> Tensor:
    """The boxes of the photograph turned left to right, upside down, or both."""
    x1, y1, x2, y2 = boxes.unbind(1)
    if x:
        x1, x2 = SIZE[1] - x2, SIZE[1] - x1
    if y:
        y1, y2 = SIZE[0] - y2, SIZE[0] - y1
    return torch.stack([x1, y1, x2, y2], 1)


class Flipped:
    """Batches of photographs, each mirrored at random in both directions; the same for the same seed."""

    def __init__(self, data: Photographs, size: int, seed: int) -> None:
        self.size, self.seed, self.walks, self.variants = size, seed, 0, []
        for x, y in ((False, False), (True, False), (False, True), (True, True)):
            images = data.x.flip([d for d, on in ((3, x), (2, y)) if on])
            told = [targets(mirrored(b, x, y), c) for b, c in zip(data.boxes, data.classes, strict=True)]
            self.variants.append((images, torch.stack(told)))

    def __len__(self) -> int:
        return len(self.variants[0][0]) // self.size

    def __iter__(self) -> Iterator[lk.Batch]:
        source = torch.Generator().manual_seed(self.seed + 1000 * self.walks)
        self.walks += 1
        count = len(self.variants[0][0])
        order, which = torch.randperm(count, generator=source), torch.randint(4, (count,), generator=source)
        for i in range(len(self)):
            rows = order[i * self.size : (i + 1) * self.size].tolist()
            images, told = (torch.stack([self.variants[int(which[r])][k][r] for r in rows]) for k in (0, 1))
            yield lk.Batch(images, told)


# -- network and loss ---------------------------------------------------------------------------------


class Detector(nn.Module):
    """A backbone of stride 4 and a head; gives ``[batch, positions, 3 class scores + 4 box sides]``."""

    def __init__(self, backbone: nn.Module, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, len(CLASSES) + 4, 1),
        )  # fmt: skip
        nn.init.constant_(self.get_parameter("head.6.bias")[: len(CLASSES)], -3.0)  # most positions are background

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)).flatten(2).transpose(1, 2)


def reach(told: Tensor) -> Tensor:
    """The boxes that sides ``[..., positions, 4]`` (logarithms of reaches in strides) mean.  (x1, y1, x2, y2)."""
    at, far = centres(), told.clamp(-4, 4).exp() * STRIDE
    return torch.cat([at - far[..., :2], at + far[..., 2:]], -1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``[..., 4]``, elementwise (shapes broadcast)."""
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    areas = [(c[..., 2:] - c[..., :2]).clamp_min(0).prod(-1) for c in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp_min(1e-9)


def detection_loss(said: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss of the classes, and 1 - IoU of the boxes where there are cells; ``[batch]`` each, per cell position."""
    classes, k = told[..., : len(CLASSES)], len(CLASSES)
    there = classes.sum(2)
    cells = there.sum(1).clamp_min(1)
    p = said[..., :k].sigmoid()
    missed = (classes - p).abs().square()
    kind = missed * F.binary_cross_entropy_with_logits(said[..., :k], classes, reduction="none")
    box = (1 - overlap(reach(said[..., k:]), told[..., k:])) * there
    return kind.sum((1, 2)) / cells, box.sum(1) / cells


@dataclass(frozen=True, kw_only=True)
class Detect:
    """The detector's training as a method of limbeck."""

    def phases(self, cast: lk.Cast) -> Sequence[lk.Phase]:
        def step(models, batch, moment):
            kind, box = detection_loss(models["student"](batch.inputs).logits, batch.targets)
            yield lk.Update("student", {"class": lk.Term(kind), "box": lk.Term(box)})

        return [
            lk.Phase(
                name="detect",
                modules=cast.pick("student"),
                trains={"student": ("student",)},
                taps={"student": ()},
                step=step,
            )
        ]


# -- detecting, and average precision -----------------------------------------------------------------


@torch.no_grad()
def detect(model: nn.Module, x: Tensor, *, floor: float = 0.05) -> list[list[list[tuple[float, Tensor]]]]:
    """Per photograph and class: (score, box), best first, one per thing (boxes that overlap a better one by half are left out)."""
    model.eval()
    said = torch.cat([model(part) for part in x.split(32)])
    boxes, scores = reach(said[..., len(CLASSES) :]), said[..., : len(CLASSES)].sigmoid()
    return [[_apart(b, s[:, k], floor) for k in range(len(CLASSES))] for b, s in zip(boxes, scores, strict=True)]


def _apart(boxes: Tensor, scores: Tensor, floor: float) -> list[tuple[float, Tensor]]:
    kept: list[tuple[float, Tensor]] = []
    order = scores.argsort(descending=True)
    order = order[scores[order] > floor]
    while len(order):
        best, order = order[0], order[1:]
        kept.append((float(scores[best]), boxes[best]))
        order = order[overlap(boxes[order], boxes[best]) <= 0.5]
    return kept


def average_precision(found: Sequence[tuple[float, bool]], things: int, *, points: int | None = None) -> float:
    """From (score, whether right) of all detections of a class and how many things there are.

    The area under precision over recall, where precision is the best at this recall or a higher one; or with
    ``points=11`` its mean at recalls 0, 0.1 ... 1.
    """
    if not things:
        return float("nan")
    curve, right = [], 0
    for n, (_, ok) in enumerate(sorted(found, key=lambda f: -f[0]), 1):
        right += ok
        curve.append((right / things, right / n))
    best = [(recall, max(p for _, p in curve[i:])) for i, (recall, _) in enumerate(curve)]
    if points:
        steps = [i / (points - 1) for i in range(points)]
        return sum(max((p for r, p in best if r >= step - 1e-9), default=0.0) for step in steps) / points
    area, before = 0.0, 0.0
    for recall, precision in best:
        area, before = area + (recall - before) * precision, recall
    return area


_GOLDEN = [(0.9, True), (0.8, False), (0.7, True)]
assert abs(average_precision(_GOLDEN, 2) - 0.8333) < 1e-4
assert abs(average_precision(_GOLDEN, 2, points=11) - 0.8485) < 1e-4


def precisions(model: nn.Module, data: Photographs) -> list[float]:
    """Average precision of every class at an overlap of half (a second detection of the same thing is wrong)."""
    said, found = detect(model, data.x), []
    for k in range(len(CLASSES)):
        told, things = [], 0
        for detections, boxes, classes in zip(said, data.boxes, data.classes, strict=True):
            mine = boxes[classes == k]
            things += len(mine)
            taken: set[int] = set()
            for score, box in detections[k]:
                near = overlap(mine, box) if len(mine) else torch.zeros(1)
                best = int(near.argmax())
                ok = float(near[best]) >= 0.5 and best not in taken
                if ok:
                    taken.add(best)
                told.append((score, ok))
        found.append(average_precision(told, things))
    return found
