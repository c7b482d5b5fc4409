"""DeepSeek-V3.2: DeepSeek-V3 whose layers attend to the keys that an indexer chooses.

Source: DeepSeek-V3.2-Exp report and release; its configuration class in transformers.
Pitfalls: the indexer's rotation with the pairs of latent attention, or of the last entries of a head: it turns the first ones,
half-split; its queries made of the latent before its norm; an RMSNorm without bias on its keys; another eps there.
"""

from __future__ import annotations

from dataclasses import replace

from refimpl.blocks import Indexer, LatentAttention
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.deepseek_like import LATENT_PARTS, MLP_TYPES, latent_attention
from refimpl.models.deepseek_v3 import latent_model
from refimpl.models.llama_like import layer_list

INDEX_EPS = 1e-6
PARTS = {
    **LATENT_PARTS,
    "mixer.indexer.q_proj": "self_attn.indexer.wq_b",
    "mixer.indexer.k_proj": "self_attn.indexer.wk",
}


def deepseek_v32(config: Config) -> Blueprint:
    """Keys beside those of DeepSeek-V3 (`refimpl.models.deepseek_v3`), of which q_lora_rank may not be null:

    index_topk, index_n_heads, index_head_dim  of the indexer; default 2048, 64, 128
    layer_types      indexed_attention for each layer, as is the default
    mlp_layer_types  dense or sparse for each layer; default by first_k_dense_replace
    mlp_bias is not read by any implementation
    """
    config.ignore("mlp_bias")
    layer_list(config, "layer_types", ("indexed_attention",))
    mlp_types = layer_list(config, "mlp_layer_types", MLP_TYPES)
    attention = latent_attention(config)
    return latent_model(config, replace(attention, indexer=_indexer(config, attention)), PARTS, mlp_types=mlp_types)


def _indexer(config: Config, attention: LatentAttention) -> Indexer:
    if attention.q_lora_rank is None:
        raise ValueError(f"config: q_lora_rank is null but the indexer of {config.name!r} needs a latent of the queries")
    head_dim = config.bounded("index_head_dim", config.take("index_head_dim", int, 128), at_least=1)
    if head_dim < attention.rope_head_dim:
        raise ValueError(
            f"config: index_head_dim is {head_dim} but needs at least qk_rope_head_dim = {attention.rope_head_dim}"
        )
    assert attention.rope is not None
    return Indexer(
        hidden_size=attention.hidden_size,
        q_lora_rank=attention.q_lora_rank,
        heads=config.bounded("index_n_heads", config.take("index_n_heads", int, 64), at_least=1),
        head_dim=head_dim,
        top_k=config.bounded("index_topk", config.take("index_topk", int, 2048), at_least=1),
        rope=replace(attention.rope, interleaved=False),
        norm_eps=INDEX_EPS,
    )
