"""None where a layer needs an array is one sentence that names the argument."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from refimpl.layers import VOCABULARY

REQUIRED = [
    (name, parameter.name)
    for name, function in VOCABULARY.items()
    for parameter in inspect.signature(function).parameters.values()
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
]
INTEGERS = {"attention_mask", "drafts", "indices", "k_order", "labels", "order", "positions", "q_order", "targets", "tokens"}
ATTENDED = {**dict.fromkeys("qkv", (1, 2, 2, 2)), **dict.fromkeys(("g", "beta"), (1, 2, 2))}
# Arrays that fit each other, where two by two does not.
SHAPES = {
    "attention": (1, 2, 2, 2),
    "expand_latent": {"latent": (1, 2, 2), "k_rope": (1, 2, 2)},
    "latent_attention": {"q": (1, 2, 2, 2), "latent": (1, 2, 2), "k_rope": (1, 2, 2)},
    "index_scores": {"q": (1, 2, 2, 2), "k": (1, 2, 2), "weights": (1, 2, 2)},
    "speculative_accept": {"target": (1, 3, 2), "draft": (1, 2, 2), "drafts": (1, 2), "uniforms": (1, 2)},
    "rotary_embedding": {"x": (1, 2, 2, 2), "cos": (1, 2, 1), "sin": (1, 2, 1)},
    "routed_experts": {"gate": (2, 2, 2), "up": (2, 2, 2), "down": (2, 2, 2)},
    "lm_head": {"x": (1, 2, 2)},
    "multi_token_input": {"embedding": (1, 2, 2), "hidden": (1, 2, 2), "weight": (2, 4)},
    "cross_entropy": {"logits": (2, 2, 2)},
    "causal_conv1d": {"x": (1, 2, 2)},
    "softplus_decay": {"a": (1, 2, 2), "a_log": (2,), "dt_bias": (2,)},
    **dict.fromkeys(("linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule"), ATTENDED),
    "ssd": {"dt": (1, 2, 2), "a": (2,), **dict.fromkeys("xbc", (1, 2, 2, 2))},
    "multi_token_loss": {"logits": (1, 2, 2, 2)},
}
NUMBERS = {"eps": 1e-6, "scale": 1.0, "cap": 1.0, "window": 2, "chunk": 2, "theta": 10.0, "factor": 2.0, "weight": 0.5}
COUNTS = {"top_k": 1, "heads": 1, "v_head_dim": 1, "length": 8, "floor": 8}
SWITCHES = {"renormalise": True, "softcap": 2.0, "alpha": 1.0, "limit": 7.0}
SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 8}


def array(layer: str, argument: str) -> np.ndarray:
    shape = SHAPES.get(layer, (2, 2))
    if isinstance(shape, dict):
        shape = shape.get(argument, (2, 2))
    return np.zeros(shape, int if argument in INTEGERS else float)


@pytest.mark.parametrize(("name", "argument"), REQUIRED)
def test_none_is_not_an_array(name: str, argument: str) -> None:
    parameters = inspect.signature(VOCABULARY[name]).parameters.values()
    given = {p.name: array(name, p.name) for p in parameters if (name, p.name) in REQUIRED and p.name != argument}
    known = {**NUMBERS, **COUNTS, **SWITCHES, **SCALING}
    options = {p.name: known[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    needed = "None but needs a positive even integer" if argument == "rotary_dim" else "a NoneType but needs a NumPy array"
    with pytest.raises(ValueError, match=rf"^\w+: {argument} is {needed}"):
        VOCABULARY[name](**given, **{argument: None}, **options)
