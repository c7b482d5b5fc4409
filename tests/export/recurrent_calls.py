"""Calls of the layers with a state, with every option: few tokens and several chunks, which graphs compute in two ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from export.lowerings.chunked import CHUNK

B, H, G, K, J, D, W = 2, 6, 2, 5, 4, 7, 3
LENGTHS = {"one_token": 1, "few": 3, "chunks": 2 * CHUNK + 5}


def recurrent_calls(normal: Any) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    yield from _convolutions(normal)
    yield from _decays(normal)
    for label, length in LENGTHS.items():
        yield from _rules(normal, label, length)
        yield from _systems(normal, label, length)
    yield from _groups(normal)


def places(length: int) -> np.ndarray:
    """Rows [B, T]: one without padding, one with padding at both ends and between tokens, which begins at place 4."""
    real = np.ones((B, length), bool)
    real[1, ::4], real[1, -1] = False, False
    return np.where(real, np.cumsum(real, axis=1) - 1 + [[0], [4]], -1)


def _convolutions(normal: Any) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    taps, bias = normal(D, W), normal(D)
    for length in (1, 2, 11):
        x, state, order = normal(B, length, D), normal(B, D, W - 1), places(length)
        for label, options in {
            "plain": {},
            "bias": {"bias": bias},
            "state": {"state": state},
            "places": {"order": order},
            "places_int32": {"order": order.astype(np.int32), "state": state},
            "everything": {"bias": bias, "state": state, "order": order},
        }.items():
            yield "causal_conv1d", f"{label}_{length}", [x, taps], options
    yield "causal_conv1d", "one_tap", [normal(B, 4, D), normal(D, 1)], {"order": places(4), "state": normal(B, D, 0)}


def _decays(normal: Any) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    far = np.array([-1e4, -100, -1, 0, 1, 100, 1e4])
    for label, scale in (("near", 1.0), ("far", 1e3)):
        yield "softplus_decay", f"head_{label}", [normal(B, 3, H) * scale, normal(H), normal(H)], {}
        yield "softplus_decay", f"channel_{label}", [normal(B, 3, H, K) * scale, normal(H), normal(H * K)], {}
    extremes = np.broadcast_to(far[:, None], (1, 7, H)).astype(normal(1).dtype)
    yield "softplus_decay", "extremes", [extremes, normal(H), normal(H)], {}


def _unit(x: Any) -> Any:
    return (x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True))).astype(x.dtype)


def _rules(normal: Any, label: str, length: int) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    heads = [_unit(normal(B, length, G, K)), _unit(normal(B, length, G, K)), normal(B, length, H, J)]
    decays = {"head": -abs(normal(B, length, H)), "channel": -abs(normal(B, length, H, K)) * 3}
    decays["gone"] = np.where(decays["channel"] < -2, -1e4, decays["channel"]).astype(heads[0].dtype)
    rates = (1 / (1 + np.exp(-normal(B, length, H)))).astype(heads[0].dtype)
    for name, options in {
        "plain": {},
        "places": {"order": places(length), "state": normal(B, H, K, J)},
        "places_int32": {"order": places(length).astype(np.int32)},
    }.items():
        settings = {**options, "scale": 0.3}
        yield "linear_attention", f"{label}_{name}", heads, settings
        yield "delta_rule", f"{label}_{name}", [*heads, rates], settings
        for kind, decay in decays.items():
            yield "gated_linear_attention", f"{label}_{name}_{kind}", [*heads, decay], settings
            yield "gated_delta_rule", f"{label}_{name}_{kind}", [*heads, decay, rates], settings


def _systems(normal: Any, label: str, length: int) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    arrays = [normal(B, length, H, J), abs(normal(B, length, H)), -abs(normal(H)), *(normal(B, length, G, K) for _ in range(2))]
    yield "ssd", f"{label}_plain", arrays, {}
    yield "ssd", f"{label}_state", arrays, {"state": normal(B, H, K, J)}
    everything = {"d": normal(H), "state": normal(B, H, K, J), "order": places(length)}
    yield "ssd", f"{label}_everything", arrays, everything


def _groups(normal: Any) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    """As many key heads as value heads, one alone, and keys of one channel."""
    for groups, width in ((H, K), (1, K), (G, 1)):
        q, k = (_unit(normal(B, 9, groups, width)) for _ in range(2))
        v, decay, rates = normal(B, 9, H, J), -abs(normal(B, 9, H, width)), abs(normal(B, 9, H)) % 1
        label = f"{groups}_groups_of_{width}"
        yield "gated_delta_rule", label, [q, k, v, decay, rates], {"scale": 1.5}
        yield "gated_delta_rule", f"{label}_scale_0", [q, k, v, decay, rates], {"scale": 0.0}
