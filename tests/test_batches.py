"""What is done with a batch's inputs, whatever their form."""

from __future__ import annotations

import pytest
import torch

from limbeck.batches import batch_size, changed, moved
from limbeck.errors import LimbeckError


def test_the_size_is_that_of_the_first_tensor():
    assert batch_size(torch.zeros(3, 2)) == 3
    assert batch_size({"scale": torch.tensor(1.0), "words": torch.zeros(4, 7), "name": "a"}) == 4


@pytest.mark.parametrize(
    ("given", "said"), [(torch.zeros(0, 2), "empty"), ({}, "dict holds no batch"), ([1], "a list")]
)
def test_what_holds_no_samples(given, said):
    with pytest.raises(LimbeckError, match=said):
        batch_size(given)


def test_tensors_change_and_the_rest_stays():
    given = {"pixels": torch.ones(2), "more": {"words": torch.ones(1)}, "name": "a", "none": None}
    found = changed(given, lambda tensor: tensor + 1)
    assert found["pixels"].tolist() == [2, 2]
    assert found["more"]["words"].tolist() == [2]
    assert (found["name"], found["none"]) == ("a", None)
    assert given["pixels"].tolist() == [1, 1]
    assert moved(given, torch.device("meta"))["more"]["words"].is_meta
