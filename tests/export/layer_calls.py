"""Calls of every layer, with every option, for tests that compare interpretations of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from tests.export.recurrent_calls import recurrent_calls

Call = tuple[str, str, list[Any], dict[str, Any]]

B, T, S, H, G, K, J, D = 2, 3, 5, 6, 2, 8, 4, 12
Q_ORDER = np.array([[2, 3, 4], [-1, 1, 2]])
K_ORDER = np.array([[0, 1, 2, 3, 4], [-1, 2, 0, 1, -1]])
LLAMA3 = {
    "theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"theta": 1.5e5, "factor": 32.0, "original_max_position_embeddings": 4096}
GROK_YARN = {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "extrapolation_factor": 0.8}


def calls(dtype: str) -> Iterator[Call]:
    """Layer, what is special about the call, arrays and other positional arguments, options."""
    generator = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(dtype)

    yield from _norms(normal)
    yield from _frequencies(dtype)
    yield from _positions(normal, dtype)
    yield from _masks()
    yield from _attention(normal)
    yield from _latent_attention(normal)
    yield from _indexer(normal, dtype)
    yield from recurrent_calls(normal)
    yield from _pointwise(normal, dtype)
    yield from _routers(normal, dtype)
    yield from _experts(normal, dtype)
    yield from _rings(normal)
    yield from _ends(normal)
    yield from _sampling(dtype)
    yield from _multi_token(normal)


def _norms(normal: Any) -> Iterator[Call]:
    yield "rms_norm", "no_weight", [normal(B, T, D) * 1e-3], {"eps": 1e-6}
    yield "rms_norm", "weight", [normal(B, T, D) * 1e-3, normal(D)], {"eps": 1e-6}
    yield "rms_norm", "zero_centred_heads", [normal(B, T, H, K), normal(K)], {"eps": 1e-5, "zero_centred": True}
    for activation in ("silu", "sigmoid"):
        gated = [normal(B, T, H, K) * 1e-3, normal(B, T, H, K) * 3, normal(K)]
        yield "gated_rms_norm", activation, gated, {"eps": 1e-6, "activation": activation}
        yield "gated_rms_norm", f"{activation}_first", gated, {"eps": 1e-6, "activation": activation, "gate_first": True}
    yield "layer_norm", "no_bias", [normal(B, T, D) + 5, normal(D)], {"eps": 1e-5}
    yield "layer_norm", "bias_vector", [normal(D) + 5, normal(D), normal(D)], {"eps": 1e-5}
    yield "l2_norm", "heads", [normal(B, T, H, K) * 1e-3], {"eps": 1e-6}


def _frequencies(dtype: str) -> Iterator[Call]:
    for label, chosen in (("default_dtype", {}), ("dtype", {"dtype": np.dtype(dtype)})):
        yield "rope_frequencies", label, [16], {"theta": 1e4, **chosen}
        yield "linear_rope_frequencies", label, [16], {"theta": 1e4, "factor": 3.0, **chosen}
        yield "llama3_rope_frequencies", label, [64], {**LLAMA3, **chosen}
        yield "llama3_rope_frequencies", f"no_band_{label}", [64], {**LLAMA3, "low_freq_factor": 4.0, **chosen}
        yield "yarn_rope_frequencies", label, [64], {**YARN, **chosen}
        yield "yarn_rope_frequencies", f"not_truncated_{label}", [64], {**YARN, "truncate": False, **chosen}
        equal_bounds = {"theta": 10.0, "factor": 32.0, "original_max_position_embeddings": 4}
        yield "yarn_rope_frequencies", f"equal_bounds_{label}", [8], {**equal_bounds, **chosen}
        for blend in ("linear", "log"):
            own = {**GROK_YARN, "blend": blend, **chosen}
            yield "grok_yarn_rope_frequencies", f"{blend}_{label}", [64], own
            yield "grok_yarn_rope_frequencies", f"{blend}_equal_bounds_{label}", [8], {**equal_bounds, "blend": blend, **chosen}
        scaled = {"theta": 1.5e5, "factor": 16.0, "original_max_position_embeddings": 8192}
        yield "theta_scaled_rope_frequencies", label, [64], {**scaled, **chosen}


def _positions(normal: Any, dtype: str) -> Iterator[Call]:
    positions = np.array([[0, 7, 5000], [-3, 5, 2]])
    frequencies = (1 / 1e4 ** (np.arange(4) / 4)).astype(dtype)
    yield "rope_cos_sin", "plain", [positions, frequencies], {}
    yield "rope_cos_sin", "factor_int32", [positions.astype(np.int32), frequencies], {"attention_factor": 1.3}
    for width, part in ((8, "whole"), (11, "partial")):
        heads = [normal(B, T, H, width), normal(B, T, 4), normal(B, T, 4)]
        yield "rotary_embedding", f"halves_{part}", heads, {}
        yield "rotary_embedding", f"pairs_{part}", heads, {"interleaved": True}
    yield "position_embedding", "padding", [np.array([[0, 3], [-1, 2]]), normal(6, D)], {}
    for label, chosen in (("default_dtype", {}), ("dtype", {"dtype": np.dtype(dtype)})):
        reached = np.array([[0, 7, 5000], [2, 15, 31]])
        yield "log_length_temperature", label, [reached], {"length": 16, **chosen}
        yield "log_floor_temperature", label, [reached], {"scale": 0.3, "floor": 8, **chosen}
        yield "log_floor_temperature", f"no_offset_{label}", [reached], {"scale": 0.3, "floor": 8, "offset": 0, **chosen}
    yield "token_order", "integers", [np.array([[0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])], {}
    yield "token_order", "bools", [np.array([[0, 0, 1, 1], [1, 0, 1, 0]], bool)], {}


def _masks() -> Iterator[Call]:
    for label, q_order in (("int64", Q_ORDER), ("int32", Q_ORDER.astype(np.int32))):
        orders = [q_order, K_ORDER]
        yield "padding_mask", label, orders, {}
        yield "causal_mask", label, orders, {}
        yield "sliding_window_mask", label, orders, {"window": 2}
        yield "chunked_mask", label, orders, {"chunk": 2}
        yield "attention_mask", label, orders, {}
        yield "attention_mask", f"not_causal_{label}", orders, {"causal": False}
        yield "attention_mask", f"window_chunk_{label}", orders, {"window": 2, "chunk": 3}


def _attention(normal: Any) -> Iterator[Call]:
    places = {"q_order": Q_ORDER, "k_order": K_ORDER}
    hiding = normal(1, H, T, S)
    hiding[0, :2, 1] = -np.inf
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "not_causal": {"causal": False},
        "window": {"window": 2},
        "chunk": {"chunk": 2},
        "softcap": {"softcap": 2.0},
        "sinks": {"sinks": normal(H)},
        "bias": {"bias": normal(B, H, T, S)},
        "bias_a_head": {"bias": normal(H, 1, 1)},
        "bias_a_score": {"bias": normal(T, S)},
        "bias_that_hides_a_row": {"bias": hiding},
        "temperature": {"temperature": 1 + normal(B, T) ** 2},
        "places": places,
        "places_of_keys": {"k_order": K_ORDER},
        "everything": {
            **places,
            "sinks": normal(H),
            "window": 1,
            "softcap": 1.0,
            "temperature": normal(B, T),
            "bias": normal(1, 1, T, S),
        },
    }
    for groups in (1, G, H):
        q, k, v = normal(B, T, H, K) * 3, normal(B, S, groups, K) * 3, normal(B, S, groups, J)
        for label, options in variants.items():
            yield "attention", f"{label}_{groups}_groups", [q, k, v], {"scale": 0.3, **options}
    yield "attention", "one_query", [normal(B, 1, H, K), normal(B, S, G, K), normal(B, S, G, J)], {"scale": 0.3}


def _indexer(normal: Any, dtype: str) -> Iterator[Call]:
    yield "index_scores", "plain", [normal(B, T, H, K), normal(B, S, K), normal(B, T, H)], {"scale": 0.3}
    yield "index_scores", "one_query", [normal(B, 1, H, K), normal(B, S, K), normal(B, 1, H)], {"scale": 0.3}
    # Halves, no two equal in a row.
    generator = np.random.default_rng(8)
    clear = (np.argsort(generator.random((B, T, S)), axis=-1) / 2 - 1).astype(dtype)
    tied = generator.integers(-1, 1, (B, T, S)).astype(dtype)
    places = {"q_order": Q_ORDER, "k_order": K_ORDER}
    for label, scores in (("clear", clear), ("tied", tied), ("equal", np.zeros_like(clear))):
        yield "key_selection", label, [scores], {"top_k": 2}
        yield "key_selection", f"all_{label}", [scores], {"top_k": 9}
        yield "key_selection", f"not_causal_{label}", [scores], {"top_k": 2, "causal": False}
        yield "key_selection", f"places_{label}", [scores], {"top_k": 2, **places}
        yield "key_selection", f"places_of_keys_{label}", [scores], {"top_k": 1, "k_order": K_ORDER}


def _latent_attention(normal: Any) -> Iterator[Call]:
    L, N, P, V = 9, 5, 4, 7
    places = {"q_order": Q_ORDER, "k_order": K_ORDER}
    selected = np.where(np.arange(S) % 2 == 0, np.zeros_like(normal(B, 1, T, S)), -np.inf).astype(normal(1).dtype)
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "not_causal": {"causal": False},
        "temperature": {"temperature": 1 + normal(B, T) ** 2},
        "bias": {"bias": normal(B, H, T, S)},
        "selected": {"bias": selected},
        "places": places,
        "places_of_keys": {"k_order": K_ORDER},
        "everything": {**places, "temperature": normal(B, T), "bias": np.minimum(selected, normal(1, 1, T, S))},
    }
    latent, k_rope, weight = normal(B, S, L), normal(B, S, P), normal(H * (N + V), L)
    yield "expand_latent", "plain", [latent, k_rope, weight], {"heads": H, "v_head_dim": V}
    yield "expand_latent", "one_head", [latent, k_rope, weight], {"heads": 1, "v_head_dim": V}
    for label, options in variants.items():
        yield "latent_attention", label, [normal(B, T, H, N + P) * 2, latent, k_rope, weight], {"scale": 0.3, **options}
    one = [normal(B, 1, H, N + P), latent, k_rope, weight]
    yield "latent_attention", "one_query", one, {"scale": 0.3}


def _pointwise(normal: Any, dtype: str) -> Iterator[Call]:
    everywhere = np.linspace(-12, 12, 999).astype(dtype)
    yield "soft_cap", "plain", [normal(3, 4) * 50], {"cap": 30.0}
    yield "silu", "far", [np.array([-1e4, -100, -1, 0, 1, 100, 1e4], dtype)], {}
    yield "gelu", "default", [everywhere], {}
    yield "swiglu", "plain", [normal(B, T, D), normal(B, T, D)], {}
    yield "geglu", "default", [normal(B, T, D), normal(B, T, D)], {}
    for form in ("none", "tanh"):
        yield "gelu", form, [everywhere], {"approximate": form}
        yield "geglu", form, [normal(B, T, D), normal(B, T, D)], {"approximate": form}
    yield "sigmoid", "far", [np.array([-1e4, -100, -1, 0, 1, 100, 1e4], dtype)], {}
    yield "sigmoid_gate", "one_a_token", [normal(B, T, D), normal(B, T, 1)], {}
    yield "sigmoid_gate", "one_a_number", [normal(B, T, D), normal(B, T, D)], {}
    yield "clamped_swiglu", "both_clamped", [normal(B, T, D) * 9, normal(B, T, D) * 9], {"alpha": 1.702, "limit": 7.0}
    yield "linear", "three_axes", [normal(B, T, D), normal(4, D)], {}
    yield "linear", "two_axes_bias", [normal(T, D), normal(4, D), normal(4)], {}
    yield "linear", "vector_bias", [normal(D), normal(4, D), normal(4)], {}
    yield "linear", "four_axes", [normal(B, T, H, D), normal(4, D)], {}


def _routers(normal: Any, dtype: str) -> Iterator[Call]:
    # Halves between -3 and 3, in another order for each token: no two are equal, and none are after a rounding.
    generator = np.random.default_rng(3)
    clear = np.stack([generator.permutation(D) for _ in range(B * T)]).reshape(B, T, D).astype(dtype) / 2 - 3
    tied = np.zeros((B, T, D), dtype)
    bias = (generator.permutation(D) - 20).astype(dtype)
    for label, logits in (("clear", clear), ("tied", tied), ("vector", clear[0, 0])):
        yield "top_k_softmax_router", label, [logits], {"top_k": 3}
        yield "softmax_top_k_router", label, [logits], {"top_k": 3, "renormalise": False}
        yield "softmax_top_k_router", f"renormalised_{label}", [logits], {"top_k": 3, "renormalise": True}
        yield "softcapped_softmax_router", label, [logits], {"top_k": 3, "softcap": 4.0}
        yield "top_k_sigmoid_router", label, [logits], {"top_k": 2}
        yield "sigmoid_router", label, [logits], {"top_k": 3}
        grouped = {"top_k": 3, "groups": 4, "top_groups": 2, "scaling_factor": 2.5, "renormalise": False}
        yield "sigmoid_router", f"groups_below_zero_{label}", [logits, bias], grouped
        yield "sigmoid_router", f"groups_of_one_{label}", [logits, bias], {"top_k": 2, "groups": D, "top_groups": 3, "eps": 0.5}


def _experts(normal: Any, dtype: str) -> Iterator[Call]:
    E, F = 5, 7
    indices = np.array([[[0, 3], [3, 1], [1, 1]], [[4, 0], [3, 4], [0, 1]]])
    matrices = [normal(E, F, D) / 3, normal(E, F, D) / 3, normal(E, D, F) / 3]
    biases = [normal(E, F), normal(E, F), normal(E, D)]
    arrays = [normal(B, T, D), indices, normal(B, T, 2), *matrices]
    yield "routed_experts", "plain", arrays, {}
    yield "routed_experts", "one_row", [normal(1, 1, D), indices[:1, :1], normal(1, 1, 2), *matrices], {}
    yield "routed_experts", "two_axes", [normal(T, D), indices[0], normal(T, 2), *matrices], {"scale_input": True}
    yield "routed_experts", "biases", [*arrays, *biases], {"activation": "gelu"}
    yield "routed_experts", "gelu_tanh", [*arrays, *biases], {"activation": "gelu_tanh"}
    clamped = {"activation": "clamped_swiglu", "alpha": 1.702, "limit": 1.0}
    yield "routed_experts", "clamped", [*arrays, *biases], clamped
    generator = np.random.default_rng(4)
    blocks = generator.integers(0, 256, (3, 4, 2, 16)).astype(np.uint8)
    scales = generator.integers(120, 130, (3, 4, 2)).astype(np.uint8)
    yield "mxfp4_decode", "default_dtype", [blocks, scales], {}
    yield "mxfp4_decode", "dtype", [blocks, scales], {"dtype": np.dtype(dtype)}
    values = generator.integers(0, 120, (5, 7)).astype(np.uint8).view(ml_dtypes.float8_e4m3fn)
    yield "fp8_block_decode", "default_block", [values, normal(1, 1).astype(np.float32)], {}
    yield "fp8_block_decode", "block", [values, normal(2, 3).astype(np.float32)], {"block": (3, 3), "dtype": np.dtype(dtype)}
    packed = generator.integers(-(1 << 31), 1 << 31, (3, 12)).astype(np.int32)
    yield "int4_group_decode", "default_group", [packed, normal(3, 3).astype(np.float32)], {}
    yield "int4_group_decode", "group", [packed, normal(3, 6).astype(np.float32)], {"group": 16, "dtype": np.dtype(dtype)}


def _rings(normal: Any) -> Iterator[Call]:
    order = np.array([[-1, -1, 0, 1, 2, 3, -1, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
    for window in (3, 5, 20):
        yield "ring_order", f"window_{window}", [order], {"window": window}
        yield "ring_append", f"first_{window}", [normal(B, 8, G, K), order], {"window": window}
        ring = normal(B, min(5, window), G, K)
        yield "ring_append", f"next_{window}", [normal(B, 3, G, K), order, ring], {"window": window}


def _ends(normal: Any) -> Iterator[Call]:
    tokens = np.array([[0, 3], [1, 2]])
    yield "embedding", "plain", [tokens, normal(6, D)], {}
    yield "embedding", "scale_int32", [tokens.astype(np.int32), normal(6, D)], {"scale": 3.3}
    yield "lm_head", "plain", [normal(B, T, D), normal(7, D)], {}
    yield "lm_head", "scale_softcap", [normal(B, T, D), normal(7, D)], {"scale": 0.3, "softcap": 2.0}


def _sampling(dtype: str) -> Iterator[Call]:
    # Halves, no two equal in a row: every filter's border is far from the next token.
    generator = np.random.default_rng(6)
    clear = np.stack([generator.permutation(D) for _ in range(B * T)]).reshape(B, T, D).astype(dtype) / 2 - 3
    tied = np.maximum(clear, 1)
    for label, logits in (("clear", clear), ("tied", tied), ("vector", clear[0, 0])):
        yield "token_distribution", label, [logits], {}
        yield "token_distribution", f"greedy_{label}", [logits], {"temperature": 0.0}
        yield "token_distribution", f"top_k_{label}", [logits], {"top_k": 5, "temperature": 0.7}
        yield "token_distribution", f"top_p_{label}", [logits], {"top_p": 0.7}
        yield "token_distribution", f"all_{label}", [logits], {"temperature": 1.5, "top_k": 4, "top_p": 0.8, "min_p": 0.3}
        yield "token_distribution", f"nothing_{label}", [logits], {"top_k": 99, "top_p": 1.0, "min_p": 0.0}
    target = np.array([[[2, 4, 2], [1, 3, 4], [4, 4, 0]], [[6, 1, 1], [0, 8, 0], [2, 2, 4]]]).astype(dtype) / 8
    draft = np.array([[[4, 2, 2], [4, 2, 2]], [[2, 5, 1], [0, 8, 0]]]).astype(dtype) / 8
    for drafts in ([[0, 2], [0, 1]], [[1, 0], [1, 2]]):
        for size in (0.25, 0.9):
            uniforms = np.full((2, 2), size, dtype)
            label = f"{drafts}_{size}"
            yield "speculative_accept", label, [target, draft, np.array(drafts), uniforms], {}
            yield "speculative_accept", f"int32_{label}", [target, draft, np.array(drafts, np.int32), uniforms], {}
    nothing = [target[:, :1], draft[:, :0], np.zeros((2, 0), np.int64), np.zeros((2, 0), dtype)]
    yield "speculative_accept", "no_draft", nothing, {}


def _multi_token(normal: Any) -> Iterator[Call]:
    yield "multi_token_input", "square", [normal(B, T, D), normal(B, T, D), normal(D, 2 * D)], {}
    yield "multi_token_input", "narrower", [normal(B, T, D), normal(B, T, D), normal(7, 2 * D)], {}
    labels = np.array([[-100, 3, 10, 0], [6, -100, 1, -100]])
    for label, counted in (("some", labels), ("all", np.abs(labels) % 11), ("none", np.full_like(labels, -100))):
        yield "cross_entropy", label, [normal(B, 4, 11) * 3, counted], {}
        yield "cross_entropy", f"{label}_int32", [normal(B, 4, 11) * 3, counted.astype(np.int32)], {}
        for depths in (1, 3, 5):
            logits = normal(depths, B, 4, 11) * 3
            yield "multi_token_loss", f"{label}_{depths}", [logits, counted], {"weight": 0.3}
    padded = [normal(B, 4, 11) + 200, np.array([[1, 1, 3, 0], [2, 1, 1, 1]])]
    yield "cross_entropy", "ignored_token", padded, {"ignore_index": 1}
    both = [np.stack([padded[0], padded[0][::-1]]), padded[1].astype(np.int32)]
    yield "multi_token_loss", "ignored_token_int32", both, {"weight": 1.5, "ignore_index": 1}
