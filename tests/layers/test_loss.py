"""Cross-entropy, and the loss of a model with modules for multi-token prediction."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import cross_entropy, multi_token_loss
from refimpl.numerics import low_precision, plain
from tests.tiny import normal, tokens


def by_hand(logits: np.ndarray, target: int) -> float:
    """-log softmax, one exponential after the other."""
    return math.log(sum(math.exp(logit) for logit in logits)) - float(logits[target])


class TestCrossEntropy:
    def test_is_the_negative_log_of_the_softmax(self) -> None:
        logits, targets = normal(2, 3, 5), tokens(2, 3, vocab_size=5)
        expected = np.mean([by_hand(logits[b, t], targets[b, t]) for b in range(2) for t in range(3)])
        loss = cross_entropy(logits, targets)
        assert isinstance(loss, np.ndarray)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(expected, rel=1e-14)

    def test_equal_logits_lose_the_logarithm_of_the_vocabulary(self) -> None:
        assert float(cross_entropy(np.full((1, 2, 8), 3.0), np.array([[0, 7]]))) == pytest.approx(math.log(8), rel=1e-15)

    @pytest.mark.parametrize("offset", [-5000.0, 5000.0])
    def test_r1_no_logit_overflows(self, offset: float) -> None:
        logits, targets = np.round(8 * normal(2, 3, 5)), tokens(2, 3, vocab_size=5)
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            assert float(cross_entropy(logits + offset, targets)) == float(cross_entropy(logits, targets))

    @pytest.mark.parametrize("ignore_index", [-100, 4])
    def test_r2_ignored_targets_are_not_counted(self, ignore_index: int) -> None:
        logits, targets = normal(1, 4, 5), np.array([[1, ignore_index, 2, ignore_index]])
        loss = cross_entropy(logits, targets, ignore_index=ignore_index)
        assert float(loss) == pytest.approx((by_hand(logits[0, 0], 1) + by_hand(logits[0, 2], 2)) / 2, rel=1e-14)

    def test_r3_the_mean_is_over_the_batch_and_not_over_its_rows(self) -> None:
        logits, targets = normal(2, 3, 5) * np.array([1.0, 6.0])[:, None, None], np.array([[1, 2, 3], [4, -100, -100]])
        losses = [by_hand(logits[0, t], targets[0, t]) for t in range(3)] + [by_hand(logits[1, 0], 4)]
        assert float(cross_entropy(logits, targets)) == pytest.approx(np.mean(losses), rel=1e-14)
        assert abs(np.mean(losses) - (np.mean(losses[:3]) + losses[3]) / 2) > 0.1

    def test_r4_nothing_to_predict_is_no_loss(self) -> None:
        loss = cross_entropy(normal(2, 3, 5, dtype="float32"), np.full((2, 3), -100))
        assert (float(loss), loss.shape, loss.dtype) == (0.0, (), np.float32)
        assert float(cross_entropy(np.zeros((2, 0, 5)), np.zeros((2, 0), int))) == 0

    def test_r5_nothing_is_shifted(self) -> None:
        logits = np.full((1, 4, 5), -50.0)
        logits[0, np.arange(4), [3, 1, 4, 0]] = 50.0
        assert float(cross_entropy(logits, np.array([[3, 1, 4, 0]]))) < 1e-40
        assert float(cross_entropy(logits, np.array([[0, 3, 1, 4]]))) == pytest.approx(100)

    def test_t1_narrow_logits_are_widened(self) -> None:
        logits, targets = normal(2, 9, 31), tokens(2, 9, vocab_size=31)
        narrow = low_precision(logits, ml_dtypes.bfloat16)
        exact = float(cross_entropy(plain(narrow).astype(np.float64), targets))
        assert plain(cross_entropy(narrow, targets)) == np.float32(ml_dtypes.bfloat16(exact))

    @pytest.mark.parametrize(
        ("targets", "options", "message"),
        [
            ([[0, 5]], {}, r"targets range from 0 to 5 but must lie in 0 \.\. 4, or be ignore_index"),
            ([[-1, 3]], {}, r"targets range from -1 to 3 but must lie in 0 \.\. 4, or be ignore_index"),
            ([[-100, 3]], {"ignore_index": 3}, "targets range from -100 to -100"),
            ([[0.5, 1.0]], {}, "targets has dtype float64 but needs integers"),
            ([[0, 1, 2]], {}, r"targets has shape \(1, 3\) but needs \[B, T\] with T = 2"),
            ([[0, 1]], {"ignore_index": None}, "ignore_index is None but needs an integer"),
        ],
    )
    def test_what_does_not_fit_is_one_sentence(self, targets: Any, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^cross_entropy: {message}"):
            cross_entropy(normal(1, 2, 5), np.array(targets), **options)


class TestMultiTokenLoss:
    LOGITS, LABELS = normal(3, 2, 6, 7, seed=4), tokens(2, 6, vocab_size=7)

    def depth(self, depth: int) -> float:
        """The mean loss of a depth, target by target."""
        pairs = [(b, t) for b in range(2) for t in range(6) if t + 1 + depth < 6]
        return float(np.mean([by_hand(self.LOGITS[depth, b, t], self.LABELS[b, t + 1 + depth]) for b, t in pairs]))

    def test_r1_each_depth_is_shifted_by_one_more(self) -> None:
        loss = multi_token_loss(self.LOGITS, self.LABELS, weight=0.3)
        assert loss.shape == ()
        assert float(loss) == pytest.approx(self.depth(0) + 0.15 * (self.depth(1) + self.depth(2)), rel=1e-14)

    def test_r2_the_last_places_are_not_read(self) -> None:
        changed = self.LOGITS.copy()
        for depth in range(3):
            changed[depth, :, 5 - depth :] = np.nan
        loss = multi_token_loss(changed, self.LABELS, weight=0.3)
        assert float(loss) == float(multi_token_loss(self.LOGITS, self.LABELS, weight=0.3))

    def test_r3_each_depth_is_a_mean_over_its_own_targets(self) -> None:
        labels = np.array([[-100, -100, -100, 2, 1, 3]])
        logits = self.LOGITS[:, :1]
        means = []
        for depth in range(3):
            pairs = [(t, t + 1 + depth) for t in range(6) if t + 1 + depth in (3, 4, 5)]
            means.append(np.mean([by_hand(logits[depth, 0, t], labels[0, place]) for t, place in pairs]))
        expected = means[0] + (means[1] + means[2]) / 2
        assert float(multi_token_loss(logits, labels, weight=1.0)) == pytest.approx(expected, rel=1e-14)

    def test_r4_the_modules_are_averaged_and_weighted(self) -> None:
        alone = float(multi_token_loss(self.LOGITS[:1], self.LABELS, weight=0.3))
        assert alone == pytest.approx(self.depth(0), rel=1e-14)
        assert float(multi_token_loss(self.LOGITS, self.LABELS, weight=0.0)) == alone
        one = multi_token_loss(self.LOGITS[:2], self.LABELS, weight=0.3)
        assert float(one) == pytest.approx(self.depth(0) + 0.3 * self.depth(1), rel=1e-14)

    def test_r5_a_depth_beyond_the_sequence_adds_nothing(self) -> None:
        logits, labels = self.LOGITS[:, :, :2], self.LABELS[:, :2]
        main = np.mean([by_hand(logits[0, b, 0], labels[b, 1]) for b in range(2)])
        assert float(multi_token_loss(logits, labels, weight=0.5)) == pytest.approx(main, rel=1e-14)
        assert float(multi_token_loss(logits[:, :, :1], labels[:, :1], weight=0.5)) == 0

    @pytest.mark.parametrize(
        ("logits", "labels", "options", "message"),
        [
            (normal(3, 2, 4, 5), np.zeros((2, 3), int), {}, r"labels has shape \(2, 3\) but needs \[B, T\] with T = 4"),
            (normal(2, 4, 5), np.zeros((2, 4), int), {}, r"logits has shape \(2, 4, 5\) but needs \[M, B, T, V\]"),
            (np.zeros((0, 2, 4, 5)), np.zeros((2, 4), int), {}, "logits are of no depth"),
            (normal(1, 1, 1, 5), np.array([[7]]), {}, "labels range from 7 to 7"),
            (normal(1, 1, 2, 5), np.array([[0, 1]]), {"weight": -0.1}, "weight is -0.1 but needs a number of at least 0"),
        ],
    )
    def test_what_does_not_fit_is_one_sentence(self, logits: Any, labels: Any, options: Any, message: str) -> None:
        with pytest.raises(ValueError, match=f"^multi_token_loss: {message}"):
            multi_token_loss(logits, labels, **{"weight": 0.3, **options})
