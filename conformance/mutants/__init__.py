"""Known bugs as faulty variants: the registry `MUTANTS` (id -> `Mutant`), one chapter a file.

    mutant = MUTANTS["sink-counted-per-split"]
    mutant.says, mutant.links                     # what is wrong, and where such a bug was reported
    run(mutant.functions)                         # as a backend, of a layer
    run({"load": mutant.load})                    # of any kind, as a backend of whole models
    load(directory, mutant, another)              # a model with several faults

Reports of bugs that no mutant expresses are in `NOT_EXPRESSED`, with the reason.
"""

from conformance.mutants import (
    attention,
    attention_switches,
    cache,
    chunks,
    convolution,
    decay,
    driving,
    ends,
    experts,
    frequencies,
    gated_norm,
    hybrid_wiring,
    indexer,
    latent_attention,
    latent_rows,
    latent_wiring,
    linear_attention,
    linear_wiring,
    mlp,
    multi_token,
    norm,
    position,
    quantization,
    reading,
    recurrent_state,
    rotation_wiring,
    router,
    sampling,
    speculation,
    state_space,
    wiring,
)
from conformance.mutants.mutant import Mutant, load
from conformance.mutants.not_expressed import NOT_EXPRESSED
from conformance.mutants.reports import REPORTS

_CHAPTERS = (
    norm,
    position,
    frequencies,
    cache,
    attention,
    attention_switches,
    latent_attention,
    latent_rows,
    indexer,
    convolution,
    decay,
    linear_attention,
    recurrent_state,
    chunks,
    state_space,
    gated_norm,
    mlp,
    router,
    experts,
    quantization,
    ends,
    multi_token,
    sampling,
    speculation,
    wiring,
    rotation_wiring,
    latent_wiring,
    linear_wiring,
    hybrid_wiring,
    reading,
    driving,
)
MUTANTS: dict[str, Mutant] = {mutant.id: mutant for chapter in _CHAPTERS for mutant in chapter.MUTANTS}

__all__ = ["MUTANTS", "NOT_EXPRESSED", "REPORTS", "Mutant", "load"]
