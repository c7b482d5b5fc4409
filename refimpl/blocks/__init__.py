"""How layers join: token mixers and channel mixers with their parameters, caches and wiring in terms of ops."""

from refimpl.blocks.attention import Attention
from refimpl.blocks.base import Block, ChannelMixer, Inputs, Scoped, State, StateEntry, TokenMixer, Weights
from refimpl.blocks.delta_attention import KimiDeltaAttention
from refimpl.blocks.ends import Embedding, Head, PositionEmbedding
from refimpl.blocks.gated_delta_net import GatedDeltaNet
from refimpl.blocks.indexer import Indexer
from refimpl.blocks.latent_attention import LatentAttention
from refimpl.blocks.layer import Layer
from refimpl.blocks.mlp import MLP, GatedMLP
from refimpl.blocks.moe import Experts, MoE
from refimpl.blocks.multi_token import MultiToken
from refimpl.blocks.norm import LayerNorm, Norm, RMSNorm
from refimpl.blocks.rope import GrokYarn, Linear, Llama3, Rope, ThetaScaled, Yarn
from refimpl.blocks.router import Router, SigmoidTopK, SoftcappedSoftmax, SoftmaxTopK, TopKSigmoid, TopKSoftmax
from refimpl.blocks.temperature import LogFloor, LogLength, Temperature

__all__ = [
    "MLP",
    "Attention",
    "Block",
    "ChannelMixer",
    "Embedding",
    "Experts",
    "GatedDeltaNet",
    "GatedMLP",
    "GrokYarn",
    "Head",
    "Indexer",
    "Inputs",
    "KimiDeltaAttention",
    "LatentAttention",
    "Layer",
    "LayerNorm",
    "Linear",
    "Llama3",
    "LogFloor",
    "LogLength",
    "MoE",
    "MultiToken",
    "Norm",
    "PositionEmbedding",
    "RMSNorm",
    "Rope",
    "Router",
    "Scoped",
    "SigmoidTopK",
    "SoftcappedSoftmax",
    "SoftmaxTopK",
    "State",
    "StateEntry",
    "Temperature",
    "ThetaScaled",
    "TokenMixer",
    "TopKSigmoid",
    "TopKSoftmax",
    "Weights",
    "Yarn",
]
