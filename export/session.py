"""Running an exported model: the bookkeeping of its cache, for any runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from export.runtimes import Run
from refimpl.layers import token_order
from refimpl.numerics import Array


@dataclass(frozen=True, kw_only=True)
class SessionCache:
    """past: the inputs past_key_values.* of the next call; attention_mask: 0/1 [B, S] of the tokens seen."""

    past: Mapping[str, Array]
    attention_mask: Array


class Session:
    """An exported graph, called as a refimpl model is: `session(tokens, cache)` gives logits and the continued cache."""

    def __init__(self, path: Path, run: Run) -> None:
        graph = onnx.load(path, load_external_data=False).graph
        self._run = run
        self._past = {value.name: value.type.tensor_type for value in graph.input if value.name.startswith("past_key_values.")}

    def __call__(
        self,
        tokens: npt.ArrayLike,
        cache: SessionCache | None = None,
        attention_mask: npt.ArrayLike | None = None,
    ) -> tuple[Array, SessionCache]:
        """tokens int [B, T]; attention_mask 0/1 [B, cached + T], absent where nothing new is padding."""
        results, mask = self._results(tokens, cache, attention_mask)
        past = {name: results[name.replace("past_key_values", "present", 1)] for name in self._past}
        return results["logits"], SessionCache(past=past, attention_mask=mask)

    def trace(self, tokens: npt.ArrayLike) -> dict[str, Array]:
        """Everything that the graph returns for tokens int [B, T] beside the cache: the logits, and taps where it has them."""
        results, _ = self._results(tokens, None, None)
        return {name: array for name, array in results.items() if not name.startswith("present.")}

    def _results(
        self, tokens: npt.ArrayLike, cache: SessionCache | None, attention_mask: npt.ArrayLike | None
    ) -> tuple[Mapping[str, Array], Array]:
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.size == 0:
            raise ValueError(
                f"tokens have shape {tokens.shape} and dtype {tokens.dtype} but must be integers [B, T] with B and T at least 1"
            )
        tokens = tokens.astype(np.int64)
        batch, new = tokens.shape
        if cache is None:
            cache = SessionCache(past=self._empty(batch), attention_mask=np.ones((batch, 0), np.int64))
        if attention_mask is None:
            attention_mask = np.concatenate([cache.attention_mask, np.ones((batch, new), np.int64)], axis=1)
        mask = np.asarray(attention_mask, dtype=np.int64)
        positions = np.maximum(token_order(mask)[:, -new:], 0)
        return self._run({"input_ids": tokens, "attention_mask": mask, "position_ids": positions, **cache.past}), mask

    def _empty(self, batch: int) -> dict[str, Array]:
        """The cache before the first token."""
        empty = {}
        for name, tensor in self._past.items():
            sizes = [dim.dim_value for dim in tensor.shape.dim[1:]]  # 0 where it is symbolic: the past
            empty[name] = np.zeros((batch, *sizes), helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        return empty
