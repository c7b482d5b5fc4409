"""Grok 2.5 in torch, in float64 throughout: the peer for an architecture that transformers does not have.

Written from what the published engines compute; where they differ it follows SGLang (python/sglang/srt/models/grok.py and its
Triton attention), which the model card names: vLLM and llama.cpp renormalise the weights of the chosen experts, vLLM scales
logits after their cap, neither has the temperature, and llama.cpp reads rope_type "original" as YaRN. SGLang's gelu is the
exact one, sglang-jax's and llama.cpp's the tanh one; no engine reads the choice from the configuration, `hidden_act` makes it
here. Defaults of absent keys are SGLang's. Nothing of the specification is imported.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import gelu, one_hot

Array = npt.NDArray[Any]
Config = Mapping[str, Any]

APPROXIMATIONS = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}

# No two sizes are equal, and no number that decides is the published one, so that nothing works by being hard-coded. Epsilon
# is large: behind a norm of the sum, the division by sqrt 2 shows through it alone.
TINY: Config = {
    "architectures": ["Grok1ForCausalLM"],
    "model_type": "git",
    "torch_dtype": "float32",
    "vocab_size": 67,
    "hidden_size": 45,
    "intermediate_size": 52,
    "moe_intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "residual_moe": True,
    "embedding_multiplier_scale": 3.7,
    "output_multiplier_scale": 0.6,
    "rms_norm_eps": 1e-3,
    "final_logit_softcapping": 4.5,
    "attn_logit_softcapping": 5.5,
    "router_logit_softcapping": 3.5,
    "attn_temperature_len": 8,
    "sliding_window_size": -1,
    "global_attn_every_n": 1,
    "max_position_embeddings": 512,
    "rope_theta": 300,
    "rope_type": "original",
    "original_max_position_embeddings": 128,
    "scaling_factor": 4.0,
    "extrapolation_factor": 1.0,
    "attn_factor": 1.0,
    "beta_fast": 8,
    "beta_slow": 1,
}
# Times width^-0.5: attention scores, router logits and logits beyond their caps.
GAINS = {"q_proj": 1.8, "k_proj": 1.8, "block_sparse_moe.gate": 4.0, "lm_head": 6.0}


@dataclass(frozen=True)
class GrokCache:
    """Rotated keys and values of each layer, [B, G, S, K], and which of the cached tokens are real: 0/1 [B, S]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    attention_mask: Tensor


