"""Only the rows of the word embeddings that a text of the study needs.

The others get no gradient and have no moments: the optimizer would walk through them at every step for nothing. Of
MiniLM's parameters they are 31 % on rotten_tomatoes. Leaving them out is exact but for weight decay, which shrinks them
by a factor known beforehand; `whole_embedding` puts them back with it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel


class SeenEmbedding(nn.Module):
    """An `nn.Embedding` of which only the rows for `seen` token ids are there; it takes the same ids."""

    seen: torch.Tensor
    row_of: torch.Tensor

    def __init__(self, embedding: nn.Embedding, seen: NDArray[np.int64]) -> None:
        super().__init__()
        ids = torch.from_numpy(seen).to(embedding.weight.device)
        trained = embedding.weight.requires_grad
        self.weight = nn.Parameter(embedding.weight.detach()[ids], requires_grad=trained)
        rows = torch.full((embedding.num_embeddings,), -1, device=ids.device)
        rows[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("seen", ids, persistent=False)
        self.register_buffer("row_of", rows, persistent=False)
        padding = embedding.padding_idx
        self.padding_idx = None if padding is None else int(np.searchsorted(seen, padding))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[..., hidden] for ids [...]. An id that was not seen is an `IndexError`, on a GPU a device-side assertion."""
        return functional.embedding(self.row_of[input_ids], self.weight, self.padding_idx)


def keep_seen(model: PreTrainedModel, token_ids: NDArray[np.int64]) -> None:
    """Leaves a model the rows of these ids only, where its word embeddings are trained, plain, and tied to nothing.

    Args:
        token_ids: of all texts that the model will see, in any order, the padding's among them.
    """
    embedding = model.get_input_embeddings()
    tied = sum(parameter is embedding.weight for _, parameter in model.named_parameters(remove_duplicate=False)) > 1
    trained = embedding.weight.requires_grad  # or the optimizer does not know it, and nothing is to be saved
    if type(embedding) is nn.Embedding and trained and not tied and embedding.max_norm is None:
        own = [] if embedding.padding_idx is None else [embedding.padding_idx]
        model.set_input_embeddings(SeenEmbedding(embedding, np.union1d(token_ids, own).astype(np.int64)))


def whole_embedding(model: PreTrainedModel, pretrained: torch.Tensor, factor: float) -> None:
    """Puts back the rows that `keep_seen` left out.

    Args:
        pretrained: [vocabulary, hidden], the weights that training started from.
        factor: what weight decay made of a row that never had a gradient.
    """
    kept = model.get_input_embeddings()
    if isinstance(kept, SeenEmbedding):
        weight = pretrained.to(kept.weight.device) * factor
        weight[kept.seen] = kept.weight.detach()
        padding = None if kept.padding_idx is None else int(kept.seen[kept.padding_idx])
        frozen = not kept.weight.requires_grad
        model.set_input_embeddings(nn.Embedding.from_pretrained(weight, freeze=frozen, padding_idx=padding))
