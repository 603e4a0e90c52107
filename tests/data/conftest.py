"""Tiny data sets, written here; and where the real CIFAR-10 is."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from limbeck.data import sources


@pytest.fixture
def png() -> Callable[..., bytes]:
    """``png(value, width, height)``: a picture of one colour (a number: grey; three: RGB)."""

    def make(value: int | tuple[int, ...], width: int = 4, height: int = 4, mode: str | None = None) -> bytes:
        mode = mode or ("L" if isinstance(value, int) else "RGB")
        out = io.BytesIO()
        Image.new(mode, (width, height), value).save(out, "png")
        return out.getvalue()

    return make


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """``write_parquet(name, pictures, labels, names)`` in the Hugging Face image schema."""

    def write(name: str, pictures: list, labels: list, names: list[str] | None = None, image: str = "image") -> Path:
        cells = [p if isinstance(p, dict) else {"bytes": p, "path": None} for p in pictures]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({image: pa.array(cells, kind), "label": pa.array(labels)})
        if names is not None:
            features = {image: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        return file

    return write


@pytest.fixture
def image_tree(tmp_path: Path) -> Callable[..., Path]:
    """``image_tree(name, {class: [grey values]})``: a folder per class with PNG files inside."""

    def make(name: str, classes: dict[str, list[int]], side: int = 4) -> Path:
        for label, values in classes.items():
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for i, value in enumerate(values):
                Image.fromarray(np.full((side, side), value, np.uint8)).save(folder / f"{i}.png")
        return tmp_path / name

    return make


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty memory of loaded data."""
    monkeypatch.setattr(sources, "_LOADED", {})


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """The folder with CIFAR-10's parquet files, or skip."""
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("LIMBECK_DATA") or root.parent / "shared" / "data")
    if not (data / "cifar10" / "train.parquet").is_file():
        pytest.skip(f"no CIFAR-10 in {data / 'cifar10'}; LIMBECK_DATA names the folder that has cifar10/")
    return data / "cifar10"
