"""Sources: what is read, how it is divided, and every refusal by its text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from limbeck.data import cifar
from limbeck.data.images import Images
from limbeck.data.sources import load, moments, read
from limbeck.data.spec import CIFAR10, Augment, Data, Digits, ImageFolder, Parquet
from limbeck.errors import DataError, HyperParameterError

pytestmark = pytest.mark.usefixtures("nothing_loaded")


@pytest.fixture
def small(png, write_parquet) -> Parquet:
    """Twenty rows of two named classes; the grey value is the row."""
    file = write_parquet("train.parquet", [png(i) for i in range(20)], [i % 2 for i in range(20)], ["cat", "dog"])
    return Parquet(train=str(file))


def test_digits_are_divided_1200_to_597_and_stratified():
    raw = read(Digits())
    assert (len(raw.train), len(raw.test), raw.train.shape) == (1200, 597, (1, 8, 8))
    assert sorted(raw.train.rows.tolist() + raw.test.rows.tolist()) == list(range(1797))
    whole = torch.bincount(torch.cat([raw.train.labels, raw.test.labels]))
    assert ((torch.bincount(raw.test.labels) - whole * 597 / 1797).abs() <= 1).all()
    assert raw.classes == tuple("0123456789")


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = read(Digits()).test
    assert images.scale == 16
    assert int(images.pixels.max()) == 16
    np.testing.assert_array_equal(images.pixels[:, 0].numpy(), bunch.images[images.rows])
    np.testing.assert_array_equal(images.labels.numpy(), bunch.target[images.rows])


def test_digits_splits():
    splits = load(Data(validation=0.1))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1080, 120, 597)
    rows = [set(part.rows.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*rows)) == 1797
    values = splits.train.pixels.double().numpy() / 16
    assert splits.mean[0] == pytest.approx(values.mean(), abs=1e-12)
    assert splits.std[0] == pytest.approx(values.std(), abs=1e-12)
    assert (splits.skipped, splits.notes, splits.source) == (0, (), "scikit-learn digits")


def test_the_seed_moves_the_validation_rows_but_not_the_test_rows():
    first, second, again = (load(Data(seed=s)) for s in (0, 1, 0))
    assert torch.equal(first.test.rows, second.test.rows)
    assert not torch.equal(first.validation.rows, second.validation.rows)
    assert torch.equal(first.validation.rows, again.validation.rows)


def test_equal_data_is_read_once():
    first = load(Data(validation=100))
    assert load(Data(validation=100)) is first
    assert load(Data(validation=100, augment=Augment(crop=1))) is first  # views come later
    assert load(Data(validation=101)) is not first


def test_parquet(small: Parquet):
    raw = read(small)
    assert raw.classes == ("cat", "dog")
    assert len(raw.train) == 16  # a fifth is held out for the test
    assert len(raw.test) == 4
    for part in (raw.train, raw.test):
        assert part.shape == (1, 4, 4)
        assert torch.equal(part.pixels[:, 0, 0, 0].long(), part.rows)
        assert torch.equal(part.labels, part.rows % 2)


def test_parquet_with_a_test_file_folder_or_pattern(png, write_parquet):
    for i in range(3):
        write_parquet(f"parts/train-{i}.parquet", [png(i), png(10 + i)], [0, 1])
    test = write_parquet("test/only.parquet", [png(99)], [1])
    folder = test.parent.parent / "parts"
    for train in (str(folder), str(folder / "train-*.parquet")):
        raw = read(Parquet(train=train, test=str(test)))
        assert raw.train.pixels[:, 0, 0, 0].tolist() == [0, 10, 1, 11, 2, 12]
        assert raw.train.rows.tolist() == list(range(6))
        assert raw.test.labels.tolist() == [1]
        assert raw.classes == ("0", "1")


def test_parquet_with_texts_as_labels_bare_bytes_and_files_beside_it(png, tmp_path, write_parquet):
    table = pa.table({"picture": [png(1), png(2), png(3)], "kind": ["dog", "ant", "dog"]})
    pq.write_table(table, tmp_path / "t.parquet")
    raw = read(
        Parquet(train=str(tmp_path / "t.parquet"), test=str(tmp_path / "t.parquet"), image="picture", label="kind")
    )
    assert raw.classes == ("ant", "dog")
    assert raw.train.labels.tolist() == [1, 0, 1]
    (tmp_path / "beside.png").write_bytes(png(77))
    file = write_parquet("p.parquet", [{"bytes": None, "path": "beside.png"}], [0])
    assert read(Parquet(train=str(file), test=str(file))).train.pixels.unique().tolist() == [77]


def test_grey_and_colour_together_are_colour(png, write_parquet):
    train = write_parquet("a.parquet", [png(7), png((1, 2, 3))], [0, 1])
    test = write_parquet("b.parquet", [png(9)], [0])
    raw = read(Parquet(train=str(train), test=str(test)))
    assert raw.train.pixels[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert raw.test.pixels[:, :, 0, 0].tolist() == [[9, 9, 9]]  # as the training part


def test_alpha_and_palettes_become_colour(png, write_parquet):
    made = [png((1, 2, 3, 100), mode="RGBA"), png(0, mode="P")]
    file = write_parquet("a.parquet", made, [0, 1])
    assert read(Parquet(train=str(file), test=str(file))).train.shape == (3, 4, 4)


def test_size_resizes_the_shorter_side_and_cuts_the_centre(tmp_path, write_parquet):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200  # the centre square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    file = write_parquet("a.parquet", [(tmp_path / "wide.png").read_bytes()], [0])
    cut = read(Parquet(train=str(file), test=str(file), size=4)).train.pixels
    assert cut.unique().tolist() == [200]
    assert list(cut.shape) == [1, 1, 4, 4]
    assert read(Parquet(train=str(file), test=str(file), size=2)).train.shape == (1, 2, 2)


def test_progress_is_told(small: Parquet):
    told = []
    read(small, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (20, 20)


def test_image_folder(image_tree):
    train = image_tree("train", {"ant": [1, 2], "bee": [3, 4, 5]})
    (train / "bee" / "notes.txt").write_text("no picture")
    (train / ".hidden").mkdir()
    test = image_tree("test", {"bee": [9]})
    raw = read(ImageFolder(train=str(train), test=str(test)))
    assert raw.classes == ("ant", "bee")
    assert raw.train.pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert raw.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert raw.test.labels.tolist() == [1]


def test_mean_and_std_by_hand():
    pixels = torch.tensor([[[[0, 51]], [[255, 255]]]], dtype=torch.uint8)
    mean, std = moments(Images(pixels, torch.tensor([0]), torch.tensor([0])))
    assert mean == pytest.approx((0.1, 1.0))
    assert std == pytest.approx((0.1, 1.0))  # a constant channel: 1


def test_mean_and_std_as_given(small: Parquet):
    splits = load(Data(source=small, validation=2, mean=(0.25,), std=(0.5,)))
    assert (splits.mean, splits.std) == ((0.25,), (0.5,))
    with pytest.raises(DataError, match="std has 3 numbers; the images have 1 channel"):
        load(Data(source=small, validation=2, std=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("picture", "label", "said"),
    [
        (b"no picture", 0, "the image cannot be decoded .*cannot identify"),
        (None, 0, r"the image is empty \(null\)"),
        ("cut", 0, "the image cannot be decoded"),
        ("16 bit", 0, "the image cannot be decoded .mode I;16: more than 8 bits"),
        ("good", 2, r"label 2 is outside 0\.\.1 \(2 classes\)"),
        ("good", -1, r"label -1 is outside 0\.\.1"),
        ("good", None, r"the label is empty \(null\)"),
        ("wide", 0, r"6x4 pixels \(width x height\) where .* 4x4; give the source a 'size'"),
    ],
)
def test_a_bad_row_is_named_or_skipped(png, write_parquet, picture, label, said: str):
    made = {"good": png(1), "cut": png((7, 8, 9), 64, 64)[:60], "16 bit": png(3, mode="I;16"), "wide": png(1, 6, 4)}
    pictures = [png(i) for i in range(12)]
    labels: list[int | None] = [i % 2 for i in range(12)]
    pictures[5], labels[5] = made.get(picture, picture), label
    source = Parquet(train=str(write_parquet("bad.parquet", pictures, labels, ["cat", "dog"])))
    with pytest.raises(DataError, match=rf"bad\.parquet row 5: {said}.*on_error: skip"):
        load(Data(source=source, validation=2))
    splits = load(Data(source=source, validation=2, on_error="skip"))
    rows = torch.cat([part.rows for part in (splits.train, splits.validation, splits.test)]).tolist()
    assert sorted(rows) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]  # ids stay those of the file
    assert splits.skipped == 1
    assert "rows skipped: 1" in splits.notes[0]
    assert "bad.parquet row 5" in splits.notes[0]


def test_many_bad_rows_are_counted_and_a_few_are_told(png, write_parquet):
    pictures = [png(i) for i in range(12)] + [b"bad"] * 8
    source = Parquet(train=str(write_parquet("a.parquet", pictures, [i % 2 for i in range(20)])))
    splits = load(Data(source=source, validation=2, on_error="skip"))
    assert splits.skipped == 8
    assert splits.notes[0].endswith("; and 3 more)")


def test_no_usable_row_is_an_error_even_so(write_parquet):
    file = write_parquet("a.parquet", [b"bad", b"worse"], [0, 0])
    with pytest.raises(DataError, match=r"none of the 2 rows can be used; the first: .*row 0"):
        read(Parquet(train=str(file)), on_error="skip")


def test_skipping_the_odd_size_even_when_it_is_first(png, write_parquet):
    file = write_parquet("a.parquet", [png(0, 6, 6)] + [png(i) for i in range(1, 10)], [i % 2 for i in range(10)])
    raw = read(Parquet(train=str(file)), on_error="skip")
    assert raw.train.shape == (1, 4, 4)
    assert "row 0: 6x6" in raw.problems[0]


def test_test_images_of_another_size(png, write_parquet):
    train = write_parquet("a.parquet", [png(0)], [0])
    test = write_parquet("b.parquet", [png(0, 5, 5)], [0])
    source = Parquet(train=str(train), test=str(test))
    with pytest.raises(DataError, match=r"b\.parquet row 0: 5x5 .* where the training images have 4x4"):
        read(source)
    with pytest.raises(DataError, match="no image has the size 4x4 that the training images have"):
        read(source, on_error="skip")


def test_a_class_without_rows(png, write_parquet):
    file = write_parquet("a.parquet", [png(i) for i in range(10)], [i % 2 for i in range(10)], ["cat", "dog", "emu"])
    with pytest.raises(DataError, match=r"parquet .*a.parquet: class 'emu' has no training row; labels are 0..2"):
        load(Data(source=Parquet(train=str(file)), validation=1))
    splits = load(Data(source=Parquet(train=str(file)), validation=1, on_error="skip"))
    assert splits.classes == ("cat", "dog", "emu")
    assert splits.notes == ("class 'emu' has no training row",)


def test_labels_that_begin_at_one(png, write_parquet):
    file = write_parquet("a.parquet", [png(i) for i in range(10)], [1 + i % 2 for i in range(10)])
    with pytest.raises(DataError, match="class '0' has no training row"):
        load(Data(source=Parquet(train=str(file)), validation=1))


def test_labels_that_are_no_classes_at_all(png, write_parquet):
    file = write_parquet("a.parquet", [png(0), png(1)], [0, 10**12])
    with pytest.raises(DataError, match=r"a\.parquet row 1: label 1000000000000 with 2 rows in all"):
        read(Parquet(train=str(file)))


def test_a_label_text_that_the_training_part_has_not(png, write_parquet):
    train = write_parquet("a.parquet", [png(0), png(1)], ["cat", "dog"])
    test = write_parquet("b.parquet", [png(0)], ["dg"])
    with pytest.raises(DataError, match=r"b\.parquet row 0: no class 'dg' in the training part; near: dog"):
        read(Parquet(train=str(train), test=str(test)))


def test_a_missing_column_lists_those_there_are(small: Parquet):
    with pytest.raises(DataError, match=r"no column 'img' .*near: image \(columns: image, label\); .* setting 'image'"):
        read(Parquet(train=small.train, image="img"))
    with pytest.raises(DataError, match=r"no column 'labels' .*near: label .* setting 'label'"):
        read(Parquet(train=small.train, label="labels"))


def test_columns_of_the_wrong_type(tmp_path, png):
    pq.write_table(pa.table({"image": [png(0)], "label": [0.5], "number": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'label' is of type double; labels are whole numbers or texts"):
        read(Parquet(train=str(tmp_path / "a.parquet")))
    with pytest.raises(DataError, match="column 'number' is of type int64; images are a struct of bytes and path"):
        read(Parquet(train=str(tmp_path / "a.parquet"), image="number"))


def test_files_that_are_missing_or_no_parquet(tmp_path, small: Parquet):
    with pytest.raises(DataError, match=r"no file .*trian\.parquet; parquet files there: train\.parquet"):
        read(Parquet(train=str(tmp_path / "trian.parquet")))
    with pytest.raises(DataError, match=r"no file .*x\.parquet, and no folder .*nowhere"):
        read(Parquet(train=str(tmp_path / "nowhere" / "x.parquet")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no parquet file in the folder .*empty"):
        read(Parquet(train=str(tmp_path / "empty")))
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as parquet: "):
        read(Parquet(train=str(tmp_path / "text.parquet")))


def test_folders_that_are_missing_empty_or_unknown(tmp_path, image_tree):
    with pytest.raises(DataError, match=r"no folder .*nowhere; an image folder has a folder per class"):
        read(ImageFolder(train=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"no folder below"):
        read(ImageFolder(train=str(tmp_path)))
    train = image_tree("train", {"ant": [1, 2, 3], "bee": [], "cow": [1]})
    with pytest.raises(DataError, match=r"image folder .*train: class 'bee' has no training row"):
        load(Data(source=ImageFolder(train=str(train)), validation=1))
    test = image_tree("test", {"ants": [1]})
    with pytest.raises(DataError, match="ants: no class 'ants' in the training part; near: ant"):
        read(ImageFolder(train=str(train), test=str(test)))
    (train / "cow" / "0.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=rf"cow{os.sep}0\.png: the image cannot be decoded"):
        read(ImageFolder(train=str(train), test=str(train)))


def test_more_validation_rows_than_can_be_spared(small: Parquet):
    with pytest.raises(DataError, match="cannot hold 15 rows out of 16 for validation"):
        load(Data(source=small, validation=15))


def test_what_is_no_source():
    with pytest.raises(DataError, match="str is no source of data; there are: Digits, CIFAR10, Parquet, ImageFolder"):
        read("digits")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Data(validation=0), "validation = 0: a number of rows, or a part below 1"),
        (lambda: Data(validation=1.5), "validation = 1.5: a whole number"),
        (lambda: Data(on_error="ignore"), "on_error = 'ignore': 'raise' or 'skip'"),
        (lambda: Data(std=(0.0,)), "std = .0.0,.: one number per channel, more than zero"),
        (lambda: Data(mean=(float("nan"),)), "mean = "),
        (lambda: Parquet(train="x", size=0), "size = 0: pixels, at least 1"),
        (lambda: Augment(crop=-1), "crop = -1"),
    ],
)
def test_settings_out_of_range(make, said: str):
    with pytest.raises(HyperParameterError, match=said):
        make()


# CIFAR-10: where it is looked for


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a data folder and a current folder in which there is nothing."""
    for name in ("home", "data", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def tiny_cifar(folder: str, png, write_parquet) -> Path:
    names = [f"class{i}" for i in range(10)]
    for part in ("train", "test"):
        file = write_parquet(
            f"{folder}/{part}.parquet",
            [png((i, 0, 0)) for i in range(30)],
            [i % 10 for i in range(30)],
            names,
            image="img",
        )
    return file.parent


def test_cifar10_nowhere_lists_each_place(nowhere: Path):
    with pytest.raises(DataError) as caught:
        read(CIFAR10(download=False))
    said = str(caught.value)
    assert str(nowhere / "data" / "cifar10") in said
    assert str(nowhere / "home" / ".cache" / "limbeck") in said
    assert "train.parquet and test.parquet, or cifar-10-batches-py/" in said
    assert "Set LIMBECK_DATA to a folder with" in said
    assert "download: true" in said


def test_cifar10_in_limbeck_data(nowhere: Path, png, write_parquet):
    tiny_cifar("data/cifar10", png, write_parquet)
    splits = load(Data(source=CIFAR10(download=False), validation=10))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 10, 30)
    assert splits.classes[3] == "class3"
    assert (splits.mean, splits.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert splits.source == "CIFAR-10"


def test_cifar10_in_a_folder_that_is_named_and_only_there(nowhere: Path, png, write_parquet):
    named = tiny_cifar("mine", png, write_parquet)
    assert cifar.find(CIFAR10(folder=str(named))) == named
    tiny_cifar("data/cifar10", png, write_parquet)
    with pytest.raises(DataError, match=r"CIFAR-10 is in none of: .*typo \(looked"):
        cifar.find(CIFAR10(folder=str(nowhere / "typo"), download=False))


def test_cifar10_in_shared_data_when_nothing_is_named(nowhere: Path, png, write_parquet, monkeypatch):
    monkeypatch.delenv("LIMBECK_DATA")
    found = tiny_cifar("shared/data/cifar10", png, write_parquet)
    assert cifar.find(CIFAR10(download=False)) == found
    monkeypatch.setenv("LIMBECK_DATA", str(nowhere / "data"))
    with pytest.raises(DataError, match="none of"):
        cifar.find(CIFAR10(download=False))


class FakeTorchvision:
    """What torchvision's class offers, with twenty rows."""

    classes = tuple(f"class{i}" for i in range(10))
    calls: list[tuple[str, bool, bool]] = []  # noqa: RUF012

    def __init__(self, root: str, train: bool, download: bool) -> None:
        self.calls.append((root, train, download))
        self.data = np.arange(20 * 12, dtype=np.uint8).reshape(20, 2, 2, 3)
        self.targets = [i % 10 for i in range(20)]


def test_cifar10_through_torchvision(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeTorchvision)
    monkeypatch.setattr(FakeTorchvision, "calls", [])
    raw = read(CIFAR10())
    cache = str(nowhere / "home" / ".cache" / "limbeck")
    assert FakeTorchvision.calls == [(cache, True, True), (cache, False, True)]
    assert raw.train.shape == (3, 2, 2)
    assert raw.train.pixels[1].tolist() == [[[12, 15], [18, 21]], [[13, 16], [19, 22]], [[14, 17], [20, 23]]]
    assert raw.train.labels.tolist() == [*range(10), *range(10)]
    assert raw.mean == (0.4914, 0.4822, 0.4465)


def test_cifar10_download_that_fails(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", no_network)
    with pytest.raises(
        DataError, match=r"downloading CIFAR-10 to .*limbeck failed: no route to host\. Set LIMBECK_DATA"
    ):
        read(CIFAR10())


def test_real_cifar10(real_cifar10: Path):
    splits = load(Data(source=CIFAR10(folder=str(real_cifar10), download=False), validation=5000))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (45_000, 5_000, 10_000)
    assert splits.shape == (3, 32, 32)
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert splits.classes == tuple(names.split())
    assert torch.bincount(splits.train.labels).tolist() == [4500] * 10
    assert torch.bincount(splits.validation.labels).tolist() == [500] * 10
    assert torch.bincount(splits.test.labels).tolist() == [1000] * 10
    assert not set(splits.train.rows.tolist()) & set(splits.validation.rows.tolist())
    mean, std = moments(splits.train)
    assert mean == pytest.approx(cifar.MEAN, abs=0.002)
    assert std == pytest.approx(cifar.STD, abs=0.004)
    assert splits.skipped == 0
