"""jax as a backend: `jax.nn`, and `jax.lax` where a layer is one of its operations.

What models written in jax compose themselves (rotary embedding, norms of the mean square, recurrences) is not covered: it
would test this file.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from conformance.backends.arrays import as_jax, from_jax
from refimpl.layers import attention_mask

Traced = Any  # jax.Array, which may not be installed


def in_jax(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the method sees jax arrays, its caller NumPy arrays; 64 bits are there while it runs."""

    @wraps(method)
    def call(self: JaxBackend, *values: Any, **options: Any) -> Any:
        import jax

        def traced(value: Any) -> Any:
            return as_jax(value) if isinstance(value, np.ndarray) else value

        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            result = method(self, *map(traced, values), **{name: traced(value) for name, value in options.items()})
            return tuple(map(from_jax, result)) if isinstance(result, tuple) else from_jax(result)

    return call


class JaxBackend:
    """The functions of `refimpl.layers` that jax has itself, on its default device."""

    name = "jax"
    dtypes = ("float64", "float32", "bfloat16", "float16")

    @property
    def version(self) -> str:
        """The version of jax, "" where it is not installed."""
        try:
            return importlib.metadata.version("jax")
        except importlib.metadata.PackageNotFoundError:
            return ""

    def unavailable(self) -> str | None:
        """Why this backend cannot run here, None when it can."""
        return "jax: jax is not installed" if importlib.util.find_spec("jax") is None else None

    @in_jax
    def layer_norm(self, x: Traced, weight: Traced, bias: Traced | None = None, *, eps: float) -> Traced:
        import jax

        y = jax.nn.standardize(x, axis=-1, epsilon=eps) * weight
        return y if bias is None else y + bias

    @in_jax
    def attention(
        self,
        q: Traced,
        k: Traced,
        v: Traced,
        *,
        scale: float,
        causal: bool = True,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        temperature: Traced | None = None,
        sinks: Traced | None = None,
        bias: Traced | None = None,
        q_order: Traced | None = None,
        k_order: Traced | None = None,
    ) -> Traced:
        """`dot_product_attention`: its own causal mask and window where they say everything, else a mask."""
        import jax

        if softcap is not None or sinks is not None:
            raise NotImplementedError("jax.nn.dot_product_attention has no softcap and no sinks")
        J, width = v.shape[3], max(k.shape[3], v.shape[3])
        # It takes keys and values of one width alone; zeros add nothing to either.
        q, k, v = (jax.numpy.pad(each, [(0, 0)] * 3 + [(0, width - each.shape[3])]) for each in (q, k, v))
        if temperature is not None:
            q = q * temperature[:, :, None, None].astype(q.dtype)
        (B, T, H, _), S = q.shape, k.shape[1]
        if bias is not None:
            bias = jax.numpy.broadcast_to(bias, (B, H, T, S))
        if q_order is None and k_order is None and chunk is None and T == S:
            sides = None if window is None else (window - 1, 0)
            return jax.nn.dot_product_attention(
                q, k, v, bias, scale=scale, is_causal=causal, local_window_size=sides, implementation="xla"
            )[..., :J]
        places = np.broadcast_to(np.arange(S), (B, S))
        keys = places if k_order is None else np.asarray(k_order)
        queries = places[:, S - T :] if q_order is None else np.asarray(q_order)
        mask = attention_mask(queries, keys, causal=causal, window=window, chunk=chunk)[:, None]
        unseen = ~np.any(mask, axis=-1)[:, 0]
        y = jax.nn.dot_product_attention(q, k, v, bias, as_jax(mask), scale=scale, implementation="xla")[..., :J]
        # A row that sees nothing is the mean of all values there; queries of padding are thrown away by its callers.
        return jax.numpy.where(as_jax(unseen)[..., None, None], y.dtype.type(0), y)

    @in_jax
    def causal_conv1d(
        self, x: Traced, weight: Traced, bias: Traced | None = None, state: Traced | None = None, order: Traced | None = None
    ) -> tuple[Traced, Traced]:
        import jax

        if order is not None:
            raise NotImplementedError("jax.lax.conv_general_dilated knows no padding tokens")
        W = weight.shape[1]
        past = jax.numpy.zeros((x.shape[0], W - 1, x.shape[2]), x.dtype) if state is None else state.swapaxes(1, 2)
        seen = jax.numpy.concatenate([past, x], axis=1)
        y = jax.lax.conv_general_dilated(
            seen,
            weight.T[:, None],
            window_strides=(1,),
            padding="VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=x.shape[2],
        )
        return y if bias is None else y + bias, seen[:, seen.shape[1] - (W - 1) :].swapaxes(1, 2)

    @in_jax
    def softplus_decay(self, a: Traced, a_log: Traced, dt_bias: Traced) -> Traced:
        import jax

        wide = a.astype(jax.numpy.promote_types(a.dtype, np.float32))
        steps = jax.nn.softplus(wide + dt_bias.reshape(a.shape[2:]))
        return -jax.numpy.exp(a_log).reshape(-1, *(1,) * (a.ndim - 3)) * steps

    @in_jax
    def linear(self, x: Traced, weight: Traced, bias: Traced | None = None) -> Traced:
        import jax

        y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
        return y if bias is None else y + bias

    @in_jax
    def silu(self, x: Traced) -> Traced:
        import jax

        return jax.nn.silu(x)

    @in_jax
    def gelu(self, x: Traced, *, approximate: str = "none") -> Traced:
        import jax

        return jax.nn.gelu(x, approximate=approximate == "tanh")

    @in_jax
    def swiglu(self, gate: Traced, up: Traced) -> Traced:
        import jax

        return jax.nn.silu(gate) * up

    @in_jax
    def geglu(self, gate: Traced, up: Traced, *, approximate: str = "none") -> Traced:
        import jax

        return jax.nn.gelu(gate, approximate=approximate == "tanh") * up

    @in_jax
    def sigmoid(self, x: Traced) -> Traced:
        import jax

        return jax.nn.sigmoid(x)

    @in_jax
    def top_k_softmax_router(self, logits: Traced, *, top_k: int) -> tuple[Traced, Traced]:
        import jax

        chosen, indices = jax.lax.top_k(logits, top_k)
        return indices, softmax(chosen)

    @in_jax
    def softmax_top_k_router(self, logits: Traced, *, top_k: int, renormalise: bool) -> tuple[Traced, Traced]:
        import jax

        weights, indices = jax.lax.top_k(softmax(logits, wide=True), top_k)
        weights = weights / weights.sum(-1, keepdims=True) if renormalise else weights
        return indices, weights.astype(logits.dtype)

    @in_jax
    def top_k_sigmoid_router(self, logits: Traced, *, top_k: int) -> tuple[Traced, Traced]:
        import jax

        chosen, indices = jax.lax.top_k(logits, top_k)
        return indices, jax.nn.sigmoid(chosen)

    @in_jax
    def embedding(self, tokens: Traced, weight: Traced, *, scale: float | None = None) -> Traced:
        import jax

        if scale is not None:
            raise NotImplementedError("jax.numpy.take does not scale")
        return jax.numpy.take(weight, tokens, axis=0)

    @in_jax
    def cross_entropy(self, logits: Traced, targets: Traced, *, ignore_index: int = -100) -> Traced:
        import jax

        counted = targets != ignore_index
        wide = logits.astype(jax.numpy.promote_types(logits.dtype, np.float32))
        scores = jax.nn.log_softmax(wide, axis=-1)
        chosen = jax.numpy.take_along_axis(scores, jax.numpy.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
        total = -jax.numpy.where(counted, chosen, 0).sum() / jax.numpy.maximum(counted.sum(), 1)
        return total.astype(logits.dtype)


def softmax(logits: Traced, *, wide: bool = False) -> Traced:
    """`jax.nn.softmax` in float32 at least, as routers need it; rounded to the format of the logits unless `wide`."""
    import jax

    shares = jax.nn.softmax(logits.astype(jax.numpy.promote_types(logits.dtype, np.float32)), axis=-1)
    return shares if wide else shares.astype(logits.dtype)


backend = JaxBackend()
