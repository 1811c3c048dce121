"""The decoder of the Llama family over packed rows, on a CPU: what transformers computes, in fewer and larger steps.

Covers what differs from Llama by nothing but numbers and biases (SmolLM, Mistral without a window, Qwen2, ...).
`score.scorer` compares it with transformers' own before it is used; any other model goes by transformers' code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from training.dpo.fused import AddedLinear, Fused, GatedLinear, NormedLinear, Rotary
from training.dpo.pack import Pack, Span

FAMILY = ("llama", "mistral", "qwen2")
#: Those whose angles do not depend on how long the longest sequence of a batch is.
ROPES = ("default", "linear", "llama3")


def covers(policy: PeftModel) -> bool:
    """Return whether a model's config promises that it is computed as below."""
    config = policy.config
    ropes = getattr(config, "rope_parameters", None) or {"rope_type": "default"}
    return (
        config.model_type in FAMILY
        and config.hidden_act == "silu"
        and not (
            getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        )
        and ropes.get("rope_type") in ROPES
    )


class Layer:
    """One decoder layer's weights."""

    def __init__(self, layer: Any) -> None:
        """Take transformers' layer, whose weights become views of the fused ones."""
        attention, mlp = layer.self_attn, layer.mlp
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = Fused([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o = Fused([attention.o_proj])
        self.gate_up = Fused([mlp.gate_proj, mlp.up_proj])
        self.down = Fused([mlp.down_proj])

    @property
    def fused(self) -> tuple[Fused, ...]:
        """All that is adapted."""
        return self.qkv, self.o, self.gate_up, self.down


class Llama:
    """The decoder; its layers' weights are merged with the adapter whenever that has changed."""

    def __init__(self, policy: PeftModel) -> None:
        """Take over the policy's weights; they stay its own, too."""
        model = policy.get_base_model().model
        config = policy.config
        self._embedding: nn.Embedding = model.embed_tokens
        self._rotary = model.rotary_emb
        self._norm = model.norm
        self._layers = [Layer(layer) for layer in model.layers]
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        #: What the weights hold: the versions of the adapter's tensors, none without the adapter.
        self._holds: tuple[int, ...] | None = None

    def hidden(self, pack: Pack, *, adapter: bool) -> Tensor:
        """Return what the head reads of every scored token, (m, d)."""
        self._merge(adapter=adapter)
        cosine, sine = self._angles(pack)
        x = self._embedding(pack.tokens)  # (n, d)
        last = len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            mixed = self._mixed(x, layer, pack, cosine, sine)
            if number == last:
                # Nobody looks at what the last layer makes of the other tokens.
                mixed, x = mixed[pack.scored], x[pack.scored]
            x = AddedLinear.apply(mixed, x, layer.o, *layer.o.parameters)
            norm = layer.norms[1]
            pair = NormedLinear.apply(
                x,
                norm.weight,
                norm.variance_epsilon,
                layer.gate_up,
                *layer.gate_up.parameters,
            )
            x = GatedLinear.apply(pair, x, layer.down, *layer.down.parameters)
        return self._norm(x)

    def _mixed(self, x: Tensor, layer: Layer, pack: Pack, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return the attention's output before its last product, (n, heads * size)."""
        norm = layer.norms[0]
        qkv = NormedLinear.apply(
            x, norm.weight, norm.variance_epsilon, layer.qkv, *layer.qkv.parameters
        )
        qkv = Rotary.apply(qkv, self._heads + self._kv_heads, cosine, sine)
        # (n, heads + 2 kv_heads, size)
        qkv = qkv.unflatten(1, (self._heads + 2 * self._kv_heads, -1))
        query, key, value = qkv.split((self._heads, self._kv_heads, self._kv_heads), dim=1)
        return attention(query, key, value, pack.spans)

    def _angles(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of each token's angles, (n, 1, size / 2) each."""
        cosine, sine = self._rotary(self._embedding.weight, pack.positions[None])
        half = cosine.shape[-1] // 2
        return cosine[0, :, None, :half].contiguous(), sine[0, :, None, :half].contiguous()

    def _merge(self, *, adapter: bool) -> None:
        """Have the weights hold the adapter as it is now, or the base alone."""
        parts = [fused for layer in self._layers for fused in layer.fused]
        # Whoever changes a tensor in place raises its version: the optimizer, a checkpoint's restore, a parent's adapter.
        versions = [weight._version for fused in parts for weight in fused.parameters]  # noqa: SLF001
        wanted = tuple(versions) if adapter else ()
        if wanted != self._holds:
            for fused in parts:
                fused.merge(adapter=adapter)
            self._holds = wanted


def attention(query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...]) -> Tensor:
    """Mix the tokens of each completion and its prompt; (n, heads, size) and (n, kv_heads, size), (n, heads * size) out.

    Prompt and first completion are one causal square; each further completion looks at the prompt's keys and its
    own. So no mask is larger than a completion, and half of the large square is never computed.
    """
    lengths = [length for span in spans for length in _lengths(span)]
    cuts = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    found = []
    for span in spans:
        prompt = span.prompt_end - span.start
        q, k, v = next(cuts)
        found.append(_mix(q, k, v, mask=None))
        prompt_k, prompt_v = k[:prompt], v[:prompt]
        for _ in span.completions[1:]:
            q, k, v = next(cuts)
            mask = torch.ones(len(q), prompt + len(q), dtype=torch.bool).tril_(prompt)
            found.append(_mix(q, torch.cat([prompt_k, k]), torch.cat([prompt_v, v]), mask=mask))
    return torch.cat(found).flatten(1)


def _lengths(span: Span) -> list[int]:
    first, *others = span.completions
    return [first.stop - span.start, *(each.stop - each.start for each in others)]


def _mix(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None) -> Tensor:
    """Return softmax(q k' / sqrt(size)) v, (n, heads, size); causal without a mask."""
    groups = query.shape[1] // key.shape[1]
    # Each key head is a batch of its own, seen by its group of query heads without being copied.
    q = query.unflatten(1, (-1, groups)).permute(1, 2, 0, 3)  # (kv_heads, groups, n, size)
    k, v = (each.transpose(0, 1)[:, None].expand(-1, groups, -1, -1) for each in (key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return mixed.permute(2, 0, 1, 3).flatten(1, 2)
