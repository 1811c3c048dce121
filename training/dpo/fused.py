"""A frozen linear layer with its adapter, forward and backward by hand: where nearly all of a step's time goes.

PEFT computes y = x W' + s (x A') B' as three products, keeps what autograd wants of each, and goes back through
them one by one. On a CPU the two small products and the copies around them cost as much as a fifth of the large one. Here
the adapter is added to the weights once per optimizer step, so that forward and the gradient of the input are one
product each, layers that read the same input are one layer, and only what the gradients of A and B need is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.dpo import mapped


@dataclass(frozen=True, slots=True)
class Part:
    """One of the layers that a fused one is made of: its rows of the weight and, where it is adapted, A and B."""

    #: (out, in), the base's own, and whether it is mapped from its file.
    base: Tensor
    is_mapped: bool
    rows: slice
    #: Rows of the stacked A.
    ranks: slice
    #: (rank, in) and (out, rank); None where the adapter leaves the layer alone.
    a: nn.Parameter | None
    b: nn.Parameter | None


class Fused:
    """Linear layers with one input, as one: weight (out, in), bias (out,), scale s of the adapters.

    The base's weights stay where they are, mapped from their file, and `weight` holds them with the adapter or
    without it, as was last asked for.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Take PEFT's layers, or plain ones where there is no adapter."""
        bases = [getattr(layer, "base_layer", layer) for layer in layers]
        adapted = [layer for layer in layers if hasattr(layer, "lora_A")]
        out = sum(len(base.weight) for base in bases)
        self.weight = bases[0].weight.new_empty(out, bases[0].weight.shape[1])
        self.bias = (
            None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        )
        self.scale: float = adapted[0].scaling["default"] if adapted else 0.0
        #: (ranks, in): the A of all parts, one below the other.
        self.a = (
            torch.cat([layer.lora_A["default"].weight.detach() for layer in adapted])
            if adapted
            else None
        )
        self.parts = []
        row = rank = 0
        for layer, base in zip(layers, bases, strict=True):
            a = b = None
            if hasattr(layer, "lora_A"):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            rows = slice(row, row + base.out_features)
            ranks = slice(rank, rank + (0 if a is None else len(a)))
            if a is not None and self.a is not None:
                a.data = self.a[ranks]
            weight = base.weight.detach()
            self.parts.append(Part(weight, mapped.is_mapped(weight), rows, ranks, a, b))
            row, rank = rows.stop, ranks.stop

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained: A and B of each part that is adapted."""
        return [each for part in self.parts if part.a is not None for each in (part.a, part.b)]

    @torch.no_grad()
    def merge(self, *, adapter: bool) -> None:
        """Compute the weight anew, from the base's own: so rounding does not add up over steps."""
        for part in self.parts:
            weight = self.weight[part.rows]
            if adapter and part.a is not None and part.b is not None:
                torch.addmm(part.base, part.b, part.a, alpha=self.scale, out=weight)
            else:
                weight.copy_(part.base)
            if part.is_mapped:
                # Half a gigabyte for the demo model, wanted again after a whole step.
                mapped.forget(part.base)

    def gradients(self, x: Tensor, dy: Tensor) -> list[Tensor]:
        """Return the gradients of `parameters` for input x (n, in) and the output's gradient dy (n, out).

        dB = s dy' (x A') and dA = s (dy B)' x.
        """
        if self.a is None:
            return []
        # Lying down, these narrow products take half the time that they take standing.
        down = self.a @ x.t()  # (ranks, n)
        up = torch.empty_like(down)
        adapted = [(part, part.b.detach()) for part in self.parts if part.b is not None]
        for part, b in adapted:
            torch.mm(b.t(), dy[:, part.rows].t(), out=up[part.ranks])
        da = (up @ x).mul_(self.scale)
        found = []
        for part, _ in adapted:
            db = down[part.ranks] @ dy[:, part.rows]  # (rank, out)
            found += [da[part.ranks], db.mul_(self.scale).t()]
        return found


