"""Writing the variants with transformers: a directory as `save_pretrained` leaves it, or as the hub publishes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from .reference import auto_class, quiet
from .variants import BASE, Variant

Config = dict[str, Any]
DECIDE_LAYER_TYPES = {"use_sliding_window", "max_window_layers", "sliding_window_pattern", "full_attention_interval"}
SHARP = ("q_proj", "k_proj", "c_attn", "lm_head", "gate.weight", "router")


def write_checkpoint(variant: Variant, directory: Path, *, seed: int = 0) -> Path:
    """A randomly initialised model of the variant, saved by transformers."""
    # A copy, for transformers completes the rotary keys where they stand.
    settings = deepcopy({**BASE[variant.architecture], **variant.settings})
    with quiet():
        config = AutoConfig.for_model(variant.architecture, **settings)
        network = auto_class(config).from_config(config)
        randomise(network, seed=seed)
        network.to(getattr(torch, variant.dtype)).save_pretrained(directory, max_shard_size=variant.max_shard_size)

    def edit(config: Config) -> Config:
        for path in variant.derived:
            parent, key = _place(config, path)
            del parent[key]
        for path, value in variant.written.items():
            parent, key = _place(config, path)
            parent[key] = value
        return config

    rewrite_config(directory, edit)
    return directory


def randomise(network: Any, *, seed: int) -> None:
    """Every parameter and correction bias away from its initial value, and large enough for peaked attention, an uneven
    choice of experts and uneven logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("correction_bias"):
                buffer.normal_(std=0.5, generator=generator)
        for name, parameter in network.named_parameters():
            if name.endswith(("c_proj.bias", "ln_f.bias")):
                # Small in the residual stream of a tied head, which would answer with the token nearest to their sum.
                parameter.normal_(std=0.15, generator=generator)
            elif name.endswith(("A_log", "dt_bias")):
                # Decays from 0.999 a token to less than a millionth in every layer of several heads.
                spread = torch.linspace(2.5, -4.0, parameter.numel())[torch.randperm(parameter.numel(), generator=generator)]
                parameter.copy_(spread.view_as(parameter))
            elif name.endswith("bias"):
                parameter.normal_(std=0.5, generator=generator)
            elif name.endswith("sinks"):
                parameter.normal_(mean=1.0, std=1.5, generator=generator)
            elif parameter.ndim == 3:
                # Stacks of experts, [in, out] or [out, in]: the width that is wrong changes their size, not their meaning.
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
            elif parameter.ndim == 2:
                gain = 1.5 if any(part in name for part in SHARP) else 1.0
                # Embeddings are small, so that a tied head does not just answer with the last token.
                inputs = parameter.shape[0 if ".c_" in name else 1]
                width = 16 if name.endswith(("embed_tokens.weight", "wte.weight")) else max(inputs, 1)
                parameter.normal_(std=gain * width**-0.5, generator=generator)
            else:
                parameter.uniform_(0.4, 1.6, generator=generator)


def rewrite_config(directory: Path, edit: Callable[[Config], Config]) -> None:
    """Replace config.json by what `edit` makes of it."""
    path = directory / "config.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def copy_with(source: Path, target: Path, edit: Callable[[Config], Config]) -> Path:
    """The same tensors under another configuration."""
    shutil.copytree(source, target)
    rewrite_config(target, edit)
    return target


def as_published(config: Config, *, type_key: str = "rope_type") -> Config:
    """The keys of transformers 4, as most of the hub has them: rotary keys at the top level, rope_scaling and torch_dtype."""
    config = {**config, "torch_dtype": config["dtype"], "transformers_version": "4.53.0"}
    del config["dtype"]
    if "text_config" in config:
        return {**config, "text_config": _with_old_rope(config["text_config"], type_key)}
    return _with_old_rope(config, type_key)


def _with_old_rope(config: Config, type_key: str) -> Config:
    if "rope_parameters" not in config:
        return config
    rope = dict(config["rope_parameters"] or {})
    config = {key: value for key, value in config.items() if key != "rope_parameters"}
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    config |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    kind = rope.pop("rope_type", "default")
    config["rope_scaling"] = None if kind == "default" else {type_key: kind, **rope}
    return config


def overridden(config: Config, keys: Mapping[str, Any]) -> Config:
    """The configuration with `keys` replaced (those of `text_config` inside it), without the layer types that were derived from
    one of them."""
    if "text_config" in keys:
        keys = {**keys, "text_config": overridden(config["text_config"], keys["text_config"])}
    stale = "layer_types" not in keys and not DECIDE_LAYER_TYPES.isdisjoint(keys)
    kept = {key: value for key, value in config.items() if not (stale and key == "layer_types")}
    return {**kept, **keys}


def _place(config: Config, path: str) -> tuple[Config, str]:
    """The object that holds the key at the end of `a.b`, and that key."""
    *outer, key = path.split(".")
    for name in outer:
        config = config[name]
    return config, key
