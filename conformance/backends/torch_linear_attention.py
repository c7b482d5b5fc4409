"""Linear attention in torch: tokens in chunks where there are several, one step of the recurrence where there is one."""

from __future__ import annotations

from conformance.backends.on_device import OnDevice, Tensor, on_device, wide

CHUNK = 16


class TorchLinearAttention(OnDevice):
    """The functions of `refimpl.layers.convolution`, `.linear_attention` and `.state_space`."""

    @on_device
    def causal_conv1d(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn.functional import conv1d

        (B, T, D), W = x.shape, weight.shape[1]
        real = x.new_ones(B, T, dtype=torch.bool) if order is None else order >= 0
        # Real tokens first: padding is nowhere between them.
        first = real.long().argsort(dim=1, descending=True, stable=True)
        past = x.new_zeros(B, D, W - 1) if state is None else state
        seen = torch.cat([past, x.gather(1, first[..., None].expand(-1, -1, D)).mT], dim=-1)
        y = conv1d(seen, weight[:, None], bias, groups=D).mT
        rank = (real.long().cumsum(1) - 1).clamp(min=0)
        y = y.gather(1, rank[..., None].expand(-1, -1, D)).where(real[..., None], x.new_zeros(()))
        last = real.sum(1)[:, None] + torch.arange(W - 1, device=x.device)
        return y, seen.gather(2, last[:, None].expand(-1, D, -1))

    @on_device
    def softplus_decay(self, a: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
        import torch

        # torch's softplus has a threshold from which on it is the identity.
        logits = wide(a) + dt_bias.reshape(a.shape[2:])
        softplus = torch.logaddexp(logits, logits.new_zeros(()))
        return -a_log.exp().reshape(-1, *(1,) * (a.ndim - 3)) * softplus

    @on_device
    def linear_attention(
        self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, order: Tensor | None = None, *, scale: float
    ) -> tuple[Tensor, Tensor]:
        return attended(q, k, v, None, None, state, order, scale)

    @on_device
    def gated_linear_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        state: Tensor | None = None,
        order: Tensor | None = None,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return attended(q, k, v, g, None, state, order, scale)

    @on_device
    def delta_rule(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        state: Tensor | None = None,
        order: Tensor | None = None,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return attended(q, k, v, None, beta, state, order, scale)

    @on_device
    def gated_delta_rule(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        state: Tensor | None = None,
        order: Tensor | None = None,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return attended(q, k, v, g, beta, state, order, scale)

    @on_device
    def ssd(
        self,
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor | None = None,
        state: Tensor | None = None,
        order: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        y, state = attended(wide(c), b, wide(x) * dt[..., None], dt * a, None, state, order, 1.0)
        if d is not None:
            skipped = wide(x) * d[:, None]
            y = y + (skipped if order is None else skipped.where(order[..., None, None] >= 0, y.new_zeros(())))
        return y.to(x.dtype), state


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    state: Tensor | None,
    order: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The recurrence of any of the four rules; without g nothing is forgotten, without beta nothing corrected."""
    import torch

    (B, T, G, K), (H, J), dtype = q.shape, v.shape[2:], q.dtype
    queries, keys = (wide(x).repeat_interleave(H // G, dim=2).transpose(1, 2) for x in (q, k))
    values = wide(v).transpose(1, 2)
    decays = queries.new_zeros(B, H, T, 1) if g is None else g.reshape(B, T, H, -1).transpose(1, 2)
    rates = None if beta is None else wide(beta).transpose(1, 2)[..., None]
    if order is not None:
        real, zero = (order >= 0)[:, None, :, None], queries.new_zeros(())
        queries, keys, values, decays = (x.where(real, zero) for x in (queries, keys, values, decays))
        rates = None if rates is None else rates.where(real, zero)
    held = queries.new_zeros(B, H, K, J) if state is None else state
    if T == 1:
        found = [step(queries * scale, keys, values, decays, rates, held)]
    else:
        found = []
        for start in range(0, T, CHUNK):
            here = slice(start, start + CHUNK)
            q, k, v, g = (x[:, :, here] for x in (queries * scale, keys, values, decays))
            found.append(chunk(q, k, v, g, None if rates is None else rates[:, :, here], held))
            held = found[-1][1]
    return torch.cat([y for y, _ in found], dim=2).transpose(1, 2).to(dtype), found[-1][1]


def step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """One token, [B, H, 1, ...]: the result, and the state with it."""
    S = g.exp().mT * S
    written = v if beta is None else beta * (v - k @ S)
    S = S + k.mT @ written
    return q @ S, S


def chunk(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, H, C, ...]: their results, and the state after them. Decays are summed between the tokens of a pair."""
    import torch

    C = g.shape[2]
    pair = torch.ones(C, C, dtype=torch.bool, device=g.device)
    steps = g[:, :, :, None].where(pair.tril(-1)[..., None], g.new_zeros(()))
    between = steps.cumsum(2).masked_fill(pair.triu(1)[..., None], -float("inf")).exp()
    from_start = g.cumsum(2).exp()
    written = v
    if beta is not None:
        corrections = (beta * pairs(k, k, between)).tril(-1)
        wanted = beta * (v - (k * from_start) @ S)
        written = torch.linalg.solve_triangular(corrections, wanted, upper=False, unitriangular=True)
    y = (q * from_start) @ S + pairs(q, k, between) @ written
    return y, from_start[:, :, -1, :, None] * S + (k * between[:, :, -1]).mT @ written


def pairs(q: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    """Products of all pairs with what decays between them, [B, H, C, C]."""
    if decay.shape[-1] == 1:
        return q @ k.mT * decay[..., 0]
    return (q[:, :, :, None] * decay * k[:, :, None]).sum(-1)
