"""Losses and the input of a module for multi-token prediction in torch."""

from __future__ import annotations

from conformance.backends.on_device import OnDevice, Tensor, on_device, wide

IGNORED = -100


class TorchLoss(OnDevice):
    """The functions of `refimpl.layers.loss` and `refimpl.layers.multi_token`; losses stay in float32 as in training code."""

    @on_device
    def multi_token_input(self, embedding: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import linear

        return linear(torch.cat([embedding, hidden], dim=-1), weight)

    @on_device
    def cross_entropy(self, logits: Tensor, targets: Tensor, *, ignore_index: int = IGNORED) -> Tensor:
        return _cross_entropy(logits, targets, ignore_index)

    @on_device
    def multi_token_loss(self, logits: Tensor, labels: Tensor, *, weight: float, ignore_index: int = IGNORED) -> Tensor:
        from torch.nn.functional import pad

        losses = [
            _cross_entropy(
                each, pad(labels[:, depth + 1 :], (0, min(depth + 1, labels.shape[1])), value=ignore_index), ignore_index
            )
            for depth, each in enumerate(logits)
        ]
        return losses[0] + weight * sum(losses[1:]) / max(len(losses) - 1, 1)


def _cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """torch's mean over no targets is not a number."""
    from torch.nn.functional import cross_entropy

    total = cross_entropy(wide(logits).flatten(0, 1), targets.flatten(), ignore_index=ignore_index, reduction="sum")
    return total / (targets != ignore_index).sum().clamp(min=1)
