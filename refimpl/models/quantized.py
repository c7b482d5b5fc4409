"""Which weights of a release are stored in a few bits, and how: what `quantization_config` says.

Three ways are read: FP8 blocks as DeepSeek releases them (quant_method "fp8"), and FP8 blocks or INT4 groups as
"compressed-tensors" writes them. They concern storage alone: weights are decoded and then computed with as any others. What
the configuration says of activations, which engines quantise as they go, is ignored.
Pitfalls: modules that stay as they are taken for quantised ones (routers, the projection of a multi-token module, the head
weights of an indexer).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from refimpl.config import Config
from refimpl.layers.int4 import NIBBLES
from refimpl.models.disk import Disk
from refimpl.quantized_storage import Fp8, Int4
from refimpl.storage import Part, Shape, Stacked, Stored, Tensor

# Parts of a blueprint that hold linear maps; embeddings and the head are stored as they are.
QUANTISED_PARTS = ("layers", "multi_token")
# Matrices in them that releases do not quantise, whatever the configuration says, beside those of routers.
PLAIN_MODULES = (r".*\beh_proj$", r".*\bindexer\.weights_proj$")
FP8_FORMATS: Mapping[str, str] = {"e4m3": "e4m3", "float8_e4m3fn": "e4m3", "e5m2": "e5m2", "float8_e5m2": "e5m2"}
SCALE_FORMATS: Mapping[str, str] = {"float": "float32", "ue8m0": "ue8m0"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "block", "symmetric": True}

Recipe = Callable[[str], Stored]  # of a module's name on disk


@dataclass(frozen=True)
class Quantisation:
    """How linear maps are stored.

    plain: patterns of modules, by their names on disk, that are stored as they are. recipe: of the others.
    group: what the entries of their rows must be a multiple of.
    """

    recipe: Recipe
    plain: tuple[str, ...]
    group: int = 1

    def __call__(self, parameter: str, shape: Shape, source: Stored) -> Stored:
        part, *inner = parameter.split(".")
        matrix = len(shape) > 1 and inner[-1] == "weight" and "router" not in inner
        if part not in QUANTISED_PARTS or not matrix:
            return source
        stored = self._stored(source)
        if stored != source and shape[-1] % self.group:
            raise ValueError(f"config: group_size is {self.group} but the rows of {parameter!r} have {shape[-1]} entries")
        return stored

    def _stored(self, source: Stored) -> Stored:
        match source:
            case Tensor(name):
                module = name.removesuffix(".weight")
                return source if any(re.match(pattern, module) for pattern in self.plain) else self.recipe(module)
            case Stacked(sources):
                return Stacked(tuple(map(self._stored, sources)))
            case Part(source=whole):
                return replace(source, source=self._stored(whole))
        raise ValueError(f"storage: a weight that is stored as a {type(source).__name__} has no quantised form")


def quantized(config: Config, *disks: Disk, plain: tuple[str, ...] = ()) -> tuple[Disk, ...]:
    """`disks`, with the weights quantised that `quantization_config` says; as they are where it says nothing.

    plain: patterns of more modules that are stored as they are, where names on disk are not those that the configuration
    speaks of.
    """
    if config.optional("quantization_config", dict) is None:
        return disks
    keys = config.nested("quantization_config", config.name)
    quantisation = _one_of(keys, "quant_method", {"fp8": _fp8, "compressed-tensors": _compressed_tensors})(keys)
    keys.finish()
    quantisation = replace(quantisation, plain=(*PLAIN_MODULES, *plain, *quantisation.plain))
    return tuple(replace(disk, quantised=quantisation) for disk in disks)


def _fp8(keys: Config) -> Quantisation:
    """Keys: fmt, weight_block_size, scale_fmt, modules_to_not_convert; the others as released."""
    keys.choose("activation_scheme", {"dynamic": None}, "dynamic")
    keys.choose("expert_dtype", {"fp8": None}, "fp8")
    keys.ignore("dequantize")
    _null(keys, "modules_to_convert")
    format = keys.choose("fmt", FP8_FORMATS, "e4m3")
    scale_format = "float32" if keys.optional("scale_fmt", str) is None else _one_of(keys, "scale_fmt", SCALE_FORMATS)
    block = _block(keys, "weight_block_size")
    # Each is the beginning of a module's name, up to a dot, or its end.
    plain = _patterns(keys, "modules_to_not_convert", lambda each: rf"(?:{each})(?:\.|$)|.*{re.escape(each)}$")

    def recipe(module: str) -> Stored:
        """The weight of a module as FP8."""
        return Fp8(Tensor(f"{module}.weight"), Tensor(f"{module}.weight_scale_inv"), block, format, scale_format)

    return Quantisation(recipe, plain)


def _compressed_tensors(keys: Config) -> Quantisation:
    """Keys: format, ignore, and config_groups with one group, of all linear maps."""
    keys.ignore("quantization_status", "global_compression_ratio", "version")
    _null(keys, "kv_cache_scheme", "sparsity_config", "transform_config", "moe_sparsity_config")
    read = _one_of(keys, "format", {"pack-quantized": _int4_groups, "float-quantized": _fp8_blocks})
    groups = keys.nested("config_groups", keys.name)
    if len(groups.values) != 1:
        raise ValueError(f"config: config_groups is {groups.values} but {keys.name!r} supports one group")
    group = groups.nested(next(iter(groups.values)), keys.name)
    group.ignore("input_activations")
    _null(group, "output_activations")
    _same(group, {"targets": ["Linear"], "format": keys.taken["format"]}, absent=("format",))
    quantisation = read(group.nested("weights", keys.name))
    group.finish()
    plain = _patterns(
        keys, "ignore", lambda each: each.removeprefix("re:") if each.startswith("re:") else f"{re.escape(each)}$"
    )
    return replace(quantisation, plain=plain)


def _int4_groups(weights: Config) -> Quantisation:
    _weights_of_a_group(weights, INT4)
    _null(weights, "block_structure")
    group = weights.positive("group_size")
    if group % NIBBLES:
        raise ValueError(f"config: group_size is {group} but needs a multiple of {NIBBLES}")
    weights.finish()

    def recipe(module: str) -> Stored:
        """The weight of a module as INT4."""
        return Int4(Tensor(f"{module}.weight_packed"), Tensor(f"{module}.weight_scale"), f"{module}.weight_shape", group)

    return Quantisation(recipe, (), group)


def _fp8_blocks(weights: Config) -> Quantisation:
    _weights_of_a_group(weights, FP8)
    _null(weights, "group_size")
    block = _block(weights, "block_structure")
    weights.finish()
    return Quantisation(lambda module: Fp8(Tensor(f"{module}.weight"), Tensor(f"{module}.weight_scale"), block), ())


def _weights_of_a_group(weights: Config, needed: Mapping[str, Any]) -> None:
    _same(weights, {**needed, "dynamic": False}, absent=("symmetric", "dynamic"))
    _null(weights, "actorder")
    # How the numbers were found, and formats that the file itself tells.
    weights.ignore("observer", "observer_kwargs", "scale_dtype", "zp_dtype")


def _one_of(keys: Config, key: str, choices: Mapping[str, Any]) -> Any:
    """As `choose`, of a key that must be there."""
    return keys.choose(key, choices, keys.require(key, str))


def _same(keys: Config, needed: Mapping[str, Any], *, absent: Sequence[str]) -> None:
    """ValueError where a key has another value than the one with a recipe; those of `absent` need not be there."""
    for key, value in needed.items():
        found = keys.take(key, type(value), value) if key in absent else keys.require(key, type(value))
        if found != value:
            raise ValueError(f"config: {key} is {found!r} but {keys.name!r} supports {value!r}")


def _null(keys: Config, *names: str) -> None:
    """ValueError where a key says anything."""
    for name in names:
        if keys.values.get(name):
            raise ValueError(f"config: {name} is {keys.values[name]!r}, which {keys.name!r} does not support here")
    keys.ignore(*names)


def _block(keys: Config, key: str) -> tuple[int, int]:
    sizes = keys.require(key, list)
    if len(sizes) != 2 or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"config: {key} is {sizes} but needs two positive integers")
    return sizes[0], sizes[1]


def _patterns(keys: Config, key: str, pattern_of: Callable[[str], str]) -> tuple[str, ...]:
    """The regular expressions of the modules that a list names."""
    patterns = []
    for each in keys.optional(key, list) or []:
        if not isinstance(each, str):
            raise ValueError(f"config: {key} has {each!r} but needs names of modules")
        try:
            patterns.append(re.compile(pattern_of(each)).pattern)
        except re.error as error:
            raise ValueError(f"config: {key} has {each!r}, which is no regular expression: {error}") from None
    return tuple(patterns)
