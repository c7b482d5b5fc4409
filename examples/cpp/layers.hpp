// The layers, on any floating-point type. Axes are named as in the specification: B batch, T queries, S keys, H query heads,
// G key heads, K and J widths of a head, D the last axis.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensors.hpp"

// Which key a query sees, by their places; negative places are those of padding.
struct Mask {
    bool padding, causal;
    std::int64_t window, chunk;  // 0: none

    bool shows(std::int64_t query, std::int64_t key) const {
        if (padding && (query < 0 || key < 0)) return false;
        if (causal && key > query) return false;
#ifdef BROKEN_WINDOW
        if (window && key < query - window) return false;  // one key too many
#else
        if (window && key <= query - window) return false;
#endif
        return !chunk || chunk_of(key) == chunk_of(query);
    }

    std::int64_t chunk_of(std::int64_t place) const { return place < 0 ? (place + 1) / chunk - 1 : place / chunk; }
};

template <class Real>
Real sigmoid(Real x) {
    return 1 / (1 + std::exp(-x));
}

template <class Real>
Real gelu(Real x, bool by_tanh) {
    if (by_tanh) return x / 2 * (1 + std::tanh(std::sqrt(Real(2 / M_PI)) * (x + Real(0.044715) * x * x * x)));
    return x / 2 * (1 + std::erf(x / std::sqrt(Real(2))));
}

// Each vector of the last axis divided by sqrt(scale · sum of squares + eps).
template <class Real>
Tensor<Real> normed(const Tensor<Real>& x, Real scale, Real eps) {
    Tensor<Real> y(x.shape);
    const std::int64_t D = x.dim(-1);
    for (std::int64_t row = 0; row < x.size(); row += D) {
        Real sum = 0;
        for (std::int64_t d = row; d < row + D; ++d) sum += x[d] * x[d];
        const Real root = std::sqrt(sum * scale + eps);
        for (std::int64_t d = row; d < row + D; ++d) y[d] = x[d] / root;
    }
    return y;
}

template <class Real>
Tensor<Real> centred(const Tensor<Real>& x) {
    Tensor<Real> y(x.shape);
    const std::int64_t D = x.dim(-1);
    for (std::int64_t row = 0; row < x.size(); row += D) {
        Real sum = 0;
        for (std::int64_t d = row; d < row + D; ++d) sum += x[d];
        for (std::int64_t d = row; d < row + D; ++d) y[d] = x[d] - sum / Real(D);
    }
    return y;
}

template <class Real>
Tensor<Real> linear(const Tensor<Real>& x, const Tensor<Real>& weight, const Tensor<Real>& bias) {
    const std::int64_t O = weight.dim(0), I = weight.dim(1);
    Shape shape = x.shape;
    shape.back() = O;
    Tensor<Real> y(shape);
    for (std::int64_t row = 0; row < y.size() / std::max<std::int64_t>(O, 1); ++row) {
        for (std::int64_t o = 0; o < O; ++o) {
            Real sum = 0;
            for (std::int64_t i = 0; i < I; ++i) sum += x[row * I + i] * weight[o * I + i];
            y[row * O + o] = bias.shape.empty() ? sum : sum + bias[o];
        }
    }
    return y;
}

template <class Real>
Tensor<Real> rotary_embedding(const Tensor<Real>& x, const Tensor<Real>& cos, const Tensor<Real>& sin, bool interleaved) {
    Tensor<Real> y = x;
    const std::int64_t H = x.dim(2), K = x.dim(3), P = cos.dim(-1);
    for (std::int64_t head = 0; head < x.size() / K; ++head) {
        const std::int64_t token = head / H;
        for (std::int64_t pair = 0; pair < P; ++pair) {
            const std::int64_t first = head * K + (interleaved ? 2 * pair : pair);
            const std::int64_t second = head * K + (interleaved ? 2 * pair + 1 : pair + P);
            const Real c = cos[token * P + pair], s = sin[token * P + pair];
            y[first] = x[first] * c - x[second] * s;
            y[second] = x[second] * c + x[first] * s;
        }
    }
    return y;
}

template <class Real>
struct AttentionInputs {
    Tensor<Real> q, k, v, sinks, temperature, bias;
    Tensor<std::int64_t> q_order, k_order;
    Real scale, softcap;  // softcap 0: none
    Mask mask;
};

// The entry of a tensor that stands for one of shape [B, H, T, S] with sizes of 1.
template <class Real>
Real spread(const Tensor<Real>& bias, Shape place) {
    std::int64_t index = 0;
    const std::size_t missing = 4 - bias.shape.size();
    for (std::size_t axis = 0; axis < bias.shape.size(); ++axis)
        index = index * bias.shape[axis] + (bias.shape[axis] == 1 ? 0 : place[axis + missing]);
    return bias[index];
}

template <class Real>
Tensor<Real> attention(const AttentionInputs<Real>& in) {
    const std::int64_t B = in.q.dim(0), T = in.q.dim(1), H = in.q.dim(2), K = in.q.dim(3);
    const std::int64_t S = in.k.dim(1), G = in.k.dim(2), J = in.v.dim(3);
    Tensor<Real> y({B, T, H, J});
    std::vector<Real> logits(static_cast<std::size_t>(S));
    for (std::int64_t b = 0; b < B; ++b)
        for (std::int64_t t = 0; t < T; ++t)
            for (std::int64_t h = 0; h < H; ++h) {
                const std::int64_t g = h / (H / G);
                const std::int64_t query = in.q_order.shape.empty() ? S - T + t : in.q_order[b * T + t];
                Real top = in.sinks.shape.empty() ? -std::numeric_limits<Real>::infinity() : in.sinks[h];
                for (std::int64_t s = 0; s < S; ++s) {
                    const std::int64_t key = in.k_order.shape.empty() ? s : in.k_order[b * S + s];
                    Real& logit = logits[static_cast<std::size_t>(s)];
                    logit = -std::numeric_limits<Real>::infinity();
                    if (!in.mask.shows(query, key)) continue;
                    Real score = 0;
                    for (std::int64_t d = 0; d < K; ++d)
                        score += in.q[((b * T + t) * H + h) * K + d] * in.k[((b * S + s) * G + g) * K + d];
                    score *= in.scale;
                    if (in.softcap != 0) score = in.softcap * std::tanh(score / in.softcap);
                    if (!in.temperature.shape.empty()) score *= in.temperature[b * T + t];
                    if (!in.bias.shape.empty()) score += spread(in.bias, {b, h, t, s});
                    logit = score;
                    top = std::max(top, score);
                }
                if (top == -std::numeric_limits<Real>::infinity()) continue;  // sees nothing: zeros
                Real total = in.sinks.shape.empty() ? 0 : std::exp(in.sinks[h] - top);
                for (Real& logit : logits) total += logit = std::exp(logit - top);
                for (std::int64_t s = 0; s < S; ++s)
                    for (std::int64_t d = 0; d < J; ++d)
                        y[((b * T + t) * H + h) * J + d] +=
                            logits[static_cast<std::size_t>(s)] / total * in.v[((b * S + s) * G + g) * J + d];
            }
    return y;
}
