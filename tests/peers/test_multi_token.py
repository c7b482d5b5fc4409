"""Modules for multi-token prediction agree with those of transformers, which reads their tensors by its own names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.checkpoint import save_checkpoint
from refimpl.layers import multi_token_input
from refimpl.ops import Replaced

from .comparison import SAME_MEANING, Array, assert_agree, relative_error
from .variants import BASE

pytest.importorskip("torch")
pytest.importorskip("transformers")

ARCHITECTURES = {"glm4_moe": "Glm4MoeForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "glm": ("glm4_moe", {"attention_bias": True}),
    "glm_qk_norm_groups": ("glm4_moe", {"use_qk_norm": True, "n_group": 3, "topk_group": 2, "rms_norm_eps": 1e-2}),
    "glm_two_modules": ("glm4_moe", {"num_nextn_predict_layers": 2, "tie_word_embeddings": True}),
    "deepseek": ("deepseek_v3", {}),
    "deepseek_three_modules": ("deepseek_v3", {"num_nextn_predict_layers": 3}),
}
LAYERS, LENGTH = 3, 13


@dataclass(frozen=True)
class Modules:
    """A checkpoint with modules and its two readings in float64."""

    model: refimpl.Model
    peer: Any
    tokens: Array

    @property
    def count(self) -> int:
        return len(self.model.blueprint.multi_token)

    def expected(self) -> list[tuple[Array, Array]]:
        """The peer's logits and outputs, each module on the outputs of the one before."""
        hidden, found, states = self.peer.hidden(self.tokens), [], self.peer.new_cache()
        for module in range(self.count):
            found.append(self.peer(module, self.tokens[:, module + 1 :], hidden[:, :-1], states, first=module + 1))
            hidden = found[-1][1]
        return found


ModulesOf = Callable[[str], Modules]


@pytest.fixture(scope="module")
def modules_of(tmp_path_factory: pytest.TempPathFactory) -> ModulesOf:
    @cache
    def modules(name: str) -> Modules:
        architecture, changes = VARIANTS[name]
        config = {
            **BASE[architecture],
            "model_type": architecture,
            "architectures": [ARCHITECTURES[architecture]],
            "num_hidden_layers": LAYERS,
            "num_nextn_predict_layers": 1,
            **changes,
        }
        directory: Path = tmp_path_factory.mktemp(name)
        drawn = refimpl.init(config, seed=5)
        save_checkpoint(directory, config, drawn.blueprint.layouts[0].write(drawn.weights))
        from .multi_token import load_module_peer

        model = refimpl.load(directory)
        tokens = np.random.default_rng(11).integers(0, model.blueprint.vocab_size, (2, LENGTH))
        return Modules(model, load_module_peer(directory, LAYERS, ARCHITECTURES[architecture]), tokens)

    return modules


@pytest.mark.parametrize("name", VARIANTS)
def test_all_modules_at_once(name: str, modules_of: ModulesOf) -> None:
    both = modules_of(name)
    hidden, _ = both.model.hidden(both.tokens)
    assert_agree(hidden, both.peer.hidden(both.tokens))
    for module, (logits, output) in enumerate(both.expected()):
        found, hidden, _ = both.model.multi_token(both.tokens[:, module + 1 :], hidden[:, :-1], module=module)
        assert_agree(found, logits)
        assert_agree(hidden, output)


@pytest.mark.parametrize("name", ["glm_two_modules", "deepseek"])
@pytest.mark.parametrize("lengths", [(5, 4, 1), (1,) * 10], ids=["pieces", "decode"])
def test_modules_in_pieces(name: str, lengths: tuple[int, ...], modules_of: ModulesOf) -> None:
    both = modules_of(name)
    tokens, hidden = both.tokens[:, 1:], both.model.hidden(both.tokens)[0]
    theirs, cache, start = both.peer.new_cache(), None, 0
    for length in lengths:
        piece = slice(start, start + length)
        expected, _ = both.peer(0, tokens[:, piece], hidden[:, piece], theirs, first=start + 1)
        found, _, cache = both.model.multi_token(tokens[:, piece], hidden[:, piece], cache)
        assert_agree(found, expected)
        start += length


@pytest.mark.parametrize("name", ["glm_two_modules", "deepseek_three_modules"])
def test_the_tokens_that_the_modules_draft(name: str, modules_of: ModulesOf) -> None:
    """Each module is shifted by one more token, the one that the module before has drafted."""
    both = modules_of(name)
    tokens = both.tokens[:, 1:]
    hidden = both.model.hidden(both.tokens)[0][:, :-1]
    drafted = []
    for module in range(both.count):
        logits, hidden, _ = both.model.multi_token(tokens, hidden, module=module)
        drafted.append(logits[:, -1].argmax(axis=-1))
        tokens = np.concatenate([tokens[:, 1:], drafted[-1][:, None]], axis=1)
    assert np.array_equal(np.stack(drafted, axis=1), both.peer.draft(both.tokens[:, 1:], both.peer.hidden(both.tokens)[:, :-1]))


@pytest.mark.parametrize("name", ["glm", "deepseek"])
def test_the_comparison_would_find_a_wrong_module(name: str, modules_of: ModulesOf) -> None:
    both = modules_of(name)
    hidden = both.model.hidden(both.tokens)[0]
    ((expected, _),) = both.expected()
    found = both.model.multi_token(both.tokens[:, 1:], hidden[:, :-1])[0]
    unshifted = both.model.multi_token(both.tokens[:, :-1], hidden[:, :-1])[0]
    swapped = both.model.with_ops(Replaced(both.model.ops, {"multi_token_input": halves_exchanged}))
    exchanged = swapped.multi_token(both.tokens[:, 1:], hidden[:, :-1])[0]
    assert relative_error(found, expected) < SAME_MEANING
    assert relative_error(unshifted, expected) > 1e-3
    assert relative_error(exchanged, expected) > 1e-3


def halves_exchanged(embedding: Array, hidden: Array, weight: Array) -> Array:
    return multi_token_input(hidden, embedding, weight)
