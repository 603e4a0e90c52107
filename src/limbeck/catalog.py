"""Everything that a recipe file may name: one line each.

A line says where the thing lives; nothing is imported until it is asked for.  Plug-ins add methods
through the entry-point group ``limbeck.methods`` (name = "package.module:Dataclass").
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from limbeck.errors import NameUnknown, unknown


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Attributes:
        name: what a recipe calls it.
        where: "module:attribute" of the dataclass.
        kind: "method", "source" or "stage".
        title: what it is, in a few words.
        paper: authors, title, venue (methods only).
        year: of the paper.
        family: "labels", "response", "feature", "relation", "online", "self", "combined" or "plug-in".
        status: "works" or "plug-in".
    """

    name: str
    where: str
    kind: str
    title: str
    paper: str = ""
    year: int | None = None
    family: str = ""
    status: str = "works"

    @property
    def taught(self) -> bool:
        """Whether a method needs a teacher."""
        return self.kind == "method" and self.family not in ("labels", "online")

    @property
    def module(self) -> str:
        """Where the dataclass lives."""
        return self.where.partition(":")[0]

    @property
    def attribute(self) -> str:
        """What the dataclass is called in Python."""
        return self.where.partition(":")[2]

    def load(self) -> Any:
        """Import and return the dataclass."""
        return getattr(importlib.import_module(self.module), self.attribute)


def _method(name: str, where: str, family: str, year: int, title: str, paper: str) -> Entry:
    return Entry(name, f"limbeck.methods.{where}", "method", title, paper, year, family)


# fmt: off
METHODS: tuple[Entry, ...] = (
    _method("supervised", "response:Supervised", "labels", 2016, "labels alone, maybe smoothed",
            "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision (CVPR 2016), section 7"),
    _method("kd", "response:KD", "response", 2015, "softened class probabilities of the teacher",
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531)"),
    _method("sigmoid_kd", "response:SigmoidKD", "response", 2015, "KD for multi-label and single-logit binary heads",
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), per-class form"),
    _method("logit_matching", "response:LogitMatching", "response", 2014, "regression on the teacher's logits",
            "Ba, Caruana: Do Deep Nets Really Need to be Deep? (NIPS 2014)"),
    _method("fitnets", "fitnets:FitNets", "feature", 2015, "hints from a hidden layer first, then KD",
            "Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets (ICLR 2015)"),
    _method("attention_transfer", "attention:AttentionTransfer", "feature", 2017, "where the teacher's maps are active",
            "Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017)"),
    _method("nst", "nst:NST", "feature", 2017, "the distribution of neuron selectivity patterns (MMD)",
            "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (arXiv 1707.01219)"),
)
# Methods that are several trainings in a row: see `limbeck.course`.
COURSES: tuple[Entry, ...] = (
)
# fmt: on

SOURCES: tuple[Entry, ...] = (
    Entry("digits", "limbeck.data.spec:Digits", "source", "1,797 handwritten digits, 8x8, inside scikit-learn"),
    Entry("cifar10", "limbeck.data.spec:CIFAR10", "source", "CIFAR-10, 32x32 colour, from LIMBECK_DATA or torchvision"),
    Entry("parquet", "limbeck.data.spec:Parquet", "source", "any Hugging Face style image parquet"),
    Entry("image_folder", "limbeck.data.spec:ImageFolder", "source", "a folder of pictures per class"),
)

STAGES: tuple[Entry, ...] = (
    Entry("train", "limbeck.recipe:Train", "stage", "train one network from labels"),
    Entry("distill", "limbeck.recipe:Distill", "stage", "train a student from a teacher"),
    Entry("evaluate", "limbeck.recipe:Evaluate", "stage", "measure networks on the test part"),
)


@cache
def _plugins() -> tuple[Entry, ...]:
    return tuple(
        Entry(point.name, point.value, "method", f"plug-in {point.value}", family="plug-in", status="plug-in")
        for point in entry_points(group="limbeck.methods")
    )


def entries(kind: str) -> Mapping[str, Entry]:
    """The entries of one kind, by name: "method" (with plug-ins), "source" or "stage"."""
    lines = {"method": (*METHODS, *COURSES, *_plugins()), "source": SOURCES, "stage": STAGES}[kind]
    return {entry.name: entry for entry in lines}


def find(kind: str, name: str) -> Entry:
    """The entry of that name.

    Raises:
        NameUnknown: there is none; the message has the near names.
    """
    known = entries(kind)
    if name not in known:
        raise NameUnknown(unknown(kind, name, known))
    return known[name]


def name_of(value: object) -> str:
    """What a recipe calls the class of this value (the inverse of `find`)."""
    where = f"{type(value).__module__}:{type(value).__qualname__}"
    for kind in ("method", "source", "stage"):
        for entry in entries(kind).values():
            if entry.where == where:
                return entry.name
    return type(value).__name__
