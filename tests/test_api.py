"""The public face: its names, what it imports, and that every rule it states has a test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import refimpl
from refimpl.layers import VOCABULARY, attention_online, expert_mixture, mxfp4_encode, yarn_attention_factor

TESTS = Path(__file__).parent
FUNCTIONS = [*VOCABULARY.values(), attention_online, expert_mixture, mxfp4_encode, yarn_attention_factor]


def test_the_contract_names_exist() -> None:
    assert set(refimpl.__all__) >= {"blueprint", "generate", "init", "load", "releases", "Model", "Cache", "SPEC_VERSION"}
    assert all(hasattr(refimpl, name) for name in refimpl.__all__)


def test_releases_are_names_of_the_hub() -> None:
    assert {"HuggingFaceTB/SmolLM3-3B", "Qwen/Qwen3-4B"} <= set(refimpl.releases())
    assert refimpl.releases() == sorted(refimpl.releases())


def test_importing_loads_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "onnx", "onnxruntime", "jax", "conformance", "export", "hypothesis", "click"]
    code = f"import sys, refimpl; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TESTS.parent)
    assert done.stdout.strip() == "[]"


def test_imports_run_one_way() -> None:
    order = ["layers", "blocks", "models"]
    package = Path(refimpl.__file__).parent
    for rank, name in enumerate(order):
        later = "|".join([*order[rank + 1 :], "checkpoint", "generate", "conformance", "export"])
        for file in (package / name).glob("*.py"):
            assert not re.search(rf"^\s*(from|import) (refimpl\.)?({later})\b", file.read_text(), re.MULTILINE), file


def test_every_rule_of_a_layer_is_quoted_by_a_test() -> None:
    """R1, R2, ... of a docstring appear in the names of tests in the class of that layer, or in those that the file of its
    chapter has for all of its layers.
    """
    groups = {function: "Test" + "".join(map(str.capitalize, function.__name__.split("_"))) for function in FUNCTIONS}
    quoted: dict[str, set[str]] = {}
    for file in (TESTS / "layers").glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            tests = [item for item in getattr(node, "body", ()) if isinstance(item, ast.FunctionDef)]
            tests += [node] if isinstance(node, ast.FunctionDef) else []
            own = isinstance(node, ast.ClassDef) and node.name in groups.values()
            place = node.name if own else file.stem.removeprefix("test_")
            quoted.setdefault(place, set()).update(re.findall(r"_r(\d+)(?=_)", " ".join(test.name for test in tests)))
    missing = []
    for function, group in groups.items():
        rules = set(re.findall(r"\bR(\d+)  ", function.__doc__ or ""))
        chapter = function.__module__.rpartition(".")[2]
        missing += [f"{group}: R{rule}" for rule in sorted(rules - quoted.get(group, set()) - quoted.get(chapter, set()))]
    assert not missing, missing
