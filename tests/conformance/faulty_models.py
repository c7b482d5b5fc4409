"""Engines that load a checkpoint wrongly, in ways that real ones have."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np

import refimpl
from conformance.backends import numpy as specification
from tests.conformance.faulty_latent_models import FAULTY_LATENT_MODELS, with_mixer


def with_config(**changes):
    """An engine that reads the configuration with some keys changed (None: removed)."""

    def load(directory):
        other = directory.with_name(directory.name + "-changed")
        shutil.copytree(directory, other, dirs_exist_ok=True)
        config = json.loads((other / "config.json").read_text())
        for key, value in changes.items():
            found = value(config) if callable(value) else value
            if found is None:
                config.pop(key, None)
            else:
                config[key] = found
        (other / "config.json").write_text(json.dumps(config))
        return specification.load(other)

    return load


def _has_rope(config, has):
    return [has] * config["num_hidden_layers"] if config["model_type"] == "smollm3" else None


def _inverted(config):
    flags = config.get("no_rope_layers") or [
        int((index + 1) % config.get("no_rope_layer_interval", 4) != 0) for index in range(config["num_hidden_layers"])
    ]
    return [1 - flag for flag in flags] if config["model_type"] == "smollm3" else None


def wrapped(around):
    """An engine whose calls go through around(engine, tokens, cache, attention_mask)."""

    def load(directory):
        engine = specification.load(directory)

        def call(tokens, cache=None, *, attention_mask=None):
            return around(engine, tokens, cache, attention_mask)

        return call

    return load


def branches_added(directory):
    """The gated MLP and the experts beside it without the division by the root of 2."""
    model = refimpl.load(directory, "float32")
    layers = tuple(replace(layer, mlp=replace(layer.mlp, factor=None)) for layer in model.blueprint.layers)
    return replace(model, blueprint=replace(model.blueprint, layers=layers))


def _counting_from_one(mixer):
    return replace(mixer, temperature=replace(mixer.temperature, offset=1))


def _scaled_by_yarn(mixer):
    return replace(mixer, scale=mixer.scale * (1 + 0.1 * np.log(mixer.rope.scaling.factor)) ** 2)


def padding_ignored(engine, tokens, cache, attention_mask):
    return engine(tokens, cache)


def positions_count_padding(engine, tokens, cache, attention_mask):
    positions = None if attention_mask is None else np.tile(np.arange(tokens.shape[1]), (len(tokens), 1)) * 2
    return engine(tokens, cache, attention_mask=attention_mask, positions=positions)


def decode_one_place_early(engine, tokens, cache, attention_mask):
    if cache is None or tokens.shape[1] > 1:
        return engine(tokens, cache, attention_mask=attention_mask)
    return engine(tokens, cache, positions=np.full(tokens.shape, len(cache) - 1))


def logits_of_the_last_token(engine, tokens, cache, attention_mask):
    logits, cache = engine(tokens, cache, attention_mask=attention_mask)
    return logits[:, -1:], cache


# Fault -> the architecture to blame, and the engine that has it.
FAULTY_MODELS = {
    "NoPE ignored": ("smollm3", with_config(no_rope_layers=lambda config: _has_rope(config, 1))),
    "NoPE flags inverted": ("smollm3", with_config(no_rope_layers=_inverted)),
    "YaRN ignored": ("qwen3", with_config(rope_scaling=None)),
    "window ignored": ("qwen3", with_config(use_sliding_window=False)),
    "window one too long": ("qwen3", with_config(sliding_window=lambda config: (config["sliding_window"] or 3) + 1)),
    "another eps": ("qwen3", with_config(rms_norm_eps=1e-5)),
    "another theta": ("smollm3", with_config(rope_theta=5e5)),
    "temperature ignored": ("grok", with_config(attn_temperature_len=-1)),
    "original taken for YaRN": ("grok", with_config(rope_type="yarn")),
    "branches added and not averaged": ("grok", branches_added),
    "temperature counts from 1": ("mistral4", with_mixer(_counting_from_one)),
    "one eps for all norms": ("mistral4", with_mixer(lambda mixer: replace(mixer, norm_eps=0.2))),
    "YaRN scales though it must not": ("mistral_large3", with_mixer(_scaled_by_yarn)),
    "padding ignored": ("smollm3", wrapped(padding_ignored)),
    "positions count padding": ("qwen3", wrapped(positions_count_padding)),
    "decoding rotates one place early": ("smollm3", wrapped(decode_one_place_early)),
    "logits of the last token only": ("qwen3", wrapped(logits_of_the_last_token)),
    **{label: ("deepseek_v3", load) for label, load in FAULTY_LATENT_MODELS.items()},
}
