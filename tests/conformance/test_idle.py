"""A backend that offers a layer of which nothing runs does not conform by keeping silent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import refimpl
from conformance import run
from refimpl import layers
from refimpl.blocks import Yarn


def refuses(*values: Any, **options: Any) -> Any:
    raise NotImplementedError("not yet")


def test_a_layer_of_which_every_case_is_unsupported_is_named() -> None:
    report = run({"silu": layers.silu, "gelu": refuses}, level="layer", max_examples=0)
    assert report.exit_code == 5
    assert "gelu" in report.too_few


def test_a_misspelt_keyword_that_every_call_has_is_an_error() -> None:
    report = run({"layer_norm": lambda x, weight, bias=None, *, epsilon: x}, level="layer", max_examples=0)
    assert report.exit_code == 1
    assert {result.verdict for result in report.results if result.layer == "layer_norm"} == {"error"}
    assert "has no eps" in report.failures()[0].judgement.sentence


def test_a_switch_that_is_missing_is_unsupported() -> None:
    report = run({"rms_norm": lambda x, weight, *, eps: layers.rms_norm(x, weight, eps=eps)}, level="layer", max_examples=0)
    assert report.exit_code == 0
    assert report.counts()["unsupported"]


class OtherYarn:
    """The specification with one YaRN key read differently."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def load(self, directory: Path) -> Any:
        model = refimpl.load(directory, dtype="float32")
        changed = [self._changed(layer) for layer in model.blueprint.layers]
        return dataclasses.replace(model, blueprint=dataclasses.replace(model.blueprint, layers=tuple(changed)))

    def _changed(self, layer: Any) -> Any:
        rope = layer.mixer.rope
        if rope is None or not isinstance(rope.scaling, Yarn):
            return layer
        scaling = dataclasses.replace(rope.scaling, **self.changes)
        return dataclasses.replace(
            layer, mixer=dataclasses.replace(layer.mixer, rope=dataclasses.replace(rope, scaling=scaling))
        )


def test_every_key_of_yarn_shows_in_a_model() -> None:
    assert run(OtherYarn(), level="model", k="qwen3/").ok
    for change in ({"truncate": True}, {"truncate": False}, {"beta_fast": 32.0}, {"beta_slow": 2.0}, {"attention_factor": 1.2}):
        assert run(OtherYarn(**change), level="model", k="yarn").exit_code == 1, change
