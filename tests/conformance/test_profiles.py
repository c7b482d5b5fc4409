"""How deeply a run searches, and strategies for others' own tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings

from conformance import run
from conformance.profiles import PROFILES
from conformance.strategies import layer_cases
from refimpl.commands.conform import conform
from refimpl.layers import silu


def settings_of(**options):
    record = json.loads(run({"silu": silu}, k="silu/large", level="layer", dtype="float32", **options).to_json())
    return record["settings"]["max_examples"], record["settings"]["seed"]


def test_profiles_differ_in_examples_and_seed():
    assert settings_of() == settings_of(profile="dev") == (20, 0)
    assert settings_of(profile="ci") == (100, 0)
    days = {datetime.now(UTC).toordinal()}
    examples, seed = settings_of(profile="nightly")
    days.add(datetime.now(UTC).toordinal())
    assert examples == 1000
    assert seed in days


def test_the_help_says_how_many_cases_a_profile_draws():
    said = next(option.help for option in conform.params if option.name == "profile")
    assert all(f"{name} ({profile.max_examples}" in said for name, profile in PROFILES.items())


def test_numbers_stand_in_place_of_the_profiles():
    assert settings_of(profile="ci", max_examples=3, seed=7) == (3, 7)
    assert settings_of(profile="nightly", seed=0) == (1000, 0)


@pytest.mark.parametrize("name", ["often", None, 5, []])
def test_an_unknown_profile_is_one_sentence(name):
    with pytest.raises(ValueError, match=r"^profile is [^\n]* but must be one of dev, ci, nightly$"):
        settings_of(profile=name)


@settings(max_examples=15)
@given(layer_cases("silu", "float32"))
def test_strategies_serve_tests_of_others(case):
    right, wrong = silu(*case.inputs.arguments.values()), case.arrays["x"]
    assert case.judge_outputs((right,)).verdict == "pass"
    assert case.judge_outputs((wrong,)).verdict == "fail"
