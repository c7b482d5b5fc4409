"""OLMo 2: norms behind the branches instead of before them, and QK-norm over the whole projection.

x = x + norm(attention(x)), x = x + norm(mlp(x)); nothing is normed on the way into a branch but q and k, all heads at once.

Source: 2 OLMo 2 Furious, arXiv:2501.00656; the release's configuration class in transformers.
Pitfalls: pre-norms (olmo2-pre-norm-used); the norm over the sum instead of the branch (postnorm-residual-outside); QK-norm head
by head (qknorm-placement-three-variants).
"""

from __future__ import annotations

from refimpl.blocks import Attention, Layer, RMSNorm
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import LAYER_PARTS, Disk
from refimpl.models.llama_like import assemble, gated_mlp, head_counts, norm_eps
from refimpl.models.rope_config import read_rope

DISK = Disk(
    layer_parts={
        **LAYER_PARTS,
        "mixer_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)


def olmo2(config: Config) -> Blueprint:
    """Keys beside the common ones: head_dim (default hidden_size / heads), attention_bias (on q, k, v and o),
    tie_word_embeddings.
    """
    count = config.count("num_hidden_layers")
    hidden_size = config.positive("hidden_size")
    heads, kv_heads = head_counts(config)
    head_dim = config.bounded("head_dim", config.take("head_dim", int, hidden_size // heads), at_least=1)
    norm = RMSNorm(size=hidden_size, eps=norm_eps(config, default=1e-5))
    bias = config.take("attention_bias", bool, False)
    mixer = Attention(
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(config, head_dim=head_dim, default_theta=1e4),
        qk_norm=norm,
        qk_norm_over="projection",
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = Layer(mixer=mixer, mixer_post_norm=norm, mlp=gated_mlp(config), mlp_post_norm=norm)
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, [layer] * count, tied=tied, final_norm=norm, disks=(DISK,))
