"""Losses against numbers worked out by hand."""

from math import log

import pytest
import torch

from hpo.training.losses import cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy(dtype: torch.dtype) -> None:
    # log 2 for two equal logits, and log(1 + e^2) for a label two below the other: in the mean
    # (0.6931472 + 2.1269280) / 2.
    logits = torch.tensor([[1, 1], [2, 0]], dtype=dtype, requires_grad=True)
    loss = cross_entropy(logits, {"labels": torch.tensor([0, 1])})
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((log(2) + 2.1269280) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
