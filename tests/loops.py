"""Second formulations, one number at a time with the math module: slow, obvious, and sharing no code with refimpl."""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def visible(q: int, k: int, *, causal: bool = True, window: int | None = None, chunk: int | None = None) -> bool:
    """Whether the query at place q sees the key at place k."""
    if q < 0 or k < 0:
        return False
    if causal and k not in range(q + 1):
        return False
    if window is not None and k not in range(q + 1)[-window:]:
        return False
    return chunk is None or k in range(q - q % chunk, q + 1)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float,
    softcap: float | None = None,
    temperature: np.ndarray | None = None,
    sinks: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    q_order: np.ndarray | None = None,
    k_order: np.ndarray | None = None,
    **masking: Any,
) -> np.ndarray:
    batch, T, H, _ = q.shape
    S, G = k.shape[1:3]
    queries = [range(S - T, S)] * batch if q_order is None else q_order.tolist()
    keys = [range(S)] * batch if k_order is None else k_order.tolist()
    full_bias = np.zeros((batch, H, T, S)) + (0 if bias is None else bias)
    y = np.zeros((batch, T, H, v.shape[3]))
    for b, t, h in np.ndindex(batch, T, H):
        g = h * G // H
        weights = {}
        for s in range(S):
            if visible(queries[b][t], keys[b][s], **masking):
                logit = scale * math.fsum(x * z for x, z in zip(q[b, t, h].tolist(), k[b, s, g].tolist(), strict=True))
                if softcap is not None:
                    logit = softcap * math.tanh(logit / softcap)
                if temperature is not None:
                    logit *= float(temperature[b, t])
                weights[s] = logit + float(full_bias[b, h, t, s])
        if not weights:
            continue
        top = max([*weights.values(), *([float(sinks[h])] if sinks is not None else [])])
        total = math.fsum(math.exp(logit - top) for logit in weights.values())
        total += math.exp(float(sinks[h]) - top) if sinks is not None else 0.0
        for s, logit in weights.items():
            y[b, t, h] += math.exp(logit - top) / total * v[b, s, g]
    return y


def rotate(x: list[float], angles: list[float], *, interleaved: bool = False) -> list[float]:
    """The first 2·len(angles) entries of a head as complex numbers, each turned by its angle."""
    half = len(angles)
    y = list(x)
    for i, angle in enumerate(angles):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        turned = complex(x[a], x[b]) * cmath.exp(1j * angle)
        y[a], y[b] = turned.real, turned.imag
    return y


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """One vector."""
    mean_square = math.fsum(value * value for value in x.tolist()) / len(x)
    return np.array([value / math.sqrt(mean_square + eps) * gain for value, gain in zip(x, weight, strict=True)])


def dense_model(
    weights: Mapping[str, np.ndarray],
    tokens: list[int],
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    eps: float,
    theta: float,
    has_rope: list[bool],
    windows: list[int | None],
    qk_norm: bool,
    tied: bool,
) -> np.ndarray:
    """Logits [T, V] of one row of a Llama-like model in float64, a token after the other with a growing cache."""
    past: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in has_rope]
    angles = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    logits = []
    for position, token in enumerate(tokens):
        x = weights["embedding.weight"][token]
        for index, rotated in enumerate(has_rope):

            def weight(name: str, index: int = index) -> np.ndarray:
                return weights[f"layers.{index}.{name}.weight"]

            def project(name: str, h: np.ndarray, index: int = index) -> np.ndarray:
                bias = weights.get(f"layers.{index}.{name}.bias", np.zeros(1))
                return np.einsum("oi,i->o", weights[f"layers.{index}.{name}.weight"], h) + bias

            h = rms_norm(x, weight("mixer_norm"), eps)
            q, k, v = (project(f"mixer.{n}_proj", h).reshape(-1, head_dim) for n in "qkv")
            if qk_norm:
                q = np.array([rms_norm(head, weight("mixer.q_norm"), eps) for head in q])
                k = np.array([rms_norm(head, weight("mixer.k_norm"), eps) for head in k])
            if rotated:
                turn = [position * angle for angle in angles]
                q, k = (np.array([rotate(head.tolist(), turn) for head in heads_of]) for heads_of in (q, k))
            past[index].append((k, v))
            seen = past[index] if windows[index] is None else past[index][-windows[index] :]
            mixed = []
            for head in range(heads):
                group = head // (heads // kv_heads)
                scores = [float(q[head] @ keys[group]) / math.sqrt(head_dim) for keys, _ in seen]
                odds = [math.exp(score - max(scores)) for score in scores]
                mixed.append(sum(o / sum(odds) * values[group] for o, (_, values) in zip(odds, seen, strict=True)))
            x = x + project("mixer.o_proj", np.concatenate(mixed))
            h = rms_norm(x, weight("mlp_norm"), eps)
            gate, up = project("mlp.gate_proj", h), project("mlp.up_proj", h)
            x = x + project("mlp.down_proj", np.array([g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]))
        x = rms_norm(x, weights["final_norm.weight"], eps)
        logits.append(weights["embedding.weight" if tied else "head.weight"] @ x)
    return np.array(logits)
