"""Drafters: what proposes tokens for a model to verify, several at a time.

A drafter's memory is a value that it returns and is handed back, so tokens that fell need no rollback in it: it remembers
only those that stand, and drafts on caches that it then forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from refimpl.model import Cache, Model
from refimpl.numerics import Array
from refimpl.rollback import without_padding
from refimpl.sampler import Sampling, one_hot

DraftFunction = Callable[[Array, int], Any]


@dataclass(frozen=True, kw_only=True)
class News:
    """The tokens that became certain since the drafter was last asked, each row padded on the left.

    tokens int [B, T], mask 0/1 [B, T]. hidden [B, T, D]: the model's hidden states after its final norm, each of the token
    before; it means nothing at padding and at the first token of a row. first: whether this is the whole text so far.
    """

    tokens: Array
    mask: Array
    hidden: Array
    first: bool


@dataclass(frozen=True, kw_only=True)
class Draft:
    """tokens int [B, K] and the distributions [B, K, V] that they were drawn from, each given those before it."""

    tokens: Array
    distributions: Array


@runtime_checkable
class Drafter(Protocol):
    """Proposes the tokens that follow."""

    def propose(self, news: News, memory: Any, count: int, sampling: Sampling) -> tuple[Draft, Any]:
        """`count` tokens a row, and what to hand back as `memory` the next time (None the first time).

        A draft must be drawn from exactly the distribution that it is returned with (1 at the draft where none is drawn),
        else what is verified has not the target's distribution. What row they are of must not matter.
        """
        ...


class FunctionDrafter:
    """A function from the tokens of a row int [S] and a count to that many tokens, as a drafter; its q is 1 at its tokens."""

    def __init__(self, function: DraftFunction, vocab_size: int) -> None:
        self.function, self.vocab_size = function, vocab_size

    def propose(self, news: News, memory: Any, count: int, sampling: Sampling) -> tuple[Draft, Any]:
        known = [np.zeros(0, np.int64)] * len(news.tokens) if memory is None else memory
        rows = [np.concatenate([row, new[mask == 1]]) for row, new, mask in zip(known, news.tokens, news.mask, strict=True)]
        tokens = np.array([self._asked(row, count) for row in rows], np.int64)
        return Draft(tokens=tokens, distributions=one_hot(tokens, self.vocab_size)), rows

    def _asked(self, row: Array, count: int) -> Array:
        tokens = np.asarray(self.function(row.copy(), count))
        if tokens.shape != (count,) or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"generate: speculative returned shape {tokens.shape} and dtype {tokens.dtype} "
                f"but must give integers ({count},)"
            )
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(
                f"generate: speculative returned tokens from {tokens.min()} to {tokens.max()} "
                f"but they must lie in 0 .. {self.vocab_size - 1}"
            )
        return tokens


class ModelDrafter:
    """A smaller model over the same vocabulary drafts, with a cache of its own."""

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise ValueError(f"ModelDrafter: model is a {type(model).__name__} but needs a refimpl.Model")
        self.model = model

    def propose(self, news: News, memory: Cache | None, count: int, sampling: Sampling) -> tuple[Draft, Cache]:
        past = np.zeros((len(news.tokens), 0), np.int64) if memory is None else memory.attention_mask
        mask = np.concatenate([past, news.mask], axis=1)
        logits, cache = self.model(news.tokens, memory, attention_mask=mask)
        certain = without_padding(cache, self.model.blueprint.state())
        drawing = Drawing(sampling)
        token = drawing.next(logits[:, -1:])
        for _ in range(count - 1):
            logits, cache = self.model(token, cache)
            token = drawing.next(logits)
        return drawing.draft(), certain


class MultiTokenDrafter:
    """The model's own modules for multi-token prediction draft: one after the other, the last of them again and again.

    Module 0 pairs the model's hidden state of a token with the token after it; module k pairs the output of module k - 1 with
    the token after the one that module k - 1 read. Each has a cache of pairs of its own.
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise ValueError(f"MultiTokenDrafter: model is a {type(model).__name__} but needs a refimpl.Model")
        if not model.blueprint.multi_token:
            raise ValueError(
                "MultiTokenDrafter: the model has no modules for multi-token prediction, so it cannot draft by them"
            )
        self.model = model

    def propose(self, news: News, memory: list[Certain] | None, count: int, sampling: Sampling) -> tuple[Draft, list[Certain]]:
        logits, certain = self._catch_up(news, memory)
        caches, drawing = [one.cache for one in certain], Drawing(sampling)
        tokens = drawing.next(logits)
        output, real = certain[0].output, certain[0].real
        for step in range(1, count):
            module = min(step, len(caches) - 1)
            if step > module:
                output, real, tokens = output[:, -1:], real[:, -1:], tokens[:, -1:]
            mask = np.concatenate([caches[module].attention_mask, real], axis=1)
            logits, output, caches[module] = self.model.multi_token(
                tokens, output, caches[module], module=module, attention_mask=mask
            )
            tokens = np.concatenate([tokens, drawing.next(logits[:, -1:])], axis=1)
            # Module k has not read the last k drafts yet, and starts where module k - 1 left the certain tokens.
            output = np.concatenate([certain[module].output, output], axis=1)
            real = np.concatenate([certain[module].real, real], axis=1)
        return drawing.draft(), certain

    def _catch_up(self, news: News, memory: list[Certain] | None) -> tuple[Array, list[Certain]]:
        """The logits [B, 1, V] that module 0 has for the token after all certain ones, and what each module remembers."""
        starts = (news.mask == 1) & (np.cumsum(news.mask, axis=1) == 1)
        hidden, pairs = news.hidden, np.where(starts & news.first, 0, news.mask)
        ahead, certain = [], []
        for module, block in enumerate(self.model.blueprint.multi_token):
            before = None if memory is None else memory[module]
            cache = None if before is None else before.cache
            past = np.zeros((len(pairs), 0), np.int64) if cache is None else cache.attention_mask
            mask = np.concatenate([past, pairs], axis=1)
            logits, output, cache = self.model.multi_token(news.tokens, hidden, cache, module=module, attention_mask=mask)
            ahead.append(logits[:, -1:])
            cache = without_padding(cache, [block.layer.mixer.state()])
            certain.append(Certain(cache=cache, output=output[:, -1:], real=pairs[:, -1:]))
            # One place on, for the next module: before the first token of these stands the last of those before.
            last, real = (0, 0) if before is None else (before.output, before.real)
            hidden = np.where(starts[..., None], last, np.roll(output, 1, axis=1))
            pairs = np.where(starts, real, np.roll(pairs, 1, axis=1) * news.mask)
        return ahead[0], certain


