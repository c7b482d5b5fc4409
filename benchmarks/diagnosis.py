"""Is the first name right? Faults planted in transformers at run time, told apart by their logits and by their taps alone.

Each fault patches a function or module of transformers while a small checkpoint runs. `refimpl diagnose` then sees the logits,
`refimpl diff` the modules' outputs. The table says which mutant came first, and where the first difference was.

    python benchmarks/diagnosis.py
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

import refimpl
from conformance.difference import compare, expected_taps
from conformance.doors import load_backend
from conformance.engine_diagnosis import diagnose_logits
from conformance.taps import tap_suspects
from conformance.tiny_models import MODELS

Fault = Callable[[Any], dict[str, Any]]


def library(architecture: str) -> Any:
    return importlib.import_module(f"transformers.models.{architecture}.modeling_{architecture}")


def tiled(m: Any) -> dict[str, Any]:
    return {"repeat_kv": lambda states, n: states.repeat(1, n, 1, 1)}


def neighbours_turned(m: Any) -> dict[str, Any]:
    def rotate_half(x: Any) -> Any:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    def apply(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        half = cos.shape[-1] // 2
        cos, sin = (t[..., :half].repeat_interleave(2, -1).unsqueeze(unsqueeze_dim) for t in (cos, sin))
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin

    return {"apply_rotary_pos_emb": apply}


def backwards(m: Any) -> dict[str, Any]:
    right = m.apply_rotary_pos_emb
    return {"apply_rotary_pos_emb": lambda q, k, cos, sin, unsqueeze_dim=1: right(q, k, cos, -sin, unsqueeze_dim)}


def norm(name: str, forward: Callable[..., Any]) -> Fault:
    return lambda m: {f"{name}.forward": forward}


def eps_outside(self: Any, x: Any) -> Any:
    return self.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.variance_epsilon))


def another_eps(self: Any, x: Any) -> Any:
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def offset_missing(self: Any, x: Any) -> Any:
    return self._norm(x) * self.weight


def shifted_twice(self: Any, x: Any) -> Any:
    return self._norm(x) * (2 + self.weight)


def mlp(name: str, forward: Callable[..., Any]) -> Fault:
    return lambda m: {f"{name}.forward": forward}


def gate_and_up(self: Any, x: Any) -> Any:
    return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


def other_gelu(self: Any, x: Any) -> Any:
    return self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))


def eager(change: Callable[..., Any]) -> Fault:
    """`change(right, module, q, k, v, mask, **options)` in place of the eager attention."""

    def fault(m: Any) -> dict[str, Any]:
        right = m.eager_attention_forward

        def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
            return change(right, module, q, k, v, mask, **options)

        return {"eager_attention_forward": attend}

    return fault


def larger(right: Any, module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
    output, weights = right(module, q, k, v, mask, **options)
    return output * 1.02, weights


def window(shift: int) -> Callable[..., Any]:
    def attend(right: Any, module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
        span = module.sliding_window if hasattr(module, "sliding_window") else module.config.sliding_window
        if span is not None and mask is not None:
            places = torch.arange(k.shape[2])
            distance = places[:, None] - places
            visible = (distance >= 0) & (distance < span + shift)
            mask = torch.where(visible, 0.0, torch.finfo(q.dtype).min)[None, None]
        return right(module, q, k, v, mask, **options)

    return attend


def sinks(change: Callable[[Any, float], Any]) -> Callable[..., Any]:
    def attend(right: Any, module: Any, q: Any, k: Any, v: Any, mask: Any, *, scaling: float, **options: Any) -> Any:
        kept = module.sinks.data.clone()
        module.sinks.data = change(kept, scaling)
        try:
            return right(module, q, k, v, mask, scaling=scaling, **options)
        finally:
            module.sinks.data = kept

    return attend


def experts_gate(gate: Callable[..., Any]) -> Fault:
    return lambda m: {"GptOssExperts._apply_gate": gate}


def halves(gate_up: Any) -> tuple[Any, Any]:
    return gate_up[..., ::2], gate_up[..., 1::2]


def exchanged(self: Any, gate_up: Any) -> Any:
    up, gate = halves(gate_up)
    gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
    return (up + 1) * gate * torch.sigmoid(gate * self.alpha)


def not_clamped(self: Any, gate_up: Any) -> Any:
    gate, up = halves(gate_up)
    return (up + 1) * gate * torch.sigmoid(gate * self.alpha)


def alpha_of_one(self: Any, gate_up: Any) -> Any:
    gate, up = halves(gate_up)
    gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
    return (up + 1) * gate * torch.sigmoid(gate)


def plain_swiglu(self: Any, gate_up: Any) -> Any:
    gate, up = halves(gate_up)
    return F.silu(gate) * up


def over_all_experts(m: Any) -> dict[str, Any]:
    def forward(self: Any, x: Any) -> Any:
        logits = F.linear(x, self.weight, self.bias)
        shares, indices = torch.topk(logits.softmax(-1), self.top_k, dim=-1)
        return logits, shares, indices

    return {"GptOssTopKRouter.forward": forward}


def embedding_not_scaled(m: Any) -> dict[str, Any]:
    return {"Gemma3TextScaledWordEmbedding.forward": torch.nn.Embedding.forward}


def normed(change: Callable[..., Any]) -> Fault:
    return lambda m: {"l2norm": change}


def by_the_mean(x: Any, dim: int = -1, eps: float = 1e-6) -> Any:
    return x * torch.rsqrt((x * x).mean(dim, keepdim=True) + eps)


def by_the_length(x: Any, dim: int = -1, eps: float = 1e-6) -> Any:
    return x


def rule(change: Callable[..., Any]) -> Fault:
    def fault(m: Any) -> dict[str, Any]:
        names = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")

        def changed(right: Callable[..., Any]) -> Callable[..., Any]:
            return lambda q, k, v, **options: right(*change(q, k, v, options), **options)

        return {name: changed(getattr(m, name)) for name in names}

    return fault


def keys_tiled(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
    ratio = v.shape[2] // k.shape[2]
    return q.repeat(1, 1, ratio, 1), k.repeat(1, 1, ratio, 1), v


def other_activation(name: str, activation: Callable[[Any], Any]) -> Fault:
    def forward(self: Any, x: Any, gate: Any) -> Any:
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed * activation(gate)

    return lambda m: {f"{name}.forward": forward}


def gate_first(m: Any) -> dict[str, Any]:
    def forward(self: Any, x: Any, gate: Any) -> Any:
        x = x * F.silu(gate)
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    return {"Qwen3NextRMSNormGated.forward": forward}


def softplus(change: Callable[[Any], Any]) -> Fault:
    return lambda m: {"F.softplus": change}


FAULTS: tuple[tuple[str, str, Fault], ...] = (
    ("qwen3", "heads-tiled", tiled),
    ("qwen3", "rope-interleaved-instead-of-half", neighbours_turned),
    ("qwen3", "turned-backwards", backwards),
    ("qwen3", "rmsnorm-eps-outside-sqrt", norm("Qwen3RMSNorm", eps_outside)),
    ("qwen3", "rmsnorm-eps-not-forwarded", norm("Qwen3RMSNorm", another_eps)),
    ("qwen3", "swiglu-gate-up-swapped-in-the-mlp", mlp("Qwen3MLP", gate_and_up)),
    ("qwen3", "attention-2-per-cent-too-large", eager(larger)),
    ("llama", "rope-interleaved-instead-of-half", neighbours_turned),
    ("llama", "heads-tiled", tiled),
    ("mistral", "swa-window-plus-one-fa", eager(window(1))),
    ("mistral", "window-one-too-short", eager(window(-1))),
    ("mistral", "swa-window-dropped-on-sdpa", eager(window(1000))),
    ("gpt_oss", "swa-window-plus-one-fa", eager(window(1))),
    ("gpt_oss", "window-one-too-short", eager(window(-1))),
    ("gpt_oss", "sink-kernel-unreachable", eager(sinks(lambda s, scale: torch.full_like(s, -1e30)))),
    ("gpt_oss", "sink-scaled", eager(sinks(lambda s, scale: s * scale))),
    ("gpt_oss", "sink-wrong-scale-log2", eager(sinks(lambda s, scale: s * float(np.log(2))))),
    ("gpt_oss", "sink-counted-per-split", eager(sinks(lambda s, scale: s + float(np.log(2))))),
    ("gpt_oss", "softmax-over-all-experts", over_all_experts),
    ("gpt_oss", "swiglu-gate-up-swapped", experts_gate(exchanged)),
    ("gpt_oss", "swiglu-limit-not-passed-mxfp4-hf", experts_gate(not_clamped)),
    ("gpt_oss", "alpha-dropped-in-experts", experts_gate(alpha_of_one)),
    ("gpt_oss", "swiglu-limit-dropped-on-one-backend", experts_gate(plain_swiglu)),
    ("gemma3_text", "gemma-norm-offset-missing", norm("Gemma3RMSNorm", offset_missing)),
    ("gemma3_text", "zero-centred-norm-double-shift", norm("Gemma3RMSNorm", shifted_twice)),
    ("gemma3_text", "embedding-not-scaled", embedding_not_scaled),
    ("gemma3_text", "other-form-of-gelu-in-geglu", mlp("Gemma3MLP", other_gelu)),
    ("gemma3_text", "window-one-too-short", eager(window(-1))),
    ("qwen3_next", "gdn-l2norm-mean-instead-of-sum", normed(by_the_mean)),
    ("qwen3_next", "vectors-not-normed", normed(by_the_length)),
    ("qwen3_next", "gdn-gva-tile-instead-of-interleave", rule(keys_tiled)),
    ("qwen3_next", "gated-norm-sigmoid-vs-silu", other_activation("Qwen3NextRMSNormGated", torch.sigmoid)),
    ("qwen3_next", "gated-norm-not-activated", other_activation("Qwen3NextRMSNormGated", lambda gate: gate)),
    ("qwen3_next", "gated-rmsnorm-gate-before-norm", gate_first),
    ("qwen3_next", "decay-without-softplus", softplus(lambda x: x)),
    ("qwen3_next", "decay-relu-for-softplus", softplus(torch.relu)),
    ("kimi_linear", "gated-norm-sigmoid-vs-silu", other_activation("KimiLinearRMSNormGated", F.silu)),
)


@contextmanager
def planted(architecture: str, fault: Fault) -> Iterator[None]:
    """transformers with the fault."""
    module = library(architecture.removesuffix("_text"))
    with ExitStack() as stack:
        for path, replacement in fault(module).items():
            *owners, name = path.split(".")
            owner = module
            for each in owners:
                owner = getattr(owner, each)
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def main() -> None:
    """Print the table."""
    candidate = load_backend("transformers")
    right_by_logits = right_by_taps = 0
    print("| model | planted | by its logits | first difference | by its taps |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for architecture, bug, fault in FAULTS:
            tiny = next(model for model in MODELS if model.architecture == architecture)
            directory = Path(folder) / architecture
            if not directory.exists():
                tiny.write(directory, "float32")
            tokens = tiny.tokens()
            with planted(architecture, fault):
                taps = dict(candidate.trace(directory, tokens))
            by_logits = [one.mutants for one in diagnose_logits(directory, tokens, taps["logits"], "float32").suspects]
            expected = expected_taps(refimpl.load(directory), tokens, "float32")
            comparison = compare(expected, taps)
            difference = comparison.difference
            by_taps = [one.mutants for one in tap_suspects(directory, tokens, expected, comparison, taps)]
            right_by_logits += by_logits[:1] == [(bug,)]
            right_by_taps += by_taps[:1] == [(bug,)]
            where = f"{difference.tap} ({difference.function})" if difference else "none"
            print(f"| {architecture} | {bug} | {_first(by_logits, bug)} | {where} | {_first(by_taps, bug)} |", flush=True)
    print(f"\nfirst name right: {right_by_logits} of {len(FAULTS)} by logits, {right_by_taps} by taps")


def _first(found: list[tuple[str, ...]], bug: str) -> str:
    if not found:
        return "nobody"
    if found[0] == (bug,):
        return "right" if len(found) == 1 else f"right, of {len(found)}"
    place = f", right one at {found.index((bug,)) + 1}" if (bug,) in found else ""
    return f"{' with '.join(found[0])}{place}"


if __name__ == "__main__":
    main()
