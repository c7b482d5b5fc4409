"""A model: a blueprint, its weights and an interpreter, called like a function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from refimpl.blocks import Inputs, State, StateEntry, Weights
from refimpl.blueprint import Blueprint
from refimpl.layers import token_order
from refimpl.numerics import COMPUTE_FORMATS, Array, float_format, is_float
from refimpl.ops import NumpyOps, Ops, Traced


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a model remembers of the tokens it has seen: the state of each layer and which tokens were real.

    states: per layer its arrays, e.g. key and value [B, S, G, K], of a layer with a window a ring (`layers.cache`) of min(S, W)
      slots unless the model keeps none. attention_mask: 0/1 [B, S]. dtype, ring: the model's.
    """

    states: list[State]
    attention_mask: Array
    dtype: str
    ring: bool

    def __len__(self) -> int:
        """How many tokens a row holds, padding included."""
        return int(self.attention_mask.shape[1])

    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(array.nbytes for state in self.states for array in state.values())


@dataclass(frozen=True, kw_only=True)
class Model:
    """`model(tokens, cache)` gives logits and the continued cache.

    weights: parameter name -> array [out, in] in `dtype`, held or read on demand.
    ring: whether layers with a window (or chunks) keep its last tokens alone; False keeps all, with the same logits.
    """

    blueprint: Blueprint
    weights: Weights
    dtype: str
    ops: Ops
    ring: bool = True

    def __call__(
        self,
        tokens: npt.ArrayLike,
        cache: Cache | None = None,
        *,
        attention_mask: npt.ArrayLike | None = None,
        positions: npt.ArrayLike | None = None,
    ) -> tuple[Any, Cache]:
        """Logits [B, T, V] of tokens int [B, T] that continue `cache`, and the cache with them appended.

        attention_mask: 0/1 [B, S], S = cached + T; 0 is padding, on any side. Positions and visibility count the
          real tokens of a row only, so a padded row gives what the row alone gives; logits at padding mean nothing.
          Absent: no padding among the new tokens.
        positions: int [B, T] in place of the counted ones, for the position encoding alone (which tokens are visible
          still follows from their order).
        ValueError for a wrong shape or dtype, a token outside the vocabulary, or a mask that contradicts the cache.
        """
        hidden, cache = self.hidden(tokens, cache, attention_mask=attention_mask, positions=positions)
        return self.logits(hidden), cache

    def hidden(
        self,
        tokens: npt.ArrayLike,
        cache: Cache | None = None,
        *,
        attention_mask: npt.ArrayLike | None = None,
        positions: npt.ArrayLike | None = None,
    ) -> tuple[Any, Cache]:
        """The same call without its last step: hidden states [B, T, D] after the final norm, of which `logits` are made."""
        tokens = check_tokens(tokens, self.blueprint.vocab_size)
        if cache is not None:
            self._check_cache(cache, owner="the model", kept=self.blueprint.state())
        mask = _mask(attention_mask, tokens, cache)
        counted, inputs = self._inputs(tokens, mask, positions, cache)
        states = None if cache is None else cache.states
        hidden, states = self.blueprint.hidden(self.ops, self.weights, tokens, counted, inputs, states)
        return hidden, self._cache(states, mask)

    def logits(self, hidden: Any) -> Any:
        """Logits [B, T, V] of hidden states [B, T, D] that have left the final norm, or a module's own."""
        return self.blueprint.logits(self.ops, self.weights, hidden)

    def multi_token(
        self,
        tokens: npt.ArrayLike,
        hidden: Array,
        cache: Cache | None = None,
        *,
        module: int = 0,
        attention_mask: npt.ArrayLike | None = None,
        positions: npt.ArrayLike | None = None,
    ) -> tuple[Any, Any, Cache]:
        """A module for multi-token prediction on T pairs that continue `cache`: logits [B, T, V], output [B, T, D], its cache.

        hidden: [B, T, D] of `hidden` for module 0, and for module k the output of module k - 1. An output is normed and may
          also go back to the same module, one place further, to draft more tokens than there are modules.
        tokens: int [B, T], already shifted: each stands module + 1 places after the token that its hidden state read last, and
          the logits are of the one after it.
        cache: of this module alone; it counts pairs.
        attention_mask: 0/1 [B, S], S = cached + T pairs; a pair is real where all its tokens are, so that module 0 has
          mask[:, :-1] * mask[:, 1:] of the mask of all tokens. Absent: no padding among the new pairs.
        positions: int [B, T] in place of those of `tokens`, the number of real pairs before + module + 1.
        """
        modules = len(self.blueprint.multi_token)
        if not isinstance(module, (int, np.integer)) or not 0 <= module < modules:
            raise ValueError(f"multi_token: module is {module!r} but the model has {modules} modules, counted from 0")
        tokens = check_tokens(tokens, self.blueprint.vocab_size)
        _check_hidden(hidden, (*tokens.shape, self.blueprint.hidden_size))
        if cache is not None:
            self._check_cache(cache, owner="a module", kept=[self.blueprint.multi_token[module].layer.mixer.state()])
        mask = _mask(attention_mask, tokens, cache)
        _, inputs = self._inputs(tokens, mask, positions, cache, ahead=module + 1)
        state = None if cache is None else cache.states[0]
        logits, output, state = self.blueprint.predict_further(
            self.ops, self.weights, int(module), tokens, hidden, inputs, state
        )
        return logits, output, self._cache([state], mask)

    def _inputs(
        self, tokens: Array, mask: Array, positions: npt.ArrayLike | None, cache: Cache | None, *, ahead: int = 0
    ) -> tuple[Array, Inputs]:
        """The positions of the tokens, `ahead` of their places unless they are given, and what the blocks look at."""
        order = token_order(mask)
        past = mask.shape[1] - tokens.shape[1]
        q_order = order[:, past:]
        counted = np.maximum(q_order, 0) + ahead if positions is None else _positions(positions, tokens)
        past_order = None if cache is None else order[:, :past]
        orders = {"q_order": q_order, "k_order": order, "past_order": past_order, "ring": self.ring}
        return counted, self.blueprint.inputs(self.ops, counted, float_format(self.dtype, among=COMPUTE_FORMATS), **orders)

    def _cache(self, states: list[State], mask: Array) -> Cache:
        return Cache(states=states, attention_mask=mask, dtype=self.dtype, ring=self.ring)

    def _check_cache(self, cache: Cache, *, owner: str, kept: list[dict[str, StateEntry]]) -> None:
        """The cache must come from layers that keep as much, and from a model of this computing format."""
        if not isinstance(cache, Cache):
            raise ValueError(f"cache is a {type(cache).__name__} but needs the Cache that an earlier call returned")
        if len(cache.states) != len(kept):
            raise ValueError(f"the cache holds {len(cache.states)} layers but {owner} has {len(kept)}")
        if [set(state) for state in cache.states] != [set(entries) for entries in kept]:
            raise ValueError("the cache holds other tensors than the model keeps, so it is of another architecture")
        if cache.dtype != self.dtype:
            raise ValueError(f"the cache holds {cache.dtype} but the model computes in {self.dtype}")
        if cache.ring != self.ring:
            kinds = {True: "rings", False: "all tokens"}
            raise ValueError(f"the cache holds {kinds[cache.ring]} of windowed layers but the model keeps {kinds[self.ring]}")

    def trace(
        self,
        tokens: npt.ArrayLike,
        cache: Cache | None = None,
        *,
        attention_mask: npt.ArrayLike | None = None,
        positions: npt.ArrayLike | None = None,
    ) -> dict[str, Any]:
        """Every named intermediate value of a call, in order of computation, e.g. "layers.3.mixer.q_rope"."""
        traced = Traced(self.ops)
        self.with_ops(traced)(tokens, cache, attention_mask=attention_mask, positions=positions)
        return traced.values

    def with_ops(self, ops: Ops) -> Model:
        """The same model through another interpreter of the vocabulary."""
        if not isinstance(ops, Ops):
            raise ValueError(f"with_ops: got a {type(ops).__name__} but needs a refimpl.ops.Ops")
        return replace(self, ops=ops)

    def expanded(self) -> Model:
        """The same model with latent attention in its expanded form (`Blueprint.expanded`), which has caches of its own."""
        return replace(self, blueprint=self.blueprint.expanded())


