"""The one way to score a completion: policy and reference, training, hold-out and canary all come through here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.dpo.data import Row


def log_probs(model: torch.nn.Module, row: Row) -> Tensor:
    """Return log pi(y_t | x, y_<t) of every token of the completion, in float32; shape (n,).

    One row a call and no padding: its scores depend on nothing but the row, the weights and the number of
    threads. So a policy that equals its reference scores to the bit the same. The prompt gets no logits at all.
    """
    ids = torch.tensor([[*row.prompt, *row.completion]])  # (1, T)
    # The output at position t predicts token t + 1, so the last token is never an input.
    positions = torch.arange(len(row.prompt) - 1, row.tokens - 1)  # (n,)
    logits = model(input_ids=ids[:, :-1], logits_to_keep=positions, use_cache=False).logits[
        0
    ]  # (n, V)
    return -F.cross_entropy(logits.float(), ids[0, len(row.prompt) :], reduction="none")


def log_prob(model: torch.nn.Module, row: Row) -> Tensor:
    """Return S(y), the sum over the completion's tokens; a scalar."""
    return log_probs(model, row).sum()
