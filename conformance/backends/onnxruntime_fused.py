"""onnxruntime's own fused operators (`com.microsoft`) as layers, one node each: what its model builders emit.

Sinks, experts, routers in groups and gated norms are here and not among ONNX's operators. Where an operator takes no array
in the shape that a layer has, the adapter fills up with zeros or repeats heads, which changes no result.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.backends.grouped_query import grouped_query_attention
from conformance.backends.onnx_operators import gain, tempered
from conformance.backends.onnx_recurrences import OnnxConvolution, OnnxLinearAttention
from conformance.backends.rows import row_by_row
from conformance.backends.single_node import MICROSOFT, Operators
from export.runtimes import onnxruntime_run
from refimpl.numerics import Array

SMALLEST_BLOCK = 16  # of MatMulNBits
SENTINEL = -1e4  # a logit that a softmax makes 0 of


class OnnxruntimeFused(OnnxConvolution, OnnxLinearAttention):
    """The operators of `com.microsoft`; an option that they lack is a NotImplementedError."""

    domain = MICROSOFT

    def rms_norm(self, x: Array, weight: Array | None = None, *, eps: float, zero_centred: bool = False) -> Array:
        factors = gain(x, weight, zero_centred)
        rows = x.reshape(-1, x.shape[-1])
        return self.fused("SkipSimplifiedLayerNormalization", rows, np.zeros_like(rows), factors, epsilon=eps).reshape(x.shape)

    def layer_norm(self, x: Array, weight: Array, bias: Array | None = None, *, eps: float) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        return self.fused("SkipLayerNormalization", rows, np.zeros_like(rows), weight, bias, epsilon=eps).reshape(x.shape)

    def gated_rms_norm(
        self, x: Array, gate: Array, weight: Array, *, eps: float, activation: str = "silu", gate_first: bool = False
    ) -> Array:
        if gate_first:
            raise NotImplementedError("the operator GatedRMSNorm has its gate after the norm")
        return self.fused("GatedRMSNorm", x, weight, gate, epsilon=eps, activation=activation)

    def rotary_embedding(self, x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
        """A table of the angles of every token, each at a position of its own."""
        heads = np.ascontiguousarray(x.swapaxes(1, 2))
        tables = [each.astype(x.dtype).reshape(-1, each.shape[-1]) for each in (cos, sin)]
        positions = np.arange(len(tables[0])).reshape(cos.shape[:2])
        partly = (
            {} if 2 * cos.shape[-1] == x.shape[-1] else {"rotary_embedding_dim": 2 * cos.shape[-1], "num_heads": x.shape[2]}
        )
        return self.fused("RotaryEmbedding", heads, positions, *tables, interleaved=int(interleaved), **partly).swapaxes(1, 2)

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
        if chunk is not None:
            raise NotImplementedError("the operator GroupQueryAttention has no chunks")
        q = q if temperature is None else tempered(q, temperature, softcap)
        arrays = {"bias": bias, "sinks": sinks, "q_order": q_order, "k_order": k_order}
        settings: dict[str, Any] = {"scale": scale, "softcap": softcap or 0.0, "causal": int(causal)}
        return grouped_query_attention(self.node, q, k, v, **arrays, **settings, local_window_size=window or -1)

    def attended(
        self,
        rule: str,
        q: Array,
        k: Array,
        v: Array,
        g: Array | None,
        beta: Array | None,
        state: Array | None,
        order: Array | None,
        scale: float,
    ) -> tuple[Array, Array]:
        """LinearAttention where it fits as it is, else GatedDeltaNet, which has shared keys and gates in float32."""
        if q.dtype == np.float32 and q.shape[2] == v.shape[2]:
            return super().attended(rule, q, k, v, g, beta, state, order, scale)
        H, (K, J) = v.shape[2], (q.shape[3], v.shape[3])

        def run(arrays: Any, state: Array | None) -> tuple[Array, Array]:
            gates = iter(arrays[3:])
            decay = None if g is None else next(gates)
            rate = None if beta is None else next(gates).astype(np.float32)
            held = np.zeros((len(arrays[0]), H, J, K), np.float32) if state is None else state.swapaxes(2, 3)
            inputs = [*arrays[:3], None, decay, rate, np.ascontiguousarray(held)]
            y, held = self.fused("GatedDeltaNet", *inputs, outputs=("y", "state"), update_rule=rule, scale=scale)
            return y, held.swapaxes(2, 3)

        return row_by_row(run, (q, k, v, *(gate for gate in (g, beta) if gate is not None)), state, order)

    def softplus_decay(self, a: Array, a_log: Array, dt_bias: Array) -> Array:
        if a.ndim == 4:
            raise NotImplementedError("the operator LinearAttentionGate has one decay a head")
        wide = [each.astype(np.float32) for each in (a, dt_bias, -np.exp(a_log.astype(np.float64)))]
        return self.fused("LinearAttentionGate", *wide)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        if bias is not None:
            raise NotImplementedError("the operator FusedMatMul has no bias")
        return self.fused("FusedMatMul", x, weight, transB=1)

    def silu(self, x: Array) -> Array:
        if x.dtype == np.float32:
            return self.fused("QuickGelu", x, alpha=1.0)
        return self.fused("ScaledSiLU", x, alpha=1.0)

    def gelu(self, x: Array, *, approximate: str = "none") -> Array:
        return self.fused("Gelu" if approximate == "none" else "FastGelu", x)

    def sigmoid_router(
        self,
        logits: Array,
        correction_bias: Array | None = None,
        *,
        top_k: int,
        groups: int = 1,
        top_groups: int = 1,
        renormalise: bool = True,
        eps: float = 1e-20,
        scaling_factor: float = 1.0,
    ) -> tuple[Array, Array]:
        """What it writes are the logarithms of the chosen scores; the weights are made of them as MoE does."""
        experts = logits.shape[-1]
        bias = np.zeros(experts, np.float32) if correction_bias is None else correction_bias.astype(np.float32)
        settings = {"n_group": groups, "topk_group": top_groups, "group_topk": 2, "top_k": top_k, "router_sentinel": SENTINEL}
        found = self.fused("MoEGroupRouter", logits, bias, **settings).reshape(logits.shape).astype(np.float32)
        with np.errstate(under="ignore"):
            scores = np.where(found > SENTINEL / 2, np.exp(found), -np.inf)
        indices = np.argsort(-(scores + bias), axis=-1, kind="stable")[..., :top_k]
        weights = np.take_along_axis(scores, indices, axis=-1)
        if renormalise:
            weights = weights / (weights.sum(-1, keepdims=True) + np.float32(eps))
        return indices, (weights * np.float32(scaling_factor)).astype(logits.dtype)

    def routed_experts(
        self,
        x: Array,
        indices: Array,
        weights: Array,
        gate: Array,
        up: Array,
        down: Array,
        gate_bias: Array | None = None,
        up_bias: Array | None = None,
        down_bias: Array | None = None,
        *,
        activation: str = "silu",
        alpha: float | None = None,
        limit: float | None = None,
        scale_input: bool = False,
    ) -> Array:
        """The operator takes logits: those whose softmax the weights are, which it multiplies with up to their sum."""
        forms = {"silu": {"activation_alpha": 1.0, "activation_beta": 0.0}}
        if limit is not None:
            forms["clamped_swiglu"] = {"activation_alpha": alpha or 1.0, "activation_beta": 1.0, "swiglu_limit": limit}
        if scale_input or activation not in forms:
            raise NotImplementedError("the operator MoE has gated SiLU, clamped or not, and weights after it")
        ordered = np.sort(indices, axis=-1)
        if (weights <= 0).any() or (ordered[..., 1:] == ordered[..., :-1]).any():
            raise NotImplementedError("the operator MoE has the weights of a softmax, one for each of different experts")
        total = weights.astype(np.float64).sum(-1, keepdims=True)
        logits = np.full((*indices.shape[:-1], len(gate)), SENTINEL)
        np.put_along_axis(logits, indices, np.log(weights / total), axis=-1)
        both = [
            None if one is None or other is None else np.stack([one, other], axis=2).reshape(len(gate), -1, *one.shape[2:])
            for one, other in ((gate, up), (gate_bias, up_bias))
        ]
        y = self.fused(
            "MoE",
            x.reshape(-1, x.shape[-1]),
            logits.reshape(-1, len(gate)).astype(x.dtype),
            *both,
            down,
            down_bias,
            k=indices.shape[-1],
            activation_type="swiglu",
            swiglu_fusion=1,
            normalize_routing_weights=1,
            **forms[activation],
        )
        return y.reshape(x.shape) * total.astype(x.dtype)

    def int4_group_decode(self, packed: Array, scales: Array, *, group: int = 32, dtype: npt.DTypeLike = np.float32) -> Array:
        """MatMulNBits of the rows of one, which gives the matrix itself."""
        if group < SMALLEST_BLOCK or group & (group - 1) or np.dtype(dtype) == np.float64:
            raise NotImplementedError("the operator MatMulNBits has blocks of 16, 32, 64, ... and no float64")
        blocks = scales.shape[-1]
        codes = np.ascontiguousarray(packed).view(np.uint8).reshape(-1, blocks, group // 2)
        rows = len(codes)
        sizes = {"K": blocks * group, "N": rows, "bits": 4, "block_size": group}
        ones = np.eye(blocks * group, dtype=np.float32)
        y = self.fused("MatMulNBits", ones, codes, scales.reshape(rows, blocks).astype(np.float32), **sizes)
        return y.T.reshape(*packed.shape[:-1], -1).astype(dtype)

    def fused(self, kind: str, *inputs: Array | None, **settings: Any) -> Any:
        """One operator of the domain."""
        return self.node(kind, *inputs, domain=MICROSOFT, **settings)


backend = OnnxruntimeFused(
    "onnxruntime:fused", Operators(partial(onnxruntime_run, threads=1), "onnxruntime"), ("float32", "float16")
)
