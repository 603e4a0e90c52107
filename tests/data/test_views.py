"""Views: goldens by hand, purity, uniformity; references in plain Python that share nothing with the code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import keys
from limbeck.data.spec import Augment
from limbeck.data.views import augment, normalise
from limbeck.errors import DataError, ShapeError

MASK = (1 << 64) - 1


def splitmix(state: int) -> int:
    """SplitMix64 on Python's own integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def drawn(seed: int, row: int, view: int, what: int, count: int) -> int:
    state = splitmix(seed & MASK)
    state = splitmix(state ^ row)
    state = splitmix(state ^ view)
    return ((splitmix(state ^ splitmix(what)) >> 32) * count) >> 32


def reference(image: np.ndarray, seed: int, row: int, view: int, how: Augment, mean, std, scale) -> np.ndarray:
    """One sample, by padding and slicing, in float64."""
    _, height, width = image.shape
    c = how.crop
    out = np.pad(image, ((0, 0), (c, c), (c, c)), mode="reflect") if c else image
    if c:
        top, left = drawn(seed, row, view, 0, 2 * c + 1), drawn(seed, row, view, 1, 2 * c + 1)
        out = out[:, top : top + height, left : left + width]
    if how.flip and drawn(seed, row, view, 2, 2):
        out = out[:, :, ::-1]
    out = (out / scale - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    if how.cutout:
        y = drawn(seed, row, view, 3, height) - how.cutout // 2
        x = drawn(seed, row, view, 4, width) - how.cutout // 2
        out[:, max(0, y) : max(0, y + how.cutout), max(0, x) : max(0, x + how.cutout)] = 0
    return out


def plain(images: torch.Tensor, rows, views, how: Augment, seed: int = 0) -> torch.Tensor:
    """Views with the pixels left on their own scale."""
    channels = images.shape[1]
    return augment(
        images,
        torch.as_tensor(rows),
        torch.as_tensor(views),
        seed=seed,
        augment=how,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        scale=1.0,
    )


def random_images(count: int, channels: int = 3, height: int = 9, width: int = 7) -> torch.Tensor:
    made = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(made)


def test_the_hash_is_splitmix64_as_published():
    # The first three outputs for the seed 1234567, a test vector that goes with the generator.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(1234567 + i * 0x9E3779B97F4A7C15) & MASK for i in range(3)]
    signed = torch.tensor([s - (1 << 64) if s >> 63 else s for s in states])
    assert [int(v) & MASK for v in keys.mix(signed)] == known


def test_crop_of_a_row_of_pixels_by_hand():
    # 1 2 3 mirrored by two on each side is 3 2 1 2 3 2 1: five windows.
    image = torch.tensor([[[[1, 2, 3]] * 3]], dtype=torch.uint8)
    seen = plain(image.expand(400, -1, -1, -1), range(400), [0] * 400, Augment(crop=2))
    assert {tuple(v) for v in seen[:, 0, 1].int().tolist()} == {(3, 2, 1), (2, 1, 2), (1, 2, 3), (2, 3, 2)}


def test_crop_gives_every_window_of_the_mirrored_image_and_no_other():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    windows = {padded[:, i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert len(windows) == 9
    batch = torch.from_numpy(image).expand(300, 1, 3, 4)
    seen = plain(batch, range(300), [5] * 300, Augment(crop=1)).to(torch.uint8).numpy()
    assert {v.tobytes() for v in seen} == windows


def test_flip_mirrors_left_and_right_only():
    image = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    seen = plain(image.expand(64, -1, -1, -1), range(64), [0] * 64, Augment(flip=True)).int().tolist()
    assert [[[1, 2, 3], [4, 5, 6]]] in seen
    assert [[[3, 2, 1], [6, 5, 4]]] in seen
    assert all(v in ([[[1, 2, 3], [4, 5, 6]]], [[[3, 2, 1], [6, 5, 4]]]) for v in seen)


def test_cutout_by_hand():
    # Side 2 on 3x3: the centre (y, x) clears y-1..y and x-1..x, cut off at the border.
    ones = torch.ones(500, 1, 3, 3, dtype=torch.uint8)
    seen = plain(ones, range(500), [0] * 500, Augment(cutout=2))[:, 0].int().tolist()
    holes = {tuple((y, x) for y in range(3) for x in range(3) if not v[y][x]) for v in seen}
    assert holes == {
        tuple((y, x) for y in (cy - 1, cy) for x in (cx - 1, cx) if y >= 0 and x >= 0)
        for cy in range(3)
        for cx in range(3)
    }


def test_cutout_is_the_mean_so_zero_after_normalising():
    seen = augment(
        torch.full((4, 2, 5, 5), 200, dtype=torch.uint8),
        torch.arange(4),
        torch.zeros(4, dtype=torch.int64),
        seed=1,
        augment=Augment(cutout=11),
        mean=[0.3, 0.6],
        std=[0.2, 0.1],
    )
    assert (seen == 0).all()  # a square of 11 covers all of 5x5 wherever its centre is


@pytest.mark.parametrize(
    "how",
    [
        Augment(),
        Augment(crop=2),
        Augment(flip=True),
        Augment(cutout=3),
        Augment(cutout=4),
        Augment(crop=6, flip=True, cutout=5),
    ],
)
@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
def test_equals_the_reference(how: Augment, seed: int):
    images = random_images(16)
    rows = torch.arange(16) * 1000 + 7
    views = torch.arange(16) % 5
    mean, std = [0.1, 0.5, 0.7], [0.2, 0.3, 0.4]
    seen = augment(images, rows, views, seed=seed, augment=how, mean=mean, std=std, scale=255.0)
    assert seen.dtype == torch.float32
    for i in range(16):
        expected = reference(images[i].numpy(), seed, int(rows[i]), int(views[i]), how, mean, std, 255.0)
        np.testing.assert_allclose(seen[i].numpy(), expected, atol=3e-6)


def test_same_key_same_pixels_in_any_batch():
    images, how = random_images(40), Augment(crop=3, flip=True, cutout=4)
    rows, views = torch.arange(40) * 3, torch.arange(40) % 7
    whole = plain(images, rows, views, how, seed=9)
    order = torch.tensor(np.random.default_rng(1).permutation(40))
    assert torch.equal(plain(images[order], rows[order], views[order], how, seed=9), whole[order])
    alone = torch.cat([plain(images[i : i + 1], rows[i : i + 1], views[i : i + 1], how, seed=9) for i in range(40)])
    assert torch.equal(alone, whole)
    halves = [plain(images[r::2], rows[r::2], views[r::2], how, seed=9) for r in range(2)]
    assert torch.equal(halves[0], whole[0::2])
    assert torch.equal(halves[1], whole[1::2])


def test_no_global_random_state_is_read_or_moved():
    images, how = random_images(4), Augment(crop=2, flip=True, cutout=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = plain(images, range(4), [0] * 4, how)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(plain(images, range(4), [0] * 4, how), first)


def test_input_is_left_alone():
    images = random_images(4)
    copy = images.clone()
    plain(images, range(4), [0] * 4, Augment(crop=2, flip=True, cutout=2))
    assert torch.equal(images, copy)


@pytest.mark.parametrize("change", ["seed", "row", "view"])
def test_every_part_of_the_key_matters(change: str):
    image = random_images(1).expand(50, -1, -1, -1)
    how = Augment(crop=3, flip=True)
    base = plain(image, range(50), [0] * 50, how, seed=0)
    other = plain(
        image,
        range(50, 100) if change == "row" else range(50),
        [1 if change == "view" else 0] * 50,
        how,
        seed=1 if change == "seed" else 0,
    )
    same = int((base == other).flatten(1).all(1).sum())
    assert same < 10  # 98 views: one in 98 agrees by chance


def test_offsets_are_uniform_and_independent_of_the_flip():
    # The pixel in the middle tells the offset: its value is its place.
    count, crop, side = 20_000, 4, 13
    image = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side)
    seen = plain(image.expand(count, -1, -1, -1), range(count), [3] * count, Augment(crop=crop, flip=True), seed=4)
    middle = seen[:, 0, side // 2, side // 2].long()
    y, x = middle // side - side // 2 + crop, middle % side - side // 2 + crop
    flipped = (seen[:, 0, side // 2, side // 2 + 1] < seen[:, 0, side // 2, side // 2]).long()
    cells = 2 * (2 * crop + 1) ** 2
    counts = torch.bincount((flipped * 9 + y) * 9 + x, minlength=cells).double()
    expected = count / cells
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert len(counts) == cells
    assert 100 < chi_square < 235  # 161 degrees of freedom: mean 161, standard deviation 18
    assert abs(float(flipped.double().mean()) - 0.5) < 0.015


def test_views_of_one_row_are_uniform_too():
    draws = keys.integers(keys.key(0, torch.zeros(9000, dtype=torch.int64), torch.arange(9000)), 0, 9)
    counts = torch.bincount(draws, minlength=9).double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 30  # 8 degrees of freedom


def test_nothing_varied_equals_normalise_exactly():
    images = random_images(6)
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    rows = torch.arange(6)
    seen = augment(images, rows, rows, seed=5, augment=Augment(), mean=mean, std=std)
    assert torch.equal(seen, normalise(images, mean=mean, std=std))


def test_normalise_of_digits_by_hand():
    seen = normalise(torch.tensor([[[[0, 8, 16]]]], dtype=torch.uint8), mean=[0.5], std=[0.25], scale=16)
    assert seen.tolist() == [[[[-2.0, 0.0, 2.0]]]]


def test_crop_as_large_as_the_image_is_refused():
    with pytest.raises(DataError, match=r"crop = 7 on images of 9x7: .* at most 6 pixels"):
        plain(random_images(2), [0, 1], [0, 0], Augment(crop=7))
    plain(random_images(2), [0, 1], [0, 0], Augment(crop=6))


def test_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"rows is \[3\] for a batch of 2 images"):
        plain(random_images(2), [0, 1, 2], [0, 0], Augment())
    with pytest.raises(ShapeError, match="3 channels with 1 means and 3 stds"):
        normalise(random_images(2), mean=[0.5], std=[1, 1, 1])


def test_permutation_is_one_and_depends_on_the_seed():
    first, second = keys.permutation(1000, 1), keys.permutation(1000, 2)
    assert first.sort().values.tolist() == list(range(1000))
    assert not torch.equal(first, second)
    assert torch.equal(first, keys.permutation(1000, 1))
    # No trace of the old order: the rank correlation of 1000 independent pairs is 0 +- 0.03.
    assert abs(float(torch.corrcoef(torch.stack([first.double(), torch.arange(1000.0)]))[0, 1])) < 0.1
