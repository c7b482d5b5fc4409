"""Routers, experts and their storage in transformers; a router reads its logits through the matrix that keeps them."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from conformance.backends.on_device import OnDevice, Tensor, on_device, tensor_format
from conformance.backends.transformers_parts import part, ran


class TransformersExperts(OnDevice):
    """The functions of `refimpl.layers.router`, `.experts` and `.quantization`."""

    @on_device
    def top_k_softmax_router(self, logits: Tensor, *, top_k: int) -> tuple[Tensor, Tensor]:
        E = logits.shape[-1]
        config = SimpleNamespace(num_experts_per_tok=top_k, num_local_experts=E, hidden_size=E)
        parameters = {"weight": ones(logits), "bias": logits.new_zeros(E)}
        _, weights, indices = ran(part("gpt_oss", "GptOssTopKRouter")(config), parameters, logits.reshape(-1, E))
        return like(logits, indices), like(logits, weights)

    @on_device
    def softmax_top_k_router(self, logits: Tensor, *, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
        E = logits.shape[-1]
        config = SimpleNamespace(num_experts_per_tok=top_k, num_experts=E, hidden_size=E, norm_topk_prob=renormalise)
        _, weights, indices = ran(part("qwen3_moe", "Qwen3MoeTopKRouter")(config), {"weight": ones(logits)}, logits)
        return like(logits, indices), like(logits, weights)

    @on_device
    def sigmoid_router(
        self,
        logits: Tensor,
        correction_bias: Tensor | None = None,
        *,
        top_k: int,
        groups: int = 1,
        top_groups: int = 1,
        renormalise: bool = True,
        eps: float = 1e-20,
        scaling_factor: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """The experts in any order come out of it, and are ordered here."""
        import torch

        E = logits.shape[-1]
        if eps != 1e-20 or E // groups < 2:
            raise NotImplementedError("the router of DeepSeek V3 has an eps of 1e-20 and two experts a group at least")
        config = SimpleNamespace(
            num_experts_per_tok=top_k,
            num_local_experts=E,
            hidden_size=E,
            routed_scaling_factor=scaling_factor,
            n_group=groups,
            topk_group=top_groups,
            norm_topk_prob=renormalise,
        )
        bias = logits.new_zeros(E, dtype=torch.float32) if correction_bias is None else correction_bias.float()
        parameters = {"weight": ones(logits).float(), "e_score_correction_bias": bias}
        _, weights, indices = ran(part("deepseek_v3", "DeepseekV3TopkRouter")(config), parameters, logits)
        scores = (logits.reshape(-1, E).float().sigmoid() + bias).gather(1, indices)
        order = scores.argsort(dim=1, descending=True)
        return like(logits, indices.gather(1, order)), like(logits, weights.gather(1, order).to(logits.dtype))

    @on_device
    def routed_experts(
        self,
        x: Tensor,
        indices: Tensor,
        weights: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        gate_bias: Tensor | None = None,
        up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        *,
        activation: str = "silu",
        alpha: float | None = None,
        limit: float | None = None,
        scale_input: bool = False,
    ) -> Tensor:
        import torch

        biases, names = (gate_bias, up_bias, down_bias), {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
        clamped = activation == "clamped_swiglu"
        if scale_input or (not clamped and any(bias is not None for bias in biases)):
            raise NotImplementedError(
                "experts that are scaled before, or have biases without a clamp, are no module of their own"
            )
        E, F, D = gate.shape
        arrays = (x.reshape(-1, D), indices.reshape(-1, indices.shape[-1]), weights.reshape(-1, weights.shape[-1]))
        config = SimpleNamespace(
            num_local_experts=E,
            hidden_size=D,
            intermediate_size=F,
            hidden_act=names.get(activation),
            swiglu_alpha=alpha,
            swiglu_limit=limit,
            _experts_implementation="eager",
        )
        if not clamped:
            parameters = {"gate_up_proj": torch.cat([gate, up], dim=1), "down_proj": down}
            return ran(part("mixtral", "MixtralExperts")(config), parameters, *arrays).reshape(x.shape)
        absent = [gate.new_zeros(E, size) if bias is None else bias for size, bias in zip((F, F, D), biases, strict=True)]
        parameters = {
            "gate_up_proj": torch.stack([gate, up], dim=2).reshape(E, 2 * F, D).mT,
            "gate_up_proj_bias": torch.stack(absent[:2], dim=2).reshape(E, 2 * F),
            "down_proj": down.mT,
            "down_proj_bias": absent[2],
        }
        return ran(part("gpt_oss", "GptOssExperts")(config), parameters, *arrays).reshape(x.shape)

    @on_device
    def mxfp4_decode(self, blocks: Tensor, scales: Tensor, *, dtype: npt.DTypeLike = np.float32) -> Tensor:
        convert = importlib.import_module("transformers.integrations.mxfp4").convert_moe_packed_tensors
        rows = blocks.reshape(1, -1, *blocks.shape[-2:])
        decoded = convert(rows, scales.reshape(rows.shape[:-1]), dtype=tensor_format(dtype))
        return decoded.mT.reshape(*scales.shape[:-1], -1)


def ones(logits: Tensor) -> Tensor:
    """The matrix that makes logits of logits."""
    import torch

    if not logits.isfinite().all():
        raise NotImplementedError("the routers compute their logits themselves, and infinite ones do not pass a matrix")
    return torch.eye(logits.shape[-1], dtype=logits.dtype)


def like(logits: Tensor, chosen: Tensor) -> Tensor:
    """What a router gives for a list of tokens, in the shape of the logits."""
    return chosen.reshape(*logits.shape[:-1], -1)
