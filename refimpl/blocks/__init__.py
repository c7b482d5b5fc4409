"""How layers join: token mixers and channel mixers with their parameters, caches and wiring in terms of ops."""

from refimpl.blocks.attention import Attention
from refimpl.blocks.base import Block, ChannelMixer, Inputs, Scoped, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.ends import Embedding, Head
from refimpl.blocks.layer import Layer
from refimpl.blocks.mlp import MLP, GatedMLP
from refimpl.blocks.norm import LayerNorm, Norm, RMSNorm
from refimpl.blocks.rope import Linear, Llama3, Rope, Yarn

__all__ = [
    "MLP",
    "Attention",
    "Block",
    "ChannelMixer",
    "Embedding",
    "GatedMLP",
    "Head",
    "Inputs",
    "Layer",
    "LayerNorm",
    "Linear",
    "Llama3",
    "Norm",
    "RMSNorm",
    "Rope",
    "Scoped",
    "State",
    "StateEntry",
    "TokenMixer",
    "Weights",
    "Yarn",
]
