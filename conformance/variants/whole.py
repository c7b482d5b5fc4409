"""The whole vocabulary computed in one way: the specification in other formats, and two libraries."""

from __future__ import annotations

import numpy as np

from conformance.backends import numpy as specification
from conformance.computing import computing_in
from conformance.variants.variant import Variant, float32, layer
from refimpl.layers import VOCABULARY

NOT_OF_FLOATS = ("token_order", "ring_order", "rope_cos_sin", "mxfp4_decode", "fp8_block_decode", "int4_group_decode")
FLOAT_FUNCTIONS = tuple(
    name
    for name in VOCABULARY
    if not any(part in name for part in ("mask", "frequencies", "_temperature")) and name not in NOT_OF_FLOATS
)

VARIANTS = (
    layer(
        "rounded-at-every-step",
        "The specification, every step rounded to the tested format.",
        **{name: getattr(specification, name) for name in VOCABULARY},
    ),
    layer(
        "float32-inside",
        "Inputs are widened to float32, sums are accumulated in it, and the result is rounded once.",
        **{name: float32(VOCABULARY[name]) for name in FLOAT_FUNCTIONS},
    ),
    layer(
        "float64-inside",
        "Inputs are widened to float64, and the result is rounded once.",
        **{name: computing_in(np.float64)(VOCABULARY[name]) for name in FLOAT_FUNCTIONS},
    ),
    Variant(id="torch", says="The operations that torch itself offers.", built_in="torch"),
    Variant(
        id="onnxruntime",
        says="Every layer exported to ONNX and run by onnxruntime.",
        built_in="onnxruntime",
        dtypes=("float64", "float32", "float16"),
    ),
)
