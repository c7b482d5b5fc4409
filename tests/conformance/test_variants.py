"""Legitimate variants pass, whatever the format, the phase, the block, the values; the long search would say if one did not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conformance import run
from conformance.backends import BUILT_IN
from conformance.block_list import BLOCKS
from conformance.blocks import block_cases
from conformance.cases import FAMILIES
from conformance.family import as_tuple
from conformance.mutants import MUTANTS
from conformance.text import failure_text
from conformance.variants import VARIANTS, Variant, search
from conformance.variants.judging import JudgedBlock, JudgedLayer
from refimpl.layers import VOCABULARY
from refimpl.ops import NumpyOps

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Libraries have tests of their own.
OURS = {id: variant for id, variant in VARIANTS.items() if not variant.built_in}
LAYERS = {id: variant for id, variant in OURS.items() if variant.functions}
# What they do differently has the same bits: nothing is rounded, or the same.
SAME = ("rounded-at-every-step", "ring-token-by-token", "mxfp4-by-parts", "rotation-by-a-rotated-copy")
# Four seeds in turn of every function and block.
SAMPLE = search.jobs(4, lambda text: text.split()[0] in OURS, DTYPES)


def packs():
    """The variants of layers in as few backends as hold each function once."""
    found: list[tuple[list[str], dict]] = []
    for id, variant in LAYERS.items():
        ids, functions = next((pack for pack in found if not variant.functions.keys() & pack[1].keys()), ([], {}))
        if not ids:
            found.append((ids, functions))
        ids.append(id)
        functions.update(variant.functions)
    return [pytest.param(functions, id=ids[0]) for ids, functions in found]


def test_ids_are_unique_and_every_variant_says_what_it_is():
    from conformance.variants import _CHAPTERS

    assert len(VARIANTS) == sum(len(chapter.VARIANTS) for chapter in _CHAPTERS)
    for variant in VARIANTS.values():
        assert variant.says.endswith(".")
        assert set(variant.functions) | set(variant.together) <= set(VOCABULARY)
        assert sum(map(bool, (variant.functions, variant.together, variant.wiring, variant.built_in))) == 1
        assert not variant.built_in or variant.built_in in BUILT_IN


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", FAMILIES)
def test_all_variants_of_a_layer_pass_its_hand_picked_cases(function, dtype):
    backends = {id: variant.backend() for id, variant in LAYERS.items() if function in variant.functions}
    for case in FAMILIES[function].cases(dtype) if dtype in FAMILIES[function].dtypes else []:
        judged = JudgedLayer(case)
        for id, backend in backends.items():
            judgement = judged.judge(backend)
            assert judgement.verdict == "pass", (id, case.id, judgement)


@pytest.mark.parametrize("job", SAMPLE, ids=lambda job: f"{job.function}-{job.dtype}")
def test_all_variants_pass_on_other_values_and_drawn_cases(job):
    assert search.work(job)["failures"] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("level", BLOCKS)
def test_all_variants_fit_into_blocks(level, dtype):
    for case in block_cases(dtype):
        if case.function == level:
            judged = JudgedBlock(case)
            for id, variant in OURS.items():
                judgement = judged.judge(variant)
                assert judgement.verdict in ("pass", "not covered"), (id, case.id, judgement)


@pytest.mark.parametrize("functions", packs())
def test_variants_keep_the_laws(functions):
    report = run(functions, dtype=["float32", "bfloat16"], level="law")
    assert not report.failures(), [failure_text(result, "variants") for result in report.failures()]
    assert report.counts()["error"] == 0


@pytest.mark.parametrize("id", LAYERS)
def test_a_variant_of_layers_differs_from_the_specification_in_some_bit(id):
    def same(one, other):
        return np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True)

    def differs(name):
        for dtype in ("float32", "bfloat16"):
            for case in FAMILIES[name].cases(dtype) if dtype in FAMILIES[name].dtypes else []:
                theirs = as_tuple(case.ask(VARIANTS[id].backend()))
                ours = as_tuple(case.ask(VARIANTS["rounded-at-every-step"].backend()))
                if not all(map(same, theirs, ours)):
                    return True
        return False

    assert any(map(differs, VARIANTS[id].functions)) == (id not in SAME)


WIRINGS = {
    "qkv-in-one-product": ("gpt_oss", "deepseek_v3"),
    "gate-and-up-in-one-product": ("gemma3_text", "deepseek_v3"),
    "chosen-by-number": ("gpt_oss",),
    "chosen-from-the-least": ("glm4_moe",),
}


@pytest.mark.parametrize("id", WIRINGS)
def test_models_in_another_wiring_pass(id):
    assert set(WIRINGS) == {id for id, variant in VARIANTS.items() if variant.kind == "wiring"}
    for architecture in WIRINGS[id]:
        report = run({"load": VARIANTS[id].load}, dtype=["float32", "bfloat16"], level="model", k=f"{architecture}/")
        assert report.ok, [failure_text(result, id) for result in report.failures()]


class Counting(NumpyOps):
    """How many linear maps there are."""

    products = 0

    def call(self, name, *values, **options):
        self.products += name == "linear"
        return super().call(name, *values, **options)


@pytest.mark.parametrize("id", ["qkv-in-one-product", "gate-and-up-in-one-product"])
def test_a_wiring_changes_blocks_and_an_interpreter_is_asked_for_fewer_products(id):
    plain, fused = Counting(), Counting()
    case = next(case for case in block_cases("float32") if case.id.startswith("decoder_layer/pre_norm"))
    case.answer(plain)
    case.answer(fused, VARIANTS[id].block(case.block))
    assert plain.products - fused.products == {"qkv-in-one-product": 2, "gate-and-up-in-one-product": 1}[id]


def test_an_unsorted_choice_alone_is_not_what_a_router_returns():
    """It is right beside experts that do not mind, and therefore no backend of routers."""
    case = FAMILIES["top_k_softmax_router"].cases("float32")[0]
    assert JudgedLayer(case).judge(VARIANTS["chosen-from-the-least"].inside()).verdict == "fail"


@pytest.fixture
def faulty(monkeypatch):
    """The registry with one variant in it, which is wrong."""
    mutant = MUTANTS["rmsnorm-eps-outside-sqrt"]
    wrong = Variant(id="wrong", says="Wrong.", functions=mutant.functions)
    monkeypatch.setattr(search, "VARIANTS", {"wrong": wrong})
    search._backend.cache_clear()
    yield
    search._backend.cache_clear()


def test_the_search_finds_a_variant_that_is_wrong_and_says_where(faulty, tmp_path, capsys):
    record = tmp_path / "record.jsonl"
    call = ["--seeds", "3", "-k", "rms_norm", "--dtype", "float32", "--record", str(record)]
    assert search.main(call) == 1
    first = capsys.readouterr().out
    assert "FAIL wrong rms_norm/" in first
    lines = record.read_text().splitlines()
    assert json.loads(lines[0])["variants"]["wrong"]["judgements"] == 6  # a hand-picked and a drawn case for each seed
    assert search.main(call) == 1  # nothing is done again, nothing forgotten
    again = capsys.readouterr().out
    assert record.read_text().splitlines() == lines
    assert again.splitlines() == [line for line in first.splitlines() if not line.startswith("FAIL")]


def test_the_search_is_the_same_again_and_in_other_processes(tmp_path):
    call = ["--seeds", "30", "-k", "kahan-sums and l2_norm", "--dtype", "float32", "--dtype", "bfloat16"]
    records = [tmp_path / "here.jsonl", tmp_path / "elsewhere.jsonl"]
    assert search.main([*call, "--record", str(records[0])]) == 0
    assert search.main([*call, "-n", "2", "--record", str(records[1])]) == 0
    here, elsewhere = (sorted(path.read_text().splitlines()) for path in records)
    assert here == elsewhere
    assert len(here) == 4
