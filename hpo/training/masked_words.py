"""What a masked-language-model head says of each word of a split: computed once, before any training."""

import numpy as np
import torch
from transformers import PreTrainedModel

from hpo.data.augment.base import Candidates, Indices, Words
from hpo.data.tokens import Tokens

# One word of so many is masked at a time: the 15 % of BERT's pretraining.
EVERY = 7
# Rows at once: the head's logits of all their tokens are held.
BATCH_SIZE = 16


@torch.inference_mode()
def predicted_words(
    model: PreTrainedModel, tokens: Tokens, words: Words, mask_id: int, pad_id: int, among: Indices, count: int
) -> Candidates:
    """[tokens, count] For each free word of one token that is among these ids, the likeliest others of them, the first
    first; else -1.

    Args:
        among: token ids, sorted.
    """
    device = model.device
    asked = words.single & np.isin(tokens.input_ids, among)
    turn = np.where(asked, (np.cumsum(asked) - 1) % EVERY, -1)
    found = np.full((len(asked), count), -1, dtype=np.int32)
    choice = torch.from_numpy(among).to(device)
    order = np.argsort(tokens.lengths, kind="stable")
    for now in range(EVERY):
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            length = int(tokens.lengths[rows].max())
            positions = np.arange(length)
            there = positions < tokens.lengths[rows][:, None]
            at = np.where(there, tokens.offsets[rows][:, None] + positions, 0)
            masked = there & (turn[at] == now)
            if not masked.any():
                continue
            batch = {
                "input_ids": np.where(masked, mask_id, np.where(there, tokens.input_ids[at], pad_id)),
                "attention_mask": there.astype(np.int64),
            }
            if tokens.token_type_ids is not None:
                batch["token_type_ids"] = np.where(there, tokens.token_type_ids[at], 0)
            sent = {name: torch.from_numpy(array).long().to(device) for name, array in batch.items()}
            logits = model(**sent).logits[torch.from_numpy(masked).to(device)][:, choice]
            own = torch.from_numpy(np.searchsorted(among, tokens.input_ids[at[masked]])).to(device)
            logits[torch.arange(len(own), device=device), own] = -torch.inf
            found[at[masked]] = among[logits.topk(count).indices.cpu().numpy()]
    return found
