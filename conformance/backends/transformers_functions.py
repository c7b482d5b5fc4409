"""The functions and modules that models of transformers are made of, one layer each: `transformers` runs whole models.

Modules run with the arrays of a case in place of their parameters.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.backends.on_device import Tensor, on_device
from conformance.backends.rows import row_by_row
from conformance.backends.transformers import backend as models
from conformance.backends.transformers_experts import TransformersExperts
from conformance.backends.transformers_parts import activation, part, ran
from refimpl.layers import attention_mask
from refimpl.numerics import Array


class TransformersFunctions(TransformersExperts):
    """The functions of `refimpl.layers` in transformers, on the CPU."""

    name = "transformers:functions"
    device = "cpu"
    dtypes = ("float32", "bfloat16", "float16")

    @property
    def version(self) -> str:
        """The version of transformers."""
        return models.version

    def unavailable(self) -> str | None:
        """Why this backend cannot run here, None when it can."""
        reason = models.unavailable()
        return reason and reason.replace(models.name, self.name, 1)

    @on_device
    def rms_norm(self, x: Tensor, weight: Tensor | None = None, *, eps: float, zero_centred: bool = False) -> Tensor:
        if weight is None:
            return part("llama4", "Llama4TextL2Norm")(eps)(x)
        kind = part("gemma3", "Gemma3RMSNorm") if zero_centred else part("llama", "LlamaRMSNorm")
        return ran(kind(x.shape[-1], eps), {"weight": weight}, x)

    @on_device
    def gated_rms_norm(
        self, x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, activation: str = "silu", gate_first: bool = False
    ) -> Tensor:
        forms = {
            ("silu", False): ("qwen3_next", "Qwen3NextRMSNormGated"),
            ("sigmoid", False): ("kimi_linear", "KimiLinearRMSNormGated"),
            ("silu", True): ("mamba2", "MambaRMSNormGated"),
        }
        if (activation, gate_first) not in forms:
            raise NotImplementedError(f"no model has a norm with its gate before it and the activation {activation}")
        one_group = {"group_size": x.shape[-1]} if gate_first else {}
        return ran(part(*forms[activation, gate_first])(x.shape[-1], eps=eps, **one_group), {"weight": weight}, x, gate)

    @on_device
    def l2_norm(self, x: Tensor, *, eps: float) -> Tensor:
        """In float32, as the models call it inside of their recurrences."""
        return part("qwen3_next", "l2norm")(x.float(), eps=eps).to(x.dtype)

    @on_device
    def rotary_embedding(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
        import torch

        rotate = part("glm" if interleaved else "qwen3_next", "apply_rotary_pos_emb")
        cos, sin = (torch.cat([each, each], dim=-1).to(x.dtype) for each in (cos, sin))
        return rotate(x, x, cos, sin, unsqueeze_dim=2)[0]

    @on_device
    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        causal: bool = True,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        temperature: Tensor | None = None,
        sinks: Tensor | None = None,
        bias: Tensor | None = None,
        q_order: Tensor | None = None,
        k_order: Tensor | None = None,
    ) -> Tensor:
        """`eager_attention_forward` of gpt-oss with sinks, else that of Gemma 2, with the mask that transformers makes."""
        import torch

        if softcap is not None and (sinks is not None or temperature is not None):
            raise NotImplementedError("no model of transformers has a softcap with sinks or temperatures")
        (B, T, H, _), (S, G) = q.shape, k.shape[1:3]
        q = q if temperature is None else q * temperature[:, :, None, None].to(q.dtype)
        places = np.broadcast_to(np.arange(S), (B, S))
        keys = places if k_order is None else k_order.numpy()
        queries = places[:, S - T :] if q_order is None else q_order.numpy()
        visible = torch.from_numpy(attention_mask(queries, keys, causal=causal, window=window, chunk=chunk))[:, None]
        mask = torch.where(visible, q.new_zeros(()), q.new_full((), torch.finfo(q.dtype).min))
        mask = mask if bias is None else torch.where(visible, bias, mask)
        module = SimpleNamespace(num_key_value_groups=H // G, training=False, sinks=sinks)
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        options = {} if sinks is not None else {"softcap": softcap}
        forward = part("gemma2" if sinks is None else "gpt_oss", "eager_attention_forward")
        y, _ = forward(module, q, k, v, mask, scaling=scale, **options)
        # Queries of padding are a mean of everything in it, and thrown away by its callers.
        return y.where(visible.any(-1)[:, 0, :, None, None], y.new_zeros(()))

    def causal_conv1d(
        self, x: Array, weight: Array, bias: Array | None = None, state: Array | None = None, order: Array | None = None
    ) -> tuple[Array, Array]:
        return row_by_row(lambda arrays, held: self._convolved(arrays[0], weight, bias, held), (x,), state, order)

    @on_device
    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        import torch

        width = weight.shape[1] - 1
        if state is None:
            y = part("qwen3_next", "causal_conv1d_fn")(x.mT, weight, bias).mT
            return y, torch.nn.functional.pad(x.mT, (width, 0))[..., x.shape[1] :]
        state = state.clone()
        return part("qwen3_next", "causal_conv1d_update")(x.mT, state, weight, bias).mT, state

    @on_device
    def softplus_decay(self, a: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        if a.ndim == 3:
            raise NotImplementedError("the decay of a head is written out in the models, not a function of its own")
        module = SimpleNamespace(
            head_dim=a.shape[3], f_a_proj=lambda x: x, f_b_proj=lambda x: x, dt_bias=dt_bias, A_log=a_log[None, None, :, None]
        )
        return part("kimi_linear", "KimiLinearForgetGate").forward(module, a.flatten(2))

    def gated_delta_rule(
        self,
        q: Array,
        k: Array,
        v: Array,
        g: Array,
        beta: Array,
        state: Array | None = None,
        order: Array | None = None,
        *,
        scale: float,
    ) -> tuple[Array, Array]:
        """Several tokens in chunks, one by the recurrence, as the models do; their scale is that of the width."""
        H = v.shape[2]
        q, k = (np.repeat(heads, H // heads.shape[2], axis=2) for heads in (q, k))
        return row_by_row(lambda arrays, held: self._ruled(*arrays, held, scale), (q, k, v, g, beta), state, order)

    @on_device
    def _ruled(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        names = {
            (False, False): ("qwen3_next", "torch_chunk_gated_delta_rule"),
            (False, True): ("qwen3_next", "torch_recurrent_gated_delta_rule"),
            (True, False): ("kimi_linear", "chunk_kimi_delta_attention"),
            (True, True): ("kimi_linear", "recurrent_kimi_delta_attention"),
        }
        run = part(*names[g.ndim == 4, q.shape[1] == 1])
        y, state = run(q.float() * (scale * q.shape[3] ** 0.5), k, v, g, beta, initial_state=state, output_final_state=True)
        return y.to(v.dtype), state

    @on_device
    def silu(self, x: Tensor) -> Tensor:
        return activation("silu")(x)

    @on_device
    def gelu(self, x: Tensor, *, approximate: str = "none") -> Tensor:
        return activation("gelu" if approximate == "none" else "gelu_pytorch_tanh")(x)

    def rope_frequencies(self, rotary_dim: int, *, theta: float, dtype: npt.DTypeLike = np.float64) -> Array:
        rotary = part("llama", "LlamaRotaryEmbedding")
        return _frequencies(rotary.compute_default_rope_parameters, rotary_dim, {"rope_theta": theta}, dtype)

    def linear_rope_frequencies(
        self, rotary_dim: int, *, theta: float, factor: float, dtype: npt.DTypeLike = np.float64
    ) -> Array:
        return _frequencies("linear", rotary_dim, {"rope_theta": theta, "factor": factor}, dtype)

    def llama3_rope_frequencies(
        self, rotary_dim: int, *, theta: float, dtype: npt.DTypeLike = np.float64, **parameters: Any
    ) -> Array:
        return _frequencies("llama3", rotary_dim, {"rope_theta": theta, **parameters}, dtype)

    def yarn_rope_frequencies(
        self, rotary_dim: int, *, theta: float, dtype: npt.DTypeLike = np.float64, **parameters: Any
    ) -> Array:
        return _frequencies("yarn", rotary_dim, {"rope_theta": theta, **parameters}, dtype)


def _frequencies(form: Any, rotary_dim: int, parameters: dict[str, Any], dtype: npt.DTypeLike) -> Array:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = SimpleNamespace(
        rope_parameters=parameters,
        standardize_rope_params=lambda: None,
        head_dim=rotary_dim,
        hidden_size=rotary_dim,
        num_attention_heads=1,
        max_position_embeddings=math.inf,
    )
    found, _ = (ROPE_INIT_FUNCTIONS[form] if isinstance(form, str) else form)(config, device="cpu")
    return found.numpy().astype(dtype)


backend = TransformersFunctions()
