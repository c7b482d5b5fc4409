"""Qwen3-MoE: Qwen3 whose feed-forward networks are routed experts; softmax over all of them, then the largest.

Source: Qwen3 technical report, arXiv:2505.09388; its configuration class in transformers.
Pitfalls: the weights of the chosen experts renormalised or not whatever `norm_topk_prob` says, which is false where it is
absent (norm-topk-default-by-family, norm-topk-lost-in-gguf, router-norm-topk-missing).
"""

from __future__ import annotations

from refimpl.blocks import Attention, ChannelMixer, MoE, SoftmaxTopK
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama_like import assemble, gated_mlp, pre_norm_layers
from refimpl.models.moe_like import experts_per_token, gated_experts, moe_disks, sparse_layers
from refimpl.models.qwen3 import qwen3_attention

ROUTER = {"mlp.router": "mlp.gate"}


def qwen3_moe(config: Config) -> Blueprint:
    """Keys beside the common ones:

    head_dim            default hidden_size / heads
    use_sliding_window, sliding_window (on every layer)
    num_experts         on the hub, num_local_experts as transformers 5 writes it; moe_intermediate_size, num_experts_per_tok
    norm_topk_prob      whether the weights of the chosen experts are made to sum to 1; default no
    decoder_sparse_step, mlp_only_layers: layer i (from 0) has experts where step divides i + 1 and the list does not name i
    attention_bias (on q, k, v and o), tie_word_embeddings
    """
    mixers = _attention(config)
    config.ignore("output_router_logits", "router_aux_loss_coef", "max_window_layers")
    layers = pre_norm_layers(config, mixers, _channel_mixers(config, len(mixers)))
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, disks=moe_disks(ROUTER, ROUTER))


def _attention(config: Config) -> list[Attention]:
    """Those of the dense sibling, but that a window is on every layer: `max_window_layers`, which files carry, is not read."""
    window = config.optional_positive("sliding_window", 4096)
    if not config.take("use_sliding_window", bool, False):
        window = None
    count = config.count("num_hidden_layers")
    return qwen3_attention(config, [window] * count, default_kv_heads=4, default_head_dim=None)


def _channel_mixers(config: Config, count: int) -> list[ChannelMixer]:
    sparse = sparse_layers(config, count)
    experts = _experts(config)
    moe = MoE(
        router=SoftmaxTopK(
            hidden_size=config.positive("hidden_size"),
            experts=experts,
            top_k=experts_per_token(config, experts, default=8),
            renormalise=config.take("norm_topk_prob", bool, False),
        ),
        experts=gated_experts(config, experts, width="moe_intermediate_size"),
    )
    if all(sparse):
        config.ignore("intermediate_size")
        return [moe] * count
    dense = gated_mlp(config)
    return [moe if has_experts else dense for has_experts in sparse]


def _experts(config: Config) -> int:
    """How many experts there are, under either key or, equal, under both."""
    published, renamed = (config.optional_positive(key) for key in ("num_experts", "num_local_experts"))
    if published and renamed and published != renamed:
        raise ValueError(f"config: num_experts is {published} but num_local_experts is {renamed}; one of them must go")
    return published or renamed or config.positive("num_experts")
