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
        kind: "method", "compressor", "source" or "stage".
        title: what it is, in a few words.
        paper: authors, title, venue (methods only).
        year: of the paper.
        family: "labels", "response", "feature", "relation", "online", "self", "combined" or "plug-in"; of a compressor
            "pruning", "low-rank" or "quantization".
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
    _method("slimming", "slimming:Slimming", "labels", 2017, "labels, and a price on the scales of batch normalisation",
            "Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming (ICCV 2017)"),
    _method("soft_filter_pruning", "soft_pruning:SoftFilterPruning", "labels", 2018, "labels; the least filters are zeroed after each epoch",
            "He, Kang, Dong, Fu, Yang: Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks (IJCAI 2018)"),
    _method("gradual_magnitude", "gradual:GradualMagnitude", "labels", 2017, "labels, while the smallest weights go step by step",
            "Zhu, Gupta: To prune, or not to prune: exploring the efficacy of pruning for model compression (arXiv 1710.01878)"),
    _method("kd", "response:KD", "response", 2015, "softened class probabilities of the teacher",
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531)"),
    _method("sigmoid_kd", "response:SigmoidKD", "response", 2015, "KD for multi-label and single-logit binary heads",
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), per-class form"),
    _method("logit_matching", "response:LogitMatching", "response", 2014, "regression on the teacher's logits",
            "Ba, Caruana: Do Deep Nets Really Need to be Deep? (NIPS 2014)"),
    _method("noisy_teacher", "noisy:NoisyTeacher", "response", 2016, "regression on logits that are disturbed at random",
            "Sau, Balasubramanian: Deep Model Compression: Distilling Knowledge from Noisy Teachers (arXiv 1610.09650)"),
    _method("ensemble_kd", "ensemble:EnsembleKD", "response", 2015, "softened classes of several teachers, averaged",
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), section 1"),
    _method("grouped_kd", "grouped:GroupedKD", "response", 2015, "KD from a teacher with finer classes, summed in groups",
            "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), on sums of classes"),
    _method("dkd", "dkd:DKD", "response", 2022, "the right class and the other classes, weighted apart",
            "Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation (CVPR 2022)"),
    _method("static_labels", "label_refinery:StaticLabels", "response", 2018, "KD with one kept label per row, a comparison",
            "Bagherinezhad, Horton, Rastegari, Farhadi: Label Refinery (arXiv 1805.02641)"),
    _method("fitnets", "fitnets:FitNets", "feature", 2015, "hints from a hidden layer first, then KD",
            "Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets (ICLR 2015)"),
    _method("attention_transfer", "attention:AttentionTransfer", "feature", 2017, "where the teacher's maps are active",
            "Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017)"),
    _method("nst", "nst:NST", "feature", 2017, "the distribution of neuron selectivity patterns (MMD)",
            "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (arXiv 1707.01219)"),
    _method("factor_transfer", "factor:FactorTransfer", "feature", 2018, "the teacher's map, paraphrased by an autoencoder",
            "Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer (NeurIPS 2018)"),
    _method("feed", "feed:FEED", "feature", 2020, "maps of several teachers, a translator for each",
            "Park, Kwak: FEED: Feature-level Ensemble for Knowledge Distillation (ECAI 2020, arXiv 1909.10754)"),
    _method("pre_regression", "preregression:PreRegression", "feature", 2016, "hints compared by cross-entropy first, then labels",
            "Wang, Deng, Wang: Accelerating Convolutional Neural Networks with Dominant Convolutional Kernel and Knowledge Pre-regression (ECCV 2016)"),
    _method("neuron_selection", "neurons:NeuronSelection", "feature", 2016, "the top neurons that tell classes apart",
            "Luo, Zhu, Liu, Wang, Tang: Face Model Compression by Distilling Knowledge from Neurons (AAAI 2016)"),
    _method("review_kd", "review:ReviewKD", "feature", 2021, "deep layers of the student help its early ones",
            "Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review (CVPR 2021)"),
    _method("gradient_attention", "gradient_attention:GradientAttention", "feature", 2017, "which pixels the teacher's loss is sensitive to",
            "Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017), section 3.2"),
    _method("adversarial_nst", "adversarial_nst:AdversarialNST", "feature", 2017, "channel patterns that a discriminator takes for the teacher's",
            "unpublished: the points of Huang, Wang: Like What You Like (arXiv 1707.01219), the game of Goodfellow et al.: Generative Adversarial Nets (NIPS 2014)"),
    _method("vid", "vid:VID", "feature", 2019, "how likely the teacher's maps are, given the student's",
            "Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer (CVPR 2019)"),
    _method("rkd", "relations:RKD", "relation", 2019, "distances and angles between the samples of a batch",
            "Park, Kim, Lu, Cho: Relational Knowledge Distillation (CVPR 2019)"),
    _method("similarity_preserving", "relations:SimilarityPreserving", "relation", 2019, "which samples excite the network alike",
            "Tung, Mori: Similarity-Preserving Knowledge Distillation (ICCV 2019)"),
    _method("pkt", "relations:PKT", "relation", 2018, "which samples are likely neighbours of which",
            "Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer (ECCV 2018)"),
    _method("cc", "correlation:CC", "relation", 2019, "the kernel matrix of a batch",
            "Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge Distillation (ICCV 2019)"),
    _method("crd", "contrast:CRD", "relation", 2020, "a sample's features told from those of many others",
            "Tian, Krishnan, Isola: Contrastive Representation Distillation (ICLR 2020)"),
    _method("mutual_learning", "online:MutualLearning", "online", 2018, "two or more students teach each other",
            "Zhang, Xiang, Hospedales, Lu: Deep Mutual Learning (CVPR 2018)"),
    _method("cohort", "online:Cohort", "online", 2014, "students who learn from the mean of what all of them say",
            "Hinton, Vinyals, Dean: Dark knowledge (talk, 2014)"),
    _method("cwtm", "controls:ConfidenceWeighted", "self", 2018, "labels weighted by the teacher's confidence, a control",
            "Furlanello, Lipton, Tschannen, Itti, Anandkumar: Born-Again Neural Networks (ICML 2018)"),
    _method("dkpp", "controls:DarkKnowledgePermuted", "self", 2018, "KD with shuffled small probabilities, a control",
            "Furlanello, Lipton, Tschannen, Itti, Anandkumar: Born-Again Neural Networks (ICML 2018)"),
    _method("sum", "combined:Sum", "combined", 2017, "several methods at once, their losses added",
            "Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017), whose AT+KD is the first such sum"),
)
# Methods that are several trainings in a row: see `limbeck.course`.
COURSES: tuple[Entry, ...] = (
    _method("feed_sequence", "feed:FEEDSequence", "feature", 2020, "factor transfer from student to student",
            "Park, Kwak: FEED: Feature-level Ensemble for Knowledge Distillation (ECAI 2020, arXiv 1909.10754)"),
    _method("born_again", "born_again:BornAgain", "self", 2018, "generations of one network, and their average",
            "Furlanello, Lipton, Tschannen, Itti, Anandkumar: Born-Again Neural Networks (ICML 2018)"),
    _method("label_refinery", "label_refinery:LabelRefinery", "response", 2018, "rounds of labels made for every crop",
            "Bagherinezhad, Horton, Rastegari, Farhadi: Label Refinery (arXiv 1805.02641)"),
    _method("teacher_assistant", "assistants:TeacherAssistant", "response", 2020, "KD in hops through networks between",
            "Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh: Improved Knowledge Distillation via Teacher Assistant (AAAI 2020)"),
    _method("defensive_distillation", "defensive:DefensiveDistillation", "response", 2016, "a high temperature, to hide gradients",
            "Papernot, McDaniel, Wu, Jha, Swami: Distillation as a Defense to Adversarial Perturbations against Deep Neural Networks (IEEE S&P 2016)"),
)
# fmt: on

