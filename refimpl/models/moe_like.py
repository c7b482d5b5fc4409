"""What the mixtures of experts share: the number of experts that a token uses, their block, their names on disk."""

from __future__ import annotations

from collections.abc import Mapping

from refimpl.blocks import Experts
from refimpl.config import Config
from refimpl.models.disk import LAYER_PARTS, Disk, Recipe, stacked
from refimpl.models.llama_like import ACTIVATIONS
from refimpl.storage import Part, Shape, Stored, Tensor

MATRICES = ("gate_proj", "up_proj", "down_proj")


def experts_per_token(
    config: Config, experts: int, *, default: int, available: int | None = None, key: str = "num_experts_per_tok"
) -> int:
    """The value of `key`: at most as many as there are, or as are `available` once some of them are left out."""
    top_k = config.bounded(key, config.take(key, int, default), at_least=1)
    available = experts if available is None else available
    if top_k > available:
        raise ValueError(f"config: {key} is {top_k} but a token chooses among {available} of {experts} experts")
    return top_k


def sparse_layers(config: Config, count: int) -> list[bool]:
    """Which layers have experts: i (from 0) where `decoder_sparse_step` divides i + 1 and `mlp_only_layers` does not name i."""
    step = config.optional_positive("decoder_sparse_step", 1) or 1
    dense = config.optional("mlp_only_layers", list) or []
    unfit = [index for index in dense if type(index) is not int or not 0 <= index < count]
    if unfit:
        raise ValueError(f"config: mlp_only_layers has {unfit[0]!r} but needs numbers of layers, 0 to {count - 1}")
    return [index not in dense and (index + 1) % step == 0 for index in range(count)]


def gated_experts(config: Config, experts: int, *, width: str) -> Experts:
    """Gated experts without biases, whose width stands under the key `width`."""
    return Experts(
        hidden_size=config.positive("hidden_size"),
        intermediate_size=config.positive(width),
        experts=experts,
        activation=config.choose("hidden_act", ACTIVATIONS, "silu"),
    )


def moe_disks(
    parts: Mapping[str, str | Recipe],
    fused_parts: Mapping[str, str | Recipe],
    *,
    experts: str = "mlp.experts",
    matrices: tuple[str, str, str] = MATRICES,
    ignored: tuple[str, ...] = (),
) -> tuple[Disk, Disk]:
    """The names as published, every expert with `matrices` of its own, and as transformers 5 holds them, all in one.

    parts, fused_parts: what stands beside the experts, in the two forms.
    """
    own = {
        f"mlp.experts.{name}.weight": stacked(f"{experts}.{{expert}}.{on_disk}.weight")
        for name, on_disk in zip(MATRICES, matrices, strict=True)
    }
    held: dict[str, str | Recipe] = {
        "mlp.experts.gate_proj.weight": _half_of_the_rows("mlp.experts.gate_up_proj", first=0),
        "mlp.experts.up_proj.weight": _half_of_the_rows("mlp.experts.gate_up_proj", first=1),
        "mlp.experts.down_proj.weight": "mlp.experts.down_proj",
    }
    return (
        Disk(layer_parts={**LAYER_PARTS, **own, **parts}, ignored=ignored),
        Disk(layer_parts={**LAYER_PARTS, **held, **fused_parts}, ignored=ignored),
    )


def _half_of_the_rows(name: str, *, first: int) -> Recipe:
    """One of two stacks that are stored as [E, 2 · out, in], the first above the second."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """Half of the rows of the fused stack."""
        rows = shape[-2]
        return Part(source=Tensor(prefix + name), axis=-2, start=first * rows, stop=(first + 1) * rows, whole=2 * rows)

    return recipe
