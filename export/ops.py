"""GraphOps: the interpreter of the wiring that writes an ONNX graph.

Every function of the vocabulary becomes a call of a local function of the domain `refimpl`; the glue between them becomes plain
nodes. Values are `export.graph.Value`, named like the taps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from export.banks import Matrices, Stack
from export.encoded import Encoded
from export.errors import ExportError
from export.graph import Function, Graph, Value
from export.lowerings import LOWERINGS
from export.lowerings.experts import Projection
from refimpl.layers import VOCABULARY
from refimpl.layers.signatures import signature_of
from refimpl.numerics import Array
from refimpl.ops import Ops

# Functions that only read rows of their table, which they cast afterwards: the rest of it need not be touched.
TABLE_LOOKUPS = ("embedding", "position_embedding")
EXTRA_ARRAYS = ("bias", "sinks", "temperature")
PROJECTIONS = ("gate", "up", "down")
VISIBILITY = ("q_order", "k_order", "causal", "window", "chunk")


class GraphOps(Ops):
    """Writes into `graph`; tensors stored in another format than `dtype` are cast to it where they are used.

    lowerings: the bodies of the functions, by name. late: matrices are cast in every run of the graph, as encoded ones are
    decoded.
    """

    def __init__(
        self,
        graph: Graph,
        dtype: np.dtype[Any],
        lowerings: Mapping[str, Callable[..., Any]] = LOWERINGS,
        *,
        late: bool = False,
    ) -> None:
        self.graph = graph
        self.dtype = dtype
        self.lowerings = lowerings
        self.late = late
        self.taps: dict[str, Value] = {}
        self._path: list[str] = []
        self._derived: dict[tuple[Any, ...], Value] = {}
        self._direct: dict[str, Callable[..., Any]] = {
            "add": self._add,
            "split_heads": self._split_heads,
            "merge_heads": self._merge_heads,
            "append": self._append,
            "split": self._split,
            "concat": self._concat,
            "scale": self._scale,
            "attention": self._attention,
            "latent_attention": self._latent_attention,
            "key_selection": self._key_selection,
            "routed_experts": self._routed_experts,
        }

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        if name in self._direct:
            return self._direct[name](*values, **options)
        arguments = signature_of(name).bind(*values, **options).arguments
        if name in TABLE_LOOKUPS and self._is_stored(arguments["weight"]):
            arguments["dtype"] = self.dtype
        else:
            first = next((value for value in arguments.values() if isinstance(value, Value) and not value.stored), None)
            arguments = {key: self._computed(value, first) for key, value in arguments.items()}
        return self._function(name, **arguments)

    def tap(self, name: str, value: Value) -> Value:
        full_name = ".".join([*self._path, name])
        self.taps[full_name] = self.graph.rename(value, full_name)
        return self.taps[full_name]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def constant(self, array: Array) -> Value:
        return self.graph.constant(array, ".".join([*self._path, "constant"]))

    def _function(self, name: str, **arguments: Any) -> Any:
        """A call of the local function that `name` with these options is; absent arguments and options are left out."""
        arrays = {key: value for key, value in arguments.items() if isinstance(value, Value)}
        options = {key: value for key, value in arguments.items() if not isinstance(value, Value) and value is not None}
        body = Function(self.graph.opset)
        parameters = {key: body.input(key, value.type) for key, value in arrays.items()}
        results = self._lowering(name)(body, **parameters, **options)
        several = isinstance(results, tuple)
        outputs = self._called(name, body, list(results) if several else [results], list(arrays.values()), arrays, options)
        return tuple(outputs) if several else outputs[0]

    def _called(
        self,
        name: str,
        body: Function,
        results: list[Value],
        inputs: list[Value],
        arrays: Mapping[str, Value],
        options: Mapping[str, Any],
    ) -> list[Value]:
        """The results of a call of `body`, the layer `name` with these arrays and options, on `inputs`."""
        body.outputs = results
        function = self.graph.declare(_function_name(name, arrays, options), body, _documentation(name, options))
        outputs = [Value(self._fresh(name), output.type) for output in results]
        self.graph.call(function, inputs, outputs)
        return outputs

    def _lowering(self, name: str) -> Callable[..., Any]:
        lowering = self.lowerings.get(name)
        if not callable(lowering):
            raise ExportError(f"lowerings has no body for the layer {name!r}, which the model needs")
        return lowering

    def _fresh(self, name: str) -> str:
        return self.graph.unique(".".join([*self._path, name]))

    def _is_stored(self, value: Any) -> bool:
        return isinstance(value, Value) and value.stored and value.dtype != self.dtype

    def _computed(self, value: Any, after: Value | None = None) -> Any:
        """A stored tensor in the computing format, cast or decoded once for all uses; what is decoded waits for `after`."""
        if isinstance(value, Encoded) and after is not None:
            return self._once(("decoded", value), lambda: self._decoded(value, after))
        if not self._is_stored(value):
            return value
        return self._once(("cast", value), lambda: self._cast(value, after))

    def _cast(self, value: Value, after: Value | None) -> Value:
        source = self._held(value, after) if self.late and after is not None and len(value.shape) > 1 else value
        return self.graph.rename(self.graph.cast(source, self.dtype), f"{value.name}.cast")

    def _decoded(self, weight: Encoded, after: Value) -> Value:
        held = {name: self._held(array, after) for name, array in weight.arrays.items()}
        decoded: Value = self._function(weight.layer, **held, **weight.options, dtype=self.dtype)
        for change in weight.changes:
            decoded = change(self.graph, decoded)
        return self.graph.rename(decoded, f"{weight.name}.decoded")

    def _held(self, array: Value, after: Value) -> Value:
        """`array` as a value that depends on `after`.

        What depends on constants alone a runtime computes when it loads a graph, and it would hold every weight as it computes
        with it.
        """
        f = self.graph
        nothing = self._once(("nothing", after), lambda: f.Mul(f.Shape(after, start=0, end=1), 0))
        return f.known(f.Reshape(array, f.Add(nothing, list(map(array.size, range(len(array.shape)))))), array.shape)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Value]) -> Value:
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def _add(self, x: Value, y: Value) -> Value:
        return self.graph.Add(x, y)

    def _scale(self, x: Value, *, factor: float) -> Value:
        return self.graph.Mul(x, factor)

    def _split_heads(self, x: Value, *, heads: int) -> Value:
        return self.graph.Reshape(x, [0, 0, heads, x.size(-1) // heads])

    def _merge_heads(self, x: Value) -> Value:
        return self.graph.Reshape(x, [0, 0, x.size(-2) * x.size(-1)])

    def _split(self, x: Value, *, sizes: Sequence[int]) -> tuple[Value, ...]:
        parts: tuple[Value, ...] = self.graph.Split(x, list(sizes), axis=-1, outputs=len(sizes))
        return parts

    def _concat(self, *parts: Value) -> Value:
        return self.graph.Concat(*parts, axis=-1)

    def _append(self, past: Value, new: Value) -> Value:
        if len(new.shape) == 3:
            return self.graph.Concat(past, new, axis=1)
        both: Value = self.graph.Concat(self._heads_first(past), self._heads_first(new), axis=2)
        both.heads_first = True
        return both

    def _heads_first(self, x: Value) -> Value:
        if x.heads_first:
            return x
        turned: Value = self.graph.Transpose(x, perm=[0, 2, 1, 3])
        turned.heads_first = True
        return turned

    def _attention(self, q: Value, k: Value, v: Value, **options: Any) -> Value:
        visible = self._visible(q, k, {key: options.pop(key) for key in VISIBILITY if key in options})
        inputs = {key: self._computed(options.pop(key, None)) for key in EXTRA_ARRAYS}
        k, v = self._heads_first(k), self._heads_first(v)
        y: Value = self._function("attention", q=q, k=k, v=v, visible=visible, **inputs, **options)
        return y

    def _latent_attention(self, q: Value, latent: Value, k_rope: Value, weight: Value, **options: Any) -> Value:
        visible = self._visible(q, latent, {key: options.pop(key) for key in VISIBILITY if key in options})
        arrays = {key: self._computed(value) for key, value in options.items() if isinstance(value, Value)}
        inputs = {"q": q, "latent": latent, "k_rope": k_rope, "weight": self._computed(weight, q), "visible": visible}
        y: Value = self._function("latent_attention", **inputs, **options | arrays)
        return y

    def _key_selection(self, scores: Value, *, top_k: int, **options: Any) -> Value:
        """A call that takes the mask for the orders, and the order of the columns where places do not follow from them."""
        order = options.get("k_order")
        visible = self._visible(scores, scores, options, keys_axis=2)
        arrays = {"scores": scores, "visible": visible}
        if order is not None:
            arrays["by_place"] = self._once(("by_place", order), lambda: self._by_place(order))
        y: Value = self._function("key_selection", **arrays, top_k=top_k)
        return y

    def _by_place(self, order: Value) -> Value:
        """The columns of an order [B, S] by their places, for all layers that keep the same tokens."""
        f = self.graph
        columns: Value = f.TopK(order, f.Shape(order, start=1), axis=1, largest=0, outputs=2)[1]
        return columns

    def _routed_experts(self, *values: Any, **options: Any) -> Value:
        """A call whose matrices are fetched inside the function, which therefore takes the tensors that hold them."""
        arguments = signature_of("routed_experts").bind(*values, **options).arguments
        biases = {name: arguments.pop(f"{name}_bias", None) for name in PROJECTIONS}
        matrices = {name: _as_matrices(arguments.pop(name)) for name in PROJECTIONS}
        held = [*(value for each in matrices.values() for value in each.bank.values()), *biases.values()]
        tensors = {value: f"stored_{index}" for index, value in enumerate(dict.fromkeys(held)) if value is not None}
        arrays = {name: arguments.pop(name) for name in ("x", "indices", "weights")}
        body = Function(self.graph.opset)
        inputs = {name: body.input(name, value.type) for name, value in arrays.items()}
        inside = {value: body.input(name, value.type) for value, name in tensors.items()}

        def projection(name: str) -> Projection:
            matrix, bias = matrices[name], biases[name]
            return Projection(
                key=matrix.bank,
                fetch=lambda f, expert: matrix.bank.fetch(f, inside.__getitem__, expert, arrays["x"].dtype),
                transposed=matrix.transposed,
                outputs=matrix.outputs,
                bias=None if bias is None else inside[bias],
            )

        projections = {name: projection(name) for name in PROJECTIONS}
        result = self._lowering("routed_experts")(body, **inputs, **projections, **arguments)
        return self._called("routed_experts", body, [result], [*arrays.values(), *tensors], arrays, arguments)[0]

    def _visible(self, q: Value, k: Value, options: dict[str, Any], *, keys_axis: int = 1) -> Value:
        """The mask [B, T, S] of one attention, made once for all layers that see the same keys.

        keys_axis: of k, unless its heads come first.
        """
        orders = {"q_order": options.pop("q_order", None), "k_order": options.pop("k_order", None)}
        if None in orders.values():
            default = self._default_orders(q, k, 2 if k.heads_first else keys_axis)
            orders = {key: order if order is not None else default[key] for key, order in orders.items()}
        key = ("visible", *orders.values(), *sorted(options.items()))
        return self._once(key, lambda: self._function("attention_mask", **orders, **options))

    def _default_orders(self, q: Value, k: Value, axis: int) -> dict[str, Value]:
        """Keys at 0 .. S - 1, the queries the last T of them, as [1, S] and [1, T]."""
        f = self.graph
        keys = f.Squeeze(f.Shape(k, start=axis, end=axis + 1), [0])
        queries = f.Squeeze(f.Shape(q, start=1, end=2), [0])
        zero, one = np.asarray(0), np.asarray(1)
        return {
            "q_order": f.Unsqueeze(f.Range(f.Sub(keys, queries), keys, one), [0]),
            "k_order": f.Unsqueeze(f.Range(zero, keys, one), [0]),
        }


def _as_matrices(value: Value | Matrices) -> Matrices:
    return value if isinstance(value, Matrices) else Matrices(Stack((value,)))


def _function_name(name: str, arrays: Mapping[str, Value], options: Mapping[str, Any]) -> str:
    """The name with its switches: `attention_mask_window_128`, `rms_norm_zero_centred`, `linear_bias`."""
    words = [name, *(key for key in EXTRA_ARRAYS if key in arrays)]
    for key, value in options.items():
        if value is True:
            words.append(key)
        elif value is False:
            words.append(f"not_{key}")
        elif isinstance(value, (int, np.integer)):
            words.append(f"{key}_{value}")
        elif isinstance(value, str) and value != "none":
            words.append(value)
    return "_".join(words)


def _documentation(name: str, options: Mapping[str, Any]) -> str:
    """The layer's first line and its options, for a reader of the graph."""
    layer = inspect.getdoc(VOCABULARY[name]) or ""
    settings = ", ".join(f"{key} = {value}" for key, value in options.items())
    return f"{layer.splitlines()[0]}{f' Options: {settings}.' if settings else ''}"
