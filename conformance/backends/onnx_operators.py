"""The compound operators of ONNX itself as layers: one node each, no exporter between.

`onnxruntime:operators` runs them in onnxruntime, `onnx-reference:operators` in ONNX's own evaluator: a failure of both
points at the definition of the operator, a failure of one at its implementation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from conformance.backends.onnx_recurrences import OnnxConvolution, OnnxLinearAttention
from conformance.backends.single_node import Operators
from export.runtimes import onnxruntime_run, reference_run
from refimpl.layers import attention_mask
from refimpl.numerics import Array

FLOAT = 1  # TensorProto.FLOAT


class OnnxOperators(OnnxLinearAttention):
    """What the operators of ONNX express; an option that they lack is a NotImplementedError."""

    def rms_norm(self, x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
        return self.node("RMSNormalization", x, gain(x, weight, zero_centred), epsilon=eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
        return self.node("LayerNormalization", x, weight, bias, epsilon=eps)

    def rotary_embedding(self, x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
        cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
        heads = np.ascontiguousarray(x.swapaxes(1, 2))
        width = {} if 2 * cos.shape[-1] == x.shape[-1] else {"rotary_embedding_dim": 2 * cos.shape[-1]}
        return self.node("RotaryEmbedding", heads, cos, sin, interleaved=int(interleaved), **width).swapaxes(1, 2)

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        scale: float,
        causal: bool = True,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        temperature: Array | None = None,
        sinks: Array | None = None,
        bias: Array | None = None,
        q_order: Array | None = None,
        k_order: Array | None = None,
    ) -> Array:
        """Its own causal mask where that says everything, else a mask of booleans, or of the biases."""
        if sinks is not None:
            raise NotImplementedError("the operator Attention has no sinks")
        if temperature is not None:
            q = tempered(q, temperature, softcap)
        (B, T), S = q.shape[:2], k.shape[1]
        plain = bias is None and window is None and chunk is None and q_order is None and k_order is None
        heads = [np.ascontiguousarray(each.swapaxes(1, 2)) for each in (q, k, v)]
        settings: dict[str, Any] = {"scale": scale, "softcap": softcap or 0.0, "softmax_precision": FLOAT}
        if plain and (not causal or T == S):
            return self.node("Attention", *heads, is_causal=int(causal), **settings).swapaxes(1, 2)
        places = np.broadcast_to(np.arange(S), (B, S))
        k_order = places if k_order is None else k_order
        q_order = places[:, S - T :] if q_order is None else q_order
        mask = attention_mask(q_order, k_order, causal=causal, window=window, chunk=chunk)[:, None]
        if bias is not None:
            mask = np.where(mask, bias, -np.inf).astype(q.dtype)
        return self.node("Attention", *heads, mask, **settings).swapaxes(1, 2)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        y = self.node("Gemm", x.reshape(-1, x.shape[-1]), weight, bias, transB=1)
        return y.reshape(*x.shape[:-1], len(weight))

    def silu(self, x: Array) -> Array:
        return self.node("Swish", x)

    def gelu(self, x: Array, *, approximate: str = "none") -> Array:
        return self.node("Gelu", x, approximate=approximate)

    def sigmoid(self, x: Array) -> Array:
        return self.node("Sigmoid", x)

    def top_k_softmax_router(self, logits: Array, *, top_k: int) -> tuple[Array, Array]:
        chosen, indices = self.largest(logits, top_k)
        return indices, self.node("Softmax", chosen)

    def softmax_top_k_router(self, logits: Array, *, top_k: int, renormalise: bool) -> tuple[Array, Array]:
        if renormalise:
            raise NotImplementedError("Softmax and TopK do not renormalise; top_k_softmax_router is the same")
        weights, indices = self.largest(self.node("Softmax", logits), top_k)
        return indices, weights

    def top_k_sigmoid_router(self, logits: Array, *, top_k: int) -> tuple[Array, Array]:
        chosen, indices = self.largest(logits, top_k)
        return indices, self.node("Sigmoid", chosen)

    def largest(self, scores: Array, top_k: int) -> tuple[Array, Array]:
        """The largest scores in descending order, and their places."""
        return self.node("TopK", scores, np.array([top_k]), outputs=("values", "indices"))

    def embedding(self, tokens: Array, weight: Array, *, scale: float | None = None) -> Array:
        if scale is not None:
            raise NotImplementedError("the operator Gather does not scale")
        return self.node("Gather", weight, tokens)

    def cross_entropy(self, logits: Array, targets: Array, *, ignore_index: int = -100) -> Array:
        if (targets == ignore_index).all():
            raise NotImplementedError("the operator divides by the number of targets that count, which is 0 here")
        settings: dict[str, Any] = {"ignore_index": ignore_index, "reduction": "mean"}
        return self.node("SoftmaxCrossEntropyLoss", logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), **settings)


class ReferenceOperators(OnnxOperators, OnnxConvolution):
    """And those of which onnxruntime has no kernel."""

    def swiglu(self, gate: Array, up: Array) -> Array:
        return self.node("SwiGLU", gate, up)


def gain(x: Array, weight: Array | None, zero_centred: bool) -> Array:
    """The factor of a norm in the format of x, which is the one that the operators take."""
    if weight is None:
        return np.ones(x.shape[-1], x.dtype)
    if zero_centred and x.dtype.itemsize < 4:
        raise NotImplementedError("the operator has no zero-centred gain, and 1 + w has more digits than the format of x")
    return weight + x.dtype.type(1) if zero_centred else weight


def tempered(q: Array, temperature: Array, softcap: float | None) -> Array:
    """Queries times their temperatures, as models do that have no softcap before them."""
    if softcap is not None:
        raise NotImplementedError("the operator has no temperature after its softcap")
    return q * temperature[:, :, None, None].astype(q.dtype)


onnxruntime_backend = OnnxOperators(
    "onnxruntime:operators",
    Operators(partial(onnxruntime_run, threads=1), "onnxruntime"),
    ("float32", "float16"),
)
reference_backend = ReferenceOperators(
    "onnx-reference:operators", Operators(reference_run, "onnx"), ("float32", "bfloat16", "float16")
)
