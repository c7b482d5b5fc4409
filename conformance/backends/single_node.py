"""One operator as a model of its own: how the operators that a runtime has fused are tested without an exporter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import helper

from export.errors import ExportError
from export.runtimes import Run
from refimpl.numerics import Array

MICROSOFT = "com.microsoft"
HELD_GRAPHS = 512
OLDEST_OPSET = 21
KNOWN = {schema.name: schema.since_version for schema in onnx.defs.get_all_schemas() if not schema.domain}
IR_VERSION = 11  # what all of the runtimes read, whatever the opset
NO_KERNEL = "NOT_IMPLEMENTED"  # how onnxruntime says that it has none for these types


@dataclass
class Operators:
    """Calls single operators, as the newest opset that changed them has them: `node("Gelu", x, approximate="tanh")`.

    load: makes a function of a graph; package: whose operators they are, for the sentences.
    """

    load: Callable[[onnx.ModelProto], Run]
    package: str
    held: dict[tuple[Any, ...], Run] = field(default_factory=dict)

    def __call__(
        self, kind: str, *inputs: Array | None, domain: str = "", outputs: Sequence[str] = ("y",), **attributes: Any
    ) -> Any:
        """The results by their places, one alone as it is; an output named "" is not asked for.

        NotImplementedError where the runtime has no such operator, or none for these types.
        """
        present = {f"x{place}": array for place, array in enumerate(inputs) if array is not None}
        ranks = tuple((name, array.dtype, array.ndim) for name, array in present.items())
        key = (kind, domain, ranks, tuple(outputs), tuple(attributes.items()))
        if key not in self.held:
            if len(self.held) == HELD_GRAPHS:
                del self.held[next(iter(self.held))]
            self.held[key] = self._loaded(kind, domain, [*inputs], outputs, attributes)
        found = self.held[key](present)
        results = [found[name] for name in outputs if name]
        return results[0] if len(results) == 1 else tuple(results)

    def _loaded(
        self, kind: str, domain: str, inputs: list[Array | None], outputs: Sequence[str], attributes: dict[str, Any]
    ) -> Run:
        while inputs[-1] is None:  # onnxruntime 1.32 does not survive every name of one that is absent (docs/findings.md)
            inputs.pop()
        names = ["" if array is None else f"x{place}" for place, array in enumerate(inputs)]
        node = helper.make_node(kind, names, list(outputs), domain=domain, **attributes)
        graph = helper.make_graph(
            [node],
            kind,
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), [f"{name}_{axis}" for axis in range(array.ndim)]
                )
                for name, array in zip(names, inputs, strict=True)
                if array is not None
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs if name],
        )
        opset = OLDEST_OPSET if domain or kind not in KNOWN else max(OLDEST_OPSET, KNOWN[kind])
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        try:
            return self.load(model)
        except ExportError as error:
            if NO_KERNEL in str(error):
                types = ", ".join(sorted({str(array.dtype) for array in inputs if array is not None}))
                raise NotImplementedError(f"{self.package} has no kernel of {kind} for {types}") from None
            raise