def _rms(x: Tensor, eps: float) -> Tensor:
    """Return 1 / the root of the mean square of each token, (n, 1)."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class NormedLinear(torch.autograd.Function):
    """y = W (norm * x / rms(x)) + bias, for tokens x (n, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float, fused: Fused, *_: Tensor) -> Tensor:
        """Compute the layer; the adapter's parameters are only named so that autograd brings their gradients."""
        rms = _rms(x, eps)
        # Saved, and not taken from `fused` on the way back, so that autograd notices if it was merged anew before its time.
        ctx.save_for_backward(x, rms, fused.weight)
        ctx.norm, ctx.fused = norm, fused
        return F.linear((x * rms).mul_(norm), fused.weight, fused.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """Go back; with z = x / rms(x) and g = dz: dx = (g - z mean(g z)) / rms(x)."""
        x, rms, weight = ctx.saved_tensors
        z = x * rms
        gradients = ctx.fused.gradients(z * ctx.norm, dy)
        dx = None
        if ctx.needs_input_grad[0]:
            g = (dy @ weight).mul_(ctx.norm)
            along = torch.linalg.vecdot(g, z).div_(x.shape[-1]).neg_()[:, None]
            dx = g.addcmul_(z, along).mul_(rms)
        return (dx, None, None, None, *gradients)


class AddedLinear(torch.autograd.Function):
    """y = residual + W x + bias, for tokens x (n, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, fused: Fused, *_: Tensor) -> Tensor:
        """Compute the layer."""
        ctx.save_for_backward(x, fused.weight)
        ctx.fused = fused
        return _added(residual, x, fused)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """Go back."""
        x, weight = ctx.saved_tensors
        gradients = ctx.fused.gradients(x, dy)
        return (dy @ weight, dy, None, *gradients)


class GatedLinear(torch.autograd.Function):
    """y = residual + W (silu(gate) * up) + bias, for tokens with gate and up side by side (n, 2 in)."""

    @staticmethod
    def forward(ctx: Any, pair: Tensor, residual: Tensor, fused: Fused, *_: Tensor) -> Tensor:
        """Compute the layer; the gated input is cheaper to compute again than to keep."""
        ctx.save_for_backward(pair, fused.weight)
        ctx.fused = fused
        gate, up = pair.chunk(2, dim=-1)
        return _added(residual, F.silu(gate).mul_(up), fused)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """Go back."""
        pair, weight = ctx.saved_tensors
        gate, up = pair.chunk(2, dim=-1)
        silu = F.silu(gate)
        gradients = ctx.fused.gradients(silu * up, dy)
        dx = dy @ weight  # (n, in)
        dpair = torch.empty_like(pair)
        torch.mul(dx, silu, out=dpair[:, up.shape[1] :])
        torch.ops.aten.silu_backward(dx.mul_(up), gate, grad_input=dpair[:, : up.shape[1]])
        return (dpair, dy, None, *gradients)


def _added(residual: Tensor, x: Tensor, fused: Fused) -> Tensor:
    y = torch.addmm(residual, x, fused.weight.t())
    return y if fused.bias is None else y.add_(fused.bias)


class Rotary(torch.autograd.Function):
    """Turn the first heads of x (n, all heads * size) by each token's angles, in place; cosine and sine (n, 1, size / 2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> Tensor:
        """Turn."""
        ctx.mark_dirty(x)
        ctx.turned = heads, cosine, sine
        return _turn(x, heads, cosine, sine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """Turn back."""
        heads, cosine, sine = ctx.turned
        return _turn(dy.clone(), heads, cosine, -sine), None, None, None


def _turn(x: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> Tensor:
    size = 2 * cosine.shape[-1]
    first, second = x[:, : heads * size].unflatten(1, (heads, size)).chunk(2, dim=-1)
    before = first.clone()
    first.mul_(cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).addcmul_(before, sine)
    return x
