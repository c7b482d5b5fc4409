"""(g) The gated delta rule of Qwen3-Next (a decay a head) and Kimi Linear (one a channel): transformers, NumPy and ONNX.

Seconds at 1 to 4,096 tokens, how they grow, and how many digits of float32 each form keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from common import THREADS, medians, report

from export import layer_model
from export.runtimes import onnxruntime_run
from refimpl.layers import gated_delta_rule, gated_delta_rule_chunked

LENGTHS = (1, 64, 256, 1024, 2048, 4096)
HEADS, WIDTH = 32, 128
NAMES = ("q", "k", "v", "g", "beta")
SCALE = WIDTH**-0.5
LARGEST_PEER = 1024  # with a decay a channel: transformers holds 64 of them a token and channel
ACCURATE_AT, FEW_HEADS = 2048, 4
# The size of g, and of every sixteenth token's: a text that ends forgets everything at once.
STRENGTHS = {"weak": (1e-3, 1e-3), "as trained": (0.1, 0.1), "strong": (3.0, 3.0), "weak, sudden": (1e-3, 200.0)}
Arrays = dict[str, Any]
Task = Callable[[Arrays], Any]


@dataclass(frozen=True)
class Kind:
    """key_heads: of 32 value heads. chunk: of the NumPy form, whose pairs of tokens have a decay a channel or a head."""

    name: str
    key_heads: int
    channel: bool
    chunk: int

    def draw(self, tokens: int, strength: str, heads: int = HEADS) -> Arrays:
        """A call of the layer in float32; the last arrays are the state from before."""
        generator = np.random.default_rng([tokens, heads])
        keys = heads * self.key_heads // HEADS
        q, k = generator.standard_normal((2, 1, tokens, keys, WIDTH))
        g = -np.exp(generator.standard_normal((1, tokens, heads, *([WIDTH] if self.channel else []))))
        usual, sometimes = STRENGTHS[strength]
        g[:, ::16] *= sometimes / usual
        arrays = {
            "q": q / np.linalg.norm(q, axis=-1, keepdims=True),
            "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
            "v": generator.standard_normal((1, tokens, heads, WIDTH)),
            "g": usual * g,
            "beta": 1 / (1 + np.exp(-generator.standard_normal((1, tokens, heads)))),
            "state": generator.standard_normal((1, heads, WIDTH, WIDTH)),
        }
        return {name: array.astype(np.float32) for name, array in arrays.items()}


KINDS = (Kind("a decay a head", 16, False, 64), Kind("a decay a channel", 32, True, 16))


def main() -> None:
    torch.set_num_threads(THREADS)
    for kind in KINDS:
        forms = all_forms(kind)
        found = {tokens: timed(kind, forms, tokens) for tokens in LENGTHS}
        print(f"{kind.name}: microseconds a token")
        for name in forms:
            costs = [f"{found[tokens][name] / tokens * 1e6:9.0f}" if name in found[tokens] else " " * 9 for tokens in LENGTHS]
            print(f"  {name:<24}{''.join(costs)}")
        accuracy(kind, forms)


def all_forms(kind: Kind) -> dict[str, Task]:
    return {
        "transformers recurrent": peer(kind, chunked=False),
        "transformers chunked": peer(kind, chunked=True),
        "NumPy recurrent": lambda arrays: gated_delta_rule(**arrays, scale=SCALE),
        f"NumPy chunks of {kind.chunk}": lambda arrays: gated_delta_rule_chunked(**arrays, scale=SCALE, chunk_size=kind.chunk),
        "ONNX standard": graph(kind, opset=23),
        "ONNX operator": graph(kind, opset=27),
    }


def peer(kind: Kind, *, chunked: bool) -> Task:
    """The peer's function; it applies the same scale itself."""
    if kind.channel:
        from transformers.models.kimi_linear import modeling_kimi_linear as module

        function = module.chunk_kimi_delta_attention if chunked else module.recurrent_kimi_delta_attention
    else:
        from transformers.models.qwen3_next import modeling_qwen3_next as module

        function = module.torch_chunk_gated_delta_rule if chunked else module.torch_recurrent_gated_delta_rule

    def run(arrays: Arrays) -> Any:
        tensors = {name: torch.from_numpy(arrays[name]) for name in NAMES}
        state = torch.from_numpy(arrays["state"])
        with torch.inference_mode():
            results = function(*tensors.values(), initial_state=state, output_final_state=True)
        return [result.numpy() for result in results]

    return run


def graph(kind: Kind, *, opset: int) -> Task:
    """The layer as a graph; one for all lengths, another for each number of heads."""
    runs: dict[int, Any] = {}

    def run(arrays: Arrays) -> Any:
        heads = arrays["v"].shape[2]
        if heads not in runs:
            model = layer_model("gated_delta_rule", arrays, {"scale": SCALE}, opset=opset)
            runs[heads] = onnxruntime_run(model, threads=THREADS)
        return list(runs[heads](arrays).values())

    return run


def timed(kind: Kind, forms: dict[str, Task], tokens: int) -> dict[str, float]:
    arrays = kind.draw(tokens, "as trained")
    left_out = kind.channel and tokens > LARGEST_PEER
    tasks = {name: partial(form, arrays) for name, form in forms.items() if not (left_out and name == "transformers chunked")}
    seconds = medians(tasks, rounds=15 if tokens < 256 else 3)
    report(f"{kind.name}, {tokens} tokens, {THREADS} threads", seconds, baseline="transformers recurrent")
    return seconds


def accuracy(kind: Kind, forms: dict[str, Task]) -> None:
    """The error of the result and of the state, relative to their size, both as root mean squares."""
    print(f"{kind.name}: relative error in float32 after {ACCURATE_AT} tokens, result and state")
    for strength in STRENGTHS:
        arrays = kind.draw(ACCURATE_AT, strength, heads=FEW_HEADS)
        exact = gated_delta_rule(**{name: array.astype(np.float64) for name, array in arrays.items()}, scale=SCALE)
        for name, form in forms.items():
            y, state = (
                np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2))
                for found, right in zip(form(arrays), exact, strict=True)
            )
            print(f"  {strength:<12} {name:<24} {y:8.1e} {state:8.1e}")


if __name__ == "__main__":
    main()