# fmt: off
COMPRESSORS: tuple[Entry, ...] = (
    Entry("prune", "limbeck.compress.prune:Prune", "compressor", "whole channels removed, by one of fourteen scores",
          "Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets (ICLR 2017), and those of its scores", 2017, "pruning"),
    Entry("mask", "limbeck.compress.masks:Mask", "compressor", "single weights held at zero",
          "Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Neural Networks (NIPS 2015)", 2015, "pruning"),
    Entry("lottery_ticket", "limbeck.compress.lottery:LotteryTicket", "compressor", "masks that train well from the first weights",
          "Frankle, Carbin: The Lottery Ticket Hypothesis (ICLR 2019)", 2019, "pruning"),
    Entry("supermask", "limbeck.compress.lottery:Supermask", "compressor", "which untrained weights to keep, learned",
          "Zhou, Lan, Liu, Yosinski: Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (NeurIPS 2019)", 2019, "pruning"),
    Entry("factorize", "limbeck.compress.factorize:Factorize", "compressor", "layers as products of smaller ones",
          "Kim, Park, Yoo, Choi, Yang, Shin: Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications (ICLR 2016), and others by kind", 2016, "low-rank"),
    Entry("quantize", "limbeck.compress.quantize:Quantize", "compressor", "weights and activations in 8 bits",
          "Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference (CVPR 2018)", 2018, "quantization"),
    Entry("binarize", "limbeck.compress.binarize:Binarize", "compressor", "weights, and maybe activations, in one bit",
          "Courbariaux, Hubara, Soudry, El-Yaniv, Bengio: Binarized Neural Networks (2016); Rastegari, Ordonez, Redmon, Farhadi: XNOR-Net (ECCV 2016)", 2016, "quantization"),
)
# fmt: on

