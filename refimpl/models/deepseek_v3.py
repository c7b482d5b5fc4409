"""DeepSeek-V3, R1 and Kimi K2: latent attention, dense first layers, routed experts with a corrected sigmoid choice.

Source: DeepSeek-V3 technical report, arXiv:2412.19437; its release; its configuration class in transformers; Kimi K2,
arXiv:2507.20534, which has the same architecture.
Pitfalls: YaRN's factor missing in the scale of the softmax, which is that of nope + rope entries and of no other width
(mla-yarn-softmax-mscale-missing, mla-scale-from-hidden-over-heads, mla-sdpa-default-scale); the rotated pairs half-split
(mla-rope-not-interleaved); the norm of the query's latent after the up projection, or a norm on the rotated key
(mla-q-norm-after-up-proj); experts outside the chosen groups masked with 0 instead of -inf; the correction bias in the weights
(router-bias-leaks-into-weights-ernie).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refimpl.blocks import LatentAttention, RMSNorm
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.deepseek_like import (
    LATENT_PARTS,
    channel_mixers,
    latent_attention,
    routed_and_shared,
    shared_disks,
    sigmoid_router,
)
from refimpl.models.llama_like import assemble, norm_eps, pre_norm_layers
from refimpl.models.multi_token import multi_token_modules
from refimpl.models.quantized import quantized

# Switches of the release's own code with the only value that a release has.
FIXED: dict[str, Any] = {"moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}


def deepseek_v3(config: Config) -> Blueprint:
    """Keys beside the common ones:

    those of latent attention, of the experts and of their router (`refimpl.models.deepseek_like`), but that absent keys mean
    first_k_dense_replace 3, n_group 8, topk_group 4 and routed_scaling_factor 2.5, as in the class
    moe_layer_freq, scoring_func, topk_method: as released
    num_nextn_predict_layers  modules for multi-token prediction, which follow the layers on disk; default 1
    quantization_config       how the weights are stored (`refimpl.models.quantized`)
    tie_word_embeddings
    ep_size, aux_loss_alpha, seq_aux: of training and of sharding, no number depends on them

    rms_norm_eps is not that of the norms between the projections, which is 1e-6 in the release's own class and in
    transformers; engines pass rms_norm_eps to them, which differs for Kimi K2 Thinking (1e-5).
    """
    return latent_model(config, latent_attention(config), LATENT_PARTS)


def latent_model(
    config: Config, attention: LatentAttention, parts: Mapping[str, str], *, mlp_types: Sequence[str] | None = None
) -> Blueprint:
    """The blueprint around the attention of every layer. Reads the keys of `deepseek_v3` that are not of attention.

    parts: the names on disk of what is not named as in Llama. mlp_types: as in `channel_mixers`.
    """
    config.assume(first_k_dense_replace=3, n_group=8, topk_group=4, routed_scaling_factor=2.5)
    for key, value in FIXED.items():
        found = config.take(key, type(value), value)
        if found != value:
            raise ValueError(f"config: {key} is {found!r} but {config.name!r} supports {value!r}")
    config.ignore("output_router_logits", "ep_size", "aux_loss_alpha", "seq_aux")
    count = config.count("num_hidden_layers")
    norm = RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config))
    moe = routed_and_shared(config, sigmoid_router(config))
    layers = pre_norm_layers(config, [attention] * count, channel_mixers(config, moe, count, mlp_types), norm=norm)
    modules = multi_token_modules(config, attention, moe, norm=norm, default=1)
    published, held = shared_disks(parts, moe)
    # Experts in one tensor, as transformers 5 holds them, are never stored in a few bits.
    is_quantised = config.optional("quantization_config", dict) is not None
    disks = quantized(config, published) if is_quantised else (published, held)
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=disks, multi_token=modules)
