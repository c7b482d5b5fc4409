"""A checkpoint of transformers' Mistral 4 in Mistral's own format: params.json, other names, every expert on its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

Array = npt.NDArray[Any]

NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_a_proj": "attention.wq_a",
    "self_attn.q_a_layernorm": "attention.q_a_norm",
    "self_attn.q_b_proj": "attention.wq_b",
    "self_attn.kv_a_proj_with_mqa": "attention.wkv_a_with_mqa",
    "self_attn.kv_a_layernorm": "attention.kv_a_norm",
    "self_attn.kv_b_proj": "attention.wkv_b",
    "self_attn.o_proj": "attention.wo",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.gate": "gate",
    "mlp.shared_experts.gate_proj": "shared_experts.w1",
    "mlp.shared_experts.down_proj": "shared_experts.w2",
    "mlp.shared_experts.up_proj": "shared_experts.w3",
}


def rewrite(source: Path, target: Path) -> dict[str, Any]:
    """Write the checkpoint `source` of transformers into `target`, in two shards; returns the params.json."""
    target.mkdir()
    params = to_params(json.loads((source / "config.json").read_text()))
    (target / "params.json").write_text(json.dumps(params))
    tensors = {
        new: array for name, old in load_file(source / "model.safetensors").items() for new, array in _renamed(name, old)
    }
    names = sorted(tensors)
    weight_map = {}
    for number, shard in enumerate((names[::2], names[1::2]), 1):
        file = f"consolidated-{number:05d}-of-00002.safetensors"
        save_file({name: np.ascontiguousarray(tensors[name]) for name in shard}, target / file)
        weight_map |= dict.fromkeys(shard, file)
    (target / "consolidated.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return params


def to_params(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as a params.json says it."""
    rope = config["rope_parameters"]
    original = rope["original_max_position_embeddings"]
    moe = {
        "num_experts": config["n_routed_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "expert_hidden_dim": config["moe_intermediate_size"],
        "num_shared_experts": config["n_shared_experts"],
        "first_k_dense_replace": config["first_k_dense_replace"],
        "num_expert_groups": 1,
        "num_expert_groups_per_tok": 1,
        "route_every_n": 1,
        "routed_scale": 1.0,
    }
    yarn = {
        "factor": rope["factor"],
        "original_max_position_embeddings": original,
        "beta": rope["beta_fast"],
        "alpha": rope["beta_slow"],
        "apply_scale": "mscale_all_dim" in rope,
    }
    same = ("vocab_size", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {
        **{key: config[key] for key in same},
        "dim": config["hidden_size"],
        "hidden_dim": config["intermediate_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope["rope_theta"],
        "tied_embeddings": config["tie_word_embeddings"],
        "llama_4_scaling": {"beta": rope["llama_4_scaling_beta"], "original_max_position_embeddings": original},
        "yarn": yarn,
        "moe": moe,
    }


def _renamed(name: str, array: Array) -> list[tuple[str, Array]]:
    prefix, inner = re.fullmatch(r"(?:model\.(layers\.\d+\.))?(.*)", name).groups("")
    if inner == "mlp.experts.gate_up_proj":
        halves = dict(zip(("w1", "w3"), np.split(array, 2, axis=1), strict=True))
        return [(f"{prefix}experts.{e}.{w}.weight", half[e]) for w, half in halves.items() for e in range(len(array))]
    if inner == "mlp.experts.down_proj":
        return [(f"{prefix}experts.{e}.w2.weight", matrix) for e, matrix in enumerate(array)]
    module, kind = inner.rsplit(".", 1)
    return [(f"{prefix}{NAMES[module]}.{kind}", array)]
