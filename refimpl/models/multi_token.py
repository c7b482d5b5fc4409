"""Modules for multi-token prediction as DeepSeek-V3 and GLM-4.5 have them: `num_nextn_predict_layers` further layers.

A module shares the embedding and the head of the model, of which the releases store a copy with each. A checkpoint need not
hold the copies. Where they differ from the originals implementations disagree (transformers and SGLang read the originals,
vLLM and llama.cpp the copies), and here the module cannot be used, while the model itself can.

Source: DeepSeek-V3 technical report, arXiv:2412.19437, section 2.2; the released weights of both families.
Pitfalls: the dense MLP of the first layers in a module, whose layer is counted from 0 by some readers: it has experts.
"""

from __future__ import annotations

from refimpl.blocks import ChannelMixer, Layer, MultiToken, Norm, TokenMixer
from refimpl.config import MOST_PARTS, Config


def multi_token_modules(
    config: Config, mixer: TokenMixer, mlp: ChannelMixer, *, norm: Norm, default: int
) -> tuple[MultiToken, ...]:
    """As many modules as `num_nextn_predict_layers` says: each a pre-norm layer of `mixer` and `mlp`.

    norm: every norm of the model. default: of the key. A checkpoint may hold the tensors of none of them.
    """
    count = config.take("num_nextn_predict_layers", int, default)
    if not 0 <= count <= MOST_PARTS:
        raise ValueError(f"config: num_nextn_predict_layers is {count} but needs a number of modules, 0 to {MOST_PARTS}")
    layer = Layer(mixer_norm=norm, mixer=mixer, mlp_norm=norm, mlp=mlp)
    module = MultiToken(hidden_size=config.positive("hidden_size"), enorm=norm, hnorm=norm, layer=layer, norm=norm)
    return (module,) * count
