"""The transformers backend gives the logits of the specification, on every way to call a model."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import refimpl
from conformance.backends.transformers import backend, sdpa_backend
from conformance.tiny_models import MODELS

pytestmark = pytest.mark.skipif(backend.unavailable() is not None, reason=str(backend.unavailable()))

VOCAB = 37
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "smollm3": {**SIZES, "model_type": "smollm3", "no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "qwen3": {**SIZES, "model_type": "qwen3", "head_dim": 10, "tie_word_embeddings": False},
}
TOKENS = np.random.default_rng(7).integers(0, VOCAB, (2, 13))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def directory(request, tmp_path_factory):
    return written(ARCHITECTURES[request.param], "float32", tmp_path_factory.mktemp(request.param))


def written(settings, dtype, path):
    """A checkpoint that transformers itself wrote, with random weights and norm gains away from 1."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    settings = dict(settings)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    network.to(getattr(torch, dtype)).save_pretrained(path)
    return path


@pytest.fixture(params=[backend, sdpa_backend], ids=lambda candidate: candidate.name)
def model(request, directory):
    return request.param.load(directory)


@pytest.fixture
def exact(directory):
    return refimpl.load(directory, dtype="float64")


def assert_agrees(got, expected):
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max()


def test_prefill(model, exact):
    assert_agrees(model(TOKENS)[0], exact(TOKENS)[0])


def test_prefill_in_pieces_then_decode(model, exact):
    expected, _ = exact(TOKENS)
    cache = None
    for start, stop in ((0, 5), (5, 11), (11, 12), (12, 13)):
        logits, cache = model(TOKENS[:, start:stop], cache)
        assert_agrees(logits, expected[:, start:stop])


def test_a_cache_can_be_continued_twice(model):
    _, cache = model(TOKENS[:, :6])
    first, _ = model(TOKENS[:, 6:9], cache)
    model(TOKENS[:, 9:10], cache)
    again, _ = model(TOKENS[:, 6:9], cache)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_what_the_row_alone_gives(model, exact, side):
    padding, real = (slice(0, 4), slice(4, None)) if side == "left" else (slice(9, None), slice(0, 9))
    mask = np.ones_like(TOKENS)
    mask[1, padding] = 0
    logits, _ = model(TOKENS, attention_mask=mask)
    assert_agrees(logits[1:, real], exact(TOKENS[1:, real])[0])
    assert_agrees(logits[:1], exact(TOKENS[:1])[0])


def test_padding_is_remembered_by_the_cache(model, exact):
    mask = np.ones((2, 8), np.int64)
    mask[1, :3] = 0
    _, cache = model(TOKENS[:, :8], attention_mask=mask)
    logits, _ = model(TOKENS[:, 8:9], cache)
    assert_agrees(logits[1:], exact(TOKENS[1:, 3:9])[0][:, -1:])
    given, _ = model(TOKENS[:, 8:9], cache, attention_mask=np.concatenate([mask, [[1], [1]]], axis=1))
    assert np.array_equal(logits, given)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logits_have_the_stored_format(tmp_path, dtype):
    directory = written(ARCHITECTURES["qwen3"], dtype, tmp_path)
    logits, cache = backend.load(directory)(TOKENS)
    assert logits.dtype.name == dtype
    exact, _ = refimpl.load(directory, dtype="float64")(TOKENS)
    error = np.abs(logits.astype(np.float64) - exact)
    assert error.max() < 0.1 * np.abs(exact).max()
    assert backend.load(directory)(TOKENS[:, :1], cache)[0].dtype.name == dtype


def test_a_model_type_that_it_lacks_is_unsupported(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}')
    with pytest.raises(NotImplementedError, match=r"^transformers has no model_type 'kimi_k2'$"):
        backend.load(tmp_path)


def test_an_architecture_that_it_lacks_is_unsupported_though_it_knows_the_model_type(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "git", "architectures": ["Grok1ForCausalLM"]}')
    with pytest.raises(NotImplementedError, match=r"^transformers has no Grok1ForCausalLM$"):
        backend.load(tmp_path)


def test_a_model_without_the_wanted_attention_is_unsupported(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}')
    with pytest.raises(NotImplementedError, match=r"^transformers has no sdpa for GptOssForCausalLM$"):
        sdpa_backend.load(tmp_path)


def test_float64_is_unsupported(tmp_path):
    with pytest.raises(NotImplementedError, match="in float32"):
        backend.load(written(ARCHITECTURES["qwen3"], "float64", tmp_path))


def test_a_missing_or_surplus_tensor_is_refused(directory):
    file = directory / "model.safetensors"
    original = file.read_bytes()
    tensors = load_file(file)
    try:
        surplus = {"model.layers.0.self_attn.extra": np.zeros(2, np.float32)}
        save_file({**tensors, **surplus}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"unexpected keys .*model\.layers\.0\.self_attn\.extra"):
            backend.load(directory)
        del tensors["model.norm.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"missing keys .*model\.norm\.weight"):
            backend.load(directory)
    finally:
        file.write_bytes(original)


def test_a_params_json_is_unsupported(tmp_path):
    (tmp_path / "params.json").write_text('{"dim": 4}')
    with pytest.raises(NotImplementedError, match=r"^transformers does not read a params\.json$"):
        backend.load(tmp_path)


def test_a_directory_without_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json in this directory"):
        backend.load(tmp_path)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_next"])
def test_nothing_is_printed_and_the_callers_logging_is_restored(tmp_path, architecture):
    next(tiny for tiny in MODELS if tiny.architecture == architecture).write(tmp_path, "float32")
    code = f"""
import numpy as np
from transformers.utils import logging
before = logging.get_verbosity(), logging.is_progress_bar_enabled()
from conformance.backends.transformers import backend
model = backend.load({json.dumps(str(tmp_path))})
_, cache = model(np.ones((2, 3), np.int64))
model(np.ones((2, 1), np.int64), cache)
assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_without_the_libraries_it_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backend.unavailable() == "transformers: torch and transformers not installed"
