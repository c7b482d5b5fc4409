"""torch's own functions agree with the specification in every format that the backend claims."""

import importlib.metadata
import inspect
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from conformance.backends.torch import backend, cuda_backend
from refimpl.layers import VOCABULARY
from refimpl.numerics import FORMATS, is_float, unit_roundoff

needs_torch = pytest.mark.skipif(backend.unavailable() is not None, reason=str(backend.unavailable()))

B, T, S, H, G, K, J, D = 2, 5, 11, 6, 2, 8, 10, 16
PLACES_K = np.array([[3, 0, -1, 1, 2, 4, 5, 7, 6, -1, 8], [-1, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8]])
PLACES_Q = np.array([[4, 5, 6, 7, 8], [-1, 5, 6, 7, 8]])


def normal(*shape, scale=1.0):
    return scale * np.random.default_rng(sum(shape)).standard_normal(shape)


def heads(queries=T):
    return normal(B, queries, H, K), normal(B, S, G, K), normal(B, S, G, J)


ANGLES = normal(B, T, 3)
EXPERTS = (normal(4, 7, D), normal(4, 7, D)[::-1], normal(4, D, 7))
CHOSEN = np.argsort(normal(3, T, 4), axis=-1)[..., :2]
SHARES = normal(3, T, 2) ** 2
LOGITS = np.random.default_rng(3).permuted(np.tile(np.arange(8) / 4 - 1, (T, 1)), axis=-1)
ROUTERS = {
    "top_k_softmax_router": {},
    "softmax_top_k_router": {"renormalise": True},
    "softcapped_softmax_router": {"softcap": 2.0},
    "sigmoid_router": {"groups": 4, "top_groups": 2, "scaling_factor": 2.5},
    "top_k_sigmoid_router": {},
}
# name, arrays, options, and how many roundings of the largest result the format may cost
CALLS = {
    "rms_norm": ("rms_norm", (normal(3, T, D), normal(D)), {"eps": 1e-5}, 2),
    "rms_norm, small activations": ("rms_norm", (normal(3, T, D, scale=1e-3), normal(D)), {"eps": 1e-5}, 2),
    "rms_norm without weight": ("rms_norm", (normal(3, T, D),), {"eps": 1e-5}, 2),
    "rms_norm, zero-centred": ("rms_norm", (normal(3, T, D), normal(D)), {"eps": 1e-6, "zero_centred": True}, 2),
    "rms_norm, zero-centred without weight": ("rms_norm", (normal(3, T, D),), {"eps": 1e-6, "zero_centred": True}, 2),
    "layer_norm": ("layer_norm", (1 + normal(3, T, D), normal(D), normal(D + 1)[:D]), {"eps": 1e-5}, 4),
    "layer_norm without bias": ("layer_norm", (1 + normal(3, T, D), normal(D)), {"eps": 1e-5}, 4),
    "l2_norm, short vectors": ("l2_norm", (normal(3, T, D, scale=1e-3),), {"eps": 1e-6}, 2),
    "rotary_embedding": ("rotary_embedding", (normal(B, T, H, K), np.cos(ANGLES), np.sin(ANGLES)), {}, 3),
    "rotary_embedding, interleaved": (
        "rotary_embedding",
        (normal(B, T, H, K), np.cos(ANGLES), np.sin(ANGLES)),
        {"interleaved": True},
        3,
    ),
    "rotary_embedding, full width": (
        "rotary_embedding",
        (normal(B, T, H, 6), np.cos(ANGLES), np.sin(ANGLES)),
        {},
        3,
    ),
    "position_embedding": ("position_embedding", (PLACES_Q, normal(12, D)), {}, 0),
    "token_order": ("token_order", (np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]),), {}, 0),
    "padding_mask": ("padding_mask", (PLACES_Q, PLACES_K), {}, 0),
    "causal_mask": ("causal_mask", (PLACES_Q, PLACES_K), {}, 0),
    "sliding_window_mask": ("sliding_window_mask", (PLACES_Q, PLACES_K), {"window": 3}, 0),
    "chunked_mask": ("chunked_mask", (PLACES_Q, PLACES_K), {"chunk": 4}, 0),
    "attention_mask": ("attention_mask", (PLACES_Q, PLACES_K), {"window": 4, "chunk": 3}, 0),
    "attention_mask, not causal": ("attention_mask", (PLACES_Q, PLACES_K), {"causal": False}, 0),
    "attention, prefill": ("attention", heads(S), {"scale": 0.3}, 3),
    "attention, not causal": ("attention", heads(), {"scale": 0.3, "causal": False}, 3),
    "attention, with cache": ("attention", heads(), {"scale": 0.3}, 3),
    "attention, decode": ("attention", heads(1), {"scale": 0.3}, 3),
    "attention, window": ("attention", heads(), {"scale": 0.3, "window": 4}, 3),
    "attention, chunk": ("attention", heads(), {"scale": 0.3, "chunk": 4}, 3),
    "attention, bias": ("attention", heads(), {"scale": 0.3, "bias": normal(H, 1, S)}, 3),
    "attention, places": ("attention", heads(), {"scale": 0.3, "q_order": PLACES_Q, "k_order": PLACES_K}, 3),
    "attention, places with softcap": (
        "attention",
        heads(),
        {"scale": 0.3, "softcap": 2.0, "q_order": PLACES_Q, "k_order": PLACES_K},
        3,
    ),
    "attention, sinks": ("attention", heads(), {"scale": 0.3, "sinks": 3 * normal(H)}, 3),
    "attention, everything": (
        "attention",
        heads(),
        {
            "scale": 0.3,
            "window": 4,
            "softcap": 3.0,
            "sinks": 2 * normal(H),
            "bias": normal(B, H, T, S),
            "q_order": PLACES_Q,
            "k_order": PLACES_K,
        },
        3,
    ),
    "attention, temperature": ("attention", heads(), {"scale": 0.3, "temperature": 1 + normal(B, T) ** 2}, 3),
    "attention, temperature with softcap": (
        "attention",
        heads(),
        {"scale": 0.3, "temperature": 1 + normal(B, T) ** 2, "softcap": 2.0, "sinks": normal(H)},
        3,
    ),
    "log_length_temperature": ("log_length_temperature", (np.maximum(PLACES_Q, 0),), {"length": 6}, 2),
    "log_floor_temperature": ("log_floor_temperature", (np.maximum(PLACES_Q, 0),), {"scale": 0.3, "floor": 3}, 2),
    "ring_order": ("ring_order", (PLACES_K,), {"window": 4}, 0),
    "ring_append": ("ring_append", (normal(B, T, H), PLACES_K[:, -T:]), {"window": 4}, 0),
    "ring_append to a ring": ("ring_append", (normal(B, 2, H), PLACES_K, normal(B, 4, H)), {"window": 4}, 0),
    "clamped_swiglu": ("clamped_swiglu", (normal(T, D, scale=3), normal(D, T).T), {"alpha": 1.7, "limit": 1.5}, 4),
    "sigmoid": ("sigmoid", (normal(3, T, D, scale=4),), {}, 2),
    "sigmoid_gate": ("sigmoid_gate", (normal(3, T, D), normal(3, T, 1)), {}, 3),
    "routed_experts": ("routed_experts", (normal(3, T, D), CHOSEN, SHARES, *EXPERTS), {}, 8),
    "routed_experts, scaled input": ("routed_experts", (normal(3, T, D), CHOSEN, SHARES, *EXPERTS), {"scale_input": True}, 8),
    "routed_experts, everything": (
        "routed_experts",
        (normal(3, T, D), CHOSEN, SHARES, *EXPERTS, normal(4, 7), normal(4, 7), normal(4, D)),
        {"activation": "clamped_swiglu", "alpha": 1.7, "limit": 1.0},
        8,
    ),
    "routed_experts, gelu": ("routed_experts", (normal(3, T, D), CHOSEN, SHARES, *EXPERTS), {"activation": "gelu_tanh"}, 8),
    "index_scores": ("index_scores", (normal(B, T, H, K), normal(B, S, K), normal(B, T, H)), {"scale": 0.3}, 3),
    "soft_cap": ("soft_cap", (normal(3, T, D, scale=20),), {"cap": 15.0}, 3),
    "linear": ("linear", (normal(3, T, D), normal(7, D)), {}, 2),
    "linear with bias": ("linear", (normal(3, T, D), normal(7, D), normal(7)), {}, 2),
    "silu": ("silu", (normal(3, T, D, scale=4),), {}, 2),
    "gelu": ("gelu", (normal(3, T, D, scale=2),), {}, 2),
    "gelu, tanh": ("gelu", (normal(3, T, D, scale=2),), {"approximate": "tanh"}, 2),
    "swiglu": ("swiglu", (normal(T, D), normal(D, T).T), {}, 3),
    "geglu": ("geglu", (normal(T, D), normal(D, T).T), {}, 3),
    "geglu, tanh": ("geglu", (normal(T, D), normal(D, T).T), {"approximate": "tanh"}, 3),
    "embedding": ("embedding", (np.array([[1, 8, 0], [3, 3, 2]]), normal(9, D)), {}, 0),
    "embedding, scaled": ("embedding", (np.array([[1, 8, 0], [3, 3, 2]]), normal(9, D)), {"scale": 11.31}, 3),
    "lm_head": ("lm_head", (normal(B, T, D), normal(9, D)), {"scale": 0.7, "softcap": 4.0}, 6),
    "multi_token_input": ("multi_token_input", (normal(B, T, D), normal(B, T, D), normal(D, 2 * D)), {}, 6),
    "token_distribution": ("token_distribution", (LOGITS,), {"temperature": 0.7}, 4),
    "token_distribution, greedy": ("token_distribution", (LOGITS,), {"temperature": 0.0}, 0),
    "token_distribution, filters": (
        "token_distribution",
        (LOGITS,),
        {"temperature": 1.5, "top_k": 5, "top_p": 0.7, "min_p": 0.3},
        4,
    ),
}


