"""GPT-2: learned positions, LayerNorm with a bias, a plain MLP with GELU, biases everywhere, a tied head.

Source: Radford et al., Language models are unsupervised multitask learners (2019); the release's configuration class in
transformers.
Pitfalls: the exact GELU for the tanh form (gelu-exact-for-gelu-new); positions that count padding
(left-pad-learned-absolute); square weights read as [out, in], which are stored [in, out].
"""

from __future__ import annotations

from dataclasses import replace

from refimpl.blocks import MLP, Attention, Embedding, Head, Layer, LayerNorm, PositionEmbedding
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import Disk, Recipe, fused_columns, fused_entries, transposed
from refimpl.models.llama_like import ACTIVATIONS

# q, k and v lie side by side in one weight and one bias.
_LAYER_PARTS: dict[str, str | Recipe] = {
    "mixer_norm": "ln_1",
    **{f"mixer.{name}_proj.weight": fused_columns("attn.c_attn.weight", first=i, of=3) for i, name in enumerate("qkv")},
    **{f"mixer.{name}_proj.bias": fused_entries("attn.c_attn.bias", first=i, of=3) for i, name in enumerate("qkv")},
    "mixer.o_proj.weight": transposed("attn.c_proj.weight"),
    "mixer.o_proj.bias": "attn.c_proj.bias",
    "mlp_norm": "ln_2",
    "mlp.up_proj.weight": transposed("mlp.c_fc.weight"),
    "mlp.up_proj.bias": "mlp.c_fc.bias",
    "mlp.down_proj.weight": transposed("mlp.c_proj.weight"),
    "mlp.down_proj.bias": "mlp.c_proj.bias",
}


def gpt2(config: Config) -> Blueprint:
    """Keys: vocab_size, n_positions (n_ctx, where it is there, is the same), n_embd, n_layer, n_head, and

    n_inner                          width of the MLP; null is 4 · n_embd
    activation_function              gelu_new by default
    layer_norm_epsilon
    scale_attn_weights               whether the softmax scale is head_dim^-1/2, or 1
    scale_attn_by_inverse_layer_idx  whether it is divided by the number of the layer, counted from 1
    tie_word_embeddings

    reorder_and_upcast_attn chooses a precision and an order of operations, and nothing else.
    """
    hidden_size = config.positive("n_embd")
    norm = LayerNorm(size=hidden_size, eps=_eps(config))
    mlp = MLP(
        hidden_size=hidden_size,
        intermediate_size=config.optional_positive("n_inner") or 4 * hidden_size,
        activation=config.choose("activation_function", ACTIVATIONS, "gelu_new"),
    )
    layers = tuple(Layer(mixer_norm=norm, mixer=mixer, mlp_norm=norm, mlp=mlp) for mixer in _mixers(config, hidden_size))
    return _assemble(config, hidden_size, layers, norm)


def _mixers(config: Config, hidden_size: int) -> list[Attention]:
    heads = config.positive("n_head")
    if hidden_size % heads:
        raise ValueError(f"config: n_embd is {hidden_size}, which n_head = {heads} does not divide")
    head_dim = hidden_size // heads
    scale = head_dim**-0.5 if config.take("scale_attn_weights", bool, True) else 1.0
    by_layer = config.take("scale_attn_by_inverse_layer_idx", bool, False)
    config.take("reorder_and_upcast_attn", bool, False)
    return [
        Attention(
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim,
            scale=scale / (index + 1) if by_layer else scale,
            rope=None,
            qkv_bias=True,
            output_bias=True,
        )
        for index in range(config.count("n_layer"))
    ]


def _assemble(config: Config, hidden_size: int, layers: tuple[Layer, ...], final_norm: LayerNorm) -> Blueprint:
    vocab_size = config.positive("vocab_size")
    positions = _positions(config)
    tied = config.take("tie_word_embeddings", bool, True)
    config.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "gradient_checkpointing", "output_past")
    config.ignore(*(key for key in config.values if key.startswith("summary_")))  # of a classification head
    config.finish()
    blueprint = Blueprint(
        architecture=config.name,
        embedding=Embedding(vocab_size=vocab_size, hidden_size=hidden_size),
        position_embedding=PositionEmbedding(positions=positions, hidden_size=hidden_size),
        layers=layers,
        final_norm=final_norm,
        head=Head(vocab_size=vocab_size, hidden_size=hidden_size, tied=tied),
        layouts=(),
        config=config.values,
    )
    return replace(blueprint, layouts=tuple(_disk(prefix).layout(blueprint) for prefix in ("", "transformer.")))


def _eps(config: Config) -> float:
    return config.bounded("layer_norm_epsilon", config.take("layer_norm_epsilon", float, 1e-5), at_least=0)


def _positions(config: Config) -> int:
    positions = config.positive("n_positions")
    context = config.optional_positive("n_ctx")
    if context not in (None, positions):
        raise ValueError(f"config: n_positions is {positions} but n_ctx is {context}; one of them must go")
    return positions


def _disk(prefix: str) -> Disk:
    """The names as published (no prefix), or as transformers writes them. Old files hold the causal masks as well."""
    return Disk(
        layer_parts=_LAYER_PARTS,
        embedding=f"{prefix}wte",
        position_embedding=f"{prefix}wpe",
        layers=f"{prefix}h",
        final_norm=f"{prefix}ln_f",
        ignored=(f"{prefix}h.*.attn.bias", f"{prefix}h.*.attn.masked_bias"),
    )
