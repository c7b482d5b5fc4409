"""The checkpoints of all variants, written once a session, and both readings of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import refimpl

from .comparison import Pair
from .variants import LATENT_ATTENTION, VARIANTS, Variant

PairOf = Callable[[str], Pair]

EXPANDED = "-expanded"
# What is compared: every variant, and with latent attention its expanded form as well.
COMPARED: dict[str, Variant] = {
    **VARIANTS,
    **{f"{name}{EXPANDED}": variant for name, variant in VARIANTS.items() if variant.architecture in LATENT_ATTENTION},
}


@pytest.fixture(scope="session")
def _one_thread() -> Iterator[None]:
    """Tensors this small take several times longer when threads wait for one another."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def directory_of(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The name of a variant to its checkpoint directory. Skips where the peer is not installed."""
    pytest.importorskip("transformers")
    from .checkpoints import write_checkpoint

    return cache(lambda name: write_checkpoint(VARIANTS[name], tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def pair_of(directory_of: Callable[[str], Path]) -> PairOf:
    """The name of what is compared to its two readings."""
    from .reference import load_peer

    @cache
    def read(name: str) -> Pair:
        if name not in VARIANTS:
            pair = read(name.removesuffix(EXPANDED))
            return replace(pair, model=pair.model.expanded(), expanded=True)
        directory = directory_of(name)
        model = refimpl.load(directory, dtype="float64")
        return Pair(variant=VARIANTS[name], directory=directory, model=model, peer=load_peer(directory))

    return read


@pytest.fixture(scope="session", params=COMPARED)
def pair(request: pytest.FixtureRequest, pair_of: PairOf) -> Pair:
    """Every variant in turn."""
    return pair_of(request.param)


@pytest.fixture(scope="session", params=[name for name, variant in COMPARED.items() if not variant.counts_columns])
def positioned_pair(request: pytest.FixtureRequest, pair_of: PairOf) -> Pair:
    """Every variant whose peer counts real tokens, or takes the positions that it is given, wherever these mean something."""
    return pair_of(request.param)


@pytest.fixture(
    scope="session",
    params=[
        name for name, variant in COMPARED.items() if not (variant.windowed or variant.counts_columns or variant.recurrent)
    ],
)
def unwindowed_pair(request: pytest.FixtureRequest, pair_of: PairOf) -> Pair:
    """Every variant without windows and states: the peer counts padding as keys of a window and lets it change a state, the
    specification real tokens only."""
    return pair_of(request.param)