def cast(value, dtype):
    return value.astype(dtype) if isinstance(value, np.ndarray) and is_float(value.dtype) else value


def both(name, values, options, dtype):
    """The backend's result in `dtype` and the specification's in float64, on inputs rounded to `dtype`."""
    rounded = [cast(value, dtype) for value in values]
    rounded_options = {key: cast(value, dtype) for key, value in options.items()}
    exact = VOCABULARY[name](
        *(cast(value, np.float64) for value in rounded),
        **{key: cast(value, np.float64) for key, value in rounded_options.items()},
    )
    return getattr(backend, name)(*rounded, **rounded_options), exact


@needs_torch
@pytest.mark.parametrize("dtype", backend.dtypes)
@pytest.mark.parametrize("call", CALLS)
def test_agrees_with_the_specification(call, dtype):
    name, values, options, roundings = CALLS[call]
    got, exact = both(name, values, options, FORMATS[dtype])
    assert got.shape == exact.shape
    chosen = name.endswith("_temperature")  # of which the format is an option
    assert got.dtype == (FORMATS[dtype] if is_float(exact.dtype) and not chosen else exact.dtype)
    if not is_float(exact.dtype):
        assert np.array_equal(got, exact)
        return
    allowed = 1e-12 if dtype == "float64" else 2 * roundings * unit_roundoff(dtype)
    assert np.abs(got.astype(np.float64) - exact).max() <= allowed * np.abs(exact).max()


