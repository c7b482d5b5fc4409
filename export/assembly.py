"""A blueprint as a graph: the wiring interpreted by `GraphOps` between the inputs and outputs of the ecosystem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph import Dimension, Graph, Value, tensor_type
from export.lowerings import LOWERINGS
from export.ops import GraphOps
from export.parameters import Parameters
from refimpl import SPEC_VERSION
from refimpl.blocks import State, StateEntry
from refimpl.blueprint import Blueprint
from refimpl.storage import STORED_FLOATS, Layout

BATCH, NEW, PAST = "batch_size", "sequence_length", "past_sequence_length"
ALL = f"{PAST} + {NEW}"
END = np.iinfo(np.int64).max
# A runtime that loads a graph casts the weights at once and holds them: faster, while they fit into memory.
HELD_BYTES = 16 << 30


def model_graph(
    blueprint: Blueprint,
    layout: Layout,
    tensors: Mapping[str, TensorProto],
    *,
    dtype: np.dtype[Any],
    opset: int,
    taps: bool = False,
    lowerings: Mapping[str, Callable[..., Any]] = LOWERINGS,
) -> onnx.ModelProto:
    """The decoder as a model.

    Inputs: input_ids [B, T], attention_mask [B, past + T], position_ids [B, T] (int64) and what layer N has seen,
    past_key_values.N.*: .key and .value [B, G, past, K], or .latent and .k_rope [B, past, L], and .index_key [B, past, K] of an
    indexer; or .conv_state [B, D, W-1] and .recurrent_state [B, H, K, J], whatever the length, zeros before the first token.
    Outputs: logits [B, T, V] and present.N.* as the past, with T more where it grows; with `taps` every named intermediate
    value too.
    """
    graph = Graph(opset)
    ops = GraphOps(graph, dtype, lowerings, late=_cast_bytes(blueprint, layout, tensors, dtype) > HELD_BYTES)
    tokens = _integers(graph, "input_ids", NEW)
    mask = _integers(graph, "attention_mask", ALL)
    positions = _integers(graph, "position_ids", NEW)
    states = _past(graph, blueprint, dtype)
    k_order = graph.rename(ops.call("token_order", mask), "k_order")
    q_order = graph.rename(_last(graph, k_order, tokens), "q_order")
    logits, new_states = blueprint.forward(
        ops,
        Parameters(graph, layout, tensors),
        tokens,
        positions=positions,
        q_order=q_order,
        k_order=k_order,
        states=states,
        angle_dtype=dtype,
    )
    graph.output(logits, "logits", [BATCH, NEW, blueprint.vocab_size])
    _present(graph, blueprint, new_states)
    for name, value in ops.taps.items() if taps else ():
        if value is not logits:
            graph.output(value, name)
    metadata = {"spec_version": SPEC_VERSION, "architecture": blueprint.architecture}
    return graph.model(blueprint.architecture, f"{blueprint.architecture}, wired as refimpl {SPEC_VERSION} says.", metadata)


def _cast_bytes(blueprint: Blueprint, layout: Layout, tensors: Mapping[str, TensorProto], dtype: np.dtype[Any]) -> int:
    """How much memory the weights outside the experts take in `dtype`, those alone that are stored in another float format."""
    own = helper.np_dtype_to_tensor_dtype(dtype)
    dense = {name: shape for name, shape in blueprint.parameters().items() if ".experts." not in name}
    leaves = {name: leaf for name, shape in dense.items() for name, leaf in layout.sources[name].leaves(shape).items()}
    cast = [leaf for name, leaf in leaves.items() if leaf.formats == STORED_FLOATS and tensors[name].data_type != own]
    return sum(prod(leaf.shape) for leaf in cast) * dtype.itemsize


def _integers(graph: Graph, name: str, length: str) -> Value:
    return graph.input(name, tensor_type(np.dtype(np.int64), [BATCH, length]))


def _past(graph: Graph, blueprint: Blueprint, dtype: np.dtype[Any]) -> list[State]:
    states = []
    for index, entries in enumerate(blueprint.state()):
        state = {}
        for name, entry in entries.items():
            state[name] = graph.input(f"past_key_values.{index}.{name}", tensor_type(dtype, _state_shape(entry, PAST)))
            state[name].heads_first = entry.grows and len(entry.shape) > 1
        states.append(state)
    return states


def _present(graph: Graph, blueprint: Blueprint, states: list[State]) -> None:
    for index, (entries, state) in enumerate(zip(blueprint.state(), states, strict=True)):
        for name, entry in entries.items():
            graph.output(state[name], f"present.{index}.{name}", _state_shape(entry, ALL))


def _state_shape(entry: StateEntry, length: str) -> list[Dimension]:
    if not entry.grows:
        return [BATCH, *entry.shape]
    *heads, width = entry.shape
    return [BATCH, *heads, length, width]


def _last(graph: Graph, order: Value, tokens: Value) -> Value:
    """The last columns of `order`, those of the new tokens."""
    new = graph.Shape(tokens, start=1, end=2)
    return graph.Slice(order, graph.Neg(new), [END], [1])
