"""Multimodal releases, of which the language model is read: its configuration is an object inside, its tensors have a prefix.

A model that is given text alone computes what its language model computes, so that everything about the other modalities is
ignored: their part of the configuration, the tokens that stand for an image, their encoders and the projection of what these
see. An architecture file writes one line more than for the language model:

    def gemma3(config):
        return language_part(config, gemma3_text, text_type="gemma3_text", disks=(DISK,), ignored=("mm_tokens_per_image",))

Two namings are on disk. The hub's (and what transformers writes) has the whole language model under `language_model.`, its
head included; the modules of transformers in memory, which some tools write as they are, have the body alone inside another.

Pitfalls: transformers 5 writes `tie_word_embeddings: true` into the outer object of releases whose head is stored and is not
the embedding, because that is the default of its class. So the outer key unties, and where it ties against the inner one the
tensors decide: without a head among them it is the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import Disk
from refimpl.storage import Layout

# What is not the language model, on the outermost level of the names on disk.
OTHER_MODALITIES = ("vision_tower", "multi_modal_projector", "vision_model")


def language_part(
    config: Config,
    read: Callable[[Config], Blueprint],
    *,
    text_type: str,
    disks: Sequence[Disk] = (Disk(),),
    ignored: tuple[str, ...] = (),
) -> Blueprint:
    """The language model of a multimodal configuration, as a model of its own.

    read: the reader of the configuration under `text_config`, whose `model_type` is `text_type` where it has one.
    disks: the names of the language model where it is stored alone. ignored: keys of this architecture that say something
    about other modalities, beside `vision_config` and `image_token_index`.
    """
    text = config.nested("text_config", text_type)
    if text.name != text_type:
        raise ValueError(f"config: text_config.model_type is {text.name!r} but {config.name!r} supports {text_type!r}")
    part = read(text)
    outer_ties = config.take("tie_word_embeddings", bool, True)
    tied = outer_ties and part.head.tied
    config.ignore("vision_config", "image_token_index", *ignored)
    config.finish()
    blueprint = replace(part, architecture=config.name, head=replace(part.head, tied=tied), config=config.values)
    layouts = [inner.layout(blueprint) for disk in disks for inner in inside(disk)]
    if outer_ties and not tied:
        layouts += [_without_head(layout) for layout in layouts]
    return replace(blueprint, layouts=tuple(layouts))


def _without_head(layout: Layout) -> Layout:
    """The same where no head is stored, because it is the embedding."""
    return replace(layout, sources={**layout.sources, "head.weight": layout.sources["embedding.weight"]})


def inside(disk: Disk) -> tuple[Disk, Disk]:
    """The names of a language model inside a multimodal one: the hub's, and those of the modules of transformers."""
    whole = _renamed(disk, body="language_model.model", head=f"language_model.{disk.head}", outermost="")
    body = _renamed(disk, body="model.language_model", head=disk.head, outermost="model.")
    return whole, body


def _renamed(disk: Disk, *, body: str, head: str, outermost: str) -> Disk:
    return replace(
        disk,
        embedding=disk.embedding.replace("model", body, 1),
        layers=disk.layers.replace("model", body, 1),
        final_norm=disk.final_norm.replace("model", body, 1),
        head=head,
        ignored=(*disk.ignored, *(f"{outermost}{name}.*" for name in OTHER_MODALITIES)),
    )
