"""Modules for multi-token prediction in transformers: `MtpModel`, which its own decoding loop drafts with, in float64."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from .double import double_precision
from .reference import Array, load_network, quiet

MOST_MODULES = 4


@dataclass
class ModulePeer:
    """A main model and its modules, all in float64."""

    main: Any
    modules: Any

    def hidden(self, tokens: Array) -> Array:
        """The main model's last hidden state [B, T, D], as the modules are given it."""
        with double_precision(), torch.inference_mode():
            output = self.main(input_ids=torch.tensor(tokens), output_hidden_states=True)
        return np.asarray(output.hidden_states[-1])

    def new_cache(self) -> Any:
        """A cache of all modules, continued in place."""
        return MtpCache(config=self.main.config.get_mtp_config())

    def __call__(self, module: int, tokens: Array, hidden: Array, cache: Any, *, first: int) -> tuple[Array, Array]:
        """Logits and output of a module for shifted tokens [B, T], the first of which stands at position `first`."""
        positions = np.arange(first, first + tokens.shape[1])[None]
        with double_precision(), torch.inference_mode():
            output = self.modules.forward_layer(
                module, torch.tensor(hidden), torch.tensor(positions), cache, input_ids=torch.tensor(tokens)
            )
            return self.modules._project_to_logits(output).numpy(), output.numpy()

    def draft(self, tokens: Array, hidden: Array) -> Array:
        """The tokens [B, modules] that all modules draft after `tokens`, which are shifted by one."""
        positions = np.arange(1, 1 + tokens.shape[1])[None]
        with double_precision(), torch.inference_mode():
            drafted, _, _ = self.modules(
                torch.tensor(tokens), torch.tensor(hidden), None, torch.tensor(positions), self.new_cache()
            )
        return np.asarray(drafted)


def load_module_peer(directory: str | os.PathLike[str], layers: int, architecture: str) -> ModulePeer:
    """The checkpoint of a model of so many layers and of its modules, read by transformers and rebuilt in float64.

    transformers knows the modules by the layer numbers of the releases, which are not those of small models.
    """
    patterns = [rf"model\.layers\.{layers + index}\..*" for index in range(MOST_MODULES)]
    with patch.object(getattr(transformers, architecture), "_keys_to_ignore_on_load_unexpected", patterns):
        loaded = load_network(directory, torch.float64)
        with quiet():
            loaded_modules = MtpModel.from_pretrained(loaded)
    with torch.inference_mode():
        loaded(input_ids=torch.zeros((1, 1), dtype=torch.long))  # imports whatever a call imports, before the exchange
    with double_precision(), quiet():
        main = type(loaded)._from_config(
            loaded.config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float64
        )
        main.load_state_dict(loaded.state_dict())
        modules = MtpModel(main.eval(), len(loaded_modules.layers))
        modules.load_state_dict(loaded_modules.state_dict())
    return ModulePeer(main, modules.double().eval())