@needs_torch
@pytest.mark.parametrize("dtype", backend.dtypes)
@pytest.mark.parametrize("ignore_index", [-100, 3])
@pytest.mark.parametrize("length", [1, 4, 6])
def test_losses_agree_and_stay_in_float32(length, ignore_index, dtype):
    logits, targets = 4 * normal(3, B, length, 9), np.random.default_rng(3).integers(0, 9, (B, length))
    targets[0, : length - 2], targets[1] = ignore_index, np.where(targets[1] == 3, 4, targets[1])
    for name, values, options in (
        ("cross_entropy", (logits[0], targets), {}),
        ("cross_entropy", (logits[0], np.full_like(targets, ignore_index)), {}),
        ("multi_token_loss", (logits, targets), {"weight": 0.3}),
        ("multi_token_loss", (logits[:1], targets), {"weight": 0.3}),
    ):
        got, exact = both(name, values, {**options, "ignore_index": ignore_index}, FORMATS[dtype])
        assert (got.shape, got.dtype) == ((), np.float64 if dtype == "float64" else np.float32)
        assert float(got) == pytest.approx(float(exact), rel=1e-12 if dtype == "float64" else 1e-5)


@needs_torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_angles_agree(dtype):
    inv_freq = (10000.0 ** -(np.arange(8) / 8)).astype(dtype)
    positions = np.array([[0, 7, 3], [512, 100, -1]])
    got = backend.rope_cos_sin(positions, inv_freq, attention_factor=1.25)
    exact = VOCABULARY["rope_cos_sin"](positions, inv_freq.astype(np.float64), attention_factor=1.25)
    allowed = 1e-12 if dtype == "float64" else 512 * unit_roundoff(dtype)
    for result, expected in zip(got, exact, strict=True):
        assert result.dtype == inv_freq.dtype
        assert np.abs(result - expected).max() <= allowed


