"""Every method of the catalogue, with what the tests of contract and engine must know about it."""

from __future__ import annotations

from limbeck import catalog, settings
from limbeck.methods import KD, NST

SUM = {"methods": (KD(hard=0.0), NST(weight=5.0))}
# Name -> settings under which it is tried, and the phases it must have.
TABLE = {
    "supervised": [({}, ["train"]), ({"label_smoothing": 0.1}, ["train"])],
    "slimming": [({}, ["train"]), ({"weight": settings.Ramp(start=0.0, end=0.01), "label_smoothing": 0.1}, ["train"])],
    "soft_filter_pruning": [({}, ["train"]), ({"by": "fpgm", "keep": 0.4, "mix": 0.2, "every": 2}, ["train"])],
    "gradual_magnitude": [
        ({}, ["train"]),
        ({"scope": "global", "density": 0.2, "every": 2, "begin": 0.3, "end": 1.0, "skip": ("fc",)}, ["train"]),
    ],
    "kd": [({}, ["distill"]), ({"soft": settings.Ramp(start=1.0, end=0.0), "hard": 0.0}, ["distill"])],
    "sigmoid_kd": [({}, ["distill"]), ({"hard": 0.0}, ["distill"])],
    "logit_matching": [({}, ["statistics", "distill"]), ({"standardize": False, "hard": 0.5}, ["distill"])],
    "fitnets": [
        ({}, ["hint", "distill"]),
        ({"stages": "one", "soft": 0.0}, ["distill"]),
        ({"regressor": "benchmark", "form": "benchmark", "pair": ("layer2", "layer1")}, ["hint", "distill"]),
    ],
    "attention_transfer": [({}, ["distill"]), ({"form": "benchmark", "soft": 0.9}, ["distill"])],
    "sum": [
        (SUM, ["distill"]),
        ({**SUM, "weights": (0.5, settings.Ramp(start=1.0, end=0.0)), "hard": 1.0}, ["distill"]),
    ],
    "nst": [({}, ["distill"]), ({"kernel": "gaussian", "soft": 0.9, "form": "benchmark"}, ["distill"])],
    "rkd": [({}, ["distill"]), ({"angle": 0.0, "soft": 0.9, "pair": ("layer2", "layer1")}, ["distill"])],
    "similarity_preserving": [({}, ["distill"]), ({"hard": 0.0, "pair": ("layer1", "fc:in")}, ["distill"])],
    "pkt": [({}, ["distill"]), ({"form": "benchmark", "soft": 0.9}, ["distill"])],
    "cc": [({}, ["distill"]), ({"form": "benchmark", "features": 8, "soft": 0.9}, ["distill"])],
    "crd": [
        ({}, ["rows", "distill"]),
        ({"negatives": "rows", "count": 3, "soft": 0.9, "hard": 0.0}, ["rows", "distill"]),
        ({"negatives": "batch", "dimension": 8, "pair": ("layer2", "layer1")}, ["distill"]),
    ],
    "dkd": [({}, ["distill"]), ({"hard": 0.0, "soft": 0.5, "temperature": 1.0}, ["distill"])],
    "vid": [
        ({}, ["distill"]),
        ({"form": "paper", "pairs": (("layer2", "layer1"),), "resize": "interpolate", "soft": 0.9}, ["distill"]),
    ],
    "noisy_teacher": [({}, ["distill"]), ({"form": "kd", "hard": 0.5, "alpha": 1.0}, ["distill"])],
    "ensemble_kd": [({}, ["distill"]), ({"averaging": "geometric", "weights": (3.0, 1.0), "hard": 0.0}, ["distill"])],
    "grouped_kd": [({}, ["distill"]), ({"groups": ((2,), (0,), (1,)), "labels": "fine"}, ["distill"])],
    "gradient_attention": [
        ({}, ["distill"]),
        ({"norm": "plain", "soft": 0.9, "hard": 0.0}, ["distill"]),
        ({"kind": "symmetry"}, ["distill"]),
        ({"kind": "penalty", "soft": 0.5}, ["distill"]),
    ],
    "adversarial_nst": [
        ({}, ["distill"]),
        ({"pairs": (("layer2", "layer1"),), "generator": "value", "soft": 0.9}, ["distill"]),
    ],
    "mutual_learning": [
        ({}, ["together"]),
        ({"schedule": "simultaneous", "hard": 0.0, "temperature": 2.0}, ["together"]),
    ],
    "cohort": [({}, ["together"]), ({"over": "others", "every": 3}, ["together"])],
    "cwtm": [({}, ["distill"])],
    "dkpp": [({}, ["distill"]), ({"hard": 0.5, "temperature": 4.0}, ["distill"])],
    "static_labels": [({}, ["distill"]), ({"hard": 0.5, "temperature": 4.0}, ["distill"])],
    "factor_transfer": [
        ({}, ["paraphrase", "distill"]),
        ({"p": 2, "form": "mean", "rate": 2.0, "soft": 0.9, "pair": ("layer2", "layer1")}, ["paraphrase", "distill"]),
        ({"form": "benchmark", "layers": "benchmark", "paraphrase_epochs": 2}, ["paraphrase", "distill"]),
    ],
    "feed": [({}, ["distill"]), ({"paraphrase": True, "soft": 0.9}, ["paraphrase", "distill"])],
    "pre_regression": [
        ({}, ["hint", "distill"]),
        ({"mode": "sigmoid", "soft": 0.9, "regressor": "benchmark"}, ["hint", "distill"]),
    ],
    "neuron_selection": [
        ({}, ["statistics", "distill"]),
        ({"k": 10, "mu": 0.0, "soft": 0.9, "pair": ("pool", "pool")}, ["statistics", "distill"]),
    ],
    "review_kd": [({}, ["distill"]), ({"weight": 1.0, "soft": 0.9, "pairs": (("layer2", "layer1"),)}, ["distill"])],
}
# Methods with another cast than a student and a teacher: the widths of the networks, by role.
CASTS: dict[str, dict[str, int]] = {
    "ensemble_kd": {"student": 3, "teacher1": 5, "teacher2": 4},
    "feed": {"student": 3, "teacher1": 5, "teacher2": 4},
    "mutual_learning": {"student": 3, "peer2": 4},
    "cohort": {"student": 3, "peer2": 4, "peer3": 3},
}
# Methods with terms that are one number for the batch: they compare samples with each other, or put a price on weights.
BETWEEN_SAMPLES: set[str] = {"rkd", "similarity_preserving", "pkt", "cc", "slimming"}
# Terms that compare consecutive samples of a batch, by the name and form of their method: their order counts.
IN_ORDER = {("cc", "benchmark"): {"cc"}}
# Settings with which a method needs labels, where its own do without.
LABELLED: dict[str, dict[str, object]] = {
    "sum": {**SUM, "hard": 1.0},
    "noisy_teacher": {"hard": 1.0},
    "logit_matching": {"hard": 1.0},
    "dkpp": {"hard": 1.0},
    "static_labels": {"hard": 1.0},
}
# Methods that draw random numbers for every place in the batch.
RANDOM = {"noisy_teacher", "dkpp", "crd"}
# Phases that only count something, with nothing to optimize.
COUNTING = {"statistics", "rows"}
# Methods that weigh each sample against the rest of its batch, or bring a module with batch normalisation.
WHOLE_BATCH = {"cwtm", "review_kd"}


def make(name, changes=None):
    """The method with the settings of its first line in `TABLE`, or with these."""
    return catalog.find("method", name).load()(**(TABLE[name][0][0] if changes is None else changes))


def widths(name):
    """The widths of the networks of its cast, by role."""
    return CASTS.get(name, {"student": 3, "teacher": 5})


def adds_up(name):
    """Whether the loss of a batch is the mean of the losses of its parts."""
    return name not in BETWEEN_SAMPLES | RANDOM | WHOLE_BATCH
