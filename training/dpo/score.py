"""The one way to score completions: policy and reference, training, hold-out and canary all come through here."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.dpo import llama
from training.dpo.data import Row
from training.dpo.pack import Pack, pack

#: Logits held at once: 256 tokens of a vocabulary of 49,152, 50 megabytes. With fewer tokens the product is slower.
LOGITS = 12 << 20
#: How far two ways to compute a token's log-probability in float32 may lie apart.
ROUNDING = 1e-3


class Scorer(Protocol):
    """A policy that scores packed rows."""

    def log_probs(self, pack: Pack, *, adapter: bool = True) -> Tensor:
        """Return log pi(y_t | x, y_<t) of every scored token in float32, (m,); of the base without the adapter."""


def scorer(policy: PeftModel) -> Scorer:
    """Return the fastest scorer that computes what transformers computes."""
    plain = Plain(policy)
    if next(policy.parameters()).device.type != "cpu" or not llama.covers(policy):
        return plain
    probe = pack([Row((1, 2, 3), (2, 1, 0)), Row((1, 2, 3), (3, 3)), Row((3,), (1, 2))])
    with torch.no_grad():
        # First, since it reads the mapped weights, which the fast one forgets once it has its own.
        expected = plain.log_probs(probe)
        fast = Fast(policy)
        same = torch.allclose(fast.log_probs(probe), expected, rtol=0, atol=ROUNDING)
    return fast if same else plain


class Plain:
    """Any model, by transformers' and PEFT's own code; on a GPU attention goes through SDPA with a mask."""

    def __init__(self, policy: PeftModel) -> None:
        """Take a policy."""
        self._policy = policy

    def log_probs(self, pack: Pack, *, adapter: bool = True) -> Tensor:
        """See Scorer."""
        if not adapter:
            with self._policy.disable_adapter():
                return self.log_probs(pack)
        device = next(self._policy.parameters()).device
        logits = self._policy(
            input_ids=pack.tokens[None].to(device),
            position_ids=pack.positions[None].to(device),
            attention_mask=pack.visible[None, None].to(device),
            logits_to_keep=pack.scored.to(device),
            use_cache=False,
        ).logits[0]  # (m, V)
        return -torch.nn.functional.cross_entropy(
            logits.float(), pack.targets.to(device), reduction="none"
        ).cpu()


class Fast:
    """A model of the Llama family on a CPU."""

    def __init__(self, policy: PeftModel) -> None:
        """Take over a policy's weights."""
        self._decoder = llama.Llama(policy)
        self._head: Tensor = policy.get_output_embeddings().weight.detach()

    def log_probs(self, pack: Pack, *, adapter: bool = True) -> Tensor:
        """See Scorer."""
        hidden = self._decoder.hidden(pack, adapter=adapter)
        return HeadLogProbs.apply(hidden, self._head, pack.targets)


class HeadLogProbs(torch.autograd.Function):
    """log softmax(W h) at the target, for h (m, d), W (V, d) frozen and targets (m,); (m,) out.

    What comes back is one number a token, so the gradient of each token's log-probability, W' (onehot - softmax), can
    be computed while its logits are at hand, and the logits are never kept: a chunk of them is all the memory there is.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Compute log-probabilities, and their gradients if somebody will want them."""
        wanted = ctx.needs_input_grad[0]
        found = hidden.new_empty(len(hidden))
        gradient = torch.empty_like(hidden) if wanted else None
        size = max(1, LOGITS // len(head))
        for start in range(0, len(hidden), size):
            chunk = slice(start, start + size)
            logits = hidden[chunk] @ head.t()  # (chunk, V)
            target = targets[chunk, None]
            logits -= logits.amax(dim=-1, keepdim=True)
            found[chunk] = logits.gather(1, target).squeeze(1)
            total = logits.exp_().sum(dim=-1, keepdim=True)
            found[chunk] -= total.log().squeeze(1)
            if gradient is not None:
                softmax = logits.div_(total)
                softmax.scatter_add_(1, target, softmax.new_full(target.shape, -1.0))
                torch.mm(softmax, head, out=gradient[chunk])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """Scale each token's gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * -dy[:, None], None, None
