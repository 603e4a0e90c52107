"""A picture becomes the input that the data source would have made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from limbeck.data import normalise
from limbeck.data.decode import Item, decode
from limbeck.data.images import Images
from limbeck.errors import DataError
from limbeck.export.pictures import prepared, preprocessing

MODES = ["L", "RGB", "RGBA", "P", "1", "LA"]


def picture(mode, width, height):
    random = np.random.default_rng(width * 31 + height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def like(channels, side):
    none = torch.zeros(1, dtype=torch.int64)
    return Images(torch.zeros(1, channels, side, side, dtype=torch.uint8), none, none)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (20, 13), (13, 20), (5, 7), (64, 9)], ids=str)
def test_as_image_sources_do(tmp_path, mode, channels, size):
    path = tmp_path / "a.png"
    picture(mode, *size).save(path)
    pixels = decode([Item("a", path, 0)], on_error="raise", size=8, like=like(channels, 8)).images.pixels
    mean, std = (0.25, 0.5, 0.75)[:channels], (0.2, 0.3, 0.4)[:channels]
    found = prepared([path], preprocessing((channels, 8, 8), mean, std))
    assert torch.equal(found, normalise(pixels, mean=mean, std=std))


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_ways_to_store_colours(tmp_path, mode, channels):
    """Blue, red and grey are told apart, by pictures that are read and by data that is."""
    path, plain = tmp_path / "a.tif", Image.new("RGB", (8, 8), (200, 30, 40))
    plain.paste((30, 40, 200), (0, 0, 8, 4))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        ImageCms.profileToProfile(plain, srgb, lab, outputMode="LAB").save(path)
    else:
        plain.convert(mode).save(path)
    found = prepared([path], preprocessing((channels, 8, 8), (0.0,) * channels, (1.0,) * channels))[0] * 255
    wanted = torch.from_numpy(np.array(plain.convert("L" if channels == 1 else "RGB"))).float()
    wanted = wanted[None] if channels == 1 else wanted.permute(2, 0, 1)
    torch.testing.assert_close(found, wanted, atol=6, rtol=0)
    pixels = decode([Item("a", path, 0)], on_error="raise", size=8, like=like(channels, 8)).images.pixels[0]
    torch.testing.assert_close(found, pixels.float())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_turned_upright(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture("RGB", 24, 16).save(path, exif=exif)
    pixels = decode([Item("a", path, 0)], on_error="raise", size=8, like=like(3, 8)).images.pixels
    found = prepared([path], preprocessing((3, 8, 8), (0.0,) * 3, (1.0,) * 3))
    torch.testing.assert_close(found * 255, pixels.float())


@pytest.mark.parametrize("size", [(12, 12), (40, 12), (12, 40), (3, 50)], ids=str)
def test_other_shapes_are_covered_and_cut_in_the_centre(tmp_path, size):
    """A picture of one colour stays so; one that is symmetric stays symmetric."""
    path = tmp_path / "a.png"
    half = np.random.default_rng(0).integers(0, 256, (size[1], (size[0] + 1) // 2), dtype=np.uint8)
    whole = np.concatenate([half, half[:, ::-1][:, size[0] % 2 :]], axis=1)
    Image.fromarray(np.ascontiguousarray(whole)).save(path)
    found = prepared([path], preprocessing((1, 6, 10), (0.0,), (1.0,)))
    assert found.shape == (1, 1, 6, 10)
    assert 0 <= found.min() <= found.max() <= 1
    if size[0] % 2 == 0 and size in [(12, 12), (12, 40)]:  # nothing is cut at the sides there, or evenly
        torch.testing.assert_close(found, found.flip(3), atol=2.5 / 255, rtol=0)


def test_the_scale_is_that_of_eight_bits(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((2, 2), 255, dtype=np.uint8)).save(path)
    assert prepared([path, path], preprocessing((1, 2, 2), (0.5,), (0.25,))).tolist() == [[[[2.0, 2.0]] * 2]] * 2


def test_what_is_no_picture(tmp_path):
    told = preprocessing((1, 8, 8), (0.0,), (1.0,))
    (tmp_path / "cat.png").write_bytes(b"meow")
    with pytest.raises(DataError, match=r"cat\.png is no picture that can be read"):
        prepared([tmp_path / "cat.png"], told)
    with pytest.raises(DataError, match=r"no picture .*cats\.png; near: cat\.png"):
        prepared([tmp_path / "cats.png"], told)
    with pytest.raises(DataError, match="there is no folder"):
        prepared([tmp_path / "no" / "cats.png"], told)
    with pytest.raises(DataError, match=r"cat\.png is no picture .*\nno picture .*cats\.png"):  # all at once
        prepared([tmp_path / "cat.png", tmp_path / "cats.png"], told)
    with pytest.raises(DataError, match="is a folder; give pictures"):
        prepared([tmp_path], told)
    picture("RGB", 30, 30).save(tmp_path / "half.png")
    data = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"half\.png is a damaged picture \("):
        prepared([tmp_path / "half.png"], told)
    Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        prepared([tmp_path / "deep.png"], told)