# What a compressor that trains between its steps is made of.  A recipe names the whole of it and never these, but run.json,
# reports and ledgers have a line for each.
PARTS: Mapping[str, str] = {
    "limbeck.compress.lottery:Ticket": "ticket",
    "limbeck.compress.lottery:Replant": "ticket_control",
    "limbeck.compress.lottery:Scores": "mask_scores",
    "limbeck.compress.lottery:Decide": "learned_mask",
    "limbeck.compress.quantize:Prepare": "quantize_prepared",
    "limbeck.compress.quantize:Convert": "quantize_converted",
}

SOURCES: tuple[Entry, ...] = (
    Entry("digits", "limbeck.data.spec:Digits", "source", "1,797 handwritten digits, 8x8, inside scikit-learn"),
    Entry("cifar10", "limbeck.data.spec:CIFAR10", "source", "CIFAR-10, 32x32 colour, from LIMBECK_DATA or torchvision"),
    Entry("parquet", "limbeck.data.spec:Parquet", "source", "any Hugging Face style image parquet"),
    Entry("image_folder", "limbeck.data.spec:ImageFolder", "source", "a folder of pictures per class"),
)

STAGES: tuple[Entry, ...] = (
    Entry("train", "limbeck.recipe.stages:Train", "stage", "train one network from labels"),
    Entry("distill", "limbeck.recipe.stages:Distill", "stage", "train a student from a teacher"),
    Entry("together", "limbeck.recipe.stages:Together", "stage", "train several students beside each other"),
    Entry("compress", "limbeck.recipe.stages:Compress", "stage", "prune, factorize, quantize or binarize a network"),
    Entry("ensemble", "limbeck.recipe.stages:Ensemble", "stage", "the average of several networks, as one"),
    Entry("evaluate", "limbeck.recipe.stages:Evaluate", "stage", "measure networks on the test part"),
)


@cache
def _plugins() -> tuple[Entry, ...]:
    return tuple(
        Entry(point.name, point.value, "method", f"plug-in {point.value}", family="plug-in", status="plug-in")
        for point in entry_points(group="limbeck.methods")
    )


def entries(kind: str) -> Mapping[str, Entry]:
    """The entries of one kind, by name: "method" (with plug-ins), "compressor", "technique" (both), "source", "stage"."""
    methods = (*METHODS, *COURSES, *_plugins())
    lines = {
        "method": methods,
        "compressor": COMPRESSORS,
        "technique": (*methods, *COMPRESSORS),
        "source": SOURCES,
        "stage": STAGES,
    }
    return {entry.name: entry for entry in lines[kind]}


def find(kind: str, name: str) -> Entry:
    """The entry of that name.

    Raises:
        NameUnknown: there is none; the message has the near names.
    """
    known = entries(kind)
    if name not in known:
        raise NameUnknown(unknown("method or compressor" if kind == "technique" else kind, name, known))
    return known[name]


def name_of(value: object) -> str:
    """What a recipe calls the class of this value (the inverse of `find`); a word of `PARTS`, or the class's own name."""
    where = f"{type(value).__module__}:{type(value).__qualname__}"
    for kind in ("technique", "source", "stage"):
        for entry in entries(kind).values():
            if entry.where == where:
                return entry.name
    return PARTS.get(where, type(value).__name__)
