"""Strict reading of configurations: every key is used, known to be harmless, or an error."""

from __future__ import annotations

import pytest

import refimpl
from refimpl.config import HARMLESS, NEUTRAL, SPELT, Config
from refimpl.lint import Finding, lint


def config(**values: object) -> Config:
    return Config({"model_type": "toy", **values})


class TestRequire:
    @pytest.mark.parametrize(("kind", "value"), [(int, 3), (float, 0.5), (str, "silu"), (bool, True), (list, [1]), (dict, {})])
    def test_gives_the_value(self, kind: type, value: object) -> None:
        assert config(key=value).require("key", kind) == value

    def test_a_missing_key_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^config: key 'width' is missing and 'toy' needs it \(an integer\)$"):
            config().require("width", int)

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (int, 3.0), (int, "3"), (int, True), (int, None), (int, [3]),
            (float, "0.5"), (float, True), (float, None),
            (bool, 1), (bool, "true"), (bool, None), (str, 3), (list, (1,)), (dict, [1]),
        ],
    )  # fmt: skip
    def test_a_wrong_type_is_one_sentence(self, kind: type, value: object) -> None:
        with pytest.raises(ValueError, match=r"^config: key is .* but needs " + SPELT[kind] + "$"):
            config(key=value).require("key", kind)

    @pytest.mark.parametrize("value", [10**400, float("inf"), float("nan")], ids=["huge", "inf", "nan"])
    def test_a_number_that_is_not_finite_is_one_sentence(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"^config: theta is .* but needs"):
            config(theta=value).require("theta", float)

    def test_an_integer_serves_as_a_float(self) -> None:
        value = config(theta=10000).require("theta", float)
        assert value == 10000.0
        assert type(value) is float


class TestTake:
    def test_an_absent_key_takes_the_default(self) -> None:
        assert config().take("key", int, 7) == 7

    def test_null_is_not_absent(self) -> None:
        with pytest.raises(ValueError, match="config: key is None but needs"):
            config(key=None).take("key", int, 7)


class TestOptional:
    def test_null_is_a_value_of_its_own(self) -> None:
        assert config(key=None).optional("key", int, 7) is None

    def test_an_absent_key_takes_the_default(self) -> None:
        assert config().optional("key", int, 7) == 7
        assert config().optional("key", int) is None

    def test_a_wrong_type_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="config: key is 'x' but needs"):
            config(key="x").optional("key", int)


class TestChoose:
    CHOICES = {"silu": 1, "gelu": 2}  # noqa: RUF012

    def test_gives_the_meaning(self) -> None:
        assert config(act="gelu").choose("act", self.CHOICES, "silu") == 2
        assert config().choose("act", self.CHOICES, "silu") == 1

    def test_another_value_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^config: act is 'relu' but 'toy' supports 'silu', 'gelu'$"):
            config(act="relu").choose("act", self.CHOICES, "silu")


class TestPositive:
    @pytest.mark.parametrize("value", [0, -1])
    def test_zero_and_less_are_errors(self, value: int) -> None:
        with pytest.raises(ValueError, match=f"^config: layers is {value} but needs a positive integer$"):
            config(layers=value).positive("layers")


class TestFinish:
    @pytest.mark.parametrize("key", sorted(HARMLESS))
    def test_a_harmless_key_passes(self, key: str) -> None:
        config(**{key: "anything"}).finish()

    @pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in NEUTRAL.items() for value in values])
    def test_a_neutral_value_passes(self, key: str, value: object) -> None:
        config(**{key: value}).finish()

    @pytest.mark.parametrize("key", NEUTRAL)
    def test_another_value_is_one_sentence(self, key: str) -> None:
        with pytest.raises(ValueError, match=f"^config: {key} is {{'a': 1}}, which 'toy' does not support here$"):
            config(**{key: {"a": 1}}).finish()

    def test_an_unknown_key_is_one_sentence_with_the_nearest_known_key(self) -> None:
        read = config(rope_tetha=5.0)
        read.take("rope_theta", float, 1.0)
        with pytest.raises(
            ValueError, match=r"^config: unknown key 'rope_tetha' \(value 5.0\) for 'toy'; did you mean 'rope_theta'\?$"
        ):
            read.finish()

    def test_an_unknown_key_unlike_all_others_has_no_hint(self) -> None:
        with pytest.raises(ValueError, match=r"^config: unknown key 'zzz' \(value 1\) for 'toy'$"):
            config(zzz=1).finish()

    def test_keys_that_were_read_or_set_aside_pass(self) -> None:
        read = config(a=1, b=None, c=2)
        read.require("a", int)
        read.optional("b", int)
        read.ignore("c", "absent")
        read.finish()

    def test_says_what_was_taken_absent_and_ignored(self) -> None:
        read = config(a=1, b=None, c=2, use_cache=True)
        read.require("a", int)
        read.optional("b", int)
        read.take("d", int, 4)
        read.ignore("c")
        assert read.unread() == []
        assert (read.taken, read.absent) == ({"a": 1, "b": None}, {"d": 4})
        assert sorted(read.ignored) == ["c", "model_type", "use_cache"]

    def test_class_defaults_fill_what_is_absent_and_nothing_else(self) -> None:
        read = config(a=1, e=None)
        read.assume(a=2, b=3, c=4.0, d=5, e=6)
        found = read.require("a", int), read.require("b", int), read.take("c", float, 7.0), read.optional("d", int)
        assert found == (1, 3, 4.0, 5)
        assert read.optional("e", int) is None
        assert (read.taken, read.absent) == ({"a": 1, "e": None}, {"b": 3, "c": 4.0, "d": 5})

    def test_does_not_change_what_it_was_given(self) -> None:
        values = {"model_type": "toy", "a": 1}
        Config(values).require("a", int)
        assert values == {"model_type": "toy", "a": 1}


