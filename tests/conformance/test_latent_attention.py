"""What the suite has on latent attention beside cases: its laws, and blocks of both forms."""

from __future__ import annotations

import pytest

from conformance import run
from conformance.backends import numpy as specification
from conformance.block_list import BLOCKS
from conformance.mutants import MUTANTS
from refimpl.layers import VOCABULARY

# Fault -> the law that must find it, alone.
FOUND = {
    "absorbed-keys-of-all-heads-first": "absorbed_is_expanded-",
    "absorbed-values-before-keys": "absorbed_is_expanded-",
    "mla-absorbed-drops-adapter": "absorbed_is_expanded-",
    "mla-sdpa-default-scale": "scale_is_a_longer_query",
    "absorbed-heads-innermost": "permuted_heads",
    "mla-rope-gpt-neox-style-kernel": "permuted_rope",
    "rotated-part-left-out": "rope_for_all_heads",
    "rotated-part-of-the-first-token": "rope_for_all_heads",
    "latents-for-values": "permuted_latent",
    "latents-causal-from-the-upper-left": "incremental_is_full",
    "latents-of-padding-seen": "left_padding",
    "columns-of-latents-taken-for-places": "order_of_storage",
    "latents-without-temperature": "absorbed_is_expanded_temperature",
    "latents-hidden-by-a-small-number": "absorbed_is_expanded_selected",
    "latents-causal-when-asked-for-none": "absorbed_is_expanded_not_causal",
}


@pytest.mark.parametrize("label", FOUND)
def test_a_law_alone_finds_the_fault(label):
    functions = {each: getattr(specification, each) for each in VOCABULARY} | dict(MUTANTS[label].functions)
    report = run(functions, level="law", dtype="all", k=f"law/latent_attention_{FOUND[label]}")
    assert {result.judgement.kind for result in report.failures()} == {"law"}
    assert {result.dtype for result in report.failures()} == {"float64", "float32", "bfloat16", "float16"}


def test_both_forms_stand_in_blocks_with_and_without_a_cache():
    blocks = BLOCKS["latent_attention_block"]
    assert {block.absorbed for block in blocks.values()} == {True, False}
    report = run(
        {"latent_attention": specification.latent_attention}, level="block", k="latent_attention_block", dtype="float32"
    )
    covered = {result.id for result in report.results if result.verdict == "pass"}
    assert covered == {result.id for result in report.results if "absorbed" in result.id}
    assert {case_id.split("-")[1] for case_id in covered} == {"prefill", "pieces"}


def test_a_fault_in_one_form_is_found_in_blocks_of_that_form():
    for label, form in (("absorbed-values-before-keys", "absorbed"), ("values-before-keys", "expanded")):
        report = run(MUTANTS[label].functions, level="block", k="latent_attention_block", dtype="bfloat16")
        assert all(form in result.id for result in report.failures())
        assert len(report.failures()) > 4
