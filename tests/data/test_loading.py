"""Batches: order, cutting among processes, resuming, evaluation."""

from __future__ import annotations

import pytest
import torch

from limbeck.data.images import Images
from limbeck.data.loading import Loader, batches, steps_per_epoch
from limbeck.data.spec import Augment
from limbeck.data.views import augment, normalise
from limbeck.errors import DataError
from limbeck.phase import Batch

HOW = Augment(crop=1, flip=True, cutout=2)


def some(count: int = 23) -> Images:
    pixels = torch.randint(0, 256, (count, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(count) % 4, torch.arange(count) * 2 + 100)


def loader(images: Images, batch_size: int = 4, **more) -> Loader:
    return Loader(images=images, batch_size=batch_size, mean=[0.5] * 3, std=[0.2] * 3, seed=7, augment=HOW, **more)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b))


def test_training_visits_each_row_at_most_once_and_drops_the_incomplete_batch():
    data = loader(some(23))
    seen = list(data.epoch(0))
    assert len(seen) == len(data) == 5
    rows = torch.cat([b.rows for b in seen]).tolist()
    assert len(set(rows)) == len(rows) == 20
    assert set(rows) <= set(some(23).rows.tolist())


def test_a_batch_holds_what_it_says():
    images = some()
    for batch in loader(images).epoch(3):
        where = (batch.rows - 100) // 2
        assert torch.equal(batch.targets, images.labels[where])
        assert batch.views.tolist() == [3] * 4
        expected = augment(
            images.pixels[where], batch.rows, batch.views, seed=7, augment=HOW, mean=[0.5] * 3, std=[0.2] * 3
        )
        assert torch.equal(batch.inputs, expected)


def test_epochs_differ_and_repeat():
    data = loader(some())
    first = torch.cat([b.rows for b in data.epoch(0)])
    assert torch.equal(first, torch.cat([b.rows for b in data.epoch(0)]))
    assert not torch.equal(first, torch.cat([b.rows for b in data.epoch(1)]))


def test_a_set_smaller_than_a_batch_is_one_batch_of_everything():
    data = loader(some(5), batch_size=64)
    (batch,) = data.epoch(0)
    assert len(data) == 1
    assert sorted(batch.rows.tolist()) == some(5).rows.tolist()


@pytest.mark.parametrize("world", [2, 3])
def test_the_batches_of_all_processes_interleave_to_the_batch_of_one(world: int):
    data = loader(some(40), batch_size=7)
    cut = [list(data.epoch(2, rank=r, world=world)) for r in range(world)]
    for step, whole in enumerate(data.epoch(2)):
        for rank in range(world):
            assert same(Batch(*(part[rank::world] for part in whole)), cut[rank][step])


def test_skipping_goes_on_where_the_epoch_was_left():
    data = loader(some(40))
    whole, rest = list(data.epoch(1)), list(data.epoch(1, skip=6))
    assert len(rest) == len(whole) - 6
    assert all(same(a, b) for a, b in zip(whole[6:], rest))
    assert list(data.epoch(1, skip=len(data))) == []


def test_skipped_batches_are_not_computed(monkeypatch: pytest.MonkeyPatch):
    calls = []
    take = Images.take
    monkeypatch.setattr(Images, "take", lambda self, index: calls.append(1) or take(self, index))
    assert len(list(loader(some(40)).epoch(0, skip=8))) == len(calls) == 2


def test_evaluation_keeps_order_and_every_row_without_variation():
    images = some(23)
    seen = list(loader(images).evaluation())
    assert [len(b.targets) for b in seen] == [4] * 5 + [3]
    assert torch.equal(torch.cat([b.rows for b in seen]), images.rows)
    expected = normalise(images.pixels, mean=[0.5] * 3, std=[0.2] * 3)
    assert torch.equal(torch.cat([b.inputs for b in seen]), expected)
    assert all(b.views is None for b in seen)


def test_evaluation_on_several_processes_has_every_row_once():
    images = some(9)
    data = loader(images)  # the last batch has one row: not enough for three
    rows = [b.rows for r in range(3) for b in data.evaluation(rank=r, world=3)]
    assert all(len(r) for r in rows)
    assert sorted(torch.cat(rows).tolist()) == images.rows.tolist()


def test_memory_layout():
    (batch,) = loader(some(4), channels_last=True).epoch(0)
    (plain,) = loader(some(4)).epoch(0)
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert plain.inputs.is_contiguous()
    assert torch.equal(batch.inputs, plain.inputs)


def test_device():
    (batch,) = loader(some(4), device="cpu").epoch(0)
    assert {t.device.type for t in batch} == {"cpu"}


def test_steps_per_epoch():
    assert [steps_per_epoch(n, 10) for n in (1, 9, 10, 19, 20)] == [1, 1, 1, 1, 2]
    with pytest.raises(DataError, match="the training part is empty"):
        steps_per_epoch(0, 10)


def test_refusals():
    def first(**more):
        how = {"batch_size": 4, "seed": 0, "epoch": 0, "augment": Augment(), "mean": [0.5] * 3, "std": [1.0] * 3}
        return next(batches(some(3), **{**how, **more}))

    with pytest.raises(DataError, match=r"rank 2 of 2 processes; it is in 0\.\.1"):
        first(rank=2, world=2)
    with pytest.raises(DataError, match="a batch of 3 rows cannot be cut among 4 processes"):
        first(world=4)
    with pytest.raises(DataError, match="batch_size = 0"):
        first(batch_size=0)


def test_images_refuse_what_does_not_fit_together():
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"uint8 \[rows, channels, height, width\]; got torch.float32 \[2, 1, 3, 3\]"):
        Images(pixels.float(), torch.zeros(2), torch.zeros(2))
    with pytest.raises(DataError, match=r"2 images with labels \[3\] and rows \[2\]"):
        Images(pixels, torch.zeros(3), torch.zeros(2))
