"""The command line: what it prints, where errors go, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import refimpl
from golden.configs import CONFIGS
from refimpl.checkpoint import save_checkpoint
from refimpl.cli import status

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = refimpl.init(CONFIG, seed=3)
    tensors = model.blueprint.layouts[0].write(model.weights)
    save_checkpoint(tmp_path / "checkpoint", CONFIG, tensors)
    return tmp_path / "checkpoint"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = status([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list_releases(call) -> None:
    code, out, _ = call("list", "releases", "--json")
    rows = {row["release"]: row["parameters"] for row in json.loads(out)}
    assert code == 0
    assert rows["HuggingFaceTB/SmolLM3-3B"] == 3_075_098_624


@pytest.mark.parametrize("what", ["layers", "cases", "backends", "mutants", "variants"])
def test_lists_in_words_and_json_agree(call, what: str) -> None:
    rows = json.loads(call("list", what, "--json")[1])
    text = call("list", what)[1]
    assert rows
    assert all(str(next(iter(row.values()))) in text for row in rows)


def test_show_prints_the_card_and_draws_it(call, tmp_path: Path) -> None:
    code, out, _ = call("show", "HuggingFaceTB/SmolLM3-3B", "--svg", tmp_path / "card.svg")
    assert code == 0
    assert "3,075,098,624" in out
    assert "no positions (NoPE)" in out
    assert (tmp_path / "card.svg").read_text().startswith("<svg")


def test_show_json_has_plain_numbers(call) -> None:
    card = json.loads(call("show", "Qwen/Qwen3-4B", "--json")[1])
    assert card["parameters"] == 4_022_468_096
    assert card["cache bytes a token"] == 36 * 2 * 8 * 128 * 2


def test_show_has_the_cache_of_both_forms_of_latent_attention(call) -> None:
    card = json.loads(call("show", "moonshotai/Kimi-K2-Instruct", "--json")[1])
    assert card["parameters"] == 1_026_408_209_408
    assert card["cache bytes a token"] == 61 * (512 + 64) * 2
    assert card["expanded cache bytes a token"] == 61 * 64 * (192 + 128) * 2
    assert "latent attention 64 heads of 128 + 64, values 128, latents 512, of queries 1536" in card["layer plan"][0]
    assert not any("expanded" in key for key in json.loads(call("show", "Qwen/Qwen3-4B", "--json")[1]))


def test_show_counts_modules_for_multi_token_prediction_apart(call) -> None:
    card = json.loads(call("show", "deepseek-ai/DeepSeek-V3", "--json")[1])
    assert card["multi-token modules"] == 1
    assert card["parameters with modules"] - card["parameters"] == 11_610_067_968
    assert "multi-token modules" not in json.loads(call("show", "moonshotai/Kimi-K2-Instruct", "--json")[1])


def test_compare_leaves_empty_what_a_model_does_not_have(call) -> None:
    latent, grouped = "deepseek-ai/DeepSeek-V3", "zai-org/GLM-4.5"
    for models, cells in (([latent, grouped], " 4,997,120 |  |"), ([grouped, latent], "  | 4,997,120 |")):
        code, out, _ = call("compare", *models, "--markdown")
        assert code == 0
        assert f"| expanded cache bytes a token |{cells}" in out.splitlines()
        assert call("compare", *models)[0] == 0


def test_a_params_json_is_shown_and_linted(call, tmp_path: Path) -> None:
    values = refimpl.api.read_config("mistralai/Mistral-Large-3-675B-Instruct-2512")
    (tmp_path / "params.json").write_text(json.dumps(values))
    assert "673,421,089,792" in call("show", tmp_path)[1]
    code, out, _ = call("lint", tmp_path, "--json")
    kinds = {row["key"]: row["kind"] for row in json.loads(out)}
    assert (code, kinds["yarn.apply_scale"], kinds["vision_encoder"]) == (0, "used", "ignored")
    (tmp_path / "params.json").write_text(json.dumps({**values, "n_kv_heads": 8}))
    code, out, _ = call("lint", tmp_path, "--json")
    assert (code, json.loads(out)[-1]["value"]) == (1, "config: n_kv_heads is 8 but the other keys make it 128")


def test_compare_puts_models_side_by_side(call, tmp_path: Path) -> None:
    code, out, _ = call("compare", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "--markdown", "--html", tmp_path / "c.html")
    assert code == 0
    assert "596,049,920 | 8,190,735,360" in out
    assert "596,049,920" in (tmp_path / "c.html").read_text()


def test_run_prints_the_tokens_that_the_model_gives(call, checkpoint: Path) -> None:
    expected = refimpl.generate(refimpl.load(checkpoint, "float32"), np.array([[1, 2, 3]]), 5)[0, 3:].tolist()
    for options in ([], ["--stream"]):
        code, out, _ = call("run", checkpoint, "--tokens", "1,2,3", "--max-new-tokens", 5, *options)
        assert (code, out.strip()) == (0, ",".join(map(str, expected)))


def test_run_draws_tokens_with_a_seed(call, checkpoint: Path) -> None:
    options = {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "seed": 7}
    model, sampler = refimpl.load(checkpoint, "float32"), refimpl.Sampling(**options)
    expected = refimpl.generate(model, np.array([[1, 2, 3]]), 9, sampler=sampler)[0, 3:].tolist()
    spelled = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    code, out, _ = call("run", checkpoint, "--tokens", "1,2,3", "--max-new-tokens", 9, *spelled)
    assert (code, out.strip()) == (0, ",".join(map(str, expected)))
    greedy = call("run", checkpoint, "--tokens", "1,2,3", "--max-new-tokens", 9)[1]
    assert out != greedy


def test_run_drafts_and_reports(call, checkpoint: Path) -> None:
    arguments = ["run", checkpoint, "--tokens", "1,2,3", "--max-new-tokens", 9]
    plain = call(*arguments)[1]
    code, out, err = call(*arguments, "--draft", checkpoint, "--draft-tokens", 3)
    assert (code, out) == (0, plain)
    assert err == "6 of 6 drafts accepted, 3 calls of the model\n"
    report = json.loads(call(*arguments, "--draft", checkpoint, "--draft-tokens", 3, "--json")[1])
    assert (report["drafted"], report["accepted"], report["calls"]) == (6, 6, 3)
    assert report["tokens"] == [int(token) for token in plain.split(",")]
    assert "drafted" not in json.loads(call(*arguments, "--json")[1])


def test_run_drafts_with_the_modules_of_the_model(call, tmp_path: Path) -> None:
    config = {**CONFIGS["glm4_moe"], "num_nextn_predict_layers": 1}
    model = refimpl.init(config, seed=3)
    assert len(model.blueprint.multi_token) == 1
    save_checkpoint(tmp_path / "modules", config, model.blueprint.layouts[0].write(model.weights))
    arguments = ["run", tmp_path / "modules", "--tokens", "1,2,3", "--max-new-tokens", 9]
    code, out, err = call(*arguments, "--draft", "self", "--draft-tokens", 2)
    assert (code, out) == (0, call(*arguments)[1])
    assert " drafts accepted, " in err


def test_lint_tells_the_switches_and_fails_on_an_unknown_key(call, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    code, out, _ = call("lint", path, "--json")
    kinds = {row["key"]: row["kind"] for row in json.loads(out)}
    assert code == 0
    assert (kinds["head_dim"], kinds["sliding_window"]) == ("used", "default")
    path.write_text(json.dumps({**CONFIG, "slidding_window": 4}))
    code, out, _ = call("lint", path)
    assert code == 1
    assert "did you mean 'sliding_window'" in out


def test_lint_names_the_keys_of_an_object_inside_by_their_path(call, tmp_path: Path) -> None:
    path, values = tmp_path / "config.json", refimpl.api.read_config("google/gemma-3-27b-it")
    path.write_text(json.dumps(values))
    code, out, _ = call("lint", path, "--json")
    kinds = {row["key"]: row["kind"] for row in json.loads(out)}
    assert code == 0
    assert (kinds["text_config.hidden_size"], kinds["model_type"]) == ("used", "ignored")
    path.write_text(json.dumps({**values, "text_config": {**values["text_config"], "hidden_sise": 4}}))
    code, out, _ = call("lint", path)
    assert code == 1
    assert "unknown key 'hidden_sise'" in out


def test_export_writes_a_graph(call, checkpoint: Path) -> None:
    code, out, _ = call("export", checkpoint, "-o", checkpoint / "model.onnx", "--verify")
    assert code == 0
    assert "verified" in out
    assert (checkpoint / "model.onnx").is_file()


def test_export_in_a_chosen_opset(call, checkpoint: Path) -> None:
    onnx = pytest.importorskip("onnx")
    code, _, _ = call("export", checkpoint, "-o", checkpoint / "model.onnx", "--opset", 27)
    assert code == 0
    imports = {
        entry.domain: entry.version for entry in onnx.load(checkpoint / "model.onnx", load_external_data=False).opset_import
    }
    assert imports[""] == 27
    code, _, err = call("export", checkpoint, "-o", checkpoint / "model.onnx", "--opset", 22)
    assert code == 4
    assert "opset is 22 but must be one of 23 to" in err


def test_conform_runs_a_users_file_and_reports(call, tmp_path: Path) -> None:
    adapter = tmp_path / "mine.py"
    adapter.write_text("from refimpl.layers import rms_norm, swiglu\n")
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", path)]
    code, out, _ = call("conform", adapter, "--max-examples", 3, *options)
    assert code == 0
    assert "rms_norm" in out
    assert all(path.stat().st_size for path in files.values())


def test_conform_fails_and_the_printed_line_reproduces(call, tmp_path: Path) -> None:
    adapter = tmp_path / "faulty.py"
    adapter.write_text("from refimpl.layers import swiglu as right\ndef swiglu(gate, up):\n    return right(up, gate)\n")
    code, out, _ = call("conform", adapter, "--max-examples", 0)
    assert code == 1
    line = next(line for line in out.splitlines() if "reproduce:" in line)
    words = line.split("refimpl ")[1].split()
    code, out, _ = call(*words)
    assert code == 1
    assert words[1] in out


def test_new_backend_conforms(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("new-backend", "started")[0] == 0
    assert call("conform", "started.py", "--max-examples", 3, "-q")[0] == 0
    assert call("new-backend", "started")[0] == 4


def test_golden_verify(call) -> None:
    code, out, _ = call("golden", "verify")
    assert code == 0
    assert "entries hold" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "Qwen/Qwen3-5B"], "unknown release 'Qwen/Qwen3-5B'; did you mean"),
        (["show", "nowhere/config.json"], "no such file or directory"),
        (["compare", "Qwen/Qwen3-4B"], "compare needs two models or more"),
        (["run", "nowhere", "--tokens", "1"], "nowhere"),
        (["run", ".", "--tokens", "1,x"], "--tokens is '1,x' but needs integers separated by commas"),
        (["run", "."], "give the prompt with either --tokens or --prompt"),
        (["run", ".", "--tokens", "1", "--top-k", "3"], "--top-k, --top-p and --min-p need a --temperature above 0"),
        (["run", ".", "--prompt", "hello"], "tokenizer.json: no such file"),
        (["conform", "tourch"], "no backend 'tourch'; did you mean 'torch'?"),
        (["conform", "numpy", "--dtype", "float8"], "float8"),
        (["conform", "numpy", "--level", "floor"], "floor"),
        (["conform", "numpy", "-k", "a and and b"], "a and and b"),
        (["conform", "nowhere.py"], "nowhere.py: no such file"),
        (["reproduce", "norm/none", "--backend", "numpy"], "no case 'norm/none'"),
        (["export", "nowhere", "-o", "x.onnx"], "nowhere"),
        (["golden", "verify", "nowhere"], "MANIFEST.json: no such file"),
        (["new-backend", "not-a-name"], "needs to be a Python identifier"),
        (["list", "mutes"], "mutes"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_status_4(call, arguments: list[str], sentence: str) -> None:
    code, out, err = call(*arguments)
    assert code == 4
    assert sentence in err
    assert out == ""
    assert "Traceback" not in err


def test_too_few_cases_is_status_5(call) -> None:
    assert call("conform", "numpy", "-k", "silu", "--max-examples", 0, "--min-cases", 1000)[0] == 5


def test_an_internal_error_is_status_3(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refimpl.api, "releases", lambda: 1 / 0)
    code, _, err = call("list", "releases")
    assert code == 3
    assert "internal error: ZeroDivisionError" in err


def test_interrupting_is_status_2(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refimpl.api, "releases", interrupted)
    assert call("list", "releases")[0] == 2


@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
def test_a_report_that_could_not_be_written_is_refused_before_the_run(call, option: str) -> None:
    code, out, err = call("conform", "numpy", option, "nowhere/report")
    assert (code, out) == (4, "")
    assert "'nowhere/report' cannot be written: 'nowhere' is no directory" in err


def test_brackets_in_a_name_are_printed_as_they_are(call, tmp_path: Path) -> None:
    path = tmp_path / "[red]config.json"
    path.write_text(json.dumps({**CONFIG, "_name_or_path": "[/x]"}))
    assert "[red]config.json" in call("show", path)[1]
    code, out, _ = call("lint", path)
    assert code == 0
    assert "[/x]" in out


def test_a_token_of_more_than_64_bits_is_one_sentence(call, checkpoint: Path) -> None:
    code, _, err = call("run", checkpoint, "--tokens", "9" * 40)
    assert code == 4
    assert "needs integers" in err
