"""The wiring of a module for multi-token prediction."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

import refimpl
from refimpl.blocks import Inputs, MoE, MultiToken, Scoped
from refimpl.layers import linear, rms_norm
from refimpl.ops import NumpyOps, Traced
from tests.models.test_glm4_moe import config
from tests.tiny import normal

BLUEPRINT = refimpl.blueprint(config(num_nextn_predict_layers=2, use_qk_norm=True))
MODULE = BLUEPRINT.multi_token[0]
ORDER = np.tile(np.arange(5), (2, 1))


def run(module: MultiToken = MODULE) -> tuple[dict[str, Any], Any]:
    """What a module computes on random arrays, by the names of its taps, and its weights."""
    weights = Scoped(refimpl.init(BLUEPRINT.config, dtype="float64").weights, "multi_token.0")
    (rope,) = BLUEPRINT.ropes()
    ops = Traced(NumpyOps())
    rotations = {rope: ops.rope_cos_sin(ORDER + 1, rope.frequencies(np.dtype(np.float64)))}
    inputs = Inputs(q_order=ORDER, k_order=ORDER, rotations=rotations)
    output, state = module(ops, weights, normal(2, 5, 24), 3 * normal(2, 5, 24, seed=1), inputs, None)
    assert state["key"].shape == (2, 5, 2, 8)
    return {**ops.values, "result": output}, weights


def test_both_inputs_are_normed_and_the_embedding_comes_first() -> None:
    values, weights = run()
    np.testing.assert_array_equal(values["enorm"], rms_norm(normal(2, 5, 24), weights["enorm.weight"], eps=1e-5))
    np.testing.assert_array_equal(values["hnorm"], rms_norm(3 * normal(2, 5, 24, seed=1), weights["hnorm.weight"], eps=1e-5))
    both = np.concatenate([values["enorm"], values["hnorm"]], axis=-1)
    np.testing.assert_allclose(values["input"], linear(both, weights["eh_proj.weight"]), rtol=0, atol=1e-14)


def test_the_result_is_the_normed_output_of_the_layer() -> None:
    values, weights = run()
    np.testing.assert_array_equal(values["result"], rms_norm(values["output"], weights["norm.weight"], eps=1e-5))
    assert isinstance(MODULE.layer.mlp, MoE)


def test_counts_are_those_of_the_parameters() -> None:
    shapes = MODULE.parameters()
    counted = {name: prod(shape) for name, shape in shapes.items() if not name.endswith("correction_bias")}
    assert MODULE.num_parameters() == sum(counted.values())
    assert shapes["eh_proj.weight"] == (24, 48)
    routed = sum(count for name, count in counted.items() if ".experts." in name)
    assert MODULE.num_active_parameters() == MODULE.num_parameters() - routed + routed * 2 // 6
    assert MODULE.flops(7) == MODULE.layer.flops(7) + 2 * 24 * 48


def test_the_model_leaves_modules_out_unless_asked() -> None:
    plain = refimpl.blueprint(config(num_nextn_predict_layers=0, use_qk_norm=True))
    assert BLUEPRINT.num_parameters() == plain.num_parameters()
    assert BLUEPRINT.num_parameters(multi_token=True) == plain.num_parameters() + 2 * MODULE.num_parameters()
    assert plain.num_parameters(multi_token=True) == plain.num_parameters()
    assert BLUEPRINT.flops(9) == plain.flops(9)
    assert BLUEPRINT.num_active_parameters() == plain.num_active_parameters()
    assert BLUEPRINT.cache_bytes(9) == plain.cache_bytes(9)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_first_modules_alone(count: int) -> None:
    fewer = BLUEPRINT.with_modules(count)
    same = refimpl.blueprint(config(num_nextn_predict_layers=count, use_qk_norm=True))
    assert fewer.parameters() == same.parameters()
    assert [layout.sources for layout in fewer.layouts] == [layout.sources for layout in same.layouts]
    assert [layout.module_copies for layout in fewer.layouts] == [layout.module_copies for layout in same.layouts]
