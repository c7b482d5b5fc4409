"""gpt-oss stored in four bits: the same numbers as two other decoders have, and the same logits as the plain form.

The one difference: a scale of 255 is NaN in the Microscaling specification and here, while transformers takes it for 2^128.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import refimpl
from refimpl.checkpoint import save_checkpoint
from refimpl.layers import mxfp4_decode
from refimpl.layers.quantization import SCALE_NAN

from .comparison import Array, assert_agree, relative_error
from .variants import Variant

# Every byte (two codes) under every scale: [1, 256, 16, 16] and [1, 256, 16].
BLOCKS = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (1, 256, 1, 1))
SCALES = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 1, 16))
QUANTISED = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
SIZES = {"hidden_size": 64, "intermediate_size": 96}


def same_bits(one: Array, other: Array) -> bool:
    """Equal with the signs of zeros; NaN is as NaN."""
    return np.array_equal(one, other, equal_nan=True) and np.array_equal(np.signbit(one), np.signbit(other))


def plain_form(blocks: Array, scales: Array, dtype: Any) -> Array:
    """A weight [E, in, out] as transformers dequantises it."""
    torch = pytest.importorskip("torch")
    quantised = pytest.importorskip("transformers.integrations.mxfp4")
    stored = (torch.tensor(np.ascontiguousarray(array)) for array in (blocks, scales))
    decoded: Array = quantised.convert_moe_packed_tensors(*stored, dtype=dtype).to(torch.float64).numpy()
    return decoded


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_every_code_under_every_scale_is_what_transformers_makes_of_it(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = plain_form(BLOCKS, SCALES, getattr(torch, dtype)).swapaxes(1, 2)
    # Bfloat16 has the range of float32, and every value is exact in it.
    ours = mxfp4_decode(BLOCKS, SCALES, dtype="float64" if dtype == "float64" else "float32").astype(np.float64)
    assert same_bits(ours[:, :SCALE_NAN], theirs[:, :SCALE_NAN])
    assert np.isnan(ours[:, SCALE_NAN]).all()
    assert not np.isnan(theirs[:, SCALE_NAN]).all(), "transformers knows the scale that is not a number by now"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_code_under_every_scale_is_what_ml_dtypes_makes_of_it(dtype: Any) -> None:
    codes = np.stack([BLOCKS & 15, BLOCKS >> 4], axis=-1).reshape(1, 256, 512)
    powers = np.repeat(SCALES, 32, axis=-1).view(ml_dtypes.float8_e8m0fnu).astype(dtype)
    with np.errstate(over="ignore"):
        expected = codes.view(ml_dtypes.float4_e2m1fn).astype(dtype) * powers
    assert same_bits(mxfp4_decode(BLOCKS, SCALES, dtype=dtype), expected)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> dict[str, Path]:
    """One gpt-oss in both forms, the plain one by transformers' hand, and a third that is plain but says that it is not."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from .checkpoints import write_checkpoint

    folder = tmp_path_factory.mktemp("mxfp4")
    source = write_checkpoint(Variant(architecture="gpt_oss", settings=SIZES), folder / "source")
    model, config = refimpl.load(source, "float32"), json.loads((source / "config.json").read_text())
    quantised = {**config, "quantization_config": QUANTISED}
    tensors = refimpl.blueprint(quantised).layouts[0].write(model.weights)
    save_checkpoint(folder / "mxfp4", quantised, tensors, max_shard_bytes=50_000)
    plain = {name: array for name, array in tensors.items() if not name.endswith(("_blocks", "_scales"))}
    for name in (name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")):
        decoded = plain_form(tensors[f"{name}_blocks"], tensors[f"{name}_scales"], torch.bfloat16)
        plain[name] = decoded.astype(ml_dtypes.bfloat16)
    save_checkpoint(folder / "plain", config, plain)
    save_checkpoint(folder / "plain_under_mxfp4", quantised, plain)
    return {path.name: path for path in folder.iterdir()}


def tokens(batch: int = 2, length: int = 29) -> Array:
    return np.random.default_rng(1).integers(0, 73, (batch, length))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("other", ["plain", "plain_under_mxfp4"])
def test_both_forms_give_identical_logits(stored: dict[str, Path], dtype: str, stream: bool, other: str) -> None:
    models = [refimpl.load(stored["mxfp4"], dtype, stream=stream), refimpl.load(stored[other], dtype)]
    logits = []
    for model in models:
        first, cache = model(tokens()[:, :20])
        steps = [first]
        for index in range(20, 29):
            step, cache = model(tokens()[:, index : index + 1], cache)
            steps.append(step)
        logits.append(np.concatenate(steps, axis=1))
    assert logits[0].dtype == dtype
    assert np.array_equal(*logits)


def test_transformers_on_its_own_plain_form_means_what_the_stored_form_means(stored: dict[str, Path]) -> None:
    from .reference import load_peer

    expected, _ = load_peer(stored["plain"])(tokens())
    logits, _ = refimpl.load(stored["mxfp4"])(tokens())
    assert_agree(logits, expected)
    unquantised, _ = refimpl.load(stored["source"])(tokens())
    assert relative_error(unquantised, expected) > 1e-2, "four bits would have lost nothing"


def test_the_experts_are_stored_as_the_release_stores_them(stored: dict[str, Path]) -> None:
    found: dict[str, Array] = {}
    for file in stored["mxfp4"].glob("*.safetensors"):
        found |= load_file(file)
    prefix = "model.layers.0.mlp.experts."
    inside = {name.removeprefix(prefix): array for name, array in found.items() if name.startswith(prefix)}
    assert {name: (str(array.dtype), array.shape) for name, array in inside.items()} == {
        "gate_up_proj_blocks": ("uint8", (9, 192, 2, 16)),
        "gate_up_proj_scales": ("uint8", (9, 192, 2)),
        "gate_up_proj_bias": ("float32", (9, 192)),
        "down_proj_blocks": ("uint8", (9, 64, 3, 16)),
        "down_proj_scales": ("uint8", (9, 64, 3)),
        "down_proj_bias": ("float32", (9, 64)),
    }
