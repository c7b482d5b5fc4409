"""Reading a published config.json strictly: every key is used, known to change no number, or an error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from refimpl.shapes import spell_bound

T = TypeVar("T")
N = TypeVar("N", int, float)

MOST_PARTS = 10_000

# How JSON calls what a key holds.
SPELT = {int: "an integer", float: "a number", bool: "true or false", str: "a string", list: "a list", dict: "an object"}

# Keys of any Hugging Face configuration that change no logit: bookkeeping, training, and the defaults of decoding.
_HARMLESS = """
    _name_or_path architectures auto_map bos_token_id chunk_size_feed_forward dtype eos_token_id finetuning_task
    id2label initializer_range is_decoder is_encoder_decoder label2id model_type name_or_path output_attentions
    output_hidden_states pad_token_id prefix problem_type return_dict sep_token_id task_specific_params tokenizer_class
    torch_dtype torchscript transformers_version unsloth_fixed unsloth_version use_cache attention_dropout
    attn_implementation _attn_implementation _attn_implementation_autoset pretraining_tp max_length min_length do_sample
    temperature top_k top_p num_beams repetition_penalty experts_implementation _experts_implementation
"""
HARMLESS = frozenset(_HARMLESS.split())
# Keys that would change numbers if they were set: only the value that leaves everything as it is passes.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "text_config": (None,),
}


def is_params_json(values: Mapping[str, Any]) -> bool:
    """Whether a configuration is a params.json, Mistral's own: its keys have other names, and none is `model_type`."""
    return "model_type" not in values and "dim" in values


class Config:
    """A configuration from which keys are taken; `finish` fails on what was left over.

    `taken`, `ignored` and `absent` say afterwards which switches a file sets, which of its keys mean nothing here, and
    which ones fell back to the class default of the architecture.
    """

    def __init__(self, values: Mapping[str, Any], model_type: str | None = None) -> None:
        odd = [key for key in values if not isinstance(key, str)]
        if odd:
            raise ValueError(f"config: a key is {odd[0]!r} but keys are strings")
        self.values = dict(values)
        self._model_type = model_type
        self.taken: dict[str, Any] = {}
        self.absent: dict[str, Any] = {}
        self.ignored: list[str] = []
        self.inner: dict[str, Config] = {}
        self._class_defaults: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return str(self.values.get("model_type", self._model_type))

    def assume(self, **class_defaults: Any) -> None:
        """What absent keys mean to an architecture whose releases leave them out; it wins over the default of a reader."""
        self._class_defaults.update(class_defaults)

    def require(self, key: str, kind: type[T]) -> T:
        """The value of a key that must be there, unless it has a class default."""
        if key in self._class_defaults:
            return self.take(key, kind, self._class_defaults[key])
        if key not in self.values:
            raise ValueError(f"config: key {key!r} is missing and {self.name!r} needs it ({SPELT[kind]})")
        return self._typed(key, self.values[key], kind)

    def take(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key, or `default`, the architecture's own, when it is absent."""
        if key not in self.values:
            self.absent[key] = self._class_defaults.get(key, default)
            return self.absent[key]
        return self._typed(key, self.values[key], kind)

    def optional(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """As `take`, where null is a value of its own."""
        default = self._class_defaults.get(key, default)
        if self.values.get(key, default) is None:
            self._note(key, None)
            return None
        assert default is not None or key in self.values
        return self.take(key, kind, default)

    def choose(self, key: str, choices: Mapping[str, T], default: str) -> T:
        """The meaning of a key whose value must be one of `choices`."""
        value = self.take(key, str, default)
        if value not in choices:
            raise ValueError(f"config: {key} is {value!r} but {self.name!r} supports {', '.join(map(repr, choices))}")
        return choices[value]

    def positive(self, key: str) -> int:
        """A required integer of at least 1."""
        return self.bounded(key, self.require(key, int), at_least=1)

    def count(self, key: str) -> int:
        """A required integer from 1 to 10,000: how many of a part there are, each of which is built."""
        value = self.positive(key)
        if value > MOST_PARTS:
            raise ValueError(f"config: {key} is {value} but at most {MOST_PARTS} are supported")
        return value

    def optional_positive(self, key: str, default: int | None = None) -> int | None:
        """As `optional`, for an integer of at least 1."""
        value = self.optional(key, int, default)
        return None if value is None else self.bounded(key, value, at_least=1)

    def bounded(self, key: str, value: N, *, at_least: float | None = None, above: float | None = None) -> N:
        """`value` of `key`, which must be finite and inside its bounds."""
        if not isfinite(value) or (at_least is not None and value < at_least) or (above is not None and value <= above):
            need = "positive integer" if at_least == 1 else spell_bound(above=above, at_least=at_least)
            raise ValueError(f"config: {key} is {value!r} but needs a {need}")
        return value

    def nested(self, key: str, model_type: str) -> Config:
        """The configuration of a part of the model, an object under `key`; its `model_type` is the given one if it has none."""
        values = self.require(key, dict)
        self.inner[key] = Config(values, model_type)
        return self.inner[key]

    def ignore(self, *keys: str) -> None:
        """Keys of this architecture that change no number."""
        self.ignored.extend(key for key in keys if key in self.values)

    def unread(self) -> list[str]:
        """Keys that nothing has read and that are not known to be harmless."""
        self.ignored.extend(sorted(HARMLESS & set(self.values) - set(self.ignored) - set(self.taken)))
        for key, neutral in NEUTRAL.items():
            if key in self.values and key not in self.taken and self.values[key] in neutral:
                self.ignored.append(key)
        return sorted(set(self.values) - set(self.taken) - set(self.ignored))

    def finish(self) -> None:
        """ValueError when a key was left over: it might change numbers, and nothing is guessed."""
        left = self.unread()
        if not left:
            return
        key = left[0]
        if key in NEUTRAL:
            raise ValueError(f"config: {key} is {self.values[key]!r}, which {self.name!r} does not support here")
        known = sorted(set(self.taken) | set(self.absent))
        near = get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"config: unknown key {key!r} (value {self.values[key]!r}) for {self.name!r}{hint}")

    def _note(self, key: str, value: Any) -> None:
        (self.taken if key in self.values else self.absent)[key] = value

    def _typed(self, key: str, value: Any, kind: type[T]) -> T:
        if isinstance(value, np.integer):
            value = int(value)
        if kind is int and type(value) is int and abs(value) > sys.maxsize:
            raise ValueError(f"config: {key} has {len(str(value))} digits but needs a 64-bit integer")
        if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        unfit = isinstance(value, bool) and kind is not bool
        if unfit or not isinstance(value, kind) or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(f"config: {key} is {value!r} but needs {SPELT[kind]}")
        self.taken[key] = value
        return value
