"""Modules for multi-token prediction in transformers: `MtpModel`, which its own decoding loop drafts with, in float64."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from .double import double_precision
from .reference import Array, load_network, quiet

MOST_MODULES = 4
# What transformers calls the parts of Qwen3-Next's module.
QWEN3_NEXT_PARTS = {
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "fc": "eh_proj",
    "layers": "mtp_block",
    "norm": "post_norm",
}


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
    return _in_float64(loaded, loaded_modules.state_dict(), len(loaded_modules.layers))


def load_qwen3_next_peer(directory: str | os.PathLike[str]) -> ModulePeer:
    """The checkpoint of Qwen3-Next and of its module `mtp`, whose tensors transformers passes over.

    Its wiring for modules and its layer of full attention make one all the same, once it is told which tensor is which.
    """
    loaded = load_network(directory, torch.float64)
    loaded.config.num_mtp_layers, loaded.config.mtp_layer_types = 1, ["full_attention"]
    stored = {}
    for file in Path(directory).glob("*.safetensors"):
        stored |= {name[4:]: tensor.double() for name, tensor in load_file(file).items() if name.startswith("mtp.")}
    experts = {name: stored.pop(name) for name in list(stored) if ".experts." in name}
    tensors = {}
    for name, tensor in stored.items():
        first, _, rest = name.partition(".")
        tensors[f"layers.0.{QWEN3_NEXT_PARTS[first]}.{rest.removeprefix('0.')}"] = tensor
    for stack, kinds in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        rows = [
            torch.cat([experts[f"layers.0.mlp.experts.{expert}.{kind}.weight"] for kind in kinds])
            for expert in range(loaded.config.num_experts)
        ]
        tensors[f"layers.0.mtp_block.mlp.experts.{stack}"] = torch.stack(rows)
    return _in_float64(loaded, tensors, 1)


def _in_float64(loaded: Any, tensors: Any, count: int) -> ModulePeer:
    """The model that transformers has loaded, and so many modules with those tensors beside the ones that they share."""
    with torch.inference_mode():
        loaded(input_ids=torch.zeros((1, 1), dtype=torch.long))  # imports whatever a call imports, before the exchange
    with double_precision(), quiet():
        main = type(loaded)._from_config(
            loaded.config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float64
        )
        main.load_state_dict(loaded.state_dict())
        modules = MtpModel(main.eval(), count)
        shared = {name: tensor for name, tensor in modules.state_dict().items() if not name.startswith("layers.")}
        modules.load_state_dict({**shared, **tensors})
    return ModulePeer(main, modules.double().eval())
