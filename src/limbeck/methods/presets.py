"""Published settings of the methods, by name: what a paper used, and what later comparisons used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from limbeck.errors import NameUnknown, unknown
from limbeck.settings import Optimizer, Ramp

# What a recipe calls a method -> its module and dataclass.
HOMES: Mapping[str, tuple[str, str]] = {
    "supervised": ("response", "Supervised"),
    "kd": ("response", "KD"),
    "sigmoid_kd": ("response", "SigmoidKD"),
    "logit_matching": ("response", "LogitMatching"),
    "fitnets": ("fitnets", "FitNets"),
    "attention_transfer": ("attention", "AttentionTransfer"),
    "nst": ("nst", "NST"),
}

# "benchmark" is the CRD code base (Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020),
# with which most later papers compare, unless a comment says otherwise.
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "supervised": {
        "paper": {"label_smoothing": 0.1},  # Szegedy et al. (CVPR 2016), section 7: epsilon on ImageNet
        "benchmark": {"label_smoothing": 0.0},  # plain cross-entropy
    },
    "kd": {
        "paper": {
            "temperature": 20.0,  # Hinton et al., section 3: MNIST, hidden layers of 300 units and more
            "soft": 1.0,  # section 2: the soft part counts much more than the hard one
            "hard": 0.5,  # section 4: relative weight of the hard targets (speech)
        },
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
    },
    "sigmoid_kd": {  # nobody has published a benchmark of the per-class form: the numbers are those of "kd"
        "paper": {"temperature": 20.0, "soft": 1.0, "hard": 0.5},
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
    },
    "logit_matching": {
        "paper": {"standardize": True, "soft": 1.0, "hard": 0.0},  # Ba, Caruana, equation 1 and section 2.2
        # Knowledge-Distillation-Zoo (AberHu), mode "logits": CE plus 0.1 times the *mean* square of raw logits;
        # for the 10 classes of CIFAR-10 that is 0.1 * 2 / 10 of our half sum
        "benchmark": {"standardize": False, "soft": 0.02, "hard": 1.0},
    },
    "fitnets": {
        "paper": {
            "stages": "two",
            "temperature": 3.0,  # Romero et al., section 3: tau
            "soft": Ramp(start=4.0, end=1.0, epochs=500),  # lambda, linear over 500 epochs
            "hard": 1.0,  # equation 2
            "tau_squared": False,  # equation 2 has no such factor
            "hint_weight": 1.0,  # equation 3: the plain half sum over all units ...
            "form": "paper",
            "regressor": "paper",  # section 2.2: convolution without padding
            "hint_optimizer": Optimizer(  # ... which the learning rate of this RMSProp goes with
                kind="rmsprop", lr=0.005, momentum=0.0, weight_decay=0.0
            ),
        },
        "benchmark": {
            "stages": "one",
            "soft": 0.0,
            "hard": 1.0,
            "hint_weight": 100.0,  # beta
            "form": "benchmark",  # mean over all elements
            "regressor": "benchmark",  # with batch normalisation and ReLU
        },
        "one_stage": {  # labels and hint in one go, with the paper's regressor
            "stages": "one",
            "soft": 0.0,
            "hard": 1.0,
            "form": "benchmark",
            "hint_weight": 10.0,  # ours: without batch normalisation in the regressor, 100 drowned the labels of digits
            "regressor": "paper",
        },
    },
    "attention_transfer": {
        # section 4.1: beta is about 0.1 for a sum over the batch of 128; ours is a mean: 0.1 * 128
        "paper": {"kind": "sum_pow", "p": 2.0, "form": "paper", "weight": 12.8, "hard": 1.0},
        "benchmark": {"kind": "sum_pow", "p": 2.0, "form": "benchmark", "weight": 1000.0, "hard": 1.0},
    },
    "nst": {
        "paper": {"kernel": "poly", "form": "paper", "weight": 50.0, "hard": 1.0},  # section 5: lambda, d = 2, c = 0
        "benchmark": {"kernel": "poly", "form": "benchmark", "weight": 50.0, "hard": 1.0},
    },
}


def preset(method: str | type, name: str, **changes: Any) -> Any:
    """A method with published settings, some of them changed.

    Args:
        method: what a recipe calls it ("fitnets"), or its dataclass (`FitNets`), or that class's name.
        name: "paper" or "benchmark" for every method; "one_stage" for FitNets.
        **changes: fields that replace the preset's.

    Raises:
        NameUnknown: no such method, preset or field; the message has near names.
        HyperParameterError: a change is outside its range.

    Example:
        >>> preset("nst", "benchmark", weight=10.0).weight
        10.0
    """
    wanted = method if isinstance(method, str) else method.__name__
    classes = {attribute: key for key, (_, attribute) in HOMES.items()}
    key = classes.get(wanted, wanted)
    if key not in PRESETS:
        raise NameUnknown(unknown("method with presets", wanted, PRESETS))
    if name not in PRESETS[key]:
        raise NameUnknown(unknown("preset", name, PRESETS[key], key))
    module, attribute = HOMES[key]
    dataclass = getattr(importlib.import_module(f"limbeck.methods.{module}"), attribute)
    for field in changes:
        if field not in dataclass.__dataclass_fields__:
            raise NameUnknown(unknown("field", field, dataclass.__dataclass_fields__, attribute))
    return dataclass(**{**PRESETS[key][name], **changes})
