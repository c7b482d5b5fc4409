"""Building ONNX graphs and functions one node at a time, with every type inferred by ONNX's own rules.

A `Body` is a list of nodes; its methods are the operators: `f.Mul(x, f.Sigmoid(x))` adds two nodes and returns the result.
`Function` is the body of a local function (domain `refimpl`), `Graph` that of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from export.errors import ExportError
from refimpl.numerics import Array

DOMAIN = "refimpl"
DEFAULT_OPSET = 23

Operand = Any  # a Value, or what `Body.constant` makes of a number, a list of integers or an array
Dimension = int | str | None


@dataclass(eq=False)
class Value:
    """A tensor of the graph; `array` where it is a constant that shape inference may look into.

    named: whether a tap or an output has given it its name. stored: whether it is a tensor of a checkpoint, in its own format.
    heads_first: whether a [B, S, G, K] value is laid out [B, G, S, K].
    """

    name: str
    type: onnx.TypeProto
    array: Array | None = None
    named: bool = False
    stored: bool = False
    heads_first: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.type.tensor_type.elem_type))

    @property
    def shape(self) -> tuple[Dimension, ...]:
        """A size, a symbol, or None where neither is known, for each axis."""
        dims = self.type.tensor_type.shape.dim
        return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)

    def size(self, axis: int) -> int:
        """The size of an axis that must be known when the graph is made."""
        size = self.shape[axis]
        if not isinstance(size, int):
            raise ExportError(f"axis {axis} of {self.name!r} has the symbolic size {size!r} but must be known to the exporter")
        return size

    def info(self) -> onnx.ValueInfoProto:
        return onnx.ValueInfoProto(name=self.name, type=self.type)


@dataclass(eq=False)
class Node:
    """One operation; its inputs and outputs keep their identity until the graph is written, so that they can be renamed."""

    kind: str
    domain: str
    inputs: Sequence[Value | None]
    outputs: Sequence[Value]
    attributes: dict[str, Any] = field(default_factory=dict)

    def proto(self) -> onnx.NodeProto:
        return helper.make_node(
            self.kind,
            ["" if value is None else value.name for value in self.inputs],
            [value.name for value in self.outputs],
            name=self.outputs[0].name,
            domain=self.domain,
            **self.attributes,
        )


def tensor_type(dtype: np.dtype[Any], shape: Sequence[Dimension] | None) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape)


class Body:
    """Nodes under construction."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """`name`, or `name_2` and so on where it is taken."""
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        self._taken.add(candidate)
        return candidate

    def input(self, name: str, type_proto: onnx.TypeProto) -> Value:
        value = Value(self.unique(name), type_proto, named=True)
        self.inputs.append(value)
        return value

    def constant(self, array: Array, name: str | None = None) -> Value:
        """A constant of the body; equal ones are one."""
        array = np.asarray(array)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.constants:
            label = name or (f"constant_{array.item()}" if array.size == 1 else "constant")
            self.constants[key] = Value(self.unique(label), tensor_type(array.dtype, array.shape), array)
        return self.constants[key]

    def cast(self, value: Value, dtype: np.dtype[Any]) -> Value:
        """`value` in `dtype`; itself where it has it already."""
        if value.dtype == dtype:
            return value
        return self.Cast(value, to=helper.np_dtype_to_tensor_dtype(dtype))

    def known(self, value: Value, shape: Sequence[Dimension]) -> Value:
        """`value`, of which more is known than shape inference finds."""
        value.type = tensor_type(value.dtype, shape)
        return value

    def widen(self, value: Value) -> Value:
        """`value` in float32 where its format is narrower: for the functions that released models evaluate in float32."""
        return self.cast(value, np.dtype(np.float32)) if value.dtype.itemsize < 4 else value

    def loop(self, rounds: Value, initial: Value, step: Callable[[Body, Value, Value], Value]) -> Value:
        """`initial` carried through `rounds` calls of step(body, number of the round, carried), which keep its type."""
        inner = Inner(self)
        number = inner.input("round", tensor_type(np.dtype(np.int64), []))
        going = inner.input("going", tensor_type(np.dtype(bool), []))
        carried = inner.input("carried", initial.type)
        outputs = [inner.Identity(going), inner.known(step(inner, number, carried), initial.shape)]
        result = Value(self.unique("loop"), initial.type)
        # onnx.reference takes an absent condition for a false one.
        forever = self.constant(np.asarray(True))
        self.nodes.append(Node("Loop", "", [rounds, forever, initial], [result], {"body": inner.graph("round_body", outputs)}))
        return result

    def scan(
        self,
        initial: Value,
        sequences: Sequence[Value],
        step: Callable[[Body, Value, list[Value]], tuple[Value, Value]],
    ) -> tuple[Value, Value]:
        """`initial` carried through step(body, carried, entries) along the first axis of all `sequences`.

        A step gives its result and what is carried on, which keeps its type: the results, stacked, and the last one carried.
        """
        inner = Inner(self)
        carried = inner.input("carried", initial.type)
        entries = [inner.input("entry", tensor_type(one.dtype, one.shape[1:])) for one in sequences]
        result, carried_on = step(inner, carried, entries)
        body = inner.graph("step_body", [inner.known(carried_on, initial.shape), result])
        last = Value(self.unique("scan_last"), initial.type)
        results = Value(self.unique("scan"), tensor_type(result.dtype, [sequences[0].shape[0], *result.shape]))
        attributes = {"body": body, "num_scan_inputs": len(sequences)}
        self.nodes.append(Node("Scan", "", [initial, *sequences], [last, results], attributes))
        return results, last

    def branch(
        self, condition: Value, then: Callable[[Body], Sequence[Value]], otherwise: Callable[[Body], Sequence[Value]]
    ) -> tuple[Value, ...]:
        """What `then` makes where `condition` holds, else what `otherwise` makes, of the same types."""
        graphs, outputs = {}, []
        for name, make in (("then_branch", then), ("else_branch", otherwise)):
            inner = Inner(self)
            outputs = list(make(inner))
            graphs[name] = inner.graph(name, outputs)
        results = tuple(Value(self.unique("branch"), output.type) for output in outputs)
        self.nodes.append(Node("If", "", [condition], results, graphs))
        return results

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        if kind[:1].isupper() and onnx.defs.has(kind, self.opset, ""):
            return partial(self._operator, kind)
        raise AttributeError(kind)

    def _operator(self, kind: str, *operands: Operand, outputs: int = 1, **attributes: Any) -> Any:
        """A standard operator. Numbers take the dtype of the last tensor among the operands."""
        dtype = next((operand.dtype for operand in reversed(operands) if isinstance(operand, Value)), np.dtype(np.int64))
        inputs = [self._value(operand, dtype) for operand in operands]
        results = [Value(self.unique(_snake_case(kind)), onnx.TypeProto()) for _ in range(outputs)]
        node = Node(kind, "", inputs, results, attributes)
        types = self._infer(node)
        for result in results:
            result.type = types[result.name]
        self.nodes.append(node)
        return results[0] if outputs == 1 else tuple(results)

    def _value(self, operand: Operand, dtype: np.dtype[Any]) -> Value | None:
        if operand is None or isinstance(operand, Value):
            return operand
        if isinstance(operand, np.ndarray):
            return self.constant(operand)
        return self.constant(np.asarray(operand, dtype=np.int64 if isinstance(operand, list) else dtype))

    def _infer(self, node: Node) -> dict[str, onnx.TypeProto]:
        present = [value for value in node.inputs if value is not None]
        known = {value.name: numpy_helper.from_array(value.array, value.name) for value in present if value.array is not None}
        return shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.kind, self.opset, node.domain),
            node.proto(),
            {value.name: value.type for value in present},
            known,
            opset_imports=[helper.make_opsetid("", self.opset)],
        )


class Inner(Body):
    """The body of a loop or a branch: it may use the values of the body around it, whose names and constants it shares."""

    def __init__(self, outer: Body) -> None:
        super().__init__(outer.opset)
        self._outer = outer
        self._taken = outer._taken

    def constant(self, array: Array, name: str | None = None) -> Value:
        return self._outer.constant(array, name)

    def graph(self, name: str, outputs: Sequence[Value]) -> onnx.GraphProto:
        """What was written, with these results, as the attribute of a node of the body around it."""
        return helper.make_graph(
            [node.proto() for node in self.nodes],
            self.unique(name),
            [value.info() for value in self.inputs],
            [value.info() for value in outputs],
        )


class Function(Body):
    """The body of a local function, in standard operators only."""

    def proto(self, name: str, documentation: str) -> onnx.FunctionProto:
        constants = [
            helper.make_node("Constant", [], [value.name], name=value.name, value=numpy_helper.from_array(value.array))
            for value in self.constants.values()
            if value.array is not None
        ]
        return helper.make_function(
            DOMAIN,
            name,
            [value.name for value in self.inputs],
            [value.name for value in self.outputs],
            [*constants, *(node.proto() for node in self.nodes)],
            [helper.make_opsetid("", self.opset)],
            doc_string=documentation,
        )

    @cached_property
    def identity(self) -> bytes:
        """What it computes, names of inputs included: equal for bodies that may share one function."""
        return self.proto("", "").SerializeToString(deterministic=True)


class Graph(Body):
    """The graph of a model, its initialisers and its local functions."""

    def __init__(self, opset: int = DEFAULT_OPSET) -> None:
        super().__init__(opset)
        self.initialisers: list[onnx.TensorProto] = []
        self._functions: dict[tuple[str, bytes], onnx.FunctionProto] = {}

    def initialiser(self, tensor: onnx.TensorProto) -> Value:
        """A stored tensor as a value."""
        self.initialisers.append(tensor)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return Value(self.unique(tensor.name), tensor_type(dtype, list(tensor.dims)), named=True, stored=True)

    def declare(self, name: str, function: Function, documentation: str) -> str:
        """The name under which the graph holds `function`: `name`, numbered where another function has it."""
        key = (name, function.identity)
        if key not in self._functions:
            count = sum(1 for known, _ in self._functions if known == name)
            self._functions[key] = function.proto(f"{name}_{count + 1}" if count else name, documentation)
        return str(self._functions[key].name)

    def call(self, name: str, inputs: Sequence[Value | None], results: Sequence[Value]) -> None:
        """A call of the declared function `name`."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        self.nodes.append(Node(name, DOMAIN, inputs, results))

    def rename(self, value: Value, name: str) -> Value:
        """`value` under `name`: renamed, or copied where it has a name that must stay."""
        if value.named:
            copy: Value = self.Identity(value)
            return self.rename(copy, name)
        self._taken.discard(value.name)
        value.name, value.named = self.unique(name), True
        return value

    def output(self, value: Value, name: str, shape: Sequence[Dimension] | None = None) -> Value:
        """Make `value` an output called `name`, with better known dimensions where `shape` gives them."""
        if value.name != name:
            value = self.rename(value, name)
        self.outputs.append(value if shape is None else self.known(value, shape))
        return value

    def model(self, name: str, documentation: str, metadata: dict[str, str]) -> onnx.ModelProto:
        """The finished model."""
        constants = [
            numpy_helper.from_array(value.array, value.name) for value in self.constants.values() if value.array is not None
        ]
        ends = {id(value) for value in (*self.inputs, *self.outputs)}
        results = [result for node in self.nodes for result in node.outputs]
        graph = helper.make_graph(
            [node.proto() for node in self.nodes],
            name,
            [value.info() for value in self.inputs],
            [value.info() for value in self.outputs],
            initializer=[*self.initialisers, *constants],
            value_info=[value.info() for value in results if value.named and id(value) not in ends],
            doc_string=documentation,
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(
            graph,
            functions=list(self._functions.values()),
            opset_imports=imports,
            ir_version=helper.find_min_ir_version_for(imports[:1]),
            producer_name=DOMAIN,
        )
        helper.set_model_props(model, metadata)
        return model


def _snake_case(kind: str) -> str:
    """`ReduceMean` as `reduce_mean`, `MatMul` as `mat_mul`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind).removeprefix("_")
