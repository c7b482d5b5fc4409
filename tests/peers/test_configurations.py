"""Configurations as the hub has them, and that every switch that is compared decides something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.api import read_config

from .comparison import assert_agree, relative_error
from .conftest import PairOf
from .variants import BASE, VARIANTS, Variant

NO_SWITCH = 1e-5
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "n_embd", "n_head")
EXPERTS = (
    *("moe_intermediate_size", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"),
    *("num_experts_per_token", "shared_expert_intermediate_size"),
)
LINEAR = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
LATENTS = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
INDEXER = ("index_n_heads", "index_head_dim", "index_topk")
SHRUNK = (*SIZES, *EXPERTS, *LATENTS, *LINEAR, *INDEXER, "intermediate_size_mlp")
# Architectures that transformers knows under another name.
READ_AS = {"kimi_k2": "deepseek_v3"}
REPEATED = {"experts_per_token": "num_experts_per_tok"}
LAYER_LISTS = ("no_rope_layers", "layer_types", "attn_type_list")
# Keys beside the sizes that decide which tensors there are.
STRUCTURAL = (
    *("n_positions", "n_inner", "tie_word_embeddings", "attention_bias", "head_dim"),
    *("first_k_dense_replace", "n_shared_experts", "use_qk_norm", "interleave_moe_layer_step"),
    "linear_attn_config",
)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.neutral is not None])
def test_a_variant_differs_from_the_one_with_its_switch_off(name: str, pair_of: PairOf, tmp_path: Path) -> None:
    from .checkpoints import copy_with, overridden
    from .reference import load_peer

    pair, neutral = pair_of(name), VARIANTS[name].neutral
    assert neutral is not None
    switched_off = load_peer(copy_with(pair.directory, tmp_path / "off", lambda config: overridden(config, neutral)))
    tokens = pair.tokens(2, 29)
    assert relative_error(switched_off(tokens)[0], pair.peer(tokens)[0]) > NO_SWITCH


@pytest.mark.parametrize(("name", "type_key"), [(name, key) for name, variant in VARIANTS.items() for key in variant.old_keys])
def test_the_keys_of_transformers_4_mean_the_same(name: str, type_key: str, pair_of: PairOf, tmp_path: Path) -> None:
    from .checkpoints import as_published, copy_with
    from .reference import load_peer

    pair = pair_of(name)
    published = copy_with(pair.directory, tmp_path / "published", lambda config: as_published(config, type_key=type_key))
    assert "rope_parameters" not in read_config(published)
    tokens = pair.tokens(2, 29)
    expected, _ = pair.peer(tokens)
    assert np.array_equal(load_peer(published)(tokens)[0], expected)
    assert_agree(refimpl.load(published, dtype="float64")(tokens)[0], expected)


def comparable(release: str) -> bool:
    architecture = read_config(release).get("model_type")
    return READ_AS.get(architecture, architecture) in BASE


def first_layers(published: dict[str, Any], layers: int, base: Mapping[str, Any]) -> dict[str, Any]:
    """Kimi Linear's own keys for its first layers, which it numbers from 1."""
    numbers = {key: [number for number in published[key] if number <= layers] for key in ("kda_layers", "full_attn_layers")}
    return {**published, **numbers, "num_heads": base["linear_num_heads"], "head_dim": base["linear_head_dim"]}


@pytest.mark.parametrize("release", [name for name in refimpl.releases() if comparable(name)])
def test_a_published_configuration_with_smaller_sizes(release: str, directory_of: Any, tmp_path: Path) -> None:
    """All keys of the release stay, those that transformers ignores and those it does not."""
    from .checkpoints import rewrite_config, write_checkpoint
    from .reference import load_peer

    published = read_config(release)
    architecture, layers = READ_AS.get(published["model_type"], published["model_type"]), 6
    published["model_type"] = architecture
    text, base = (config.get("text_config", config) for config in (published, BASE[architecture]))
    depth = "n_layer" if "n_layer" in base else "num_hidden_layers"
    sizes = {depth: layers, **{key: base[key] for key in SHRUNK if key in base}}
    sizes |= {key: base[original] for key, original in REPEATED.items() if key in text}
    sizes |= {key: text[key][:layers] for key in LAYER_LISTS if key in text}
    if "linear_attn_config" in text:
        sizes["linear_attn_config"] = first_layers(text["linear_attn_config"], layers, base)
    sizes |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    # Transformers writes the tensors of the small model as they are.
    config = {key: value for key, value in {**text, **sizes}.items() if key != "quantization_config"}
    settings = {key: config[key] for key in (*SHRUNK, depth, *STRUCTURAL) if key in config}
    settings |= {key: None for key in LAYER_LISTS if key in base and key not in text}
    if text is not published:
        settings = {"text_config": settings}
        config = {**published, "text_config": config, "vision_config": BASE[architecture]["vision_config"]}
    directory = write_checkpoint(Variant(architecture=architecture, settings=settings), tmp_path / "small")
    rewrite_config(directory, lambda _: config)
    tokens = np.random.default_rng(3).integers(0, sizes["vocab_size"], (2, 29))
    assert_agree(refimpl.load(directory, dtype="float64")(tokens)[0], load_peer(directory)(tokens)[0])
