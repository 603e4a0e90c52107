"""Every method: a frozen dataclass of one paper's hyper-parameters.

Importing this package imports no torch; neither does making a method.  Torch comes in when a
method is asked for its phases.  The names are those of the catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import catalog
from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.methods.adversarial_nst import AdversarialNST as AdversarialNST
    from limbeck.methods.assistants import TeacherAssistant as TeacherAssistant
    from limbeck.methods.attention import AttentionTransfer as AttentionTransfer
    from limbeck.methods.born_again import BornAgain as BornAgain
    from limbeck.methods.combined import Sum as Sum
    from limbeck.methods.contrast import CRD as CRD
    from limbeck.methods.controls import ConfidenceWeighted as ConfidenceWeighted
    from limbeck.methods.controls import DarkKnowledgePermuted as DarkKnowledgePermuted
    from limbeck.methods.correlation import CC as CC
    from limbeck.methods.defensive import DefensiveDistillation as DefensiveDistillation
    from limbeck.methods.dkd import DKD as DKD
    from limbeck.methods.ensemble import EnsembleKD as EnsembleKD
    from limbeck.methods.factor import FactorTransfer as FactorTransfer
    from limbeck.methods.feed import FEED as FEED
    from limbeck.methods.feed import FEEDSequence as FEEDSequence
    from limbeck.methods.fitnets import FitNets as FitNets
    from limbeck.methods.gradient_attention import GradientAttention as GradientAttention
    from limbeck.methods.gradual import GradualMagnitude as GradualMagnitude
    from limbeck.methods.grouped import GroupedKD as GroupedKD
    from limbeck.methods.label_refinery import LabelRefinery as LabelRefinery
    from limbeck.methods.label_refinery import StaticLabels as StaticLabels
    from limbeck.methods.neurons import NeuronSelection as NeuronSelection
    from limbeck.methods.noisy import NoisyTeacher as NoisyTeacher
    from limbeck.methods.nst import NST as NST
    from limbeck.methods.online import Cohort as Cohort
    from limbeck.methods.online import MutualLearning as MutualLearning
    from limbeck.methods.preregression import PreRegression as PreRegression
    from limbeck.methods.presets import preset as preset
    from limbeck.methods.relations import PKT as PKT
    from limbeck.methods.relations import RKD as RKD
    from limbeck.methods.relations import SimilarityPreserving as SimilarityPreserving
    from limbeck.methods.response import KD as KD
    from limbeck.methods.response import LogitMatching as LogitMatching
    from limbeck.methods.response import SigmoidKD as SigmoidKD
    from limbeck.methods.response import Supervised as Supervised
    from limbeck.methods.review import ReviewKD as ReviewKD
    from limbeck.methods.slimming import Slimming as Slimming
    from limbeck.methods.soft_pruning import SoftFilterPruning as SoftFilterPruning
    from limbeck.methods.vid import VID as VID

_HOME = {entry.attribute: entry.module.rpartition(".")[2] for entry in (*catalog.METHODS, *catalog.COURSES)} | {
    "preset": "presets"
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = exports(__name__, _HOME)
