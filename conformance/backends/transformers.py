"""Hugging Face transformers as a backend, at model level: it loads a checkpoint directory and answers with logits.

`transformers` runs its eager attention, `transformers:sdpa` torch's scaled_dot_product_attention. Nothing is ever fetched from
the network, and no code or pickle from the directory is run. float64 is not offered: transformers evaluates norms, softmax and
rotation angles in float32 whatever the dtype of the weights.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from conformance.backends.arrays import from_torch
from refimpl.numerics import Array


@dataclass(frozen=True)
class Cache:
    """Keys and values of transformers, and which of the cached tokens are real: 0/1 [B, S]."""

    states: Any
    attention_mask: Array


class TransformersBackend:
    """Loads any architecture that AutoModelForCausalLM knows."""

    dtypes = ("float32", "bfloat16", "float16")

    def __init__(self, name: str, attention: str) -> None:
        self.name = name
        self.attention = attention

    @property
    def version(self) -> str:
        """The version of transformers, "" where it is not installed."""
        try:
            return importlib.metadata.version("transformers")
        except importlib.metadata.PackageNotFoundError:
            return ""

    def unavailable(self) -> str | None:
        """Why this backend cannot run here, None when it can."""
        missing = [library for library in ("torch", "transformers") if importlib.util.find_spec(library) is None]
        return f"{self.name}: {' and '.join(missing)} not installed" if missing else None

    def load(self, checkpoint_dir: str | os.PathLike[str]) -> Callable[..., tuple[Array, Cache]]:
        """The model of a checkpoint directory, as a function (tokens, cache, attention_mask) -> (logits, cache).

        ValueError when a tensor is missing, unknown or of another shape, which transformers itself only warns about;
        NotImplementedError for weights in float64, for quantised ones without accelerate, and for an architecture that
        transformers does not have: a model_type alone may be that of another; and for Mistral's own format, a params.json.
        """
        if not (Path(checkpoint_dir) / "config.json").is_file():
            if (Path(checkpoint_dir) / "params.json").is_file():
                raise NotImplementedError("transformers does not read a params.json")
            raise ValueError(f"{checkpoint_dir}: no config.json in this directory")
        import transformers
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        config = json.loads((Path(checkpoint_dir) / "config.json").read_text())
        if config.get("quantization_config") and importlib.util.find_spec("accelerate") is None:
            raise NotImplementedError("transformers loads quantised checkpoints with accelerate, which is not installed")
        classes = config.get("architectures") or []
        if classes and not any(hasattr(transformers, name) for name in classes):
            raise NotImplementedError(f"transformers has no {' or '.join(classes)}")
        if config.get("model_type") not in transformers.CONFIG_MAPPING:
            raise NotImplementedError(f"transformers has no model_type {config.get('model_type')!r}")
        known = [found for name in classes if (found := getattr(transformers, name, None))]
        if self.attention == "sdpa" and not all(getattr(found, "_supports_sdpa", True) for found in known):
            raise NotImplementedError(f"transformers has no sdpa for {' or '.join(classes)}")
        with _quiet():
            # Transformers 5.24 lists the language model of Mistral 4 among the multimodal ones alone.
            listed = AutoModelForImageTextToText if config.get("model_type") == "mistral4" else AutoModelForCausalLM
            network, problems = listed.from_pretrained(
                checkpoint_dir,
                dtype="auto",
                attn_implementation=self.attention,
                experts_implementation="eager",  # the grouped one refuses widths that are not aligned
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if problems[problem]:
                raise ValueError(f"{checkpoint_dir}: {problem.replace('_', ' ')} {sorted(map(str, problems[problem]))}")
        if str(network.dtype) == "torch.float64":
            raise NotImplementedError("transformers evaluates norms, softmax and rotation angles in float32")
        network.eval()
        return _Model(network)

    def trace(self, checkpoint_dir: str | os.PathLike[str], tokens: Array) -> dict[str, Array]:
        """What the modules of the model return for tokens [B, T], under the names of this specification's taps."""
        from conformance.backends.transformers_taps import hooked

        model = self.load(checkpoint_dir)
        assert isinstance(model, _Model)
        taps, end = hooked(model.network, refimpl.blueprint(checkpoint_dir), tokens)
        try:
            logits, _ = model(tokens)
        finally:
            end()
        return {**taps, "logits": logits}


class _Model:
    """A transformers network with the suite's calling convention: arrays in, arrays out, caches that are values."""

    def __init__(self, network: Any) -> None:
        self.network = network
        # Renamed in transformers 5.24, which warns of the older name.
        renamed = "cache" in inspect.signature(network.forward).parameters
        self._cache_keyword = "cache" if renamed else "past_key_values"

    def __call__(self, tokens: Array, cache: Cache | None = None, attention_mask: Array | None = None) -> tuple[Array, Cache]:
        import torch
        from transformers import DynamicCache

        past = np.ones((tokens.shape[0], 0), np.int64) if cache is None else cache.attention_mask
        mask = np.concatenate([past, np.ones_like(tokens)], axis=1) if attention_mask is None else attention_mask
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, past.shape[1] :]
        # transformers appends to its cache in place; a caller may continue one cache twice.
        states = DynamicCache(config=self.network.config) if cache is None else copy.deepcopy(cache.states)
        with _quiet(), torch.inference_mode():
            output = self.network(
                input_ids=torch.tensor(tokens, dtype=torch.long),
                attention_mask=torch.tensor(mask, dtype=torch.long),
                position_ids=torch.tensor(positions, dtype=torch.long),
                use_cache=True,
                **{self._cache_keyword: states},
            )
        return from_torch(output.logits), Cache(states=states, attention_mask=mask)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers while inside."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


backend = TransformersBackend("transformers", "eager")
sdpa_backend = TransformersBackend("transformers:sdpa", "sdpa")
