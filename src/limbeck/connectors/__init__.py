"""Small modules between two networks: they train with the student, and are dropped when it is exported."""

from __future__ import annotations

from limbeck.connectors.contrast import Constants, Embedding, Memory
from limbeck.connectors.factors import Paraphraser, factor_channels, paraphraser, translator
from limbeck.connectors.guess import Guess
from limbeck.connectors.masks import Masks, silence
from limbeck.connectors.neurons import NeuronStatistics, Selection, select_neurons
from limbeck.connectors.regressor import Shape, activation_of, regressor
from limbeck.connectors.remember import Remember
from limbeck.connectors.review import Review
from limbeck.connectors.standardize import Standardize

__all__ = [
    "Constants",
    "Embedding",
    "Guess",
    "Masks",
    "Memory",
    "NeuronStatistics",
    "Paraphraser",
    "Remember",
    "Review",
    "Selection",
    "Shape",
    "Standardize",
    "activation_of",
    "factor_channels",
    "paraphraser",
    "regressor",
    "select_neurons",
    "silence",
    "translator",
]