def numpy_model(blueprint: Blueprint, weights: Weights, dtype: str) -> Model:
    """A model in the NumPy interpretation, computing in `dtype` (float64 or float32)."""
    float_format(dtype, among=COMPUTE_FORMATS)
    return Model(blueprint=blueprint, weights=weights, dtype=dtype, ops=NumpyOps())


def as_array(name: str, value: npt.ArrayLike) -> Array:
    """`value` as a NumPy array. ValueError that names it when its rows are of unequal length."""
    try:
        return np.asarray(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} cannot be made an array: rows of one length and numbers of 64 bits are needed") from None


def check_tokens(tokens: npt.ArrayLike, vocab_size: int) -> Array:
    """`tokens` as int64 [B, T]. ValueError when they are no such array or lie outside the vocabulary."""
    array = as_array("tokens", tokens)
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.size == 0:
        raise ValueError(
            f"tokens have shape {array.shape} and dtype {array.dtype} but must be integers [B, T] with B and T at least 1"
        )
    if array.min() < 0 or array.max() >= vocab_size:
        raise ValueError(f"tokens range from {array.min()} to {array.max()} but must lie in 0 .. {vocab_size - 1}")
    return array.astype(np.int64, copy=False)


def _check_hidden(hidden: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(hidden, np.ndarray) or hidden.shape != shape or not is_float(hidden.dtype):
        is_array = isinstance(hidden, np.ndarray)
        got = f"has shape {hidden.shape} and dtype {hidden.dtype}" if is_array else f"is a {type(hidden).__name__}"
        raise ValueError(f"multi_token: hidden {got} but needs floats {shape}, a hidden state for each token")


def _mask(attention_mask: npt.ArrayLike | None, tokens: Array, cache: Cache | None) -> Array:
    batch, new = tokens.shape
    past = np.ones((batch, 0), np.int64) if cache is None else cache.attention_mask
    if past.shape[0] != batch:
        raise ValueError(f"tokens have {batch} rows but the cache holds {past.shape[0]}; they must be equal")
    if attention_mask is None:
        return np.concatenate([past, np.ones((batch, new), np.int64)], axis=1)
    mask = as_array("attention_mask", attention_mask)
    shape = (batch, past.shape[1] + new)
    if mask.shape != shape:
        raise ValueError(f"attention_mask has shape {mask.shape} but needs {shape}: [B, cached + new tokens]")
    if mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"attention_mask has dtype {mask.dtype} or values other than 0 and 1; it must be 0/1 integers or bools"
        )
    if (mask[:, : past.shape[1]] != past).any():
        raise ValueError("attention_mask marks other tokens as padding than the calls that filled the cache did")
    return mask.astype(np.int64)


def _positions(positions: npt.ArrayLike, tokens: Array) -> Array:
    array = as_array("positions", positions)
    if array.shape != tokens.shape or array.dtype.kind not in "iu":
        raise ValueError(
            f"positions have shape {array.shape} and dtype {array.dtype} but must be integers {tokens.shape}, one a token"
        )
    return array.astype(np.int64, copy=False)
