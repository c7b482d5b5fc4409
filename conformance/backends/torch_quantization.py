"""Quantised storage in torch, decoded as loaders written in torch do."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.backends.on_device import OnDevice, Tensor, on_device, tensor_format

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


class TorchQuantization(OnDevice):
    """The functions of `refimpl.layers.quantization`, `fp8` and `int4`."""

    @on_device
    def mxfp4_decode(self, blocks: Tensor, scales: Tensor, *, dtype: Any = np.float32) -> Tensor:
        import torch

        numbers = torch.tensor(E2M1, dtype=tensor_format(dtype), device=blocks.device)
        codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)
        decoded = torch.ldexp(numbers[codes.int()], scales.int()[..., None] - 127).to(numbers.dtype)
        return decoded.masked_fill((scales == 255)[..., None], float("nan")).flatten(-2)

    @on_device
    def fp8_block_decode(
        self, values: Tensor, scales: Tensor, *, block: tuple[int, int] = (128, 128), dtype: Any = np.float32
    ) -> Tensor:
        """Every scale repeated over its block; the last ones are cut where the matrix ends."""
        wide = _wide(dtype)
        spread = scales.to(wide).repeat_interleave(block[0], dim=-2).repeat_interleave(block[1], dim=-1)
        rows, columns = values.shape[-2:]
        return (values.to(wide) * spread[..., :rows, :columns]).to(tensor_format(dtype))

    @on_device
    def int4_group_decode(self, packed: Tensor, scales: Tensor, *, group: int = 32, dtype: Any = np.float32) -> Tensor:
        import torch

        places = torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
        codes = ((packed[..., None] >> places) & 15).flatten(-2) - 8
        wide = _wide(dtype)
        return (codes.to(wide) * scales.to(wide).repeat_interleave(group, dim=-1)).to(tensor_format(dtype))


def _wide(dtype: Any) -> Any:
    """The format in which codes are multiplied by their scales."""
    return tensor_format(np.float64 if np.dtype(dtype) == np.float64 else np.float32)
