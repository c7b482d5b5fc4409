"""Routers, experts and the ring cache in torch, composed as models written in torch compose them."""

from __future__ import annotations

from typing import Any

from conformance.backends.on_device import OnDevice, Tensor, on_device, wide


class TorchExperts(OnDevice):
    """The functions of `refimpl.layers.router`, `experts` and `cache`."""

    @on_device
    def top_k_softmax_router(self, logits: Tensor, *, top_k: int) -> tuple[Tensor, Tensor]:
        values, indices = wide(logits).topk(top_k, dim=-1)
        return indices, values.softmax(-1).to(logits.dtype)

    @on_device
    def softmax_top_k_router(self, logits: Tensor, *, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
        return _softmax_top_k(wide(logits), top_k, logits.dtype, renormalise=renormalise)

    @on_device
    def softcapped_softmax_router(self, logits: Tensor, *, top_k: int, softcap: float) -> tuple[Tensor, Tensor]:
        return _softmax_top_k((wide(logits) / softcap).tanh() * softcap, top_k, logits.dtype, renormalise=False)

    @on_device
    def sigmoid_router(
        self,
        logits: Tensor,
        correction_bias: Tensor | None = None,
        *,
        top_k: int,
        groups: int = 1,
        top_groups: int = 1,
        renormalise: bool = True,
        eps: float = 1e-20,
        scaling_factor: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        scores = wide(logits).sigmoid()
        corrected = scores if correction_bias is None else scores + wide(correction_bias)
        if groups > 1:
            grouped = corrected.unflatten(-1, (groups, -1))
            group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
            best = group_scores.topk(top_groups, dim=-1).indices
            left_out = group_scores.new_ones(group_scores.shape).scatter(-1, best, 0).bool()
            corrected = grouped.masked_fill(left_out[..., None], -float("inf")).flatten(-2)
        indices = corrected.topk(top_k, dim=-1).indices
        weights = scores.gather(-1, indices)
        if renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + eps)
        return indices, (weights * scaling_factor).to(logits.dtype)

    @on_device
    def top_k_sigmoid_router(self, logits: Tensor, *, top_k: int) -> tuple[Tensor, Tensor]:
        values, indices = logits.topk(top_k, dim=-1)
        return indices, wide(values).sigmoid().to(logits.dtype)

    @on_device
    def routed_experts(
        self,
        x: Tensor,
        indices: Tensor,
        weights: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        gate_bias: Tensor | None = None,
        up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        *,
        activation: str = "silu",
        alpha: float | None = None,
        limit: float | None = None,
        scale_input: bool = False,
    ) -> Tensor:
        """The tokens of each expert are gathered, run, and added to their rows."""
        from torch.nn.functional import linear

        rows, chosen = x.reshape(-1, x.shape[-1]), indices.reshape(-1, indices.shape[-1])
        shares = weights.reshape(chosen.shape)
        y = rows.new_zeros(rows.shape)
        biases = [[None] * len(gate) if bias is None else bias for bias in (gate_bias, up_bias, down_bias)]
        for expert in chosen.unique().tolist():
            tokens, slots = (chosen == expert).nonzero(as_tuple=True)
            share, taken = shares[tokens, slots, None], rows[tokens]
            if scale_input:
                taken = taken * share
            opened, passed = linear(taken, gate[expert], biases[0][expert]), linear(taken, up[expert], biases[1][expert])
            output = linear(_activated(activation, opened, passed, alpha, limit), down[expert], biases[2][expert])
            y.index_add_(0, tokens, output if scale_input else output * share)
        return y.reshape(x.shape)

    @on_device
    def ring_order(self, order: Tensor, *, window: int) -> Tensor:
        import torch

        slots = torch.arange(min(order.shape[1], window), device=order.device)
        last = order.max(dim=1, keepdim=True).values
        place = last - (last - slots) % window
        return place.clamp(min=-1)

    @on_device
    def ring_append(self, new: Tensor, order: Tensor, ring: Tensor | None = None, *, window: int) -> Tensor:
        import torch

        held = new[:, :0] if ring is None else ring
        free = min(order.shape[1], window) - held.shape[1]
        result = torch.cat([held, new.new_zeros((new.shape[0], free, *new.shape[2:]))], dim=1)
        places = order[:, order.shape[1] - new.shape[1] :]
        kept = (places >= 0) & (places > order.max(dim=1, keepdim=True).values - window)
        rows, tokens = kept.nonzero(as_tuple=True)
        return result.index_put((rows, places[rows, tokens] % window), new[rows, tokens])


def _softmax_top_k(logits: Tensor, top_k: int, dtype: Any, *, renormalise: bool) -> tuple[Tensor, Tensor]:
    weights, indices = logits.softmax(-1).topk(top_k, dim=-1)
    return indices, (weights / weights.sum(-1, keepdim=True) if renormalise else weights).to(dtype)


def clamped_swiglu(gate: Tensor, up: Tensor, *, alpha: float, limit: float) -> Tensor:
    """The gated unit of gpt-oss."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * (alpha * gate).sigmoid() * (up + 1)


def _activated(activation: str, gate: Tensor, up: Tensor, alpha: float | None, limit: float | None) -> Tensor:
    from torch.nn.functional import gelu, silu

    match activation:
        case "silu":
            return silu(gate) * up
        case "gelu" | "gelu_tanh":
            return gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up
        case "clamped_swiglu" if alpha is not None and limit is not None:
            return clamped_swiglu(gate, up, alpha=alpha, limit=limit)
    raise NotImplementedError(f"activation {activation!r}")
