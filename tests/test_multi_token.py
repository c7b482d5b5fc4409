"""`Model.multi_token`: the modules of a model with caches of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refimpl
from tests.models.test_glm4_moe import config
from tests.tiny import tokens

CLOSE = {"rtol": 0, "atol": 1e-12}
TOKENS = tokens(2, 9, vocab_size=53)


def model(**changes: Any) -> refimpl.Model:
    return refimpl.init(config(num_nextn_predict_layers=2, use_qk_norm=True, **changes), seed=2, dtype="float64")


MODEL = model()
HIDDEN = MODEL.hidden(TOKENS)[0]


def test_a_call_is_the_head_on_the_hidden_states() -> None:
    hidden, cache = MODEL.hidden(TOKENS[:, :5])
    logits, continued = MODEL(TOKENS[:, :5])
    np.testing.assert_array_equal(MODEL.logits(hidden), logits)
    more, _ = MODEL.hidden(TOKENS[:, 5:], cache)
    np.testing.assert_array_equal(MODEL.logits(more), MODEL(TOKENS[:, 5:], continued)[0])


@pytest.mark.parametrize("lengths", [(8,), (5, 1, 2), (1,) * 8])
@pytest.mark.parametrize("module", [0, 1])
def test_pieces_are_the_whole(lengths: tuple[int, ...], module: int) -> None:
    whole, output, _ = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1], module=module)
    cache, start = None, 0
    for length in lengths:
        piece = slice(start, start + length)
        logits, hidden, cache = MODEL.multi_token(TOKENS[:, 1:][:, piece], HIDDEN[:, piece], cache, module=module)
        np.testing.assert_allclose(logits, whole[:, piece], **CLOSE)
        np.testing.assert_allclose(hidden, output[:, piece], **CLOSE)
        start += length
        assert len(cache) == start


def test_logits_are_the_models_head_on_the_output() -> None:
    logits, output, _ = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1])
    np.testing.assert_array_equal(MODEL.logits(output), logits)


def test_modules_have_weights_of_their_own_and_share_the_tables() -> None:
    names = {name for name in MODEL.blueprint.parameters() if name.startswith("multi_token.")}
    assert {name.split(".")[1] for name in names} == {"0", "1"}
    assert not any("embed" in name or "head" in name for name in names)
    first, second = (MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1], module=module)[0] for module in (0, 1))
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_the_row_alone(side: str) -> None:
    """A pair is real where both of its tokens are."""
    mask = np.ones_like(TOKENS)
    real = slice(3, None) if side == "left" else slice(None, -3)
    mask[1] = 0
    mask[1, real] = 1
    hidden = MODEL.hidden(TOKENS, attention_mask=mask)[0]
    pairs = mask[:, :-1] * mask[:, 1:]
    logits, output, _ = MODEL.multi_token(TOKENS[:, 1:], hidden[:, :-1], attention_mask=pairs)
    alone = TOKENS[1:, real]
    expected, further, _ = MODEL.multi_token(alone[:, 1:], MODEL.hidden(alone)[0][:, :-1])
    np.testing.assert_allclose(logits[1][pairs[1] == 1], expected[0], **CLOSE)
    np.testing.assert_allclose(output[1][pairs[1] == 1], further[0], **CLOSE)
    np.testing.assert_allclose(logits[0], MODEL.multi_token(TOKENS[:1, 1:], HIDDEN[:1, :-1])[0][0], **CLOSE)


def test_later_pairs_change_nothing() -> None:
    changed, hidden = TOKENS.copy(), HIDDEN.copy()
    changed[:, 6:] = (changed[:, 6:] + 7) % 53
    hidden[:, 5:] *= -1
    logits = MODEL.multi_token(changed[:, 1:], hidden[:, :-1])[0]
    np.testing.assert_array_equal(logits[:, :5], MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1])[0][:, :5])


def test_positions_are_those_of_the_shifted_tokens_and_matter_relatively_alone() -> None:
    for module in (0, 1):
        default = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1], module=module)[0]
        places = np.tile(np.arange(8) + module + 1, (2, 1))
        given = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1], module=module, positions=places)[0]
        np.testing.assert_array_equal(given, default)
        later = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1], module=module, positions=places + 70)[0]
        np.testing.assert_allclose(later, default, rtol=0, atol=1e-10)
        stretched = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1], module=module, positions=9 * places)[0]
        assert np.abs(stretched - default).max() > 1e-3


def test_an_output_goes_back_into_the_same_module_one_place_further() -> None:
    """More drafts than modules: the output is normed as what it continues is."""
    logits, output, cache = MODEL.multi_token(TOKENS[:, 1:], HIDDEN[:, :-1])
    drafted = logits[:, -1:].argmax(axis=-1)
    again, _, cache = MODEL.multi_token(drafted, output[:, -1:], cache)
    assert len(cache) == 9
    joined = MODEL.multi_token(
        np.concatenate([TOKENS[:, 1:], drafted], axis=1), np.concatenate([HIDDEN[:, :-1], output[:, -1:]], axis=1)
    )[0]
    np.testing.assert_allclose(again, joined[:, -1:], **CLOSE)


def test_the_model_is_the_same_with_and_without_modules() -> None:
    plain = refimpl.init(config(num_nextn_predict_layers=0, use_qk_norm=True), seed=2, dtype="float64")
    np.testing.assert_array_equal(plain(TOKENS)[0], MODEL(TOKENS)[0])
    assert plain.trace(TOKENS).keys() == MODEL.trace(TOKENS).keys()


LATENT = {
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 10,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 14,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "num_nextn_predict_layers": 1,
}


def test_latent_attention_in_its_expanded_form() -> None:
    values = {**LATENT, **{key: config()[key] for key in ("vocab_size", "hidden_size", "intermediate_size")}}
    absorbed = refimpl.init(values, seed=2, dtype="float64")
    hidden = absorbed.hidden(TOKENS)[0]
    expected, _, latents = absorbed.multi_token(TOKENS[:, 1:], hidden[:, :-1])
    found, _, cache = absorbed.expanded().multi_token(TOKENS[:, 1:], hidden[:, :-1])
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert (set(latents.states[0]), set(cache.states[0])) == ({"latent", "k_rope"}, {"key", "value"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MODEL.multi_token(TOKENS, HIDDEN, module=2), "multi_token: module is 2 but the model has 2 modules, counted"),
        (lambda: MODEL.multi_token(TOKENS, HIDDEN, module=-1), "multi_token: module is -1 but the model has 2 modules"),
        (
            lambda: MODEL.multi_token(TOKENS[:, 1:], HIDDEN),
            r"multi_token: hidden has shape \(2, 9, 24\) and dtype float64 but needs floats \(2, 8, 24\)",
        ),
        (lambda: MODEL.multi_token(TOKENS, HIDDEN[..., 1:]), r"multi_token: hidden has shape \(2, 9, 23\)"),
        (lambda: MODEL.multi_token(TOKENS, None), r"multi_token: hidden is a NoneType but needs floats \(2, 9, 24\)"),  # type: ignore[arg-type]
        (lambda: MODEL.multi_token(TOKENS + 50, HIDDEN), "tokens range from"),
        (lambda: MODEL.multi_token(TOKENS, HIDDEN, MODEL(TOKENS)[1]), "the cache holds 3 layers but a module has 1"),
        (lambda: MODEL(TOKENS, MODEL.multi_token(TOKENS, HIDDEN)[2]), "the cache holds 1 layers but the model has 3"),
        (lambda: MODEL.multi_token(TOKENS, HIDDEN, attention_mask=np.ones((2, 5), int)), "attention_mask has shape"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
