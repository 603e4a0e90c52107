"""What users iterate over, as batches."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
import torch

from limbeck.data.iterables import INPUTS, TARGETS, Batches, check_targets, to_batch
from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.phase import Batch

X, Y = torch.arange(6.0).view(2, 3), torch.tensor([1, 0])


@pytest.mark.parametrize("obj", [(X, Y), [X, Y]])
def test_pairs(obj):
    batch = to_batch(obj)
    assert batch.inputs is X
    assert batch.targets is Y
    assert batch.rows is None


@pytest.mark.parametrize("obj", [X, (X,), [X], {"x": X}])
def test_inputs_alone(obj):
    batch = to_batch(obj)
    assert batch.inputs is X
    assert batch.targets is None


def test_a_batch_is_itself():
    batch = Batch(X, Y, torch.tensor([5, 6]), torch.tensor([0, 0]))
    assert to_batch(batch) is batch


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_dicts_with_general_names(name: str, inputs: str):
    batch = to_batch({inputs: X, name: Y, "rows": torch.tensor([7, 8])})
    assert batch.inputs is X
    assert batch.targets is Y
    assert batch.rows.tolist() == [7, 8]


def test_dicts_with_names_that_a_model_wants():
    batch = to_batch(MappingProxyType({"pixel_values": X, "labels": Y}))
    assert list(batch.inputs) == ["pixel_values"]
    assert batch.inputs["pixel_values"] is X
    several = to_batch({"input_ids": X, "attention_mask": X, "token_type_ids": None, "labels": Y})
    assert list(several.inputs) == ["input_ids", "attention_mask"]
    assert list(to_batch({"image": X, "depth": X, "y": Y}).inputs) == ["image", "depth"]


def test_a_mapping_in_a_pair():
    batch = to_batch(({"image": X, "depth": X}, Y))
    assert list(batch.inputs) == ["image", "depth"]
    assert batch.targets is Y


def test_numpy():
    batch = to_batch((np.ones((2, 3)), np.array([1, 0], dtype=np.int32)))
    assert batch.inputs.dtype == torch.float32
    assert batch.targets.dtype == torch.int64
    assert to_batch({"x": np.zeros((2, 3), np.uint8), "y": Y}).inputs.dtype == torch.uint8


def test_numpy_that_must_not_be_written_to():
    array = np.ones((2, 3), np.float32)
    array.flags.writeable = False
    assert to_batch((array, Y)).inputs.tolist() == array.tolist()


def test_targets_that_are_not_class_ids_stay():
    hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert to_batch((X, hot)).targets is hot
    boxes = [{"boxes": X}, {"boxes": X}]
    assert to_batch((X, boxes)).targets is boxes
    assert to_batch((X, torch.tensor([1, 0], dtype=torch.int16))).targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("obj", "said"),
    [
        ((X, Y, Y), "a tuple of 3 things .Tensor, Tensor, Tensor.; limbeck understands a Batch, .inputs, targets."),
        ([], "a list of 0 things"),
        ("text", "the inputs of a batch came as a str; limbeck understands"),
        (([1, 2], Y), "came as int, int"),
        ({"labels": Y}, "a dict with the keys labels: no inputs in it; .* labels, label, targets, target, y"),
        ({}, "the keys none"),
        ({"x": X, "label": Y, "labels": Y}, "targets under both 'labels' and 'label'; leave one of them out"),
        ({"x": X, "name": ["a", "b"], "y": Y}, "the input 'name' of a batch is a list; .* leave that key out"),
        (np.array(["a", "b"]), "came as a ndarray"),
    ],
)
def test_refusals(obj, said: str):
    with pytest.raises(DataError, match=said):
        to_batch(obj)


def test_different_lengths():
    with pytest.raises(ShapeError, match="different numbers of samples: inputs 2, targets 3"):
        to_batch((X, torch.tensor([0, 1, 0])))
    with pytest.raises(ShapeError, match="image 2, depth 1"):
        to_batch({"image": X, "depth": X[:1], "y": Y})


def test_targets_in_range_pass():
    check_targets(Batch(X, Y), 2)
    check_targets(Batch(X, Y.to(torch.uint8)), 2)
    check_targets(Batch(X, torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])), 3)
    check_targets(Batch(X, torch.tensor([[1, 0, 1], [0, 0, 0]])), 3)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (None, "the batch has no targets"),
        ([0, 1], "targets of type list"),
        (torch.tensor([0, 3]), r"label 3, sample 1 of the batch \(row 41\): outside 0\.\.2 \(3 classes\)"),
        (torch.tensor([-1, 0]), r"label -1, sample 0 of the batch \(row 40\)"),
        (torch.tensor([0.0, 1.0]), "class ids are whole numbers .int64.; the targets are torch.float32"),
        (torch.tensor([True, False]), "the targets are torch.bool"),
        (torch.zeros(2, 4), r"targets are \[2, 4\]; they are class ids \[batch\], or \[batch, 3\] for 3 classes"),
        (torch.tensor([[0, 0, 0], [0, float("nan"), 0]]), r"target nan of class 1, sample 1 .*row 41"),
        (torch.tensor([[0, 0, 2.0], [0, 0, 0]]), "target 2.0 of class 2, sample 0"),
    ],
)
def test_targets_that_name_no_class(targets, said: str):
    with pytest.raises(TargetError, match=said):
        check_targets(Batch(X, targets, torch.tensor([40, 41])), 3)


def test_batches_are_walked_anew_in_any_form():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=1)
    for given in ([(X, Y)], ((X, Y), (X, Y), (X, Y)), loader, [X, X], (X, X[:1]), [{"x": X, "y": Y}], [Batch(X, Y)]):
        walked = Batches(given)
        first, second = list(walked), list(walked.epoch(1))
        assert len(first) == len(second) == walked.steps > 0
        assert all(type(batch) is Batch for batch in first)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (X, r"the rows are a single Tensor; give several, or a list of one: \[\.\.\.\]"),
        (X.numpy(), "the rows are a single ndarray"),
        (Batch(X, Y), "the rows are a single Batch"),
        ({"x": X, "y": Y}, "the rows are a single dict"),
        ("train", "the rows are a single str"),
        ((X, Y), r"the rows are a single pair of inputs and targets; give several, or a list of one: \[\(x, y\)\]"),
        ([X.numpy(), Y.numpy()], "the rows are a single pair of inputs and targets"),
        (
            (X, X),
            r"a single pair of inputs .*, or a list of one: \[\(x, y\)\]; two batches of inputs go in a list, too: \[x, y\]",
        ),
        (iter([X]), "the rows are a list_iterator, which can be walked only once"),
        (7, "the rows are a int; an iterable of"),
    ],
)
def test_what_is_no_row_of_batches_is_refused(given, said):
    with pytest.raises(DataError, match=said):
        Batches(given, "the rows")
