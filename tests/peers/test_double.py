"""That the peer computes in float64 throughout, without which agreement to 1e-10 would mean nothing."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .comparison import Array, relative_error
from .conftest import PairOf
from .variants import VARIANTS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
dispatch = pytest.importorskip("torch.utils._python_dispatch")

# Their routers ask for float32 in ways of their own.
MIXTURES = (
    *("qwen3_moe-everything", "glm4_moe-everything", "minimax_m2-everything"),
    *("qwen3_next-everything", "kimi_linear-everything"),
)
LLAMA3 = VARIANTS["qwen3-llama3"].settings["rope_parameters"]


class FloatFormats(dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
    """Notes the floating-point formats of the results of all operators that run inside, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.seen.add(value.dtype)
        return result


def test_every_operator_of_a_call_gives_float64(pair_of: PairOf) -> None:
    for name in ("smollm3-everything", "qwen3-everything", "qwen3-llama3", *MIXTURES):
        pair = pair_of(name)
        with FloatFormats() as formats:
            _, cache = pair.peer(pair.tokens(2, 19))
            pair.peer(pair.tokens(2, 1), cache)
            pair.peer.generate(pair.tokens(2, 3), 2)
        assert formats.seen == {torch.float64}


@pytest.mark.parametrize("name", ["smollm3-tied", "qwen3-untied", "qwen3-linear", "qwen3-llama3", "qwen3-yarn"])
def test_every_operator_of_the_construction_gives_float64(name: str, pair_of: PairOf) -> None:
    from transformers import AutoModelForCausalLM

    from .double import double_precision

    config = pair_of(name).peer.network.config
    with double_precision(), FloatFormats() as formats:
        AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    assert formats.seen == {torch.float64}


def test_float64_weights_alone_do_not_suffice(pair_of: PairOf) -> None:
    """The same network outside `double_precision`: the formats seen show that the tests above can fail."""
    pair = pair_of("qwen3-untied")
    tokens = torch.tensor(pair.tokens(2, 19))
    with FloatFormats() as formats, torch.inference_mode():
        logits = pair.peer.network(tokens).logits
    assert formats.seen == {torch.float64, torch.float32}
    assert relative_error(logits.numpy(), pair.peer(tokens.numpy())[0]) > 1e-9


@pytest.mark.parametrize("name", ["smollm3-untied", "qwen3-yarn"])
def test_transformers_as_it_is_differs_by_float32_rounding(name: str, pair_of: PairOf) -> None:
    from .reference import load_network

    pair = pair_of(name)
    tokens = pair.tokens(2, 19)
    with torch.inference_mode():
        plain = load_network(pair.directory, torch.float32)(torch.tensor(tokens)).logits
    assert plain.dtype == torch.float32
    assert 1e-8 < relative_error(plain.numpy(), pair.peer(tokens)[0]) < 1e-5


def plain_frequencies(head_dim: int, theta: float) -> list[float]:
    return [math.exp(-2 * i / head_dim * math.log(theta)) for i in range(head_dim // 2)]


def llama3_frequency(frequency: float) -> float:
    low, high, factor = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"], LLAMA3["factor"]
    turns = LLAMA3["original_max_position_embeddings"] * frequency / (2 * math.pi)
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return float(frequency * (kept + (1 - kept) / factor))


def inverse_frequencies(name: str) -> list[float]:
    match name:
        case "smollm3-tied":
            return plain_frequencies(8, 300.0)
        case "qwen3-untied":
            return plain_frequencies(14, 100.0)
        case "qwen3-linear":
            return [frequency / 3.0 for frequency in plain_frequencies(14, 100.0)]
        case _:
            return [llama3_frequency(frequency) for frequency in plain_frequencies(14, 100.0)]


@pytest.mark.parametrize("name", ["smollm3-tied", "qwen3-untied", "qwen3-linear", "qwen3-llama3"])
def test_rotation_angles_have_all_their_digits(name: str, pair_of: PairOf) -> None:
    from .double import double_precision

    rotary = pair_of(name).peer.network.model.rotary_emb
    expected = np.array(inverse_frequencies(name))
    np.testing.assert_allclose(rotary.inv_freq.numpy(), expected, rtol=2e-15, atol=0)
    positions = np.array([[0, 1, 999, 131_071]])
    with double_precision():
        cos, sin = rotary(torch.zeros(1), torch.tensor(positions))
    angles: Array = np.concatenate([expected, expected]) * positions[:, :, None]
    np.testing.assert_allclose(cos.numpy(), np.cos(angles), rtol=0, atol=1e-10)
    np.testing.assert_allclose(sin.numpy(), np.sin(angles), rtol=0, atol=1e-10)


def test_the_names_are_exchanged_inside_and_back_afterwards() -> None:
    from .double import double_precision

    def sizes() -> list[int]:
        by_name = (torch.zeros(1), torch.zeros(1, dtype=torch.float32), torch.zeros(1, dtype=torch.float))
        return [tensor.element_size() for tensor in (*by_name, torch.zeros(1).half().float())]

    def fail_inside() -> None:
        with double_precision():
            assert sizes() == [8, 8, 8, 8]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail_inside()
    assert sizes() == [4, 4, 4, 4]


def test_nothing_is_imported_while_the_names_are_exchanged(pair_of: PairOf) -> None:
    """A module imported then would keep float64 in its default arguments and tables for the rest of the process."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import numpy as np
from peers import double, reference
from contextlib import contextmanager

imported = set()

@contextmanager
def watched():
    before = set(sys.modules)
    with double.double_precision():
        yield
    imported.update(set(sys.modules) - before)

reference.double_precision = watched
peer = reference.load_peer({str(pair_of("qwen3-everything").directory)!r})
peer(np.ones((1, 2), np.int64))
peer.generate(np.ones((1, 2), np.int64), 2)
print(sorted(imported))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
