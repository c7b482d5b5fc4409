"""Sampling in torch, composed as engines written in torch compose it."""

from __future__ import annotations

from conformance.backends.on_device import OnDevice, Tensor, on_device, wide


class TorchSampling(OnDevice):
    """The functions of `refimpl.layers.sampling`."""

    @on_device
    def token_distribution(
        self,
        logits: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ) -> Tensor:
        scores = wide(logits)
        if temperature == 0:
            return scores.new_zeros(scores.shape).scatter(-1, scores.argmax(-1, keepdim=True), 1).to(logits.dtype)
        scores = scores / temperature
        if top_k is not None:
            border = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < border, -float("inf"))
        if top_p is not None and top_p < 1:
            ordered, places = scores.sort(dim=-1, descending=True)
            probabilities = ordered.softmax(-1)
            outside = probabilities.cumsum(-1) - probabilities >= top_p
            scores = scores.masked_fill(outside.scatter(-1, places, outside), -float("inf"))
        if min_p is not None:
            probabilities = scores.softmax(-1)
            scores = scores.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), -float("inf"))
        return scores.softmax(-1).to(logits.dtype)

    @on_device
    def speculative_accept(self, target: Tensor, draft: Tensor, drafts: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        p, q = wide(target), wide(draft)
        places = drafts.long()[..., None]
        p_at, q_at = p[:, :-1].gather(-1, places)[..., 0], q.gather(-1, places)[..., 0]
        accepted = (wide(uniforms) * q_at < p_at).long().cumprod(dim=1).sum(dim=1)
        row = accepted[:, None, None].expand(-1, 1, p.shape[-1])
        here = p.gather(1, row)[:, 0]
        drafted = torch.cat([q, torch.zeros_like(p[:, :1])], dim=1).gather(1, row)[:, 0]
        residual = (here - drafted).clamp(min=0)
        total = residual.sum(-1, keepdim=True)
        whole = (accepted == drafts.shape[1])[:, None] | (total == 0)
        return accepted, torch.where(whole, here, residual / total).to(target.dtype)
