"""Image parquet files in the Hugging Face schema, to undecoded rows."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from limbeck.data.decode import Item
from limbeck.errors import DataError, unknown


class Table(NamedTuple):
    """The rows of some parquet files.

    Attributes:
        pictures: ``(place, bytes or file or None)`` per row.
        labels: an int, a str or None per row.
        classes: the names in the schema's ``huggingface`` metadata, or None.
    """

    pictures: list[tuple[str, bytes | Path | None]]
    labels: list[int | str | None]
    classes: tuple[str, ...] | None


def files_of(path: str) -> list[Path]:
    """The parquet files that a path means: itself, all of a folder, or a pattern such as ``data/train-*.parquet``.

    Raises:
        DataError: there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(place.glob("*.parquet"))
        if not found:
            raise DataError(f"no parquet file in the folder {place}")
        return found
    if place.is_file():
        return [place]
    found = sorted(Path(f) for f in glob.glob(str(place)))
    if found:
        return found
    if not place.parent.is_dir():
        raise DataError(f"no file {place}, and no folder {place.parent}")
    beside = sorted(f.name for f in place.parent.glob("*.parquet"))
    raise DataError(f"no file {place}; parquet files there: {', '.join(beside[:20]) or 'none'}")


def read_table(path: str, *, image: str, label: str) -> Table:
    """Read the two columns of these files; nothing is decoded yet.

    Raises:
        DataError: a file is missing or is no parquet file, or a column is missing or of the wrong type.
    """
    pictures: list[tuple[str, bytes | Path | None]] = []
    labels: list[int | str | None] = []
    classes: tuple[str, ...] | None = None
    for file in files_of(path):
        try:
            with pq.ParquetFile(file) as opened:
                schema = opened.schema_arrow
                _check(schema, file, image, label)
                names = _class_names(schema, label)
                if classes is not None and names is not None and names != classes:
                    raise DataError(f"{file}: its class names differ from those of the files before it")
                classes = classes or names
                table = opened.read(columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{file} cannot be read as parquet: {why}") from error
        for row, value in enumerate(table.column(image).to_pylist()):
            pictures.append((f"{file} row {row}", _picture(value, file.parent)))
        labels += table.column(label).to_pylist()
    return Table(pictures, labels, classes)


def items_of(table: Table, classes: tuple[str, ...]) -> list[Item]:
    """The rows with their class ids; a label that is none of the classes becomes a sentence that says so."""
    ids = {name: i for i, name in enumerate(classes)}
    last = len(classes) - 1

    def label_of(value: int | str | None) -> int | str:
        if value is None:
            return "the label is empty (null)"
        if isinstance(value, str):
            return ids[value] if value in ids else unknown("class", value, classes, "the training part")
        return value if 0 <= value <= last else f"label {value} is outside 0..{last} ({len(classes)} classes)"

    return [Item(place, picture, label_of(value)) for (place, picture), value in zip(table.pictures, table.labels)]


def classes_of(table: Table) -> tuple[str, ...]:
    """The classes of a training part: the schema's names, else the labels that occur (texts), else 0..largest.

    Raises:
        DataError: a label is larger than the number of rows, so that most classes would be empty.

    >>> classes_of(Table([], [2, 0, 1], None)), classes_of(Table([], ["dog", "cat"], None))
    (('0', '1', '2'), ('cat', 'dog'))
    """
    if table.classes is not None:
        return table.classes
    present = {value for value in table.labels if value is not None}
    if any(isinstance(value, str) for value in present):
        return tuple(sorted(str(value) for value in present))
    largest = max((int(v) for v in present), default=-1)
    if largest >= len(table.labels):
        row = table.labels.index(largest)
        raise DataError(
            f"{table.pictures[row][0]}: label {largest} with {len(table.labels)} rows in all; labels are 0, 1, 2, ... "
            "with rows for each (are the labels in another column?)"
        )
    return tuple(map(str, range(largest + 1)))


def _check(schema: pa.Schema, file: Path, image: str, label: str) -> None:
    for setting, name in (("image", image), ("label", label)):
        if name not in schema.names:
            raise DataError(
                f"{unknown('column', name, schema.names, str(file))} (columns: {', '.join(schema.names)}); "
                f"the source's setting '{setting}' names the column"
            )
    kind = schema.field(image).type
    parts = {f.name for f in kind} if pa.types.is_struct(kind) else set()
    if "bytes" not in parts and not _is_bytes(kind):
        raise DataError(f"{file}: column {image!r} is of type {kind}; images are a struct of bytes and path, or binary")
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{file}: column {label!r} is of type {kind}; labels are whole numbers or texts")


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _picture(value: Any, folder: Path) -> bytes | Path | None:
    if not isinstance(value, dict):
        return value
    if value["bytes"] is not None:
        return value["bytes"]
    return folder / value["path"] if value.get("path") else None