class GrokPeer:
    """The model of a checkpoint directory, in the tensor-parallel layout or any with whole tensors."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.config: Config = json.loads((Path(directory) / "config.json").read_text())
        _refuse_other_models(self.config)
        self.tensors = read_tensors(Path(directory))
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if found != (wanted := tensor_shapes(self.config)):
            raise ValueError(f"{directory}: tensors do not fit: {sorted(set(found.items()) ^ set(wanted.items()))}")
        self.frequencies = inverse_frequencies(self.config)

    def __call__(
        self,
        tokens: Array,
        cache: GrokCache | None = None,
        *,
        attention_mask: Array | None = None,
        positions: Array | None = None,
    ) -> tuple[Array, GrokCache]:
        """Logits [B, T, V] and the continued cache.

        attention_mask: 0/1 [B, cached + T]. positions: int [B, T], of the rotation and of the temperature alike; absent, the
        real tokens of a row are counted. A query sees the real tokens up to itself, in the order of the row.
        """
        with torch.inference_mode():
            return self._forward(tokens, cache, attention_mask, positions)

    def _forward(
        self, tokens: Array, cache: GrokCache | None, attention_mask: Array | None, positions: Array | None
    ) -> tuple[Array, GrokCache]:
        ids = torch.tensor(tokens)
        cached = torch.ones((len(ids), 0), dtype=torch.long) if cache is None else cache.attention_mask
        mask = torch.cat([cached, torch.ones_like(ids)], 1) if attention_mask is None else torch.tensor(attention_mask)
        past, total = cached.shape[1], mask.shape[1]
        counted = (mask.cumsum(1) - 1).clamp(min=0)[:, past:] if positions is None else torch.tensor(positions)
        order = torch.arange(total)
        visible = (order <= order[past:, None]) & (mask == 1)[:, None, None]  # [B, 1, T, S]
        x = self.tensors["model.embed_tokens.weight"][ids] * self.config["embedding_multiplier_scale"]
        keys, values = [], []
        for layer in range(self.config["num_hidden_layers"]):
            earlier = None if cache is None else (cache.keys[layer], cache.values[layer])
            attended, key, value = self._attention(layer, self._norm(x, layer, "pre_attn_norm"), counted, visible, earlier)
            x = x + self._norm(attended, layer, "post_attn_norm")
            x = x + self._norm(self._feed_forward(layer, self._norm(x, layer, "pre_moe_norm")), layer, "post_moe_norm")
            keys.append(key)
            values.append(value)
        x = rms_norm(x, self.tensors["model.norm.weight"], self.config["rms_norm_eps"])
        logits = x @ self.tensors["lm_head.weight"].T * self.config["output_multiplier_scale"]
        logits = capped(logits, self.config.get("final_logit_softcapping"))
        return logits.numpy(), GrokCache(tuple(keys), tuple(values), mask)

    def _weight(self, layer: int, name: str) -> Tensor:
        return self.tensors[f"model.layers.{layer}.{name}.weight"]

    def _norm(self, x: Tensor, layer: int, name: str) -> Tensor:
        return rms_norm(x, self._weight(layer, name), self.config["rms_norm_eps"])

    def _attention(
        self, layer: int, x: Tensor, positions: Tensor, visible: Tensor, earlier: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The attention's output [B, T, D], and all keys and values [B, G, S, K]."""
        width = self.config.get("head_dim", 128)
        query, key, value = (
            (x @ self._weight(layer, f"self_attn.{name}").T).unflatten(-1, (-1, width)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        angles = positions[:, None, :, None] * self.frequencies
        query, key = rotated(query, angles), rotated(key, angles)
        if earlier is not None:
            key, value = torch.cat([earlier[0], key], 2), torch.cat([earlier[1], value], 2)
        # Query heads h*R .. h*R + R - 1 share key head h.
        repeats = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(repeats, 1).transpose(2, 3) * width**-0.5
        scores = capped(scores, self.config.get("attn_logit_softcapping", 30.0))
        scores = scores * temperature(positions, self.config.get("attn_temperature_len", -1))[:, None, :, None]
        weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
        weights = torch.where(visible.any(-1, keepdim=True), weights, 0.0)  # padding before the first real token
        mixed = (weights @ value.repeat_interleave(repeats, 1)).transpose(1, 2).flatten(2)
        return mixed @ self._weight(layer, "self_attn.o_proj").T, key, value

    def _feed_forward(self, layer: int, x: Tensor) -> Tensor:
        routed = self._experts(layer, x)
        if not self.config.get("residual_moe", False):
            return routed
        names = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        return (self._gated(x, *(self._weight(layer, name) for name in names)) + routed) / math.sqrt(2.0)

    def _experts(self, layer: int, x: Tensor) -> Tensor:
        """The chosen experts, each times its share of the softmax over all of them."""
        cap = self.config.get("router_logit_softcapping", 30.0)
        logits = capped(x @ self._weight(layer, "block_sparse_moe.gate").T, cap)
        chosen = logits.sort(dim=-1, descending=True, stable=True).indices[..., : self.config["num_experts_per_tok"]]
        shares = logits.softmax(-1) * one_hot(chosen, logits.shape[-1]).sum(-2)
        outputs = [
            self._gated(x, *(self._weight(layer, f"block_sparse_moe.experts.{expert}.{name}") for name in ("w1", "w3", "w2")))
            for expert in range(logits.shape[-1])
        ]
        return (torch.stack(outputs, -1) * shares[..., None, :]).sum(-1)

    def _gated(self, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        approximation = APPROXIMATIONS[self.config.get("hidden_act", "gelu")]
        return (gelu(x @ gate.T, approximate=approximation) * (x @ up.T)) @ down.T


def is_grok(directory: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is of this architecture: its model_type alone is also that of another, which transformers has."""
    config = json.loads((Path(directory) / "config.json").read_text())
    return bool(config.get("architectures") == TINY["architectures"])


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * gain


def capped(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap); absent, zero and negative caps are none."""
    return cap * torch.tanh(x / cap) if cap is not None and cap > 0 else x


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Dimension i turns with dimension i + K/2."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


def temperature(positions: Tensor, length: int) -> Tensor:
    """log(position) / log(length) for positions beyond `length`, else 1; a length that is not positive is none."""
    if length <= 0:
        return torch.ones(positions.shape, dtype=torch.float64)
    grown = positions.clamp(min=1).double().log2() / math.log2(length)
    return torch.where(positions > length, grown, 1.0)


def inverse_frequencies(config: Config) -> Tensor:
    """Of the pairs of a head, [K/2]; cos and sin have no factor whatever the method, so that `attn_factor` changes nothing."""
    width, theta = config.get("head_dim", 128), float(int(config.get("rope_theta", 10000)))
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    plain = theta**-exponents
    method = config.get("rope_type") or "original"
    if method == "original":
        return plain
    length, factor = config["original_max_position_embeddings"], config["scaling_factor"]
    if method == "theta_scale":
        grown = theta ** (math.log(length * factor / (2 * math.pi)) / math.log(length / (2 * math.pi)))
        return grown**-exponents
    kept = _kept(config, width, theta, length)
    if method == "yarn_log":
        return plain.pow(kept) * (plain / factor).pow(1 - kept)
    return plain * kept + plain / factor * (1 - kept)


def _kept(config: Config, width: int, theta: float, length: int) -> Tensor:
    """How much of each plain frequency stays: `extrapolation_factor` below the ramp, none above it."""

    def pair_that_turns(times: float) -> float:
        return width * math.log(length / (2 * math.pi * times)) / (2 * math.log(theta))

    low: float = max(math.floor(pair_that_turns(config.get("beta_fast", 32))), 0)
    high = min(math.ceil(pair_that_turns(config.get("beta_slow", 1))), width - 1)
    if low == high:
        low -= 0.001
    ramp = (torch.arange(width // 2, dtype=torch.float64) - low) / (high - low)
    return (1 - ramp.clamp(0, 1)) * config.get("extrapolation_factor", 1.0)


def _refuse_other_models(config: Config) -> None:
    accepted = {
        "rope_type": (None, "", "original", "yarn", "yarn_linear", "yarn_log", "theta_scale"),
        "hidden_act": (None, *APPROXIMATIONS),
        "sliding_window_size": (None, -1),
        "global_attn_every_n": (None, 1),
        "rope_rotate_half_dims": (None, False),
        "attn_logit_softcapping_method": (None, "tanh"),
    }
    for key, values in accepted.items():
        if config.get(key) not in values:
            raise ValueError(f"{key} is {config[key]!r} but must be one of {values}")


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Of all tensors, in the order of the files on the hub."""
    vocabulary, model, layers = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    dense, width = config["intermediate_size"], config.get("head_dim", 128)
    expert = config.get("moe_intermediate_size", dense)
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    whole = {"model.embed_tokens": (vocabulary, model), "lm_head": (vocabulary, model), "model.norm": (model,)}
    by_layer: dict[str, tuple[int, ...]] = {}
    if config.get("residual_moe", False):
        by_layer |= {"mlp.gate_proj": (dense, model), "mlp.down_proj": (model, dense), "mlp.up_proj": (dense, model)}
    for name, shape in {"w1": (expert, model), "w2": (model, expert), "w3": (expert, model)}.items():
        by_layer |= {f"block_sparse_moe.experts.{number}.{name}": shape for number in range(config["num_local_experts"])}
    by_layer |= {"self_attn.k_proj": (keys, model), "self_attn.o_proj": (model, queries)}
    by_layer |= {"self_attn.q_proj": (queries, model), "self_attn.v_proj": (keys, model)}
    by_layer |= dict.fromkeys(("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm"), (model,))
    by_layer |= {"block_sparse_moe.gate": (config["num_local_experts"], model)}
    shapes = whole | {f"model.layers.{layer}.{name}": shape for name, shape in by_layer.items() for layer in range(layers)}
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors in float64; slices of the same name, from files whose names sort by rank, are joined."""
    slices: dict[str, list[Tensor]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            slices.setdefault(name, []).append(tensor.double())
    return {name: torch.cat(parts, _split_axis(name)) if len(parts) > 1 else parts[0] for name, parts in slices.items()}


def write_grok(directory: Path, settings: Config, *, ranks: int | None = None, seed: int = 0) -> Path:
    """A random checkpoint of `TINY` with `settings`, where None leaves a key out: one file of whole tensors, or with `ranks`
    the tensor-parallel layout, one group of files a kind of tensor and the experts split, as on the hub.
    """
    config = {key: value for key, value in {**TINY, **settings}.items() if value is not None}
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, config["torch_dtype"])
    tensors = {name: _random(name, shape, generator).to(dtype) for name, shape in tensor_shapes(config).items()}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    for file_name, held in _files(tensors, ranks).items():
        save_file(held, directory / file_name, metadata={"format": "pt"})
    return directory


def _files(tensors: Mapping[str, Tensor], ranks: int | None) -> dict[str, dict[str, Tensor]]:
    if ranks is None:
        return {"model.safetensors": dict(tensors)}
    groups = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in tensors))
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        split = ".experts." in name
        group = groups.index(re.sub(r"\.\d+\.", ".*.", name))
        for rank, part in enumerate(tensor.tensor_split(ranks, _split_axis(name)) if split else [tensor]):
            file_name = f"pytorch_model-{group:05d}-TP-{f'{rank:03d}' if split else 'common'}.safetensors"
            files.setdefault(file_name, {})[name] = part.contiguous()
    return files


def _split_axis(name: str) -> int:
    """The axis of the expert's own width."""
    return 1 if name.endswith(".w2.weight") else 0


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Norms away from 1; an embedding so small that the residual stream is not its own answer."""
    if len(shape) == 1:
        return torch.rand(shape, generator=generator) * 1.2 + 0.4
    gain = next((gain for part, gain in GAINS.items() if f"{part}.weight" in name), 1.0)
    width = 16 if "embed_tokens" in name else shape[1]
    return torch.randn(shape, generator=generator) * gain * width**-0.5