@dataclass(frozen=True, kw_only=True)
class Certain:
    """What a module made of certain tokens: its cache, and the output [B, 1, D] of the last pair, if that is `real` [B, 1]."""

    cache: Cache
    output: Array
    real: Array


class Drawing:
    """Drafts as they are drawn, one column after the other."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.tokens: list[Array] = []
        self.distributions: list[Array] = []

    def next(self, logits: Array) -> Array:
        """A token [B, 1] for logits [B, 1, V]."""
        self.distributions.append(self.sampling.distribution(logits))
        self.tokens.append(self.sampling.draw(self.distributions[-1]))
        return self.tokens[-1]

    def draft(self) -> Draft:
        return Draft(tokens=np.concatenate(self.tokens, axis=1), distributions=np.concatenate(self.distributions, axis=1))


def as_drafter(speculative: Any, vocab_size: int) -> Drafter:
    """A drafter for a model of this vocabulary. ValueError for what is neither a drafter nor a model nor a function."""
    speculative = ModelDrafter(speculative) if isinstance(speculative, Model) else speculative
    if isinstance(speculative, ModelDrafter):
        drafted = speculative.model.blueprint.vocab_size
        if drafted != vocab_size:
            raise ValueError(f"generate: speculative drafts {drafted} different tokens but the model has {vocab_size}")
    if isinstance(speculative, Drafter):
        return speculative
    if not callable(speculative):
        raise ValueError(
            f"generate: speculative is a {type(speculative).__name__} but needs a Drafter, a Model "
            "or a function from the tokens of a row and a count to so many tokens"
        )
    return FunctionDrafter(speculative, vocab_size)