@needs_torch
@pytest.mark.parametrize("dtype", backend.dtypes)
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"q_order": PLACES_Q, "k_order": PLACES_K}])
def test_key_selection(dtype, options):
    scores = np.argsort(np.random.default_rng(2).random((B, T, S)), axis=-1) - 5.0
    for top_k in (1, 3, S, 40):
        found = backend.key_selection(cast(scores, dtype), top_k=top_k, **options)
        assert found.dtype == FORMATS[dtype]
        assert np.array_equal(found.astype(np.float64), VOCABULARY["key_selection"](scores, top_k=top_k, **options))


@needs_torch
@pytest.mark.parametrize("dtype", backend.dtypes)
@pytest.mark.parametrize("name", ROUTERS)
def test_routers_choose_alike(name, dtype):
    logits = LOGITS.astype(FORMATS[dtype])
    indices, weights = getattr(backend, name)(logits, top_k=3, **ROUTERS[name])
    chosen, exact = VOCABULARY[name](logits.astype(np.float64), top_k=3, **ROUTERS[name])
    assert np.array_equal(indices, chosen)
    assert weights.dtype == FORMATS[dtype]
    allowed = 1e-12 if dtype == "float64" else 4 * unit_roundoff(dtype)
    assert np.abs(weights.astype(np.float64) - exact).max() <= allowed * exact.max()


@needs_torch
@pytest.mark.parametrize("dtype", backend.dtypes)
@pytest.mark.parametrize("drafts", [[[0, 2], [0, 1]], [[1, 0], [1, 2]]])
@pytest.mark.parametrize("size", [0.25, 0.875])
def test_drafts_stand_alike(size, drafts, dtype):
    target = np.array([[[2, 4, 2], [1, 3, 4], [4, 4, 0]], [[6, 1, 1], [0, 8, 0], [2, 2, 4]]]) / 8
    draft = np.array([[[4, 2, 2], [4, 2, 2]], [[2, 5, 1], [0, 8, 0]]]) / 8
    arrays = [array.astype(FORMATS[dtype]) for array in (target, draft, np.full((2, 2), size))]
    accepted, following = backend.speculative_accept(*arrays[:2], np.array(drafts), arrays[2])
    count, exact = VOCABULARY["speculative_accept"](target, draft, np.array(drafts), np.full((2, 2), size))
    assert np.array_equal(accepted, count)
    assert following.dtype == FORMATS[dtype]
    allowed = 1e-12 if dtype == "float64" else 4 * unit_roundoff(dtype)
    assert np.abs(following.astype(np.float64) - exact).max() <= allowed


@needs_torch
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_mxfp4_is_decoded_exactly(dtype):
    blocks = np.random.default_rng(5).integers(0, 256, (3, 2, 16)).astype(np.uint8)
    scales = np.array([[2, 255], [127, 252], [100, 140]], np.uint8)
    got, exact = (module(blocks, scales, dtype=FORMATS[dtype]) for module in (backend.mxfp4_decode, VOCABULARY["mxfp4_decode"]))
    assert got.dtype == FORMATS[dtype]
    assert np.array_equal(got.astype(np.float64), exact.astype(np.float64), equal_nan=True)


