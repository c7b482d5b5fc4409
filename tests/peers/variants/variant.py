"""What a compared checkpoint is: plain data.

Sizes are odd and no two of them equal, so that an exchanged axis or a wrong head width shows. `neutral` holds the configuration
keys that switch off what a variant is about: the peer's logits must move when they are applied, else the variant
would compare nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COMMON: Mapping[str, Any] = {
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WINDOW = 5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A checkpoint to build.

    settings: configuration keys on top of the base of its architecture.
    derived, written: keys that are deleted from config.json, and replaced in it, once transformers has written it; `a.b` is
      key b of the object under a.
    neutral: see above. windowed: some layer has a sliding window. learned_positions: the size of the table, where positions
      are learned and those beyond it are none. old_keys: the names of the kind of scaling that the peer reads among the
      rotary keys of transformers 4; none where those cannot say what the variant says. counts_columns: the peer takes the
      temperature of a query from its column, whatever is padding before it and whatever position it is given. recurrent: some
      layer has a state, which in the peer decays at padding that follows real tokens.
    """

    architecture: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    written: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, Any] | None = None
    windowed: bool = False
    learned_positions: int | None = None
    counts_columns: bool = False
    recurrent: bool = False
    old_keys: tuple[str, ...] = ("rope_type", "type")
    dtype: str = "float32"
    max_shard_size: str = "50GB"


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    """The rotary keys of a configuration."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **keys}}


def yarn(**keys: Any) -> dict[str, Any]:
    """YaRN whose ramp lies inside a head."""
    return rope("yarn", **{"factor": 4.0, "original_max_position_embeddings": 16, **keys})


LLAMA3 = {"low_freq_factor": 1.5, "high_freq_factor": 6.0, "original_max_position_embeddings": 48}
