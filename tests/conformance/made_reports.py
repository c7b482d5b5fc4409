"""Reports without a run: results of every kind, and names that a page must not take for markup."""

from __future__ import annotations

from conformance.report import Report
from conformance.verdict import Judgement, Result, Suspect

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}|`*_[x](y)\x00\u202e"
LINK = "https://example.org/issues/1?a=1&b=2"

PASS = Judgement(verdict="pass", share=0.348, max_error=1e-7, max_budget=3e-7, rms_error=1e-8, rms_budget=2e-7)
WRONG = Judgement(
    verdict="fail",
    kind="numeric",
    sentence="outside the budget by a factor of 12.3",
    worst="B=0 T=1: yours 2.5, truth -1.25",
    share=12.3,
    max_error=1.23e-5,
    max_budget=1e-6,
    rms_error=2e-6,
    rms_budget=5e-7,
    suspects=(
        Suspect(mutants=("window-plus-one",), share=0.25, sentence="One key too many.", links=(LINK, "javascript:alert(2)")),
        Suspect(mutants=("a", "b"), share=float("inf"), sentence="Two at once.", links=()),
    ),
    histogram=((-2, 30), (-1, 10), (2, 5), (3, 1)),
)
ERROR = Judgement(
    verdict="error", kind="timeout", sentence="gave no answer for 60 s", minimal="silu/drawn[shape=(1,),seed=0]-f32"
)
REFUSED = Judgement(verdict="unsupported", sentence="no <b>tables</b>")
ABSENT = Judgement(verdict="not covered", sentence="the backend does not offer it")
RULES = "R1: the scores are scaled; R3: `window` W: exactly W keys"


def result(id: str, judgement: Judgement, *, level: str = "layer", expected: str = "", rule: str = RULES) -> Result:
    dtype = {"f32": "float32", "bf16": "bfloat16", "i64": "int64"}[id.split("-")[2]]
    layer = id.split("/")[0]
    return Result(id=id, level=level, layer=layer, dtype=dtype, rule=rule, judgement=judgement, expected=expected)


def report(name: str = "mine", *, results: tuple[Result, ...] | None = None, **fields: object) -> Report:
    every = (
        result("attention/window-decode-f32-w5", WRONG),
        result("attention/plain-prefill-f32-t3", PASS),
        result("attention/sink-prefill-f32-t3", REFUSED),
        result("attention/window-decode-bf16-w5", WRONG, expected="kernel 5 is wrong https://example.org/5"),
        result("attention/plain-prefill-bf16-t3", PASS),
        result("silu/drawn-any-f32", ERROR, rule=""),
        result("token_order/plain-any-i64-t3", PASS),
        result("geglu/plain-any-f32-t3", ABSENT),
        result("decoder_layer/plain-prefill-f32-t3", PASS, level="block", rule=""),
        result("qwen3/plain-prefill-f32-t3", REFUSED, level="model", rule=""),
        result("law/softmax_shift-any-f32-s0", PASS, level="law", rule="a shift of all scores changes nothing"),
    )
    settings = {"k": None, "level": None, "dtypes": ["float32", "bfloat16"], "max_examples": 20, "seed": 0}
    known = {"reference": f"{name}.py", "version": "1.0", "settings": settings, **fields}
    return Report(backend=name, results=every if results is None else results, **known)
