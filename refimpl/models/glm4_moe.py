"""GLM-4.5: dense first layers, then routed experts with a corrected sigmoid choice beside a shared one; half of a head rotated.

Source: GLM-4.5 technical report, arXiv:2508.06471; its configuration class in transformers.
Pitfalls: the rotated share of a head lost (partial-rotary-key-missing-without-scaling) or its pairs interleaved as in the
dense GLM-4 (rope-interleaved-instead-of-half); QK-norm where `use_qk_norm` is false; experts outside the chosen groups masked
with 0 instead of -inf; the correction bias in the weights (router-bias-leaks-into-weights-ernie).
"""

from __future__ import annotations

from refimpl.blocks import Attention, RMSNorm
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.deepseek_like import MOE_PARTS, channel_mixers, routed_and_shared, shared_disks, sigmoid_router
from refimpl.models.llama_like import assemble, head_counts, norm_eps, pre_norm_layers
from refimpl.models.multi_token import multi_token_modules
from refimpl.models.rope_config import read_rope


def glm4_moe(config: Config) -> Blueprint:
    """Keys beside the common ones:

    head_dim               default hidden_size / heads
    partial_rotary_factor  default 0.5
    use_qk_norm            RMSNorm on every head of q and k before the rotation; default no
    attention_bias         on q, k and v, not on o
    those of the experts and their router (`refimpl.models.deepseek_like`)
    num_nextn_predict_layers  modules for multi-token prediction, which follow the layers on disk; default 1
    tie_word_embeddings
    """
    count = config.count("num_hidden_layers")
    attention, moe = _attention(config), routed_and_shared(config, sigmoid_router(config))
    config.ignore("output_router_logits")
    norm = RMSNorm(size=config.positive("hidden_size"), eps=_eps(config))
    layers = pre_norm_layers(config, [attention] * count, channel_mixers(config, moe, count), norm=norm)
    modules = multi_token_modules(config, attention, moe, norm=norm, default=1)
    disks = shared_disks(MOE_PARTS, moe)
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=disks, multi_token=modules)


def _eps(config: Config) -> float:
    return norm_eps(config, default=1e-5)


def _attention(config: Config) -> Attention:
    heads, kv_heads = head_counts(config, default_kv_heads=8)
    hidden_size = config.positive("hidden_size")
    head_dim = config.bounded("head_dim", config.take("head_dim", int, hidden_size // heads), at_least=1)
    share = config.take("partial_rotary_factor", float, 0.5)
    return Attention(
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(config, head_dim=head_dim, default_theta=1e4, partial=True, default_dim=int(head_dim * share)),
        qk_norm=RMSNorm(size=head_dim, eps=_eps(config)) if config.take("use_qk_norm", bool, False) else None,
        qkv_bias=config.take("attention_bias", bool, False),
    )
