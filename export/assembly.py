"""A blueprint as a graph: the wiring interpreted by `GraphOps` between the inputs and outputs of the ecosystem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from export.graph import Dimension, Graph, Value, tensor_type
from export.lowerings import LOWERINGS
from export.ops import GraphOps
from export.parameters import Parameters
from refimpl import SPEC_VERSION
from refimpl.blocks import State
from refimpl.blueprint import Blueprint
from refimpl.storage import Layout

BATCH, NEW, PAST = "batch_size", "sequence_length", "past_sequence_length"
ALL = f"{PAST} + {NEW}"
END = np.iinfo(np.int64).max


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

    Inputs: input_ids [B, T], attention_mask [B, past + T], position_ids [B, T] (int64) and past_key_values.N.key and .value
    [B, G, past, K]. Outputs: logits [B, T, V] and present.N.key and .value [B, G, past + T, K]; with `taps` every named
    intermediate value too.
    """
    graph = Graph(opset)
    ops = GraphOps(graph, dtype, lowerings)
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
    _present(graph, new_states)
    for name, value in ops.taps.items() if taps else ():
        if value is not logits:
            graph.output(value, name)
    metadata = {"spec_version": SPEC_VERSION, "architecture": blueprint.architecture}
    return graph.model(blueprint.architecture, f"{blueprint.architecture}, wired as refimpl {SPEC_VERSION} says.", metadata)


def _integers(graph: Graph, name: str, length: str) -> Value:
    return graph.input(name, tensor_type(np.dtype(np.int64), [BATCH, length]))


def _past(graph: Graph, blueprint: Blueprint, dtype: np.dtype[Any]) -> list[State]:
    states = []
    for index, entries in enumerate(blueprint.state()):
        state = {}
        for name, entry in entries.items():
            heads, width = entry.shape
            state[name] = graph.input(f"past_key_values.{index}.{name}", tensor_type(dtype, [BATCH, heads, PAST, width]))
            state[name].heads_first = True
        states.append(state)
    return states


def _present(graph: Graph, states: list[State]) -> None:
    for index, state in enumerate(states):
        for name, value in state.items():
            shape: list[Dimension] = [BATCH, value.shape[1], ALL, value.shape[3]]
            graph.output(value, f"present.{index}.{name}", shape)


def _last(graph: Graph, order: Value, tokens: Value) -> Value:
    """The last columns of `order`, those of the new tokens."""
    new = graph.Shape(tokens, start=1, end=2)
    return graph.Slice(order, graph.Neg(new), [END], [1])
