"""Embeddings of the words that are there: the same training, and the whole vocabulary back after it."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hpo.training.vocabulary import SeenEmbedding, keep_seen, whole_embedding
from models import tiny_config, tiny_model

SEEN = np.array([7, 2, 9, 7, 0])


def weight(model: PreTrainedModel) -> torch.Tensor:
    return model.get_input_embeddings().get_parameter("weight").detach()


def test_the_rows_that_are_kept() -> None:
    model = tiny_model(tiny_config("bert")).eval()
    pretrained, input_ids = weight(model).clone(), torch.tensor([[2, 7, 9, 0]])
    expected = model(input_ids=input_ids).logits
    keep_seen(model, SEEN)
    assert torch.equal(weight(model), pretrained[[0, 2, 7, 9]])
    assert torch.equal(model(input_ids=input_ids).logits, expected)


def test_a_word_that_was_not_seen_is_an_error() -> None:
    model = tiny_model(tiny_config("bert"))
    keep_seen(model, SEEN)
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[2, 3]]))


def test_padding_has_no_gradient() -> None:
    embedding = nn.Embedding(10, 3, padding_idx=4)
    kept = SeenEmbedding(embedding, np.array([1, 4, 8]))
    kept(torch.tensor([8, 4, 1, 8])).sum().backward()
    assert kept.weight.grad is not None
    assert kept.weight.grad.tolist() == [[1.0] * 3, [0.0] * 3, [2.0] * 3]


def test_the_whole_vocabulary_comes_back() -> None:
    model = tiny_model(tiny_config("bert"))
    pretrained = weight(model).clone()
    keep_seen(model, SEEN)
    with torch.no_grad():
        model.get_input_embeddings().get_parameter("weight").fill_(1.0)
    whole_embedding(model, pretrained, factor=0.5)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding) and embedding.padding_idx == 0
    seen = [0, 2, 7, 9]
    others = [row for row in range(32) if row not in seen]
    assert torch.equal(embedding.weight[seen], torch.ones(4, 32))
    assert torch.equal(embedding.weight[others], 0.5 * pretrained[others])
    assert torch.equal(weight(tiny_model(tiny_config("bert"))).isnan().any(), torch.tensor(False))


def test_embeddings_that_something_else_uses_stay_whole() -> None:
    model = AutoModelForMaskedLM.from_config(tiny_config("bert"))  # its output layer is the same matrix
    keep_seen(model, SEEN)
    assert len(weight(model)) == 32
