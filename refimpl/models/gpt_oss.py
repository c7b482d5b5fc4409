"""gpt-oss: attention with sinks and alternating windows, YaRN, a mixture of experts stored in four bits.

Source: gpt-oss model card, arXiv:2508.10925; the release's configuration class in transformers.
Pitfalls: the correction range of YaRN truncated (yarn-truncate-flag-ignored-sglang); one key too many in a window
(swa-window-plus-one-fa); gate and up rows taken as halves, which alternate; a limit or alpha that is not read
(swiglu-limit-not-passed-mxfp4-hf, swiglu-constants-hardcoded-bf16); the exponent's bias of the scales (mxfp4-scale-bias-125).
"""

from __future__ import annotations

from refimpl.blocks import Attention, Experts, Layer, MoE, RMSNorm, TopKSoftmax
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.layers.quantization import BLOCK
from refimpl.models.disk import LAYER_PARTS, Disk, Recipe, fused_columns, fused_entries, fused_mxfp4, mxfp4, transposed
from refimpl.models.llama_like import assemble, head_counts, layer_types, norm_eps, windows
from refimpl.models.rope_config import read_rope

YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_EXPERTS = "mlp.experts"
_PARTS: dict[str, str | Recipe] = {
    **LAYER_PARTS,
    **{
        f"{_EXPERTS}.{name}.bias": fused_entries(f"{_EXPERTS}.gate_up_proj_bias", first=first, interleaved=True)
        for first, name in enumerate(("gate_proj", "up_proj"))
    },
    f"{_EXPERTS}.down_proj.bias": f"{_EXPERTS}.down_proj_bias",
}
PLAIN = Disk(
    layer_parts={
        **_PARTS,
        f"{_EXPERTS}.gate_proj.weight": fused_columns(f"{_EXPERTS}.gate_up_proj", first=0, interleaved=True),
        f"{_EXPERTS}.up_proj.weight": fused_columns(f"{_EXPERTS}.gate_up_proj", first=1, interleaved=True),
        f"{_EXPERTS}.down_proj.weight": transposed(f"{_EXPERTS}.down_proj"),
    }
)
MXFP4 = Disk(
    layer_parts={
        **_PARTS,
        f"{_EXPERTS}.gate_proj.weight": fused_mxfp4(f"{_EXPERTS}.gate_up_proj", first=0),
        f"{_EXPERTS}.up_proj.weight": fused_mxfp4(f"{_EXPERTS}.gate_up_proj", first=1),
        f"{_EXPERTS}.down_proj.weight": mxfp4(f"{_EXPERTS}.down_proj"),
    }
)


def gpt_oss(config: Config) -> Blueprint:
    """Keys beside the common ones:

    head_dim             default 64; null is hidden_size / num_attention_heads
    attention_bias       on q, k, v and o; default true
    layer_types          by default every other layer has a window, the first one among them; sliding_window, default 128
    rope_scaling, rope_parameters: null or absent is the YaRN of the release
    num_local_experts, num_experts_per_tok (experts_per_token, where it is there, is the same; default 4)
    swiglu_alpha, swiglu_limit: of `clamped_swiglu`, whatever hidden_act says; default 1.702 and 7
    quantization_config  quant_method mxfp4: experts may be stored so, or plain, which their names tell

    initial_context_length repeats what rope_scaling says; router_aux_loss_coef and output_router_logits concern training.
    """
    config.ignore("hidden_act", "initial_context_length", "router_aux_loss_coef", "output_router_logits")
    norm = RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config, default=1e-5))
    moe = _moe(config)
    layers = [Layer(mixer_norm=norm, mixer=mixer, mlp_norm=norm, mlp=moe) for mixer in _attention(config)]
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=_disks(config))


def _attention(config: Config) -> list[Attention]:
    count = config.count("num_hidden_layers")
    heads, kv_heads = head_counts(config, default_kv_heads=8)
    hidden_size = config.positive("hidden_size")
    head_dim = config.optional_positive("head_dim", 64) or hidden_size // heads
    bias = config.take("attention_bias", bool, True)
    rope = read_rope(config, head_dim=head_dim, default_theta=150000.0, default_scaling=YARN)
    derived = ["full_attention" if index % 2 else "sliding_attention" for index in range(count)]
    return [
        Attention(
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=rope,
            window=window,
            qkv_bias=bias,
            output_bias=bias,
            sinks=True,
        )
        for window in windows(config, layer_types(config, derived), config.optional_positive("sliding_window", 128))
    ]


def _moe(config: Config) -> MoE:
    hidden_size, experts = config.positive("hidden_size"), config.count("num_local_experts")
    return MoE(
        router=TopKSoftmax(hidden_size=hidden_size, experts=experts, top_k=_top_k(config, experts), bias=True),
        experts=Experts(
            hidden_size=hidden_size,
            intermediate_size=config.positive("intermediate_size"),
            experts=experts,
            activation="clamped_swiglu",
            alpha=config.take("swiglu_alpha", float, 1.702),
            limit=config.bounded("swiglu_limit", config.take("swiglu_limit", float, 7.0), above=0),
            bias=True,
        ),
    )


def _top_k(config: Config, experts: int) -> int:
    top_k = config.bounded("num_experts_per_tok", config.take("num_experts_per_tok", int, 4), at_least=1)
    repeated = config.optional("experts_per_token", int)
    if repeated not in (None, top_k):
        raise ValueError(f"config: experts_per_token is {repeated} but num_experts_per_tok is {top_k}; one of them must go")
    if top_k > experts:
        raise ValueError(f"config: num_experts_per_tok is {top_k} but num_local_experts is {experts}")
    return top_k


def _disks(config: Config) -> tuple[Disk, ...]:
    if config.values.get("quantization_config") is None:
        return (PLAIN,)
    keys = config.nested("quantization_config", config.name)
    method = keys.require("quant_method", str)
    if method != "mxfp4":
        raise ValueError(f"config: quant_method is {method!r} but {config.name!r} is stored plain or as 'mxfp4'")
    # The tensors themselves say which of them are quantised.
    keys.ignore("modules_to_not_convert", "dequantize")
    keys.finish()
    for key in ("hidden_size", "intermediate_size"):
        if config.positive(key) % BLOCK:
            raise ValueError(f"config: {key} is {config.positive(key)} but mxfp4 needs a multiple of {BLOCK}")
    return MXFP4, PLAIN
