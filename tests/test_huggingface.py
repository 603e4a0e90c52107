"""Networks of Hugging Face as they come: batches of keyword arguments in, objects with logits out."""

from __future__ import annotations

import pytest
import torch

import limbeck as lk

transformers = pytest.importorskip("transformers")


def text_model(width):
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def sentences(n=12, words=8):
    tokens = torch.randint(50, (n, words), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[::2, 5:] = 0
    return [{"input_ids": tokens, "attention_mask": mask, "labels": tokens[:, 0] % 3}] * 2


@pytest.mark.parametrize(
    "method", [lk.KD(), lk.FitNets(pair=("bert.encoder.layer.0", "bert.encoder.layer.1"))], ids=["kd", "fitnets"]
)
def test_distilling_a_text_classifier(method):
    torch.manual_seed(0)
    teacher, student = text_model(16), text_model(8)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    began = {name: value.clone() for name, value in student.state_dict().items()}
    student = lk.distill(teacher, student, sentences(), method=method, epochs=2, evaluate=sentences(), quiet=True)
    assert all(torch.equal(kept[name], value) for name, value in teacher.state_dict().items())
    moved = [name for name, value in student.state_dict().items() if not torch.equal(began[name], value)]
    assert "bert.encoder.layer.0.attention.self.query.weight" in moved
    assert "classifier.weight" in moved
    assert set(student.record.after["student"]) >= {"accuracy", "loss"}