class TestNested:
    def test_an_object_inside_is_a_configuration_of_its_own(self) -> None:
        outer = config(text_config={"model_type": "toy_text", "width": 3, "use_cache": True}, width=4)
        inner = outer.nested("text_config", "another")
        assert (inner.name, inner.require("width", int)) == ("toy_text", 3)
        inner.finish()
        outer.require("width", int)
        outer.finish()

    def test_its_model_type_is_the_given_one_where_it_has_none(self) -> None:
        inner = config(text_config={}).nested("text_config", "toy_text")
        with pytest.raises(ValueError, match=r"^config: key 'width' is missing and 'toy_text' needs it \(an integer\)$"):
            inner.require("width", int)

    def test_a_key_that_nobody_read_inside_is_an_error_inside_alone(self) -> None:
        outer = config(text_config={"widht": 3})
        inner = outer.nested("text_config", "toy_text")
        inner.take("width", int, 4)
        with pytest.raises(
            ValueError, match=r"^config: unknown key 'widht' \(value 3\) for 'toy_text'; did you mean 'width'\?$"
        ):
            inner.finish()
        outer.finish()

    @pytest.mark.parametrize("value", [None, [], "x", 3])
    def test_something_else_than_an_object_is_one_sentence(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"^config: text_config is .* but needs an object$"):
            config(text_config=value).nested("text_config", "toy_text")

    def test_a_missing_object_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^config: key 'text_config' is missing and 'toy' needs it \(an object\)$"):
            config().nested("text_config", "toy_text")

    def test_a_key_inside_that_is_no_string_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^config: a key is 3 but keys are strings$"):
            config(text_config={3: 4}).nested("text_config", "toy_text")

    def test_does_not_change_what_it_was_given(self) -> None:
        values = {"text_config": {"width": 3}}
        Config(values).nested("text_config", "toy_text").require("width", int)
        assert values == {"text_config": {"width": 3}}


def read_toy(outer: Config) -> None:
    """An architecture whose language model is an object inside, which has an object inside too."""
    inner = outer.nested("text_config", "toy_text")
    inner.require("width", int)
    inner.take("depth", int, 2)
    scaling = inner.nested("scaling", "toy_text")
    scaling.require("factor", float)
    for each in (scaling, inner, outer):
        each.finish()


class TestLintOfNestedConfigurations:
    @pytest.fixture(autouse=True)
    def toy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("refimpl.lint.reader", lambda _: read_toy)

    TEXT = {"width": 3, "use_cache": True, "scaling": {"factor": 2.0}}  # noqa: RUF012

    def test_keys_inside_are_named_by_their_path(self) -> None:
        found = lint({"model_type": "toy", "text_config": self.TEXT})
        expected = {
            ("used", "text_config.width", 3),
            ("used", "text_config.scaling.factor", 2.0),
            ("default", "text_config.depth", 2),
            ("ignored", "text_config.use_cache", True),
            ("ignored", "model_type", "toy"),
        }
        assert {(finding.kind, finding.key, finding.value) for finding in found} == expected

    def test_a_key_that_is_given_inside_is_ignored_inside(self) -> None:
        found = lint({"model_type": "toy", "text_config": {"model_type": "toy_text", **self.TEXT}})
        assert Finding(kind="ignored", key="text_config.model_type", value="toy_text") in found

    def test_an_unknown_key_inside_is_an_error_and_the_rest_is_told(self) -> None:
        found = lint({"model_type": "toy", "text_config": {**self.TEXT, "widht": 3}})
        assert found[-1].kind == "error"
        assert "unknown key 'widht' (value 3) for 'toy_text'; did you mean 'width'?" in found[-1].text
        assert Finding(kind="used", key="text_config.width", value=3) in found

    @pytest.mark.parametrize("text", [None, 3, {3: 4}])
    def test_an_object_that_is_none_is_an_error(self, text: object) -> None:
        found = lint({"model_type": "toy", "text_config": text})
        assert found[-1].kind == "error"
        assert found[-1].text.startswith("config: ")


@pytest.mark.parametrize("change", [{"hidden_size": 10**400}, {"num_hidden_layers": 10**8}, {"sliding_window": 2**63}, {3: 4}])
def test_numbers_and_keys_beyond_reason_are_one_sentence(change: dict) -> None:
    with pytest.raises(ValueError, match=r"^config: "):
        refimpl.blueprint({**refimpl.blueprint("Qwen/Qwen3-0.6B").config, **change})
