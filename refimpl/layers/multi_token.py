"""Multi-token prediction: what a module reads of the token after the one whose hidden state it continues."""

from __future__ import annotations

import numpy as np

from refimpl.layers.mlp import linear
from refimpl.numerics import Array
from refimpl.shapes import check, check_floats


def multi_token_input(embedding: Array, hidden: Array, weight: Array) -> Array:
    """The input of a module's layer: an embedding and a hidden state side by side, projected to the width of one.

    u_t = W [embedding_t ; hidden_t]

    Shapes: embedding [B, T, D] of the later token and hidden [B, T, D] of the earlier, each after its own norm;
      weight [O, 2D] (`eh_proj.weight`, O = D in every release); u [B, T, O].
    Rules:
      R1  the first D columns of the weight act on the embedding, the last D on the hidden state.
      R2  row t is of one pair: nothing is shifted here.
    Dtype: T1  as `linear`. This function computes in the dtype of embedding.
    Pitfalls: the halves in the order of the report's figure and not of its released weights (mtp-concat-order); hidden taken
      before the norm that it left the model or the module before through (mtp-recycle-unnormed-hidden, mtp-glm-carry-norm);
      the embedding of the first pair set to zero, as some engines do (mtp-position-zero-embedding-mask): here it is used as is.
    Source: DeepSeek-V3 technical report, arXiv:2412.19437, equation 21; the order is that of the released weights.
    """
    sizes = check("multi_token_input", embedding=(embedding, "BTD"), hidden=(hidden, "BTD"))
    both = check("multi_token_input", weight=(weight, "OI"))["I"]
    if both != 2 * sizes["D"]:
        raise ValueError(
            f"multi_token_input: weight has {both} columns but needs {2 * sizes['D']}, for the embedding and the hidden state"
        )
    check_floats("multi_token_input", embedding=embedding, hidden=hidden, weight=weight)
    return linear(np.concatenate([embedding, hidden], axis=-1), weight)
