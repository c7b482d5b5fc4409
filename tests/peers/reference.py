"""transformers as the peer: a checkpoint directory as a model in float64 with the calling convention of `refimpl.load`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache
from transformers.utils import logging

from .double import double_precision
from .grok import GrokPeer, is_grok

__all__ = ["Peer", "PeerCache", "double_precision", "float64_logits", "load_network", "load_peer", "quiet"]

Array = npt.NDArray[Any]


@dataclass
class PeerCache:
    """Keys and values of transformers, continued in place, and which of the cached tokens are real: 0/1 [B, S]."""

    states: Any
    attention_mask: Array


@dataclass
class Peer:
    """A network of transformers whose parameters and intermediate values are all float64."""

    network: Any

    def __call__(
        self,
        tokens: Array,
        cache: PeerCache | None = None,
        *,
        attention_mask: Array | None = None,
        positions: Array | None = None,
    ) -> tuple[Array, PeerCache]:
        """Logits [B, T, V] and the continued cache.

        attention_mask: 0/1 [B, cached + T]. positions: int [B, T]; absent, the real tokens of a row are counted.
        """
        if cache is None:
            cache = PeerCache(DynamicCache(config=self.network.config), np.ones((len(tokens), 0), np.int64))
        past = cache.attention_mask.shape[1]
        # A mask is always given: in its absence transformers takes gaps in the positions for the ends of packed sequences.
        mask = attention_mask
        if mask is None:
            mask = np.concatenate([cache.attention_mask, np.ones_like(tokens)], axis=1)
        if positions is None:
            positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, past:]
        with double_precision(), torch.inference_mode():
            output = self.network(
                input_ids=torch.tensor(tokens),
                attention_mask=torch.tensor(mask),
                position_ids=torch.tensor(positions),
                past_key_values=cache.states,
                use_cache=True,
            )
        return output.logits.numpy(), PeerCache(output.past_key_values, mask)

    def generate(self, tokens: Array, max_new_tokens: int, **options: Any) -> Array:
        """Greedy continuation [B, T + new] by transformers' own decoding loop."""
        options = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
        with double_precision(), torch.inference_mode():
            sequence = self.network.generate(torch.tensor(tokens), do_sample=False, max_new_tokens=max_new_tokens, **options)
        return np.asarray(sequence)


def auto_class(config: Any) -> Any:
    """What makes the networks of a configuration, as they are published: multimodal ones whole."""
    # Transformers 5.24 lists the language model of Mistral 4 among the multimodal ones alone.
    multimodal = hasattr(config, "vision_config") or config.model_type == "mistral4"
    return AutoModelForImageTextToText if multimodal else AutoModelForCausalLM


def load_network(directory: str | os.PathLike[str], dtype: torch.dtype) -> Any:
    """The network of a checkpoint as transformers loads it, its parameters in `dtype`. ValueError unless every tensor fits."""
    with quiet():
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        # It decides nothing but a gradient, and the default of a class may lie outside a small vocabulary.
        config.pad_token_id = None
        network, problems = auto_class(config).from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    found = {kind: keys for kind, keys in problems.items() if keys}
    if found:
        raise ValueError(f"{directory}: transformers does not load it cleanly: {found}")
    # The multimodal class of Llama 4 fails on text alone (transformers 5.24); what it would pass on is its language model's.
    return (network.language_model if network.config.model_type == "llama4" else network).eval()


def load_peer(directory: str | os.PathLike[str]) -> Peer:
    """The network of a checkpoint, rebuilt in float64; a stored value becomes the same number in float64."""
    loaded = load_network(directory, torch.float64)
    with torch.inference_mode():
        loaded(input_ids=torch.zeros((1, 1), dtype=torch.long))  # imports whatever a call imports, before the exchange
    # A head that is stored and differs from the embedding is not tied, whatever the configuration says.
    loaded.config.tie_word_embeddings = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    with double_precision(), quiet():
        network = auto_class(loaded.config).from_config(
            loaded.config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float64
        )
    network.load_state_dict(loaded.state_dict())
    return Peer(network.eval())


def float64_logits(directory: str | os.PathLike[str], tokens: Array) -> tuple[Array, str, str]:
    """Logits [B, T, V] of a checkpoint for tokens [B, T] in float64 throughout, with the name and version of who says so."""
    if is_grok(directory):
        return GrokPeer(directory)(np.asarray(tokens))[0], "tests/peers/grok.py in torch", torch.__version__
    logits, _ = load_peer(directory)(np.asarray(tokens))
    return logits, "transformers", transformers.__version__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice while inside."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