@needs_torch
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("stored", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2], ids=["e4m3", "e5m2"])
@pytest.mark.parametrize("scale", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu], ids=["f32", "bf16", "ue8m0"])
def test_fp8_blocks_are_decoded_exactly(scale, stored, dtype):
    values = np.arange(256, dtype=np.uint8).reshape(2, 8, 16).view(stored)
    scales = np.exp(np.random.default_rng(5).standard_normal((2, 3, 4))).astype(np.float32).astype(scale)
    modules = (backend.fp8_block_decode, VOCABULARY["fp8_block_decode"])
    got, exact = (module(values, scales, block=(3, 5), dtype=FORMATS[dtype]) for module in modules)
    assert got.dtype == FORMATS[dtype]
    assert np.array_equal(got.astype(np.float64), exact.astype(np.float64), equal_nan=True)


@needs_torch
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("scale", [np.float32, ml_dtypes.bfloat16, np.float16], ids=["f32", "bf16", "f16"])
def test_int4_groups_are_decoded_exactly(scale, dtype):
    generator = np.random.default_rng(5)
    packed = generator.integers(-(2**31), 2**31, (3, 7, 4), np.int32)
    scales = generator.uniform(0.5, 2, (3, 7, 2)).astype(scale)
    modules = (backend.int4_group_decode, VOCABULARY["int4_group_decode"])
    got, exact = (module(packed, scales, group=16, dtype=FORMATS[dtype]) for module in modules)
    assert got.dtype == FORMATS[dtype]
    assert np.array_equal(got, exact)


@needs_torch
@pytest.mark.parametrize("dtype", backend.dtypes)
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"sinks": np.zeros(H)}], ids=["plain", "softcap", "sinks"])
def test_a_query_that_sees_nothing_gets_zeros(dtype, options):
    places = {"q_order": np.full((B, T), -1), "k_order": PLACES_K}
    got, _ = both("attention", heads(), {"scale": 0.3, **options, **places}, FORMATS[dtype])
    assert not got.any()


@needs_torch
def test_read_only_inputs_are_accepted_and_kept():
    x = normal(3, D)
    x.flags.writeable = False
    before = x.copy()
    backend.rms_norm(x, eps=1e-6)
    assert np.array_equal(x, before)


@needs_torch
def test_nothing_is_printed():
    code = """
import numpy as np
from conformance.backends.torch import backend
q = np.ones((1, 2, 2, 4))
q.flags.writeable = False
backend.attention(q, q, q, scale=0.5)
backend.attention(q, q, q, scale=0.5, softcap=2.0, sinks=np.zeros(2))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", [name for name in VOCABULARY if hasattr(backend, name)])
def test_takes_the_options_of_the_specification(name):
    expected = inspect.signature(VOCABULARY[name]).parameters
    parameters = inspect.signature(getattr(backend, name)).parameters
    assert {key: (p.kind, p.default) for key, p in parameters.items()} == {
        key: (p.kind, p.default) for key, p in expected.items()
    }


def test_only_frequencies_are_not_covered():
    absent = {name for name in VOCABULARY if not hasattr(backend, name)}
    assert absent == {name for name in VOCABULARY if name.endswith("rope_frequencies")}


def test_importing_the_module_imports_no_torch():
    code = "import sys, conformance.backends.torch, conformance.backends.transformers as t; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("candidate", [backend, cuda_backend], ids=lambda candidate: candidate.name)
def test_says_in_one_sentence_why_it_cannot_run(candidate):
    reason = candidate.unavailable()
    assert reason is None or (reason.startswith(candidate.name) and "\n" not in reason)


def test_without_torch_it_says_so(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.version", absent)
    assert backend.version == ""
    assert backend.unavailable() == "torch: torch is not installed"
    assert cuda_backend.unavailable() == "torch:cuda: torch is not installed"
