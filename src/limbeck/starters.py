"""``limbeck new NAME``: a commented recipe to start from, on data that is always there.

The text is made from the method's own dataclass, so that it can name no setting that does not exist.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from limbeck import catalog
from limbeck.catalog import Entry
from limbeck.config.docs import attributes
from limbeck.config.dump import flow, to_plain
from limbeck.config.fields import default_of, fields_of, has_default, key_of

_HEAD = """\
# {title}
{paper}
#
# Check it:  limbeck check FILE
# Run it:    limbeck run FILE --out runs/{name}
# Change it: limbeck run FILE --set stages.{name}.training.epochs=60 --out runs/{name}-60
#
# What is commented out shows the default.  A weight may also be a ramp over training: {{start: 4, end: 1}}.
# All keys: limbeck schema.  About the method: limbeck methods {name}.

name: digits-{name}

data:
  source: digits         # or cifar10, or {{kind: parquet, train: ...}}, {{kind: image_folder, train: ...}}
  validation: 0.1        # held out of the training rows: a part, or a number of rows
  # augment: {{crop: 0, flip: false, cutout: 0}}

seeds: [0, 1, 2]         # one repetition each; three or more make a result
"""

_ALONE = """
models:
  student: digits_cnn_thin   # any name from: limbeck models

stages:
  - kind: train
    name: {name}
    model: student
    method:
      kind: {name}
{settings}
    training:
{training}
"""

_TAUGHT = """
models:
  teacher: digits_cnn        # any name from: limbeck models; with "weights: FILE" it needs no training here
  student: digits_cnn_thin

stages:
  - kind: train
    name: teacher
    model: teacher
    per_seed: false          # one teacher, shared by all seeds
    training:
{training}

  - kind: train              # the yardstick: the same student, from the same weights, with labels alone
    name: alone
    model: student
    training:
{training}

  - kind: distill
    name: {name}
    student: student
    teacher: teacher
    method:
      kind: {name}
{settings}
    training:
{training}
"""

_TOGETHER = """
models:
  student: digits_cnn_thin   # any name from: limbeck models
  partner: digits_cnn

stages:
  - kind: train              # the yardstick: the student from labels alone
    name: alone
    model: student
    training:
{training}

  - kind: together           # the first one's result is called {name}, the others' {name}.2, {name}.3 ...
    name: {name}
    students: [student, partner]
    method:
      kind: {name}
{settings}
    training:
{training}
"""

_COMPRESSED = """
models:
  original: digits_cnn       # any name from: limbeck models; with "weights: FILE" it needs no training here

stages:
  - kind: train
    name: original
    model: original
    training:
{training}

  - kind: compress
    name: {name}
    model: original
    # calibration: 512       # training rows that a compressor may look at
    how:
      kind: {name}
{settings}
"""

_TUNED = """
  - kind: distill            # what it lost is learnt again, from the network that it was made of
    name: {name}-tuned
    student: {name}
    teacher: original
    method: kd
    training:
{training}
"""

_ROUNDS = """
models:
  original: digits_cnn       # any name from: limbeck models

stages:
  - kind: compress           # its rounds are called {name}.0, {name}.1 ...
    name: {name}
    model: original
    how:
      kind: {name}
{settings}
    training:
{training}
"""

_TRAINING = """\
      epochs: 30
      batch_size: 64
      optimizer: {kind: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 5e-4}
      schedule: {kind: cosine}
"""

# Settings that a method needs to learn from the starter's data, each with its reason.
_ADAPTED: dict[str, dict[str, tuple[Any, str]]] = {
    "sum": {"methods": (("kd", {"kind": "nst", "hard": 0}), "two or more; hard: 0, as kd has the labels already")},
    "teacher_assistant": {"assistants": (("assistant",), "names of models above; each becomes a stage of its own")},
    "prune": {"keep": (0.5, "half of the channels; or macs, or latency")},
    "mask": {"density": (0.2, "a fifth of the weights is kept")},
    "factorize": {"energy": (0.9, "or rank, or macs")},
    "sigmoid_kd": {"hard": (0, "digits have one class each; labels for this method say yes or no to every class")},
}

# Methods that stand in a stage without a teacher, although their family has teachers.
_OWN_TEACHER = {"defensive_distillation"}
# Compressors that train by themselves, and those after which there is nothing to learn again.
_TRAINS = {"lottery_ticket", "supermask"}
_WHOLE = {"quantize"}
# Further networks that a starter names, with their reasons.
_MODELS: dict[str, str] = {
    "teacher_assistant": "  assistant: plain_2         # between the two in size\n",
}

# Methods that are about views of an image: without any there is nothing to see.
_VIEWS = {"label_refinery", "static_labels"}
_NO_VIEWS, _SOME_VIEWS = (
    "# augment: {crop: 0, flip: false, cutout: 0}",
    "augment: {crop: 1}     # labels of one crop differ from those of another",
)


def starter(method: str) -> str:
    """A recipe for the method or compressor, as text.

    Raises:
        NameUnknown: there is no such method; the message has near names.

    >>> print(starter("kd").splitlines()[0])
    # kd: softened class probabilities of the teacher
    """
    entry = catalog.find("technique", method)
    body = _body(entry)
    if entry.name in _MODELS:
        body = body.replace("\nstages:", _MODELS[entry.name] + "\nstages:", 1)
    head = _HEAD.format(
        title=f"{entry.name}: {entry.title}", paper=_comment(entry.paper, "# ") or "# ", name=entry.name
    )
    if entry.name in _VIEWS:
        head = head.replace(_NO_VIEWS, _SOME_VIEWS)
    return head + body.format(name=entry.name, settings=_settings(entry), training=_TRAINING.rstrip("\n"))


def _body(entry: Entry) -> str:
    """The models and stages around the method."""
    if entry.kind == "compressor":
        return _ROUNDS if entry.name in _TRAINS else _COMPRESSED + (_TUNED if entry.name not in _WHOLE else "")
    if entry.family == "online":
        return _TOGETHER
    return _ALONE if entry.family == "labels" or entry.name in _OWN_TEACHER else _TAUGHT


def _settings(entry: Entry) -> str:
    """The method's settings below its kind: presets, then one block each."""
    from limbeck.methods.presets import presets_of

    cls = entry.load()
    docs = attributes(cls)
    lines = []
    if presets := presets_of(cls):
        lines.append(
            f"      # preset: {next(iter(presets))}    # published settings to start from: {', '.join(presets)}"
        )
    for name, field in fields_of(cls).items():
        key = key_of(name, named=True)
        adapted = _ADAPTED.get(entry.name, {}).get(name)
        if adapted is not None:
            lines.append(f"      {key}: {flow(adapted[0])}    # {adapted[1]}")
        elif has_default(field):
            lines.append(f"      # {key}: {flow(to_plain(default_of(field)))}")
        else:
            lines.append(f"      {key}:    # needed")
        if name in docs:
            lines.append(_comment(_as_yaml(docs[name]), "      #     "))
    return "\n".join(lines)


def _comment(text: str, indent: str) -> str:
    return "\n".join(textwrap.wrap(text, 112, initial_indent=indent, subsequent_indent=indent))


def _as_yaml(text: str) -> str:
    """Python's words in a docstring, as YAML writes them."""
    return re.sub(r"\b(None|True|False)\b", lambda found: {"None": "null"}.get(found[0], found[0].lower()), text)
