"""Rotary frequencies of both sides over the whole range of configurations, not only those of the variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refimpl
from refimpl.blocks import Attention

from .variants import BASE

pytest.importorskip("torch")
pytest.importorskip("transformers")

LENGTHS = st.integers(1, 200_000)
THETAS = st.floats(1.5, 1e7) | st.sampled_from([1e4, 1e6, 5e6])
HEAD_DIMS = st.integers(1, 130).map(lambda half: 2 * half)
FACTORS = st.floats(0.5, 128) | st.sampled_from([1.0, 4.0])


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


LINEAR = st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": FACTORS})
LLAMA3 = st.fixed_dictionaries(
    {
        "rope_type": st.just("llama3"),
        "factor": FACTORS,
        "low_freq_factor": st.floats(0.25, 4),
        "high_freq_factor": st.floats(4.5, 40),
        "original_max_position_embeddings": LENGTHS,
    }
)
YARN = st.builds(
    lambda required, chosen: {**required, **chosen},
    st.fixed_dictionaries(
        {"rope_type": st.just("yarn"), "factor": FACTORS, "original_max_position_embeddings": LENGTHS},
    ),
    optional(
        attention_factor=st.floats(0.1, 4),
        beta_fast=st.floats(2, 64),
        beta_slow=st.floats(0.1, 2),
        mscale=st.floats(0, 2),
        mscale_all_dim=st.floats(0, 2),
        truncate=st.booleans(),
    ),
)
SCALINGS = st.just({"rope_type": "default"}) | LINEAR | LLAMA3 | YARN


def assert_same_rotation(config: dict[str, Any]) -> None:
    from transformers import AutoConfig
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    from .reference import double_precision, quiet

    mixer = refimpl.blueprint(config).layers[0].mixer
    assert isinstance(mixer, Attention)
    ours = mixer.rope
    assert ours is not None
    with quiet(), double_precision():
        settings = {key: value for key, value in config.items() if key != "model_type"}
        theirs = Qwen3RotaryEmbedding(AutoConfig.for_model("qwen3", **settings))
    np.testing.assert_allclose(ours.frequencies("float64"), theirs.inv_freq.numpy(), rtol=1e-13, atol=0)
    assert ours.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-15)


@settings(max_examples=150)
@given(SCALINGS, THETAS, HEAD_DIMS, LENGTHS)
def test_any_configuration_gives_the_same_frequencies(
    scaling: dict[str, Any], theta: float, head_dim: int, length: int
) -> None:
    rope = {"rope_parameters": {"rope_theta": theta, **scaling}}
    assert_same_rotation(
        {**BASE["qwen3"], "model_type": "qwen3", "head_dim": head_dim, "max_position_embeddings": length, **rope}
    )
