"""The indexer of sparse attention in torch, composed as models written in torch compose it."""

from __future__ import annotations

from conformance.backends.on_device import OnDevice, Tensor, on_device, wide


class TorchIndexer(OnDevice):
    """The functions of `refimpl.layers.indexer`."""

    @on_device
    def index_scores(self, q: Tensor, k: Tensor, weights: Tensor, *, scale: float) -> Tensor:
        products = wide(q) @ wide(k).mT[:, None] * scale
        return (wide(weights)[:, :, None] @ products.relu()).squeeze(2).to(q.dtype)

    @on_device
    def key_selection(
        self,
        scores: Tensor,
        *,
        top_k: int,
        causal: bool = True,
        q_order: Tensor | None = None,
        k_order: Tensor | None = None,
    ) -> Tensor:
        """Which of equal scores `topk` keeps is its own affair."""
        import torch

        B, T, S = scores.shape
        places = torch.arange(S, device=scores.device).expand(B, -1)
        q_BT1 = (places[:, S - T :] if q_order is None else q_order)[:, :, None]
        k_B1S = (places if k_order is None else k_order)[:, None]
        visible = (k_B1S >= 0) & (q_BT1 >= 0)
        if causal:
            visible = visible & (k_B1S <= q_BT1)
        best = scores.masked_fill(~visible, -float("inf")).topk(min(top_k, S), dim=-1).indices
        selection = torch.full_like(scores, -float("inf")).scatter(-1, best, 0.0)
        return selection.masked_fill(~visible, -float("inf"))[:, None]
