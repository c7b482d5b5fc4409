"""What DeepSeek-V3.2 reads from a configuration, the names of its tensors, and that with enough keys it is DeepSeek-V3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import LatentAttention, MoE, Yarn
from refimpl.model import numpy_model
from refimpl.numerics import Array
from tests.tiny import without

DEEPSEEK_V32 = {
    "model_type": "deepseek_v32",
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 28,
    "moe_intermediate_size": 10,
    "n_routed_experts": 12,
    "num_experts_per_tok": 2,
    "n_group": 3,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "q_lora_rank": 14,
    "kv_lora_rank": 9,
    "qk_nope_head_dim": 7,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
    "index_n_heads": 22,
    "index_head_dim": 11,
    "index_topk": 4,
    "num_nextn_predict_layers": 0,
}
FORMS = pytest.mark.parametrize("expanded", [False, True], ids=["absorbed", "expanded"])


def config(**changes: Any) -> dict[str, Any]:
    return {**DEEPSEEK_V32, **changes}


def mixer(**changes: Any) -> LatentAttention:
    found = refimpl.blueprint(config(**changes)).layers[-1].mixer
    assert isinstance(found, LatentAttention)
    return found


def tokens(length: int) -> Array:
    return np.random.default_rng(5).integers(0, 53, (2, length))


def model(*, expanded: bool, **changes: Any) -> refimpl.Model:
    found = refimpl.init(config(**changes), seed=3, dtype="float64")
    return found.expanded() if expanded else found


def test_absent_keys_of_the_indexer_are_those_of_the_release() -> None:
    small = without(config(qk_rope_head_dim=6), "index_n_heads", "index_head_dim", "index_topk")
    indexer = refimpl.blueprint(small).layers[0].mixer.indexer
    assert (indexer.heads, indexer.head_dim, indexer.top_k, indexer.norm_eps) == (64, 128, 2048, 1e-6)


def test_the_indexer_rotates_other_pairs_by_the_same_angles() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.3, "mscale_all_dim": 0.7}
    found = mixer(rope_theta=500, rope_scaling=scaling)
    assert found.indexer is not None
    assert (found.rope.interleaved, found.indexer.rope.interleaved) == (True, False)
    assert isinstance(found.indexer.rope.scaling, Yarn)
    assert found.rope.scaling == found.indexer.rope.scaling
    assert (found.rope.theta, found.rope.rotary_dim) == (found.indexer.rope.theta, found.indexer.rope.rotary_dim) == (500, 6)


@FORMS
def test_the_cache_keeps_one_index_key_a_token(expanded: bool) -> None:
    found = model(expanded=expanded)
    _, cache = found(tokens(7))
    assert {name: array.shape for name, array in cache.states[1].items()} == (
        {"key": (2, 7, 5, 13), "value": (2, 7, 5, 8), "index_key": (2, 7, 11)}
        if expanded
        else {"latent": (2, 7, 9), "k_rope": (2, 7, 6), "index_key": (2, 7, 11)}
    )


@FORMS
def test_with_enough_keys_it_is_deepseek_v3(expanded: bool) -> None:
    """The same weights without those of the indexer, and as many keys as tokens."""
    ours = model(expanded=expanded, index_topk=9)
    unindexed = without(config(model_type="deepseek_v3"), "index_n_heads", "index_head_dim", "index_topk")
    plan = refimpl.blueprint(unindexed)
    theirs = numpy_model(plan.expanded() if expanded else plan, ours.weights, "float64")
    assert set(ours.blueprint.parameters()) - set(plan.parameters()) == {
        f"layers.{index}.mixer.indexer.{name}"
        for index in range(3)
        for name in ("q_proj.weight", "k_proj.weight", "k_norm.weight", "k_norm.bias", "weights_proj.weight")
    }
    nine, ten = tokens(9), tokens(10)
    np.testing.assert_allclose(ours(nine)[0], theirs(nine)[0], rtol=0, atol=1e-12)
    ours_last, theirs_last = ours(ten)[0][:, -1], theirs(ten)[0][:, -1]
    assert np.abs(ours_last - theirs_last).max() > 1e-4 * np.abs(theirs_last).max()


@FORMS
def test_its_module_for_multi_token_prediction_has_an_indexer(expanded: bool) -> None:
    """With as many keys as pairs it is that of DeepSeek-V3; with fewer it is not, at once and one pair at a time alike."""
    both = {}
    for top_k in (8, 4):
        ours = model(expanded=expanded, index_topk=top_k, num_nextn_predict_layers=1)
        hidden, shifted = np.random.default_rng(2).standard_normal((2, 8, 24)), tokens(8)
        both[top_k], _, cache = ours.multi_token(shifted, hidden)
        assert cache.states[0]["index_key"].shape == (2, 8, 11)
        pieces, held = [], None
        for column in range(8):
            logits, _, held = ours.multi_token(shifted[:, column : column + 1], hidden[:, column : column + 1], held)
            pieces.append(logits)
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), both[top_k], rtol=0, atol=1e-12)
    unindexed = without(config(model_type="deepseek_v3"), "index_n_heads", "index_head_dim", "index_topk")
    plan = refimpl.blueprint({**unindexed, "num_nextn_predict_layers": 1})
    theirs = numpy_model(plan.expanded() if expanded else plan, ours.weights, "float64").multi_token(shifted, hidden)[0]
    np.testing.assert_allclose(both[8], theirs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(both[4][:, :4], theirs[:, :4], rtol=0, atol=1e-12)
    assert np.abs(both[4] - theirs).max() > 1e-4 * np.abs(theirs).max()


@FORMS
def test_every_query_keeps_index_topk_keys(expanded: bool) -> None:
    values = model(expanded=expanded).trace(tokens(9))
    for index in range(3):
        selection = values[f"layers.{index}.mixer.indexer.selection"]
        assert selection.shape == (2, 1, 9, 9)
        assert np.array_equal((selection == 0).sum(axis=-1)[:, 0], np.tile([1, 2, 3, 4, 4, 4, 4, 4, 4], (2, 1)))


def test_keys_that_are_not_selected_change_nothing() -> None:
    """What the cache keeps of a token that the last one does not select anywhere may be anything."""
    found = model(expanded=False, num_hidden_layers=1, first_k_dense_replace=1)
    prompt, last = tokens(9)[:1, :-1], tokens(9)[:1, -1:]
    _, cache = found(prompt)
    selection = found.trace(last, cache)["layers.0.mixer.indexer.selection"][0, 0, 0]
    expected, _ = found(last, cache)
    for column in range(8):
        state = {name: array.copy() for name, array in cache.states[0].items()}
        state["latent"][:, column] += 3
        changed, _ = found(last, type(cache)(**{**vars(cache), "states": [state]}))
        assert np.array_equal(changed, expected) == (selection[column] != 0)


def test_biases_are_not_on_the_indexer() -> None:
    names = {name for name in refimpl.blueprint(config(attention_bias=True)).parameters() if name.endswith("proj.bias")}
    assert {name.split(".", 3)[3] for name in names} == {"q_a_proj.bias", "kv_a_proj.bias", "o_proj.bias"}


def test_the_kinds_of_layers() -> None:
    types = ["sparse", "dense", "sparse"]
    layers = refimpl.blueprint(config(mlp_layer_types=types, layer_types=["indexed_attention"] * 3)).layers
    assert [isinstance(layer.mlp, MoE) for layer in layers] == [True, False, True]
    sparse = without(config(mlp_layer_types=["sparse"] * 3), "intermediate_size")
    assert all(isinstance(layer.mlp, MoE) for layer in refimpl.blueprint(sparse).layers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q_lora_rank": None}, "q_lora_rank is null but the indexer of 'deepseek_v32' needs a latent of the queries"),
        ({"index_head_dim": 5}, "index_head_dim is 5 but needs at least qk_rope_head_dim = 6"),
        ({"index_topk": 0}, "index_topk is 0 but needs a positive integer"),
        ({"index_n_heads": 0}, "index_n_heads is 0 but needs a positive integer"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types has 'full_attention' but 'deepseek_v32' supports indexed_att"),
        ({"mlp_layer_types": ["dense", "moe", "dense"]}, "mlp_layer_types has 'moe' but 'deepseek_v32' supports dense, sparse"),
        ({"mlp_layer_types": ["dense"]}, "mlp_layer_types has 1 entries but num_hidden_layers is 3"),
        ({"index_top_k": 4}, "unknown key 'index_top_k' .*; did you mean 'index_topk'"),
    ],
)
def test_what_cannot_be_read(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {words}"):
        refimpl.blueprint(config(**changes))


def test_deepseek_v3_has_no_indexer() -> None:
    with pytest.raises(ValueError, match=r"^config: unknown key 'index_head_dim'"):
        refimpl.blueprint(config(model_type="deepseek_v3"))


def test_names_on_disk() -> None:
    blueprint = refimpl.blueprint(config())
    shapes = blueprint.parameters()
    for layout in blueprint.layouts:
        found = {name: leaf.shape for name, leaf in layout.leaves(shapes).items() if "layers.1.self_attn.indexer" in name}
        assert found == {
            "model.layers.1.self_attn.indexer.wq_b.weight": (22 * 11, 14),
            "model.layers.1.self_attn.indexer.wk.weight": (11, 24),
            "model.layers.1.self_attn.indexer.k_norm.weight": (11,),
            "model.layers.1.self_attn.indexer.k_norm.bias": (11,),
            "model.layers.1.self_attn.indexer.weights_proj.weight": (22, 24),
        }


def test_the_release_stores_matrices_of_the_indexer_in_fp8_but_its_weights() -> None:
    blueprint = refimpl.blueprint("deepseek-ai/DeepSeek-V3.2-Exp")
    leaves = blueprint.layouts[0].leaves(blueprint.parameters())
    names = {name.rpartition("indexer.")[2] for name in leaves if ".indexer." in name}
    assert names == {
        *("wq_b.weight", "wq_b.weight_scale_inv", "wk.weight", "wk.weight_scale_inv"),
        *("k_norm.weight", "k_norm.bias", "weights_proj.weight"),
    }
    assert leaves["model.layers.61.self_attn.indexer.wq_b.weight_scale_inv"].shape == (64, 12)


def test_the_release_counts() -> None:
    blueprint = refimpl.blueprint("deepseek-ai/DeepSeek-V3.2-Exp")
    assert blueprint.num_parameters() == 671_877_929_216
    assert blueprint.num_active_parameters() == 38_403_807_488
    assert blueprint.layers[0].mixer.indexer.num_parameters() == 13_959_424
    assert blueprint.cache_bytes(1, "bfloat16") == 61 * (512 + 64 + 128) * 2


def test_flops_of_attention_stop_at_the_selection_and_those_of_the_indexer_go_on() -> None:
    few, many = mixer(index_topk=4), mixer(index_topk=1000)
    assert few.flops(4) == many.flops(4)
    assert few.flops(104) - few.flops(4) == 100 * 2 * 22 * (11 + 1)
    assert many.flops(104) - many.flops(4) == 100 * 2 * (22 * (11 + 1) + 5 * (9 + 6 + 9))
