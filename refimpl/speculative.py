"""Speculative decoding: a drafter proposes tokens, the model verifies them in one call, and the text is the model's own.

With a greedy sampler every token is the one that plain decoding gives; with a sampler that draws, the text has exactly the
distribution of plain decoding (`layers.speculative_accept`), whatever the drafter proposes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.drafters import Draft, Drafter, News
from refimpl.layers import speculative_accept
from refimpl.model import Model
from refimpl.numerics import Array
from refimpl.rollback import pick, real_columns, roll_back, without_padding
from refimpl.sampler import Sampling


@dataclass(frozen=True, kw_only=True)
class Speculated:
    """The text, and what it cost.

    new: the new tokens of each row, up to the one that ended it. drafted: how many tokens were drafted, in all rows together.
    accepted: how many of them stood. calls: how often the model was asked, the prompt included.
    """

    new: list[list[int]]
    drafted: int
    accepted: int
    calls: int


def speculate(
    model: Model,
    tokens: Array,
    max_new_tokens: int,
    drafter: Drafter,
    sampling: Sampling,
    *,
    draft_tokens: int,
    attention_mask: Array | None = None,
    eos_token_id: int | None = None,
) -> Speculated:
    """`tokens` [B, T], of which the last column is real, continued by 1 to `draft_tokens` + 1 tokens a call."""
    text = Text(len(tokens), max_new_tokens, eos_token_id)
    if not max_new_tokens:
        return Speculated(new=text.rows, drafted=0, accepted=0, calls=0)
    hidden, cache = model.hidden(tokens, attention_mask=attention_mask)
    columns, cache = real_columns(cache.attention_mask), without_padding(cache, model.blueprint.state())
    last = sampling.draw(sampling.distribution(model.logits(hidden[:, -1:])))
    text.append(last, np.ones(last.shape, bool))
    news = _first_news(pick(tokens, columns), cache.attention_mask, pick(hidden, columns), last)
    memory: Any = None
    drafted = accepted = 0
    calls = 1
    while text.going.any():
        # No draft beyond the last token that is wanted: the model may have no positions there.
        count = min(draft_tokens, text.room() - 1)
        draft = _no_draft(len(tokens), model.blueprint.vocab_size)
        if count:
            draft, memory = drafter.propose(news, memory, count, sampling)
            _check(draft, (len(tokens), count, model.blueprint.vocab_size))
        going = text.going[:, None]
        asked = np.concatenate([last, draft.tokens], axis=1)
        mask = np.concatenate([cache.attention_mask, np.broadcast_to(going, asked.shape)], axis=1)
        hidden, after = model.hidden(asked, cache, attention_mask=mask)
        calls += 1
        target = sampling.distribution(model.logits(hidden))
        uniforms = sampling.uniforms(*draft.tokens.shape)
        kept, following = speculative_accept(target, draft.distributions.astype(np.float64), draft.tokens, uniforms)
        last = sampling.draw(following)[:, None]
        stands = going & (np.arange(count + 1) <= kept[:, None])
        cache = roll_back(model, cache, after, asked, stands)
        certain = np.where(np.arange(count + 1) == kept[:, None], last, np.concatenate([draft.tokens, last], axis=1))
        drafted += count * int(going.sum())
        accepted += int(kept[text.going].sum())
        text.append(certain, stands)
        latest = News(tokens=certain, mask=stands.astype(np.int64), hidden=hidden, first=False)
        news = _packed(latest if count else _joined(news, latest))
    return Speculated(new=text.rows, drafted=drafted, accepted=accepted, calls=calls)


class Text:
    """The new tokens of each row, and which rows go on."""

    def __init__(self, rows: int, limit: int, eos_token_id: int | None) -> None:
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self.limit, self.eos = limit, eos_token_id
        self.going = np.ones(rows, bool)

    def append(self, tokens: Array, real: Array) -> None:
        """Append those of tokens [B, T] that are real, up to the end of the row."""
        for index, row in enumerate(self.rows):
            for token in tokens[index, real[index]].tolist():
                if self.going[index]:
                    row.append(token)
                    self.going[index] = token != self.eos and len(row) < self.limit

    def room(self) -> int:
        """How many tokens the fullest of the rows that go on may still get."""
        return self.limit - max(len(row) for row, going in zip(self.rows, self.going, strict=True) if going)


def _check(draft: Draft, shape: tuple[int, int, int]) -> None:
    found = np.shape(draft.tokens), np.shape(draft.distributions)
    if found != (shape[:2], shape):
        raise ValueError(
            f"generate: the drafter gave tokens {found[0]} and distributions {found[1]} but needs {shape[:2]} and {shape}"
        )


def _no_draft(rows: int, vocabulary: int) -> Draft:
    return Draft(tokens=np.zeros((rows, 0), np.int64), distributions=np.zeros((rows, 0, vocabulary)))


def _first_news(prompt: Array, mask: Array, hidden: Array, last: Array) -> News:
    """The prompt and the first new token; before the first token of the prompt there is no hidden state."""
    return News(
        tokens=np.concatenate([prompt, last], axis=1),
        mask=np.concatenate([mask, np.ones_like(last)], axis=1),
        hidden=np.concatenate([np.zeros_like(hidden[:, :1]), hidden], axis=1),
        first=True,
    )


def _joined(earlier: News, later: News) -> News:
    """What was not told yet, and what came after."""
    joined = {
        name: np.concatenate([getattr(earlier, name), getattr(later, name)], axis=1) for name in ("tokens", "mask", "hidden")
    }
    return News(**joined, first=earlier.first)


def _packed(news: News) -> News:
    """The same tokens, padded on the left alone."""
    columns = real_columns(news.mask)
    return News(
        tokens=pick(news.tokens, columns),
        mask=pick(news.mask, columns),
        hidden=pick(news.hidden, columns),
        first=news.first,
    )
